"""What a run shows: a progress bar, metrics.jsonl, curves.png, and Weights & Biases where asked."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minimind_ref.errors import UserError
from minimind_ref.files import write_atomically
from minimind_ref.progress import progress_bar


class Metrics:
    """Progress and measurements of one run; on every rank but the first all of it is silent."""

    def __init__(
        self, folder: Path, stage: str, targets: str, *, main: bool, total_steps: int, done_steps: int
    ) -> None:
        self.main, self.path, self.stage, self.unit = main, folder / "metrics.jsonl", stage, targets[:3]
        self._bar = progress_bar(
            total=total_steps,
            initial=done_steps,
            unit="step",
            disable=not main,
        )
        self._wandb: Any = None
        self._start, self._targets = time.monotonic(), 0
        if main:
            keep_until(self.path, stage, done_steps)

    def start_wandb(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Log to Weights & Biases too: offline, into the run folder, where no account is configured."""
        if not self.main:
            return
        wandb = import_wandb()
        online = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        self._wandb = wandb.init(project="minimind_ref", dir=str(folder), config=dict(settings), mode=online)

    def step(self, *, targets: int, loss: float, lr: float, advance: bool) -> None:
        """Move the bar by one step and show targets a second, loss and learning rate."""
        self._targets += targets
        if self.main:
            speed = f"{self.targets_per_second:,.0f} {self.unit}/s"
            self._bar.set_postfix_str(f"{speed}, loss {loss:.3f}, lr {lr:.2e}", refresh=False)
            self._bar.update(int(advance))

    @property
    def targets_per_second(self) -> float:
        """Targets of all ranks a second (supervised tokens, pairs), since the run or its continuation started."""
        return self._targets / max(time.monotonic() - self._start, 1e-9)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl."""
        if not self.main:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": self.stage, "step": step, **values}) + "\n")
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def end_bar(self) -> None:
        """Leave the bar as it stands; what is printed from now on comes below it."""
        self._bar.close()

    def close(self) -> None:
        """End the bar and the tracker."""
        self.end_bar()
        if self._wandb is not None:
            self._wandb.finish()


def import_wandb() -> Any:
    """The tracker's module, or UserError that says how to get it."""
    try:
        wandb = import_module("wandb")
        wandb.init  # noqa: B018 - not there in a mere folder of that name, as wandb itself leaves behind
        return wandb
    except (ImportError, AttributeError):
        raise UserError("--use_wandb needs the extra 'track': pip install 'minimind-ref[track]'") from None


def keep_until(path: Path, stage: str, step: int) -> None:
    """Drop what a stage measured after the checkpoint that its continuation starts from; 0: all of it.

    What is no measurement goes too, such as the line that a kill cut.
    """
    kept = [r for r in _records(path) if r["stage"] != stage or (r["step"] <= step and step)]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    write_atomically(path, lambda file: file.write(text.encode()))


def read_metrics(folder: Path, stage: str) -> list[dict[str, Any]]:
    """A stage's measurements in a run folder."""
    return [record for record in _records(folder / "metrics.jsonl") if record["stage"] == stage]


def _records(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [r for r in found if isinstance(r, dict) and isinstance(r.get("step"), int) and "stage" in r]


def draw_curves(folder: Path, stage: str, panels: Sequence[Sequence[str]]) -> Path | None:
    """Plot a stage's measurements over steps into curves.png; None where matplotlib is not installed."""
    try:
        import_module("matplotlib").use("Agg")
    except ImportError:
        return None
    pyplot = import_module("matplotlib.pyplot")
    records = read_metrics(folder, stage)
    figure, grid = pyplot.subplots(1, len(panels), figsize=(7 * len(panels), 4), layout="constrained", squeeze=False)
    for axes, keys in zip(grid[0], panels, strict=True):
        for key in keys:
            points = [(r["step"], r[key]) for r in records if key in r]
            if points:
                axes.plot(
                    *zip(*points, strict=True), "o-" if key.startswith("held") else "-", label=key.replace("_", " ")
                )
        axes.set(xlabel="optimiser step")
        if axes.lines:
            axes.legend()
    figure.savefig(folder / "curves.png", dpi=150)
    pyplot.close(figure)
    return folder / "curves.png"
