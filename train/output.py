"""The folder that a command writes: refused before the work if it is not one to be replaced."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from model.artifacts import DEFAULT, FILES, GRAPH, ArtifactError, read, utf8_safe
from train.text.corpus import named

ARTIFACTS = Path("artifacts")
CHOOSE = "choose another --out, such as artifacts/NAME"
REPLACE = "choose another --out, or give --replace"
UNNOTICED = {".DS_Store", ".gitkeep", "Thumbs.db", "desktop.ini"}  # what a file manager or git leaves in a folder


def require_artifact_folder(out: Path, data: str | Sequence[str], *, replace: bool, default: bool = False) -> None:
    """Raises ValueError with the fix unless a run on the text `data` may write its artifact to `out`.

    The folder is new, empty, or an artifact of the same text; with `replace`, also one of another text, or one with
    files of something else. `default` says that the page shall open with it.
    """
    if trouble := unfit(out) or hidden(out):
        raise ValueError(f"{trouble}; {CHOOSE}")
    if default and out.name != utf8_safe(out.name).split("\n")[0].strip():
        raise ValueError(f"--default needs a name that fits on one line, not {out.name!r}; {CHOOSE}")
    if not replace:
        require_same_text(out, data)


def require_same_text(out: Path, data: str | Sequence[str]) -> None:
    """Raises ValueError if `out` holds a model of another text than `data`, or files that are not of an artifact."""
    if not (out / "config.json").exists():
        if found := [name for name in (*FILES, GRAPH) if (out / name).exists()]:
            raise ValueError(f"{out} is not an artifact, and its {found[0]} would be replaced; {REPLACE}")
        if found := others(out):
            raise ValueError(f"{out} is not an artifact: it holds {found[0]}; {REPLACE}")
        return
    try:
        there = read(out).metrics.get("data", {})
    except ArtifactError as error:
        raise ValueError(f"{out} cannot be read as an artifact ({error}); {REPLACE}") from error
    # a corpus is known by its name alone; a file of the user's by its own and that of its folder
    wanted, key = named(data), "corpus" if "corpus" in there else "name"
    if there.get(key) != wanted.get(key):
        raise ValueError(f"{out} holds a model of another text ({there.get(key)}, not {wanted['name']}); {REPLACE}")


def require_export_folder(out: Path, names: Collection[str]) -> None:
    """Raises ArtifactError with the fix unless an export may write files of these names into `out`.

    Files of other names stay. Of these, the folder has all, from an earlier export, or none.
    """
    fix = "give a folder of its own"
    if is_artifact(out):
        raise ArtifactError(f"{out} holds an artifact, which the export would damage; {fix}")
    if around := artifact_around(out):
        raise ArtifactError(f"{around}; {fix}")
    if Path.cwd().is_relative_to(os.path.realpath(out)):  # it would be replaced by another folder of the same content
        raise ArtifactError(f"{out} is the folder that this command runs in, or one around it; {fix}")
    if out.is_symlink() and not out.exists():
        raise ArtifactError(f"{dangling(out)}; {fix}")
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out} is a file; {fix}")
    if (found := [name for name in sorted(names) if (out / name).exists()]) and len(found) < len(names):
        raise ArtifactError(f"{out} is not an earlier export, and its {found[0]} would be replaced; {fix}")


def unfit(out: Path) -> str:
    """Says why a folder must never be replaced, whatever it holds; "" if it may be."""
    folder = Path(os.path.realpath(out))  # a link stays, and the folder that it leads to is replaced
    if not folder.exists() and out.is_symlink():
        return dangling(out)
    if Path.cwd().is_relative_to(folder):
        return f"{out} is the folder that this command runs in, or one around it"
    if os.path.ismount(folder):
        return f"{out} is a disk of its own (a mount point), which cannot be replaced as a whole"
    if around := artifact_around(out):
        return around
    if found := [name for name in others(folder) if is_artifact(folder / name)]:
        return f"{out} holds artifacts ({', '.join(found[:3])}{', ...' if found[3:] else ''})"
    return ""


def dangling(out: Path) -> str:
    return f"{out} is a link to {os.readlink(out)}, which does not exist"


def artifact_around(out: Path) -> str:
    """Says that a folder is inside an artifact; "" if it is not."""
    around = next(filter(is_artifact, Path(os.path.realpath(out)).parents), None)
    return f"{out} is inside {around}, which is an artifact itself" if around else ""


def hidden(out: Path) -> str:
    """Says why the page and --list would not show an artifact in this folder; "" if they would."""
    if Path(os.path.realpath(out)) == Path(os.path.realpath(ARTIFACTS)):
        return f"{out} is the folder that holds the artifacts"
    if out.name.startswith(".") or out.name == DEFAULT:
        return f"{out} has a name that the page and --list pass over"
    return ""


def is_artifact(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "stoi.json").is_file()


def others(folder: Path) -> list[str]:
    """The names in a folder, without those that say nothing of its use."""
    return sorted(set(os.listdir(folder)) - UNNOTICED) if folder.is_dir() else []
