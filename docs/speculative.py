"""Would a small model that drafts make a large one faster? `python docs/speculative.py LARGE SMALL stories.txt`.

Drafting leaves the distribution unchanged if a drafted character is kept with probability min(1, p / q), where q is its
probability under the draft and p that under the large model (Leviathan et al., 2023). So the share of kept characters
is the sum of min(p, q) over the characters, averaged here over real stories. This share, and the time of a step that
reads several characters at once, give the speedup. There are two drafts: the small model, and a table of n-grams from
stories that are not scored.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import model
from model.command import path, run_command
from model.decoder import OnnxDecoder
from model.sampling import probabilities
from model.vocab import normalise

ORDER = 8  # the most characters that the table looks back
STORIES, TABLED = 30, 3_000
AHEAD = (1, 2, 3, 4, 6, 8)


def rows(logits: np.ndarray) -> np.ndarray:
    """The probabilities (T, V) from which the next character is drawn."""
    sampling = model.Sampling(temperature=1.0, top_p=0.95)
    return np.stack([probabilities(row, sampling) for row in logits])


def table_rows(ids: list[int], table: dict[tuple[int, ...], Counter[int]], size: int) -> np.ndarray:
    """The table's probabilities (T, V): the characters that followed the longest known suffix of each beginning."""
    out = np.full((len(ids), size), 1 / size)
    for t in range(len(ids)):
        for order in range(min(ORDER, t + 1), 0, -1):
            if found := table.get(tuple(ids[t + 1 - order : t + 1])):
                out[t] = 0
                for each, count in found.items():
                    out[t, each] = count / found.total()
                break
    return out


def seconds(decoder: OnnxDecoder, ids: list[int], at_once: int) -> float:
    """The median seconds of a step that reads `at_once` characters in the middle of a story."""
    decoder.reset()
    decoder.feed(ids[:100])
    times = []
    for start in range(100, 240, at_once):
        began = time.perf_counter()
        decoder._append(ids[start : start + at_once])
        times.append(time.perf_counter() - began)
        decoder._ids += ids[start : start + at_once]
    return float(np.median(times))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("large", type=path)
    parser.add_argument("small", type=path)
    parser.add_argument("stories", type=path)
    args = parser.parse_args(argv)
    large, small = model.load(args.large), model.load(args.small)
    texts = args.stories.read_text(encoding="utf-8").split("<|endoftext|>")[: STORIES + TABLED]
    told = [
        [large.vocab.end, *large.vocab.encode(normalise(" ".join(text.split())))] for text in texts if len(text) > 500
    ]
    table: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for ids in told[STORIES:]:
        for t in range(1, len(ids)):
            for order in range(1, min(ORDER, t) + 1):
                table[tuple(ids[t - order : t])][ids[t]] += 1
    kept: dict[str, list[float]] = {"small": [], "table": []}
    of_large, of_small = large.decoder(), small.decoder()
    for ids in (ids[: small.config.context] for ids in told[:STORIES]):
        p = rows(of_large.logits(ids))
        kept["small"] += np.minimum(p, rows(of_small.logits(ids))).sum(1).tolist()
        kept["table"] += np.minimum(p, table_rows(ids, table, len(large.vocab))).sum(1).tolist()
    ids = max(told[:STORIES], key=len)
    step = {n: np.median([seconds(of_large, ids, n) for _ in range(5)]) for n in (1, *(k + 1 for k in AHEAD))}
    draft = np.median([seconds(of_small, ids, 1) for _ in range(5)])
    print("| draft | kept | " + " | ".join(f"{k} ahead" for k in AHEAD) + " |\n" + "|---" * (len(AHEAD) + 2) + "|")
    for name, cost in (("small", draft), ("table", 0.0)):
        share = float(np.mean(kept[name]))
        gains = []
        for ahead in AHEAD:
            characters = (1 - share ** (ahead + 1)) / (1 - share)  # those kept in a row, and one from the large model
            gains.append(characters * step[1] / (step[ahead + 1] + ahead * cost))
        print(f"| {name} | {share:.3f} | " + " | ".join(f"{gain:.2f}" for gain in gains) + " |")
    print(
        "time of a step of n characters, in steps of one: " + ", ".join(f"{n}: {step[n] / step[1]:.2f}" for n in step)
    )
    print(f"a step of the small model: {draft / step[1]:.2f}")


if __name__ == "__main__":
    run_command(main)
