"""Shows the progress of a run: a bar on a terminal, plain lines elsewhere, curves in a tracker."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from train.presets import TrainConfig
from train.run import Run


class Progress(ExitStack):
    """A bar on a terminal, plain lines elsewhere, and a tracker if one is configured. Silent unless `leads`."""

    def __init__(self, config: TrainConfig, folder: Path, leads: bool, steps: int) -> None:
        super().__init__()
        self.leads, self.shown, self.latest = leads, 0.0, ""
        self.track = tracker(config if leads else replace(config, track="none"), folder, self)
        hidden = not (leads and sys.stderr.isatty())
        self.bar = self.enter_context(tqdm(total=config.steps, initial=steps, unit="step", disable=hidden))

    def update(self, run: Run, loss: float) -> None:
        """Advances the bar by one step. `loss` is the mean over the latest steps."""
        self.bar.update()
        if not self.bar.disable and time.monotonic() - self.shown >= 1:
            self.shown = time.monotonic()
            left = ""
            if run.config.max_minutes:
                left = f", {max(0, run.config.max_minutes - run.seconds / 60):.1f} min left"
            speed = run.characters / max(run.seconds, 1e-9)
            self.bar.set_postfix_str(f"loss {loss:.4f}{self.latest}, lr {run.lr:.2e}, {speed:,.0f} chars/s{left}")

    def line(self, line: dict[str, Any]) -> None:
        """Prints a line of the log and sends it to the tracker."""
        if not self.leads:
            return
        self.latest = f", val {line['val']:.4f}"
        self.track(line)
        text = f"step {line['step']}: train loss {line['train']:.4f}, val loss {line['val']:.4f}, lr {line['lr']:.8f}"
        tqdm.write(text) if not self.bar.disable else print(text, flush=True)


def tracker(config: TrainConfig, folder: Path, closing: ExitStack) -> Callable[[dict[str, Any]], None]:
    """A function that sends a line of the log to the configured tracker. `closing` closes the tracker."""
    if config.track == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        try:
            writer = closing.enter_context(SummaryWriter(folder / "tensorboard"))
        except (OSError, UnicodeError) as error:  # it takes no name that is not UTF-8
            raise ValueError(f"--track tensorboard cannot write to {folder} ({error}): choose another --out") from error
        return lambda line: [writer.add_scalar(k, v, line["step"]) for k, v in line.items() if k != "step"]
    if config.track == "trackio":
        import trackio

        trackio.init(project=config.preset, config={"seed": config.seed, "model": config.model.to_dict()})
        closing.callback(trackio.finish)
        return lambda line: trackio.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])
    return lambda line: None


def require_tracker(config: TrainConfig) -> None:
    """Raises ValueError with the fix if the tracker's package is missing."""
    if config.track != "none" and find_spec(config.track) is None:
        install = f".venv/bin/python -m pip install {config.track}"
        raise ValueError(f"--track {config.track} needs the package {config.track}: {install}")
