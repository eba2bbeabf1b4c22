"""One run of one stage, from its settings to its files."""

import contextlib
import platform
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import minimind_ref
from minimind_ref.config import ModelConfig, count_parameters
from minimind_ref.data.jsonl import DataError
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import RunError, UserError
from minimind_ref.model.transformer import Transformer
from minimind_ref.optim.adamw import AdamW
from minimind_ref.optim.grad_scaler import GradScaler
from minimind_ref.train.checkpoint import (
    load_weights,
    prepare_folder,
    restore,
    save_resume,
    save_weights,
    weights_name,
    write_json,
)
from minimind_ref.train.device import BATCH_SIZE, Placement, place
from minimind_ref.train.distributed import Ranks, local_rank, process_group, wrap
from minimind_ref.train.loop import Report, Run, fit, parameter_groups
from minimind_ref.train.metrics import Metrics, draw_curves, import_wandb
from minimind_ref.train.pretrain import Pretraining, check_vocabulary
from minimind_ref.train.run_folder import read_weights
from minimind_ref.train.settings import Settings

STAGES = {"pretrain": Pretraining}


def run_stage(name: str, config: ModelConfig, settings: Settings, resume: Mapping[str, Any] | None = None) -> None:
    """Train, report and write; `resume` is the content of a resume file to continue from."""
    if settings.use_wandb:
        import_wandb()
    placement = place(settings.device, settings.dtype, local_rank(settings.local_rank))
    settings = replace(settings, batch_size=settings.batch_size or BATCH_SIZE[placement.device.type])
    folder = Path(settings.out_dir)
    with process_group(settings.ddp, placement.device) as ranks:
        fresh = not folder.exists()
        prepare_folder(folder)
        try:
            Session(name, config, settings, placement, ranks, resume).train()
        except UserError:
            if fresh and ranks.main:
                _remove_if_empty(folder)
            raise


def _remove_if_empty(folder: Path) -> None:
    for path in (folder / "cache", folder):
        with contextlib.suppress(OSError):
            path.rmdir()


