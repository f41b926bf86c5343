"""The corpora that have a name: which files they are, and how they come here."""

import os
from pathlib import Path

from train.text.files import replace_file
from train.text.stories import CorpusError
from train.text.tales import BOOKS

_DATASET = "roneneldan/TinyStories"
_FILES = {"tinystories": "TinyStories-{}.txt", "tinystories-v2": "TinyStoriesV2-GPT4-{}.txt"}
NAMES = (*_FILES, "shakespeare", "panchatantra")
_TIMEOUT = 60  # seconds of silence from a server


def named(name: str, folder: Path, validation: bool) -> tuple[Path, Path | None]:
    """A named corpus's training text, a file or folder, and its validation file, downloaded unless they are there.

    None where it is not wanted, or the corpus has none of its own. The Hub's address is HF_ENDPOINT as ever;
    GITHUB_RAW_URL and GUTENBERG_URL lead to mirrors of the other two. Raises CorpusError.
    """
    if name in _FILES:
        train, valid = (folder / _FILES[name].format(part) for part in ("train", "valid"))
        return _fetch(_DATASET, train), _fetch(_DATASET, valid) if validation else None
    if name == "shakespeare":
        site = os.environ.get("GITHUB_RAW_URL", "https://raw.githubusercontent.com")
        url = f"{site}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
        return _fetch(url, folder / "shakespeare.txt"), None
    site = os.environ.get("GUTENBERG_URL", "https://www.gutenberg.org")
    for number in BOOKS:
        url = f"{site}/cache/epub/{number}/pg{number}.txt"
        _fetch(url, folder / "panchatantra" / f"gutenberg-{number}.txt")
    return folder / "panchatantra", None


def _fetch(source: str, target: Path) -> Path:
    """A file of the Hub's dataset or of an address, downloaded unless it is there.

    The Hub's client takes up a broken download by itself, as long as the process lives.
    """
    if target.exists():
        return target
    from huggingface_hub import get_session, hf_hub_download  # a run on a local file needs no network library
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source == _DATASET:
            hf_hub_download(source, target.name, repo_type="dataset", local_dir=target.parent)
        else:
            replace_file(target, get_session().get(source, timeout=_TIMEOUT).raise_for_status().content)
    except (HTTPError, ConnectionError, LocalEntryNotFoundError) as error:
        reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
        what = f"{source}/{target.name}" if source == _DATASET else source
        raise CorpusError(f"{what} could not be downloaded ({reason}): check the network and run again") from None
    return target
