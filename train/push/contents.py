"""What a Space holds: app.py and page/, model/, chosen artifacts, lean requirements, README; all checked offline."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model.artifacts import GRAPH, MIB, ArtifactError, file_bytes
from model.storyteller import Storyteller
from train.flags import nearest

ROOT = Path(__file__).parents[2]
OWNED = ("model/", "page/", "artifacts/")  # in these folders of a Space, what is not pushed is stale
PLAIN_LIMIT = 10 * MIB  # the Hub takes larger files only by LFS
LFS = (".safetensors", ".onnx")  # of a new repository's .gitattributes
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
# Of https://huggingface.co/docs/hub/spaces-config-reference those that a Gradio Space may have, with their types.
FRONT_MATTER: dict[str, type] = {
    **dict.fromkeys(("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version"), str),
    **dict.fromkeys(("app_file", "short_description", "license", "thumbnail", "base_path"), str),
    **dict.fromkeys(("suggested_hardware", "startup_duration_timeout", "header"), str),
    **dict.fromkeys(("models", "datasets", "tags", "preload_from_hub", "hf_oauth_scopes"), list),
    **dict.fromkeys(("pinned", "fullWidth", "disable_embedding", "hf_oauth"), bool),
}
REQUIRED = ("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "license")
FORMS = {  # of values: a pattern, and what that is in words
    "title": (r".*\S.*", "some words"),
    "header": ("mini|default", "mini or default"),
    "startup_duration_timeout": (r"\d+(\.\d+)?\s*[a-z]+", "a time such as 30m"),
    "python_version": (r"3\.1[1-9](\.\d+)?", "a version from '3.11' on"),
    "app_file": (r".+\.py", "a file of Python"),
}
SECRETS = {
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}\b",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,})\b",
    "an AWS key": rb"\bAKIA[A-Z0-9]{16}\b",
    "an API key": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}


class PushError(ValueError):
    """This cannot be pushed, or was not; the message says why and what to do."""


@dataclass(frozen=True)
class Contents:
    """What a Space will hold: bytes by path, the names of the artifacts in it, and of those that need torch."""

    files: dict[str, bytes]
    artifacts: list[str]
    need_torch: list[str]

    def artifact(self, name: str) -> dict[str, bytes]:
        """The files of one artifact by name."""
        folder = f"artifacts/{name}/"
        return {path.removeprefix(folder): data for path, data in self.files.items() if path.startswith(folder)}


def gather(artifacts: Sequence[str | Path] = (), root: Path = ROOT) -> Contents:
    """Reads all that is pushed, each artifact checked: the named ones, or all in artifacts/, the best first.

    An artifact is a name in artifacts/ or the path of a folder. Raises PushError.
    """
    folders = [_find(Path(artifact), root) for artifact in artifacts]
    folders = folders or sorted((root / "artifacts").glob("[!.]*/"))
    if not folders:
        raise PushError("there is nothing to push in artifacts/; train a model with: python -m train --preset pocket")
    files, found = _page(root), {}
    for folder in folders:
        try:
            contents, storyteller = file_bytes(folder), Storyteller.from_pretrained(folder)
        except ArtifactError as error:
            raise PushError(str(error)) from error
        if GRAPH in contents and storyteller.decoder() and storyteller.warning:  # the Space will have no PyTorch
            raise PushError(storyteller.warning)
        if storyteller.name in found:
            raise PushError(f"two artifacts are called {storyteller.name}; rename one of the folders")
        found[storyteller.name] = (storyteller, GRAPH in contents)
        files |= {f"artifacts/{storyteller.name}/{name}": data for name, data in contents.items()}
    names = list(found)
    if not artifacts:
        names.sort(key=lambda name: found[name][0].metrics["nats_per_character"])
    need_torch = [name for name in names if not found[name][1]]
    files["README.md"] = (root / "README.md").read_bytes()
    files["requirements.txt"] = _requirements((root / "requirements.txt").read_text(encoding="utf-8"), need_torch)
    return Contents(files, names, need_torch)


def check(contents: Contents, token: str | None = None) -> None:
    """Raises PushError that lists every fault of the front matter, every file that is too big, and every secret."""
    faults = list(_front_matter_faults(contents.files))
    for path, data in contents.files.items():
        if len(data) > PLAIN_LIMIT and not path.endswith(LFS):
            limit = f"the Hub takes at most {PLAIN_LIMIT:,} outside LFS"
            faults.append(f"{path} has {len(data):,} bytes, and {limit} ({', '.join(LFS)}): make it smaller")
        faults += [f"{path} contains {what}: take it out, and revoke it" for what in secrets(data, token)]
    if faults:
        raise PushError("\n".join(faults))


def secrets(data: bytes, token: str | None = None) -> Iterator[str]:
    """What of `data` nobody should read: known forms of keys, and `token` itself."""
    if token and token.encode() in data:
        yield "the token of this login"
    elif found := [what for what, pattern in SECRETS.items() if re.search(pattern, data)]:
        yield from found


def front_matter(readme: str) -> dict[str, Any]:
    """The YAML between the first two lines `---` of a README. Raises PushError."""
    parts = re.match(r"---\n(.*?\n)---\n", readme, re.DOTALL)
    try:
        fields = yaml.safe_load(parts[1]) if parts else None
    except yaml.YAMLError as error:
        raise PushError(f"README.md: the front matter is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(fields, dict):
        raise PushError("README.md has no front matter: the Hub reads the Space's settings between two lines '---'")
    return fields


def _front_matter_faults(files: Mapping[str, bytes]) -> Iterator[str]:
    from huggingface_hub import SpaceHardware

    try:
        fields = front_matter(files["README.md"].decode())
    except UnicodeDecodeError as error:
        yield f"README.md is not in UTF-8 ({error.reason} at byte {error.start}): save it so"
        return
    except PushError as error:
        yield str(error)
        return
    for key, value in fields.items():
        if key not in FRONT_MATTER:
            yield f"README.md: the Hub knows no {key}{nearest(key, FRONT_MATTER)}"
        elif type(value) is not FRONT_MATTER[key]:
            yield f"README.md: {key} ({value!r}) must be of type {FRONT_MATTER[key].__name__}: quote it, or mend it"
    for key in REQUIRED:
        if key not in fields:
            yield f"README.md: {key} is missing"
    for key in ("colorFrom", "colorTo"):
        if (colour := fields.get(key, COLOURS[0])) not in COLOURS:
            yield f"README.md: {key} ({colour!r}) must be one of {', '.join(COLOURS)}"
    description = str(fields.get("short_description", ""))
    if len(description) > 60:
        yield f"README.md: short_description has {len(description)} characters; the limit is 60"
    for key, (pattern, words) in FORMS.items():
        if key in fields and not re.fullmatch(pattern, str(fields[key])):
            yield f"README.md: {key} ({fields[key]!r}) must be {words}"
    known = [hardware.value for hardware in SpaceHardware]
    if (hardware := fields.get("suggested_hardware", known[0])) not in known:
        mend = f"one of {', '.join(known)}{nearest(hardware, known)}"
        yield f"README.md: suggested_hardware ({hardware!r}) must be {mend}"
    for key in ("models", "datasets", "tags"):
        if not all(isinstance(each, str) for each in fields.get(key) or ()):
            yield f"README.md: {key} ({fields[key]!r}) must be a list of names"
    if not is_emoji(str(fields.get("emoji", "📖"))):
        yield f"README.md: emoji ({fields['emoji']!r}) must be one emoji"
    if fields.get("sdk", "gradio") != "gradio":
        yield f"README.md: sdk ({fields['sdk']!r}) must be gradio"
    pin = re.search(r"^gradio(?:\[\w+\])?==(\S+)$", files["requirements.txt"].decode(), re.MULTILINE)
    if not pin or fields.get("sdk_version") != pin[1]:
        pinned = f"requirements.txt pins gradio=={pin[1]}" if pin else "requirements.txt pins no gradio"
        yield f"README.md: sdk_version ({fields.get('sdk_version')!r}), but {pinned}: make them equal"
    if str(fields.get("app_file", "app.py")) not in files:
        yield f"README.md: app_file ({fields['app_file']!r}) is not among the files of the Space"


def is_emoji(text: str) -> bool:
    """Whether it is one emoji: a picture with its modifiers, several joined into one, a flag, or a key."""
    if re.fullmatch("[0-9#*]\ufe0f?\u20e3|[\U0001f1e6-\U0001f1ff]{2}", text):
        return True
    joined = text.split("\u200d")
    return all(re.fullmatch("[^\\w\\s][\ufe0f\U0001f3fb-\U0001f3ff]*", part) for part in joined) and all(
        unicodedata.category(part[0]) == "So" for part in joined
    )


def _find(artifact: Path, root: Path) -> Path:
    folder = root / "artifacts" / artifact
    if len(artifact.parts) == 1 and folder.is_dir():
        return folder
    if artifact.is_dir():
        return artifact
    names = sorted(path.name for path in (root / "artifacts").glob("[!.]*/"))
    raise PushError(f"artifact ({artifact}) must be a folder, or one of {', '.join(names)}{nearest(artifact, names)}")


def _requirements(text: str, need_torch: Sequence[str]) -> bytes:
    """requirements.txt without torch, which takes minutes to install, where every model runs by its graph."""
    lines = [line for line in text.splitlines() if need_torch or not re.match(r"torch\b", line)]
    return "".join(f"{line}\n" for line in lines).encode()


def _page(root: Path) -> dict[str, bytes]:
    """app.py and all that it imports from here, whole folders with what lies in them."""
    files, waiting = {}, [root / "app.py"]
    while waiting:
        path = waiting.pop()
        files[path.relative_to(root).as_posix()] = data = path.read_bytes()
        if path.suffix == ".py":
            for name in _imports(data):
                waiting += [found for found in _local(root, name) if found.relative_to(root).as_posix() not in files]
    return files


def _imports(source: bytes) -> set[str]:
    """The top-level names of what a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def _local(root: Path, name: str) -> list[Path]:
    """The files of a module or package that lies in `root`."""
    module, package = root / f"{name}.py", root / name
    if module.is_file():
        return [module]
    return list(_visible(package.rglob("*"), package)) if (package / "__init__.py").is_file() else []


def _visible(paths: Iterable[Path], folder: Path) -> Iterator[Path]:
    for path in paths:
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not hidden and path.suffix != ".pyc":
            yield path
