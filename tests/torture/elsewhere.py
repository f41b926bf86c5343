"""The repository in unusual places: copies in awkward folders, run by another user in another locale."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOBODY = 65534
AWKWARD = "Größe & Maß (ü) 'n' mehr"
BARE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # ASCII only, as in older Python versions


@dataclass(frozen=True)
class Place:
    """A copy of the repository's files, and the environment in which its commands run."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    ordinary: bool = False  # run as an ordinary user; no effect if the tests already do
    offline: bool = False  # without a network except the loopback; see `can_go_offline`

    def prefix(self) -> list[str]:
        alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"] if self.offline else []
        return alone + self._user()

    def _user(self) -> list[str]:
        if not (self.ordinary and os.geteuid() == 0):
            return []
        # so that a Python in the home of root can still be read
        reading = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
        becoming = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *reading]
        return becoming if works(*becoming, sys.executable, "-c", "") else []  # [] if root cannot grant them

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
        scratch = {"TMPDIR": str(self.folder / "tmp"), "HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1"}
        return kept | scratch | self.variables

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command with this Python in the copy. Its output is read as UTF-8 in any locale."""
        full = [*self.prefix(), sys.executable, *command]
        return subprocess.run(
            full, cwd=self.folder, env=self.environment(), capture_output=True, encoding="utf-8", errors="replace"
        )


def can_go_offline() -> bool:
    """Whether this machine can run a command without a network."""
    return works("unshare", "--net", "ip", "link", "set", "lo", "up")


@cache
def works(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def settle(folder: Path, variables: dict[str, str], left_out: tuple[str, ...], *, ordinary: bool) -> Place:
    """Copies the repository into `folder` without the folders in `left_out`, and adds a HOME that is not writable."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.split("\0"):
        if name and not name.startswith(left_out) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name in ("tmp", "home", "artifacts"):
        (folder / name).mkdir(exist_ok=True)
    place = Place(folder, variables, ordinary)
    if place._user():
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
    (folder / "home").chmod(0o500)
    return place


def locale(folder: Path, name: str, language: str, charmap: str) -> dict[str, str]:
    """Creates a locale in `folder` and returns its variables; those of the C locale if that fails."""
    folder.mkdir(exist_ok=True)
    made = None
    if shutil.which("localedef"):
        command: Sequence[str] = ["localedef", "-c", "-i", language, "-f", charmap, str(folder / name)]
        made = subprocess.run(command, capture_output=True)
    if made is None or not (folder / name).exists():
        return BARE
    return {"LC_ALL": name, "LANG": name, "LOCPATH": str(folder)}


def make_places(home: Path, *, few: bool = False, left_out: tuple[str, ...] = ()) -> dict[str, Place]:
    """The places, with what is awkward about each as the key. The first is plain. `few`: only that one and another."""
    found = {
        "plain": ("plain", {"LC_ALL": "C.UTF-8", "TZ": "UTC"}),
        "an ordinary user, HOME unwritable, blanks and umlauts, TZ Asia/Kathmandu": (
            AWKWARD,
            {"LC_ALL": "C.UTF-8", "TZ": "Asia/Kathmandu"},
        ),
    }
    if not few:
        locales = home / "locales"
        turkish = locale(locales, "tr_TR.ISO-8859-9", "tr_TR", "ISO-8859-9")
        japanese = locale(locales, "ja_JP.EUC-JP", "ja_JP", "EUC-JP")
        found |= {
            "LC_ALL=C, and nothing that repairs it, TZ Asia/Kathmandu": ("bare", BARE | {"TZ": "Asia/Kathmandu"}),
            "tr_TR in ISO-8859-9, TZ Pacific/Kiritimati": ("turkish", turkish | {"TZ": "Pacific/Kiritimati"}),
            "ja_JP in EUC-JP, TZ America/St_Johns": ("a b", japanese | {"TZ": "America/St_Johns"}),
            "no locale, no time zone": ("none", {}),
        }
    return {
        about: settle(home / name, variables | {"PYTHONHASHSEED": str(number)}, left_out, ordinary=number > 1)
        for number, (about, (name, variables)) in enumerate(found.items(), 1)
    }
