"""The one optimisation step that every stage shares, and the loop around it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from minimind_ref.errors import RunError
from minimind_ref.model.transformer import Transformer
from minimind_ref.optim.accumulation import micro_batch_weights
from minimind_ref.optim.adamw import AdamW
from minimind_ref.optim.cosine_schedule import cosine_schedule
from minimind_ref.optim.grad_clip import clip_grad_norm_
from minimind_ref.optim.grad_scaler import GradScaler
from minimind_ref.train.device import Placement
from minimind_ref.train.distributed import Ranks, sum_gradients, total
from minimind_ref.train.settings import Settings


class MicroBatch(Protocol):
    """One micro-step's input: how many targets its loss sums over, and how many documents its aux loss averages."""

    @property
    def num_targets(self) -> int: ...
    @property
    def num_documents(self) -> int: ...


class Loss(NamedTuple):
    """A micro-batch's loss, summed over its targets, and its load-balancing loss, a mean over its documents."""

    total: Tensor
    aux: Tensor


LossFunction = Callable[[nn.Module, Any], Loss]


@dataclass
class Progress:
    """How far a run is: windows consumed, optimiser steps taken (the schedule's clock), steps skipped for overflow."""

    windows: int = 0
    steps: int = 0
    skipped: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is not int or value < 0:
                raise ValueError(f"{name}={value!r} must be a count")


class Report(NamedTuple):
    """What one window gave: mean loss per target, load balance, gradient norm before clipping, learning rate."""

    loss: float
    aux_loss: float
    grad_norm: float
    learning_rate: float
    targets: int
    skipped: bool


@dataclass
class Run:
    """What the steps of a run act on."""

    model: Transformer
    optimizer: AdamW
    scaler: GradScaler
    settings: Settings
    placement: Placement
    ranks: Ranks
    total_steps: int
    progress: Progress = field(default_factory=Progress)


def parameter_groups(model: nn.Module, decay: str, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices, which weight decay shrinks, and vectors (norm weights), which it does not unless decay="all"."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [(matrices, weight_decay), (vectors, weight_decay if decay == "all" else 0.0)]
    return [{"params": params, "weight_decay": value} for params, value in groups if params]


def optimisation_step(run: Run, window: list[Any], loss_of: LossFunction) -> Report:
    """Scaled backward for every micro-batch; then unscale, clip, step, update the scaler, gradients to None.

    The gradient is that of the window's summed loss over its targets on all ranks, plus the load balance weighted by
    documents, however the window is cut.  Raises RunError where the loss, or an unscaled gradient, is no number.
    """
    lr = learning_rate(run)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    loss, aux, targets = _accumulate(run, window, loss_of)
    where = f"in optimiser step {run.progress.steps + 1}"
    if not math.isfinite(loss) or not math.isfinite(aux):
        raise RunError(f"the loss is {loss} (load balance {aux}) {where}; a lower --learning_rate may help")
    run.scaler.unscale_(run.optimizer)
    norm = clip_grad_norm_(run.model.parameters(), run.settings.grad_clip).item()
    skipped = run.scaler.found_overflow(run.optimizer)
    if not skipped and not math.isfinite(norm):
        raise RunError(f"the gradient's norm is {norm} {where}; a lower --learning_rate may help")
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.progress.windows += 1
    run.progress.steps += not skipped
    run.progress.skipped += skipped
    return Report(loss, aux, norm, lr, targets, skipped)


def learning_rate(run: Run) -> float:
    """The rate of the step to come; a skipped step does not advance it."""
    s = run.settings
    return cosine_schedule(
        run.progress.steps,
        total_steps=run.total_steps,
        peak=s.learning_rate,
        warmup_steps=min(s.warmup_iters, run.total_steps),
        form=s.schedule,
    )


def _accumulate(run: Run, window: list[Any], loss_of: LossFunction) -> tuple[float, float, int]:
    """Backward through every micro-batch; the window's mean loss, load balance and targets, over all ranks."""
    device = run.placement.device
    counts = [(batch.num_targets, batch.num_documents) for batch in window]
    sums = total([n for pair in counts for n in pair], run.ranks, device)
    tokens, documents = [int(n) for n in sums[::2]], [int(n) for n in sums[1::2]]
    weights = micro_batch_weights(
        tokens, accumulation_steps=run.settings.accumulation_steps, form=run.settings.normaliser
    )
    losses: list[Tensor] = []
    for batch, weight in zip(window, weights, strict=True):
        with run.placement.autocast():
            loss = loss_of(run.model, batch)
        share = batch.num_documents / max(sum(documents), 1)
        run.scaler.scale(loss.total * weight + loss.aux * share).backward()
        losses += [(loss.total * weight).detach(), (loss.aux * share).detach()]
    sum_gradients(run.model, run.ranks)
    values = total([v.item() for v in losses], run.ranks, device)
    return sum(values[::2]), sum(values[1::2]), sum(tokens)


def fit(
    run: Run,
    windows: Iterator[list[Any]],
    loss_of: LossFunction,
    after_step: Callable[[Report], bool],
) -> None:
    """Take windows until they, or the steps, are used up, or `after_step` says that this is enough."""
    run.model.train()
    for window in windows:
        report = optimisation_step(run, window, loss_of)
        if after_step(report) or run.progress.steps >= run.total_steps:
            return
