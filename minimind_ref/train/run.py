"""One run of one stage: put its parts together, then hand it to a session."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from minimind_ref.config import ModelConfig
from minimind_ref.errors import RunError, UserError
from minimind_ref.optim.adamw import AdamW
from minimind_ref.optim.grad_scaler import GradScaler
from minimind_ref.train.checkpoint import kept_alone, prepare_folder, restore
from minimind_ref.train.device import BATCH_SIZE, Placement, is_out_of_memory, place
from minimind_ref.train.distributed import Ranks, is_left_alone, local_rank, process_group, share_weights
from minimind_ref.train.loop import Run, parameter_groups
from minimind_ref.train.metrics import import_wandb
from minimind_ref.train.network import build, check_length, load_tokenizer
from minimind_ref.train.session import Session
from minimind_ref.train.settings import Settings

STAGES = {
    "pretrain": ("minimind_ref.train.pretrain", "Pretraining"),
    "sft": ("minimind_ref.train.sft", "FineTuning"),
    "dpo": ("minimind_ref.train.dpo", "Preference"),
    "grpo": ("minimind_ref.train.grpo", "Reinforcement"),
}
"""Module and class of each stage."""


def run_stage(name: str, config: ModelConfig, settings: Settings, resume: Mapping[str, Any] | None = None) -> None:
    """Train, report and write; `resume` is the content of a resume file to continue from."""
    if settings.use_wandb:
        import_wandb()
    placement = place(settings.device, settings.dtype, local_rank(settings.local_rank))
    settings = replace(settings, batch_size=settings.batch_size or BATCH_SIZE[placement.device.type])
    folder = Path(settings.out_dir)
    with process_group(settings.ddp, placement.device) as ranks:
        fresh = prepare_folder(folder)
        alone = kept_alone(folder) if ranks.main else contextlib.nullcontext()
        try:
            with alone:
                session(name, config, settings, placement, ranks, resume).train()
        except (OSError, RuntimeError, UserError) as error:
            if fresh and ranks.main:
                _remove_if_empty(folder)
            if isinstance(error, OSError) and error.filename is None:  # of a file that was open already
                raise OSError(error.errno, error.strerror, str(folder)) from None
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                lower = "a smaller --batch_size, --max_seq_len or network needs less"
                raise RunError(f"out of memory on {placement.device}: {lower}") from None
            if isinstance(error, RuntimeError) and is_left_alone(error):
                raise RunError(f"process {ranks.rank} is left alone: another one has ended") from None
            raise


def _remove_if_empty(folder: Path) -> None:
    for path in (folder / "cache", folder):
        with contextlib.suppress(OSError):
            path.rmdir()


def session(
    name: str,
    config: ModelConfig,
    settings: Settings,
    placement: Placement,
    ranks: Ranks,
    resume: Mapping[str, Any] | None,
) -> Session:
    """The network, then the stage with its data, then the optimiser: whatever can be refused is refused here."""
    check_length(settings.max_seq_len, config)
    model = build(config, settings).to(placement.device)
    share_weights(model, ranks)
    module, stage_class = STAGES[name]
    try:
        tokenizer = load_tokenizer(settings, config)
        stage = getattr(import_module(module), stage_class)(settings, model, tokenizer, placement, ranks)
    except ValueError as error:
        raise UserError(str(error)) from None
    torch.manual_seed(settings.seed + ranks.rank)  # for dropout, which takes no generator
    run = Run(
        model=model,
        optimizer=AdamW(
            parameter_groups(model, settings.decay, settings.weight_decay),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
        ),
        scaler=GradScaler(enabled=placement.scaled),
        settings=settings,
        placement=placement,
        ranks=ranks,
        total_steps=min(stage.total_windows, settings.max_steps or stage.total_windows),
    )
    ready = Session(name, config, run, stage)
    if resume is not None:
        _continue(ready, resume)
    return ready


def _continue(session: Session, resume: Mapping[str, Any]) -> None:
    for what, stored, now in (
        ("number of processes", resume["world_size"], session.run.ranks.world_size),
        ("training data or tokenizer", resume["data"], session.stage.fingerprint),
    ):
        if stored != now:
            raise UserError(f"--resume: another {what} than when the run was saved ({stored}, now {now})")
    restore(session.run, session.stage, resume, session.resume_path)
