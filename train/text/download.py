"""The corpora that have a name: which files they consist of, and how they are downloaded."""

import os
from pathlib import Path

from train.text.files import replace_file
from train.text.reading import CorpusError
from train.text.tales import BOOKS

_DATASET = "roneneldan/TinyStories"
_FILES = {"tinystories": "TinyStories-{}.txt", "tinystories-v2": "TinyStoriesV2-GPT4-{}.txt"}
NAMES = (*_FILES, "shakespeare", "panchatantra")
_TIMEOUT = 60  # seconds without any data from a server


def named_files(name: str, folder: Path, validation: bool) -> tuple[Path, Path | None]:
    """The training text (a file or folder) and the validation file of a named corpus. Downloads what is missing.

    The validation file is None if it is not asked for or the corpus has none. The environment variables HF_ENDPOINT
    (the Hub's usual one), GITHUB_RAW_URL and GUTENBERG_URL select mirrors. Raises CorpusError.
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
    """Downloads a file of the Hub's dataset, or of a URL, unless it exists.

    While the process runs, the Hub's client resumes a broken download by itself.
    """
    if target.exists():
        return target
    from huggingface_hub import get_session, hf_hub_download  # a run on a local file needs neither
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source == _DATASET:
            hf_hub_download(source, target.name, repo_type="dataset", local_dir=target.parent)
        else:
            replace_file(target, get_session().get(source, timeout=_TIMEOUT).raise_for_status().content)
    # ValueError and ImportError: a proxy in the environment that cannot be used
    except (HTTPError, ConnectionError, LocalEntryNotFoundError, ValueError, ImportError) as error:
        reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
        what = f"{source}/{target.name}" if source == _DATASET else source
        raise CorpusError(f"{what} could not be downloaded ({reason}): check the network and run again") from None
    return target
