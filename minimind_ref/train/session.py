"""A run from the first line that it prints to the last: measurements, checkpoints, interruption, report."""

import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import minimind_ref
from minimind_ref.config import ModelConfig, count_parameters
from minimind_ref.errors import RunError
from minimind_ref.train.checkpoint import save_resume, save_weights, weights_name, write_json
from minimind_ref.train.loop import Report, Run, fit
from minimind_ref.train.metrics import Metrics, draw_curves
from minimind_ref.train.stage import Stage


class Session:
    """A stage, the run that trains it, and the files in its folder."""

    def __init__(self, name: str, config: ModelConfig, run: Run, stage: Stage) -> None:
        self.name, self.config, self.run, self.stage = name, config, run, stage
        self.folder = Path(run.settings.out_dir)
        self.resume_path = self.folder / f"{name}_resume.pt"
        self.weights_path = self.folder / weights_name(stage.prefix, config)
        self.interrupted = False

    def train(self) -> None:
        """Run to the end, or to the end of the window in which Ctrl-C comes."""
        run, progress = self.run, self.run.progress
        self._introduce()
        if self._finished():
            self._say(f"finished  already: {progress.steps:,} of {run.total_steps:,} steps; {self.weights_path}")
            return
        if run.ranks.main and not progress.windows:
            self.resume_path.unlink(missing_ok=True)  # of an earlier run in the same folder
        self.metrics = Metrics(
            self.folder,
            self.name,
            self.stage.targets,
            main=run.ranks.main,
            total_steps=run.total_steps,
            done_steps=progress.steps,
        )
        try:
            if run.settings.use_wandb:
                self.metrics.start_wandb(self.folder, asdict(run.settings))
            start = time.monotonic()
            with self._listening():
                fit(run, self.stage.windows(progress.windows), self.stage.loss, self._after_step)
            self._save()
            self.metrics.end_bar()
            if self.interrupted and not self._finished():
                raise RunError(f"interrupted and saved at step {progress.steps}; continue with --resume")
            self._conclude(time.monotonic() - start)
        finally:
            self.metrics.close()

    def _finished(self) -> bool:
        progress = self.run.progress
        return progress.steps >= self.run.total_steps or progress.windows >= self.stage.total_windows

    def _say(self, text: str) -> None:
        if self.run.ranks.main:
            print(text, flush=True)

    def _introduce(self) -> None:
        c, run = self.config, self.run
        total, active = count_parameters(c)
        shape = f"{c.num_hidden_layers} layers, {c.hidden_size} wide" + f", {c.num_experts} experts" * c.use_moe
        self._say(f"model     {shape}: {total:,} parameters, {active:,} active per token")
        self._say(f"device    {run.placement.reason}")
        for line in self.stage.describe():
            self._say(line)
        if run.progress.windows:
            self._say(f"resume    after {run.progress.steps:,} of {run.total_steps:,} steps")
        if run.ranks.main:
            self.stage.tokenizer.save(self.folder / "tokenizer.json")
            write_json(self.folder / "config.json", self._record())

    def _record(self) -> dict[str, Any]:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        return {
            "stage": self.name,
            "weights": self.weights_path.name,
            "model": self.config.to_dict(),
            "settings": asdict(self.run.settings),
            "versions": {"minimind_ref": minimind_ref.__version__, **versions},
        }

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Let Ctrl-C end the run at the window's end, a second one at once; not where other ranks would wait."""
        if self.run.ranks.world_size > 1:
            yield
            return

        def stop(number: int, frame: Any) -> None:
            self.interrupted = True
            signal.signal(number, before[number])

        before = {int(number): signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _after_step(self, report: Report) -> bool:
        s, step = self.run.settings, self.run.progress.steps
        self.metrics.step(targets=report.targets, loss=report.loss, lr=report.learning_rate, advance=not report.skipped)
        if report.skipped:
            return self.interrupted
        if step % s.log_interval == 0 or step == 1:
            self._record_step(report)
        if not self._finished():
            if s.eval_interval and step % s.eval_interval == 0:
                self._evaluate()
            if step % s.save_interval == 0:
                self._save()
        return self.interrupted

    def _record_step(self, report: Report) -> None:
        values = {"loss": report.loss, "lr": report.learning_rate, "grad_norm": report.grad_norm}
        if self.config.use_moe:
            values["aux_loss"] = report.aux_loss
        if self.run.placement.scaled:
            values |= {"scale": self.run.scaler.get_scale(), "skipped": self.run.progress.skipped}
        values |= self.stage.measures()
        values["targets_per_second"] = self.metrics.targets_per_second
        self.metrics.record(self.run.progress.steps, values)

    def _evaluate(self) -> list[str]:
        found = self.stage.evaluate(self.run.model)
        if found is None:
            return []
        step = self.run.progress.steps
        self.metrics.record(step, found.values())
        first, *more = found.lines()
        self.metrics.say(f"held out  {first}, after {step:,} steps")
        return more

    def _save(self) -> None:
        """The weights first: a kill between the two files costs steps that are repeated, not a stale result.

        RunError where a weight is no number, so that the last sound checkpoint stays.
        """
        if not all(p.isfinite().all() for p in self.run.model.parameters()):
            step = self.run.progress.steps
            raise RunError(f"a weight is no number after optimiser step {step}; a lower --learning_rate may help")
        if self.run.ranks.main:
            save_weights(self.run.model, self.weights_path)
        save_resume(self.run, self.resume_path, config=self.config, name=self.name, stage=self.stage)

    def _conclude(self, seconds: float) -> None:
        progress, rate = self.run.progress, f"{self.metrics.targets_per_second:,.0f} {self.stage.targets} a second"
        skipped = f" ({progress.skipped} more skipped for overflow)" if self.run.placement.scaled else ""
        self._say(f"finished  {progress.steps:,} steps{skipped} in {seconds:.0f} s, {rate}")
        for line in self._evaluate():
            self._say(f"          {line}")
        if not self.run.ranks.main:
            return
        self._say("sample    " + self.stage.sample(self.run.model).replace("\n", "\n          "))
        draw_curves(self.folder, self.name, self.stage.curves)
        names = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        self._say(f"written   {self.folder}/: {', '.join(names)}")
