"""The corpora that have a name: which files they are, and how they come here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, get_session, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HTTPError  # of the HTTP library that the Hub's client is built on
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from train.text.files import replace_file
from train.text.stories import CorpusError
from train.text.tales import BOOKS

_HUB_DATASET = "roneneldan/TinyStories"
_HUB_FILES = {"tinystories": "TinyStories-{}.txt", "tinystories-v2": "TinyStoriesV2-GPT4-{}.txt"}
_TIMEOUT = 60  # seconds of silence from a server


def named(name: str, part: str, folder: Path) -> Path | None:
    """The file or folder with a named corpus's part, "train" or "valid", downloaded into `folder` unless it is there.

    None where the corpus has no validation file of its own. The Hub's address is HF_ENDPOINT as ever; GITHUB_RAW_URL
    and GUTENBERG_URL lead to mirrors of the other two. Raises CorpusError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if name in _HUB_FILES:
        return _from_hub(_HUB_FILES[name].format(part), folder)
    if part != "train":
        return None
    if name == "shakespeare":
        site = os.environ.get("GITHUB_RAW_URL", "https://raw.githubusercontent.com")
        return _fetch(f"{site}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt", folder / "shakespeare.txt")
    site = os.environ.get("GUTENBERG_URL", "https://www.gutenberg.org")
    books = folder / "panchatantra"
    books.mkdir(exist_ok=True)
    for number in BOOKS:
        _fetch(f"{site}/cache/epub/{number}/pg{number}.txt", books / f"gutenberg-{number}.txt")
    return books


def _from_hub(file: str, folder: Path) -> Path:
    """A file of TinyStories; a download that broke off goes on where it stopped, also in a later run.

    `hf_hub_download` goes on within a run only: it gives each run a partial file of its own, and deletes it in the
    end. Here the partial file is named after the Hub's version of the file, and renamed when it is whole.
    """
    known = try_to_load_from_cache(_HUB_DATASET, file, repo_type="dataset")
    if isinstance(known, str):
        return Path(known)
    target, url = folder / file, hf_hub_url(_HUB_DATASET, file, repo_type="dataset")
    # compressed on the way, half a file is no half of the file
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    with _explained(url), WeakFileLock(target.with_suffix(".lock")):
        if target.exists():  # another process has just fetched it
            return target
        about = get_hf_file_metadata(url)
        partial = folder / f".{file}.{about.etag}.part"
        with partial.open("ab") as out:
            http_get(url, out, resume_size=out.tell(), headers=headers, expected_size=about.size)
        return partial.replace(target)


def _fetch(url: str, target: Path) -> Path:
    """A small file, downloaded unless it is there."""
    if not target.exists():
        with _explained(url):
            answer = get_session().get(url, timeout=_TIMEOUT).raise_for_status()
        replace_file(target, answer.content)
    return target


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """A failure of the network within becomes a CorpusError."""
    try:
        yield
    except (HTTPError, ConnectionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CorpusError(f"{url} could not be downloaded ({reason}): check the network and run again") from None
