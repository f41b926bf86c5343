"""The files of a Space: app.py, page/, model/, artifacts, the page's requirements, README; all checked offline."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import RepoCard
from packaging.specifiers import SpecifierSet

from model.artifacts import DEFAULT, GRAPH, file_bytes, read_default
from model.storyteller import Storyteller, ranked, trial_reason
from train.flags import nearest

ROOT = Path(__file__).parents[2]
OWNED = ("model/", "page/", "artifacts/")  # in these folders of a Space, a file that is not pushed is deleted
SECRETS = {
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}\b",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,})\b",
    "an AWS key": rb"\bAKIA[A-Z0-9]{16}\b",
    "an API key": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}


class PushError(Exception):
    """The push is refused or failed. The message says why and what to do."""


@dataclass(frozen=True)
class Contents:
    """What a Space will hold: bytes by path, the names of its artifacts, and the names of those that need torch.

    `described` has a line about each artifact, and `left_out` a line about each that is not published.
    """

    files: dict[str, bytes]
    artifacts: list[str]
    need_torch: list[str]
    described: list[str]
    left_out: list[str]


def gather(artifacts: Sequence[str | Path] = (), root: Path = ROOT) -> Contents:
    """Reads all files to push, and checks each artifact.

    `artifacts` are names in artifacts/ or paths of folders. Without them, all of artifacts/ is pushed in the order of
    the page, except trials of the preset `debug` and models that have learned almost nothing. Raises PushError, and
    ArtifactError for a broken artifact.
    """
    folders = [_find(artifact, root) for artifact in artifacts] or sorted((root / "artifacts").glob("[!.]*/"))
    if not folders:
        raise PushError(
            "there is nothing to push in artifacts/; train a model with: .venv/bin/python -m train --preset pocket"
        )
    files, found, left_out = _page(root), [], []
    for folder in folders:
        contents, storyteller = file_bytes(folder), Storyteller.from_pretrained(folder)
        if GRAPH in contents and storyteller.decoder() and storyteller.warning:  # the Space will have no PyTorch
            raise PushError(storyteller.warning)
        if storyteller.name in [other.name for other in found]:
            raise PushError(f"two artifacts are called {storyteller.name}; rename one of the folders")
        if not artifacts and (reason := trial_reason(storyteller)):
            left_out.append(f"left out: {storyteller.name} ({reason}); --artifact {storyteller.name} pushes it")
            continue
        found.append(storyteller)
        files |= {f"artifacts/{storyteller.name}/{name}": data for name, data in contents.items()}
    if not found:
        raise PushError("\n".join(["artifacts/ has no model to push unless you name it", *left_out]))
    default = read_default(root / "artifacts")
    if default in [storyteller.name for storyteller in found]:
        files[f"artifacts/{DEFAULT}"] = f"{default}\n".encode()
    if not artifacts:
        found = ranked(found, default)
    names = [storyteller.name for storyteller in found]
    need_torch = [name for name in names if f"artifacts/{name}/{GRAPH}" not in files]
    files["README.md"] = _read(root / "README.md")
    files["requirements.txt"] = _requirements(root, bool(need_torch))
    return Contents(files, names, need_torch, [_described(storyteller, files) for storyteller in found], left_out)


def _described(storyteller: Storyteller, files: Mapping[str, bytes]) -> str:
    """Returns a line about a model that is published: its name, size, text and loss."""
    metrics, text = storyteller.metrics, storyteller.metrics.get("data", {}).get("name", "unknown text")
    size = sum(len(data) for path, data in files.items() if path.startswith(f"artifacts/{storyteller.name}/"))
    loss = (
        f"{metrics['nats_per_character']:.4f} nats per character on {storyteller.evaluated_on.name or 'unknown text'}"
    )
    return f"{storyteller.name}: {size:,} bytes, trained on {text}, {loss}"


def check(contents: Contents, token: str | None = None) -> None:
    """Raises PushError that lists every fault of the front matter and every secret."""
    faults = list(_front_matter_faults(contents.files))
    for path, data in contents.files.items():
        faults += [f"{path} contains {what}: take it out, and revoke it" for what in secrets(data, token)]
    if faults:
        raise PushError("\n".join(faults))


def secrets(data: bytes, token: str | None = None) -> list[str]:
    """Returns which secrets `data` contains: known forms of keys, or `token` itself."""
    if token and token.encode() in data:
        return ["the token of this login"]
    return [what for what, pattern in SECRETS.items() if re.search(pattern, data)]


def front_matter(readme: str) -> dict[str, Any]:
    """Returns the settings of a Space from its README. Raises ValueError, TypeError or YAMLError."""
    return RepoCard(readme).data.to_dict()


def _front_matter_faults(files: Mapping[str, bytes]) -> Iterator[str]:
    """Yields what would break a Space with these files. The Hub itself checks all other fields before the commit."""
    try:
        fields = front_matter(files["README.md"].decode())
    except (ValueError, TypeError, yaml.YAMLError) as error:
        yield f"README.md: its front matter cannot be read: {' '.join(str(error).split())}"
        return
    if fields.get("sdk") != "gradio":
        yield f"README.md: sdk ({fields.get('sdk')!r}) must be gradio"
    version = fields.get("sdk_version")
    allowed = re.search(r"^gradio(?:\[\w+\])?([<>=!~].*)$", files["requirements.txt"].decode(), re.MULTILINE)
    if not allowed:
        yield "requirements.txt must say which versions of gradio the page works with, such as gradio>=6.31,<7"
    elif not (re.fullmatch(r"\d+\.\d+\.\d+", str(version)) and SpecifierSet(allowed[1]).contains(version)):
        rule = f"must be one version, such as 6.31.0, that requirements.txt allows (gradio{allowed[1]})"
        yield f"README.md: sdk_version ({version!r}) {rule}: the Hub installs exactly this one"
    if str(app := fields.get("app_file", "app.py")) not in files:
        yield f"README.md: app_file ({app!r}) is not among the files of the Space"


def _find(artifact: str | Path, root: Path) -> Path:
    names = sorted(path.name for path in (root / "artifacts").glob("[!.]*/"))
    if str(artifact) in names:
        return root / "artifacts" / artifact
    if Path(artifact).is_dir():
        return Path(artifact)
    raise PushError(f"artifact ({artifact}) must be a folder, or one of {', '.join(names)}{nearest(artifact, names)}")


def _requirements(root: Path, need_torch: bool) -> bytes:
    """Returns requirements-page.txt, with the pin of torch if a model without a graph needs it."""
    text = (root / "requirements-page.txt").read_text(encoding="utf-8")
    if need_torch:
        text += re.search(r"^torch==.*\n", (root / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)[0]
    return text.encode()


def _read(path: Path) -> bytes:
    """Returns the bytes of a file as the repository has them: Git for Windows checks texts out with other line ends."""
    data = path.read_bytes()
    return data if b"\0" in data else data.replace(b"\r\n", b"\n")  # a zero byte is how Git knows what is no text


def _page(root: Path) -> dict[str, bytes]:
    """Returns app.py and all files of page/ and model/, except hidden ones and caches."""
    paths = [root / "app.py", *(root / "page").rglob("*"), *(root / "model").rglob("*")]
    files = {path.relative_to(root).as_posix(): _read(path) for path in paths if path.is_file()}
    return {path: data for path, data in files.items() if not re.search(r"(^|/)(\.|__pycache__/)", path)}
