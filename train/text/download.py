"""The corpora that have a name: which files they are, and how they come here."""

import os
from pathlib import Path

import httpx2
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers
from huggingface_hub.utils.tqdm import silent_tqdm

from train.text.stories import CorpusError
from train.text.tales import BOOKS

_HUB_DATASET = "roneneldan/TinyStories"
_HUB_FILES = {"tinystories": "TinyStories-{}.txt", "tinystories-v2": "TinyStoriesV2-GPT4-{}.txt"}


def named(name: str, part: str, folder: Path, progress: bool) -> Path | None:
    """The file or folder with a named corpus's part, "train" or "valid", downloaded into `folder` unless it is there.

    None where the corpus has no validation file of its own. The Hub's address is HF_ENDPOINT as ever; GITHUB_RAW_URL
    and GUTENBERG_URL lead to mirrors of the other two. Raises CorpusError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if name in _HUB_FILES:
        file = _HUB_FILES[name].format(part)
        known = try_to_load_from_cache(_HUB_DATASET, file, repo_type="dataset")
        if isinstance(known, str):
            return Path(known)
        return fetch(hf_hub_url(_HUB_DATASET, file, repo_type="dataset"), folder / file, progress, build_hf_headers())
    if part != "train":
        return None
    if name == "shakespeare":
        site = os.environ.get("GITHUB_RAW_URL", "https://raw.githubusercontent.com")
        url = f"{site}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
        return fetch(url, folder / "shakespeare.txt", progress)
    site = os.environ.get("GUTENBERG_URL", "https://www.gutenberg.org")
    books = folder / "panchatantra"
    books.mkdir(exist_ok=True)
    for number in BOOKS:
        fetch(f"{site}/cache/epub/{number}/pg{number}.txt", books / f"gutenberg-{number}.txt", progress)
    return books


def fetch(url: str, target: Path, progress: bool = True, headers: dict[str, str] | None = None) -> Path:
    """Downloads a file unless it is there; a download that broke off goes on where it stopped, also in a later run.

    The Hub's own `hf_hub_download` throws away what a broken run had got, so only its parts are used here. What has
    come lies beside the target under the server's version of the file, and is renamed when it is whole.
    Raises CorpusError.
    """
    if target.exists():
        return target
    # compressed on the way, half a file is no half of the file
    headers = (headers or {}) | {"Accept-Encoding": "identity"}
    try:
        with WeakFileLock(target.with_suffix(".lock")):
            if target.exists():  # another process has just fetched it
                return target
            about = get_hf_file_metadata(url, token=False if "authorization" not in headers else None)
            resumable = about.etag is not None and about.size is not None
            version = "".join(c for c in about.etag or "" if c.isalnum())[:40]
            partial = target.with_name(f".{target.name}.{version}.part")
            for stale in target.parent.glob(f".{target.name}.*.part"):
                if stale != partial or not resumable or stale.stat().st_size > about.size:
                    stale.unlink()
            with partial.open("ab") as file:
                http_get(
                    url,
                    file,
                    resume_size=file.tell(),
                    headers=headers,
                    expected_size=about.size,
                    displayed_filename=target.name,
                    tqdm_class=None if progress else silent_tqdm,
                )
            return partial.replace(target)
    except (httpx2.HTTPError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        mend = "check the network and run again; it goes on where it stopped"
        raise CorpusError(f"{url} could not be downloaded ({reason}): {mend}") from None
