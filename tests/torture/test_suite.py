"""Runs the tests that need no browser in unusual places and in random order, as on a user's machine."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.torture.elsewhere import Place, can_go_offline, make_places
from tests.torture.record import FULL, record

# The tests that need neither a browser nor torch.compile.
SUITE = [
    "api",
    "artifacts",
    "batches",
    "cli_tell",
    "corpus",
    "decoder",
    "export",
    "turns",
    "fuzz",
    "hub",
    "imports",
    "judge",
    "muon",
    "networks",
    "optim",
    "page",
    "record",
    "request_checks",
    "sampling",
    "storyteller",
    "dataset_report",
    "tales",
    "telling",
    "train_cli",
    "untrusted",
    "vocab",
    "words",
]
SHORT = ["artifacts", "cli_tell", "hub", "sampling", "vocab"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    return make_places(tmp_path_factory.mktemp("places"), few=not FULL)


def test_the_suite_passes_elsewhere(places: dict[str, Place]) -> None:
    """With PYTHONUTF8, which `make test` sets too."""
    files = [f"tests/test_{name}.py" for name in (SUITE if FULL else SHORT)]
    chosen = [name for name in places if "HOME" in name or "tr_TR" in name]
    passed, offline = [], can_go_offline()
    for seed, name in enumerate(chosen, 1):
        place = replace(places[name], offline=offline)
        place.variables["PYTHONUTF8"] = "1"
        done = place.run("-m", "pytest", f"--shuffle={seed}", "-p", "no:cacheprovider", *files)
        assert done.returncode == 0, f"{name}, seed {seed}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
        passed.append(int(re.findall(r"(\d+) passed", done.stdout)[-1]))
    record(
        f"{len(files)} test files that need no browser, in a different order each time: "
        f"{'no network; ' if offline else ''}{'; '.join(chosen)}",
        len(passed),
        f"{min(passed)} tests passed each time",
        'make torture ARGS="-k suite_passes"',
        section="Reproducible",
    )
