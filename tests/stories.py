"""Stories that the tests generate: seeded, short, and like the stories that the models are trained on."""

from __future__ import annotations

import random
from pathlib import Path

import languages

from model.vocab import END

NAMES = ("Lily", "Tom", "Mia", "Sam", "Anna", "Ben")
THINGS = ("a red ball", "a small boat", "an old key", "a shiny stone", "a blue kite")
PLACES = ("in the park", "by the lake", "under the big tree", "behind the house")
ENDINGS = ("They were happy.", '"Thank you!" said {name}.', "{name} went home and slept.")


def stories(count: int, seed: int = 0) -> list[str]:
    """Short stories, all different."""
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        name, other = draw.sample(NAMES, 2)
        thing, place = draw.choice(THINGS), draw.choice(PLACES)
        ending = draw.choice(ENDINGS).format(name=name)
        days = draw.randint(2, 99)
        found[f"Once upon a time {name} found {thing} {place}. {other} looked at it for {days} days.\n{ending}"] = None
    return list(found)


def write_stories(path: Path, count: int, seed: int = 0, language: str | None = None) -> Path:
    """Writes stories in English, or in one of `languages.LANGUAGES`."""
    texts = languages.stories(count, seed, language) if language else stories(count, seed)
    path.write_text("".join(f"{story}\n{END}\n" for story in texts), encoding="utf-8")
    return path
