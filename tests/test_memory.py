"""A long text takes little memory besides itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.stories import write_stories

ROOT = Path(__file__).parent.parent
MEGABYTES = 200
TRAIN = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from docs.bench import peak_memory
from train import loop
from train.presets import PRESETS
from train.text import corpus

folder, length = Path(sys.argv[1]), int(sys.argv[2])
made = corpus.prepare(folder / "stories.txt", cache=folder / "cache")
made = replace(made, train=np.memmap(folder / "long.bin", np.uint8, "r")[:length])
loop.prepared = lambda *_: made
config = replace(PRESETS["debug"], data=str(folder / "stories.txt"), steps=2, apart=50, opening=0.5)
loop.train(config, folder / f"out{length}")
print(peak_memory())
"""


def test_a_run_takes_twice_its_text_and_little_else(tmp_path: Path) -> None:
    """On the CPU: the text as the disk's cache has it, and as the batches do; a copy of numbers of 64 bits takes 8."""
    write_stories(tmp_path / "stories.txt", 100)
    story = np.random.default_rng(0).integers(0, 96, 1_000, dtype=np.uint8)
    story[-1] = 96
    np.tile(story, 1_000 * MEGABYTES).tofile(tmp_path / "long.bin")
    peaks = []
    for length in (1_000_000, 1_000_000 * MEGABYTES):
        command = [sys.executable, "-c", TRAIN, str(tmp_path), str(length)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(float(done.stdout.splitlines()[-1]))
    assert peaks[0] < 600
    assert MEGABYTES < peaks[1] - peaks[0] < 2.75 * MEGABYTES
