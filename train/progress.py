"""How a run shows itself: a bar on a terminal, plain lines elsewhere, curves in a tracker."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from train.presets import TrainConfig
from train.run import Run


class Progress:
    """A bar on a terminal, plain lines elsewhere, and a tracker where one is asked for; `leads`: whether to speak."""

    def __init__(self, config: TrainConfig, folder: Path, leads: bool, steps: int) -> None:
        self.leads = leads
        self.tracker = tracker(config, folder) if leads else NoTracker()
        self.bar = tqdm(total=config.steps, initial=steps, unit="step", disable=not (leads and sys.stderr.isatty()))
        self.shown, self.latest = 0.0, ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()
        self.tracker.close()

    def update(self, run: Run, loss: float) -> None:
        """A step more; `loss` is the mean of the last ones."""
        self.bar.update()
        if not self.bar.disable and time.monotonic() - self.shown >= 1:
            self.shown = time.monotonic()
            left = ""
            if run.config.max_minutes:
                left = f", {max(0, run.config.max_minutes - run.seconds / 60):.1f} min left"
            speed = run.characters / max(run.seconds, 1e-9)
            self.bar.set_postfix_str(f"loss {loss:.4f}{self.latest}, lr {run.lr:.2e}, {speed:,.0f} chars/s{left}")

    def line(self, line: dict[str, Any]) -> None:
        """A line of the log."""
        if not self.leads:
            return
        self.latest = f", val {line['val']:.4f}"
        self.tracker.log(line)
        text = f"step {line['step']}: train loss {line['train']:.4f}, val loss {line['val']:.4f}, lr {line['lr']:.8f}"
        tqdm.write(text) if not self.bar.disable else print(text, flush=True)


class Tracker(Protocol):
    """Receives each line of the log."""

    def log(self, line: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    def log(self, line: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(folder)

    def log(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name != "step":
                self.writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self.writer.close()


class Trackio:
    def __init__(self, project: str, config: dict[str, Any]) -> None:
        import trackio

        self.trackio = trackio
        trackio.init(project=project, config=config)

    def log(self, line: dict[str, Any]) -> None:
        self.trackio.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])

    def close(self) -> None:
        self.trackio.finish()


def tracker(config: TrainConfig, folder: Path) -> Tracker:
    """The tracker that the settings ask for."""
    if config.track == "tensorboard":
        return TensorBoard(folder / "tensorboard")
    if config.track == "trackio":
        return Trackio(config.preset, {"seed": config.seed, "model": config.model.to_dict()})
    return NoTracker()


def require_tracker(config: TrainConfig) -> None:
    """Raises ValueError with the mend where the tracker's package is missing."""
    if config.track != "none" and find_spec(config.track) is None:
        raise ValueError(f"--track {config.track} needs the package {config.track}: pip install {config.track}")