class Session:
    """A stage, its network and its files, from the first line that it prints to the last."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        settings: Settings,
        placement: Placement,
        ranks: Ranks,
        resume: Mapping[str, Any] | None,
    ) -> None:
        self.name, self.config, self.settings = name, config, settings
        self.placement, self.ranks, self.folder = placement, ranks, Path(settings.out_dir)
        self.resume_path = self.folder / f"{name}_resume.pt"
        self.weights_path = self.folder / weights_name(name, config)
        try:
            self.tokenizer = Tokenizer.load(settings.tokenizer)
            check_vocabulary(self.tokenizer, config)
            self.stage = STAGES[name](settings, config, self.tokenizer, placement, ranks)
        except (DataError, ValueError) as error:
            raise UserError(str(error)) from None
        self.run = self._build()
        if resume is not None:
            self._restore(resume)
        self._interrupted = False

    def _build(self) -> Run:
        s, device = self.settings, self.placement.device
        model = Transformer(self.config, generator=torch.Generator().manual_seed(s.seed))
        if s.init_from is not None:
            path, state = read_weights(Path(s.init_from), self.config)
            load_weights(model, state, path)
        model.to(device)
        torch.manual_seed(s.seed + self.ranks.rank)  # dropout, which has no generator of its own
        groups = parameter_groups(model, s.decay, s.weight_decay)
        return Run(
            model=model,
            network=wrap(model, self.ranks),
            optimizer=AdamW(groups, lr=s.learning_rate, betas=(s.beta1, s.beta2)),
            scaler=GradScaler(enabled=self.placement.scaled),
            settings=s,
            placement=self.placement,
            ranks=self.ranks,
            total_steps=min(self.stage.total_windows, s.max_steps or self.stage.total_windows),
        )

    def _restore(self, resume: Mapping[str, Any]) -> None:
        for what, stored, now in (
            ("number of processes", resume["world_size"], self.ranks.world_size),
            ("training data or tokenizer", resume["data"], self.stage.fingerprint),
        ):
            if stored != now:
                raise UserError(f"--resume: another {what} than when the run was saved ({stored}, now {now})")
        restore(self.run, resume, self.resume_path)

    def train(self) -> None:
        """Run to the end, or to the next window's end after Ctrl-C."""
        run, stage = self.run, self.stage
        self._introduce()
        if self._finished():
            self._say(f"finished  already: {run.progress.steps:,} of {run.total_steps:,} steps; {self.weights_path}")
            return
        self.metrics = Metrics(
            self.folder, main=self.ranks.main, total_steps=run.total_steps, done_steps=run.progress.steps
        )
        try:
            if self.settings.use_wandb:
                self.metrics.start_wandb(self.folder, asdict(self.settings))
            self._listen()
            start = time.monotonic()
            fit(run, stage.windows(run.progress.windows), stage.loss, self._after_step)
            self._save()
        finally:
            self.metrics.close()
        if self._interrupted and not self._finished():
            raise RunError(f"interrupted and saved at step {run.progress.steps}; continue with --resume")
        self._conclude(time.monotonic() - start)

    def _finished(self) -> bool:
        progress = self.run.progress
        return progress.steps >= self.run.total_steps or progress.windows >= self.stage.total_windows

    def _say(self, text: str) -> None:
        if self.ranks.main:
            print(text, flush=True)

    def _introduce(self) -> None:
        total, active = count_parameters(self.config)
        c = self.config
        shape = f"{c.num_hidden_layers} layers, {c.hidden_size} wide" + (f", {c.num_experts} experts" * c.use_moe)
        self._say(f"model     {shape}: {total:,} parameters, {active:,} active per token")
        self._say(f"device    {self.placement.reason}")
        for line in self.stage.describe():
            self._say(line)
        if self.run.progress.windows:
            self._say(f"resume    after {self.run.progress.steps:,} of {self.run.total_steps:,} steps")
        if self.ranks.main:
            self.tokenizer.save(self.folder / "tokenizer.json")
            write_json(self.folder / "config.json", self._record())

    def _record(self) -> dict[str, Any]:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        return {
            "stage": self.name,
            "weights": self.weights_path.name,
            "model": self.config.to_dict(),
            "settings": asdict(self.settings),
            "versions": {"minimind_ref": minimind_ref.__version__, **versions},
        }

    def _listen(self) -> None:
        """Let Ctrl-C end the run at the next window's end; a second one ends it at once."""
        if self.ranks.world_size > 1:
            return

        def stop(number: int, frame: Any) -> None:
            self._interrupted = True
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)

    def _after_step(self, report: Report) -> bool:
        s, step = self.settings, self.run.progress.steps
        self.metrics.step(targets=report.targets, loss=report.loss, lr=report.learning_rate, advance=not report.skipped)
        if not report.skipped and (step % s.log_interval == 0 or step == 1):
            values = {"loss": report.loss, "lr": report.learning_rate, "grad_norm": report.grad_norm}
            if self.config.use_moe:
                values["aux_loss"] = report.aux_loss
            if self.placement.scaled:
                values |= {"scale": self.run.scaler.get_scale(), "skipped": self.run.progress.skipped}
            self.metrics.record(step, {**values, "tokens_per_second": self.metrics.tokens_per_second})
        if not report.skipped and not self._finished():
            if s.eval_interval and step % s.eval_interval == 0:
                self._evaluate()
            if step % s.save_interval == 0:
                self._save()
        return self._interrupted

    def _evaluate(self) -> list[str]:
        found = self.stage.evaluate(self.run.network)
        if found is None:
            return ["nothing was held out"]
        values = {f"held_out_{key}": value for key, value in found._asdict().items()}
        step = self.run.progress.steps
        self.metrics.record(step, {**values, "unigram": found.unigram, "bigram": found.bigram})
        self.metrics.say(f"step {step:,}: held out {found.lines()[0]}")
        return found.lines()

    def _save(self) -> None:
        save_resume(self.run, self.resume_path, config=self.config, stage=self.name, data=self.stage.fingerprint)
        if self.ranks.main:
            save_weights(self.run.model, self.weights_path)

    def _conclude(self, seconds: float) -> None:
        progress, rate = self.run.progress, self.metrics.tokens_per_second
        skipped = f", {progress.skipped} skipped for overflow" if self.placement.scaled else ""
        self._say(f"finished  {progress.steps:,} steps{skipped} in {seconds:.0f} s, {rate:,.0f} tokens a second")
        _, *baselines = self._evaluate()
        if not self.ranks.main:
            return
        for line in baselines:
            self._say(f"          {line}")
        self._say("sample    " + self.stage.sample(self.run.model).replace("\n", "\n          "))
        draw_curves(self.folder)
        names = sorted(path.name for path in self.folder.iterdir())
        self._say(f"written   {self.folder}/: {', '.join(names)}")
