"""Decides which files of a folder are text, which of them to train on and which to validate on."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.artifacts import LFS_POINTER
from train.text.reading import KINDS, SUFFIXES, CorpusError, has_text_column

# A file is for validation if a word of its name begins with "valid", if its first or last word is one of these,
# or if a folder is named so. A text to test on is used where there is no other. Otherwise it is left out.
VALIDATION, TEST = {"valid", "val", "dev", "eval", "held", "heldout", "holdout"}, {"test"}
ABOUT = {"readme", "license", "licence", "copying", "notice", "changelog"}  # names of files that are about a text


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The text files at some paths: those to train on, those to validate on, and the names of what is left out."""

    train: list[Path]
    valid: list[Path]
    skipped: list[str]

    def __str__(self) -> str:
        """In one line for the dataset report; "" for a single file. Names are relative to the folder of all files."""
        if len(self.train) == 1 and not self.valid and not self.skipped:
            return ""
        folder = os.path.commonpath([path.parent.absolute() for path in self.train + self.valid])
        train, valid = ([os.path.relpath(path, folder) for path in files] for files in (self.train, self.valid))
        skipped = f"; skipped: {listed(self.skipped)}" if self.skipped else ""
        return f"files: {listed(train)}; to validate: {listed(valid) or 'a part of them'}{skipped}"


def sources(paths: Sequence[Path], valid: Path | None = None) -> Sources:
    """The files at paths, each a file or a folder, by what they are for. Hidden files are passed over.

    valid: a path with the text to validate on. It is used instead of files whose names say so: those are left out.
    Raises CorpusError for a path without text, and for a file that is not what its name says.
    """
    skipped: list[str] = []
    files: dict[str, tuple[Path, set[str]]] = {}  # each file once, by its real path, with what its name says
    for path in paths:
        for file in _files(path, skipped):
            words = _words(file.relative_to(path) if path.is_dir() else Path(file.name))
            files.setdefault(os.path.realpath(file), (file, words))
    held_out, tests = ([file for file, words in files.values() if words & names] for names in (VALIDATION, TEST))
    if not held_out:
        held_out, tests = tests, []
    if not {file for file, _ in files.values()} - {*held_out, *tests}:  # they are all the text there is
        held_out, tests = [], []
    named = {*held_out, *tests}
    if valid:
        held_out = held_out_files(valid)
    validated = set(map(os.path.realpath, held_out))
    others = [file for real, (file, _) in files.items() if real not in validated]
    train = [file for file in others if file not in named]
    if not train:
        raise CorpusError(f"{valid} is the validation text: choose another text to train on")
    skipped += [f"{file.name} (not trained on: text for validation or tests)" for file in others if file in named]
    return Sources(train=train, valid=held_out, skipped=skipped)


def held_out_files(path: Path) -> list[Path]:
    """The files to validate or to measure on at a path: of a folder, those whose names say so, if any does."""
    found = sources([path])
    return found.valid or found.train


def _files(path: Path, skipped: list[str]) -> list[Path]:
    """The text files at a path. Adds the names of a folder's other files to `skipped`."""
    if path.is_dir():
        others: list[str] = []
        files = sorted(_walk(path, others))
        if not files:
            raise CorpusError(f"{path} holds no {KINDS} file" + (f"; it holds {listed(others)}" if others else ""))
        skipped += sorted(others)
    elif not path.is_file():
        raise CorpusError(f"{path} is not a file or a folder")
    elif path.suffix.lower() not in SUFFIXES:
        raise CorpusError(f"{path} must end in {KINDS}")
    else:
        files = [path]
    for file in files:
        if _is_pointer(file):
            raise CorpusError(f"{file} is a Git LFS pointer; fetch the file itself with: git lfs pull")
    return files


def _walk(folder: Path, others: list[str]) -> Iterator[Path]:
    """The text files in a folder and in its folders. Raises OSError for a folder that cannot be read."""

    def unreadable(error: OSError) -> None:
        raise error

    for at, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        others += [f"{name} (a link to a folder)" for name in folders if Path(at, name).is_symlink()]
        for path in (Path(at, name) for name in names if not name.startswith(".")):
            name = path.relative_to(folder).as_posix()
            if path.suffix.lower() not in SUFFIXES or path.stem.lower() in ABOUT or not path.is_file():
                others.append(name)
            elif why := "" if path.suffix.lower() != ".csv" else _why_no_text(path):
                others.append(f"{name} ({why})")
            else:
                yield path


def _why_no_text(path: Path) -> str:
    """Why a table in a folder is no text to learn, such as one that describes the other files; "" if it is."""
    if _is_pointer(path):
        return ""  # which is refused
    try:
        return "" if has_text_column(path) else "no column `text`"
    except CorpusError:
        return "not UTF-8"


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as content:
        return content.read(len(LFS_POINTER)) == LFS_POINTER


def _words(path: Path) -> set[str]:
    """The words of a relative path that can say what a file is for, in lower case."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", path.stem)] or [""]
    found = {words[0], words[-1], *(part.lower() for part in path.parts[:-1])}
    return found | {"valid" for word in (*words, *found) if word.startswith("valid")}


def listed(names: list[str], shown: int = 12) -> str:
    """Names in one line, the first ones if there are many."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
