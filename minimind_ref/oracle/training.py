"""A whole training run, oracle: tokens in, trained weights out, without autograd.  Spec: specs/training.md."""

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minimind_ref.oracle.accumulation import micro_batch_weights
from minimind_ref.oracle.adamw import Moments, adamw_update, init_moments
from minimind_ref.oracle.bounded import Array, Bounded, constant
from minimind_ref.oracle.checks import require_equal
from minimind_ref.oracle.cosine_schedule import cosine_schedule
from minimind_ref.oracle.grad_clip import clip_grad_norm
from minimind_ref.oracle.objectives import SUPERVISED, Objective
from minimind_ref.oracle.transformer import EMBEDDING, parameter_shapes, transformer, transformer_vjp

Window = Sequence[Mapping[str, Any]]


class TrainingState(NamedTuple):
    """What one step hands to the next: parameters, AdamW's two averages of each, and how many steps are done."""

    parameters: dict[str, Any]
    means: dict[str, Any]
    squares: dict[str, Any]
    step: int


class Report(NamedTuple):
    """What a step saw: mean loss per target, load balance, norm before clipping, rate, number of targets."""

    loss: Any
    balance: Any
    norm: Any
    learning_rate: Any
    num_tokens: int


def initial_training_state(parameters: Mapping[str, Any]) -> TrainingState:
    """Start with given weights, averages of zero and no step done (TRAINING-1)."""
    moments = {name: init_moments(parameter) for name, parameter in parameters.items()}
    means, squares = ({name: getattr(m, part) for name, m in moments.items()} for part in ("mean", "square"))
    return TrainingState(dict(parameters), means, squares, 0)


def training_step(
    state: TrainingState,
    window: Window,
    config: Mapping[str, Any],
    *,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    floor_ratio: float = 0.1,
    betas: tuple[float, float] | Sequence = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    max_norm: float = 1.0,
    objective: Objective = SUPERVISED,
) -> tuple[TrainingState, Report]:
    """Make one update from one window of micro-batches: gradients summed, clipped, stepped (TRAINING-2 to 8).

    A micro-batch maps input_ids and labels (b s, aligned, -100: no target), and where it has them attention_mask,
    segment_ids (a negative one is padding) and position_ids, to integers, and what `objective` asks for to numbers.
    """
    _check(state, window, config)
    loss, balance, gradients, num_tokens = window_gradients(state.parameters, window, config, objective=objective)
    clipped, norm = clip_grad_norm(list(gradients.values()), max_norm)
    if not np.isfinite(norm):
        raise ValueError(f"the gradient's norm is {norm} in step {state.step}: no update is defined")
    peak = np.full_like(state.parameters[EMBEDDING], learning_rate, shape=())
    clock = {"total_steps": total_steps, "warmup_steps": warmup_steps, "floor_ratio": floor_ratio}
    rate: Any = cosine_schedule(state.step, peak=peak, **clock)
    new = TrainingState({}, {}, {}, state.step + 1)
    for name, gradient in zip(gradients, clipped, strict=True):
        parameter = state.parameters[name]
        new.parameters[name], moments = adamw_update(
            parameter,
            gradient,  # type: ignore[arg-type]
            Moments(state.means[name], state.squares[name], state.step),
            lr=rate,
            beta1=betas[0],
            beta2=betas[1],
            eps=eps,
            weight_decay=weight_decay if parameter.ndim > 1 else 0.0,
        )
        new.means[name], new.squares[name] = moments.mean, moments.square
    return new, Report(loss, balance, norm, rate, num_tokens)


def train(
    parameters: Mapping[str, Any],
    windows: Sequence[Window],
    config: Mapping[str, Any],
    *,
    start: TrainingState | None = None,
    **settings: Any,
) -> Iterator[tuple[TrainingState, Report]]:
    """Take a step for every window, and give the state and the report after each (TRAINING-1).

    `start` continues from a state, and `parameters` are then not looked at.
    """
    state = initial_training_state(parameters) if start is None else start
    for window in windows:
        state, report = training_step(state, window, config, **settings)
        yield state, report


def window_gradients(
    parameters: Mapping[str, Any], window: Window, config: Mapping[str, Any], *, objective: Objective = SUPERVISED
) -> tuple[Any, Any, dict[str, Array], int]:
    """Give a window's loss, its load balance, the gradients of their sum, and its targets (TRAINING-2, -3)."""
    batches = [{name: _array(x) for name, x in batch.items() if x is not None} for batch in window]
    tokens = [objective.count(batch) for batch in batches]
    documents = [_documents(batch) for batch in batches]
    weights = zip(*(micro_batch_weights(n, accumulation_steps=len(n)) for n in (tokens, documents)), strict=True)
    parts = []
    for batch, own, (per_token, per_document) in zip(batches, documents, weights, strict=True):
        factors = (constant(np.asarray(w), like=parameters[EMBEDDING]) for w in (per_token, own * per_document))
        parts.append(_micro_batch(parameters, batch, config, objective, *factors))
    loss, balance = (_total(part[i] for part in parts) for i in (0, 1))
    gradients = {name: _total(part[2][name] for part in parts) for name in parameters}
    return loss, balance, gradients, sum(tokens)


def _micro_batch(
    parameters: Mapping[str, Any], batch: Mapping[str, Any], config: Mapping[str, Any], objective: Objective,
    per_token: Any, share: Any,
) -> tuple[Any, Any, dict[str, Array]]:  # fmt: skip
    """Give a micro-batch's part of the loss and of the load balance, and the gradients of the two together."""
    ids = {name: batch.get(name) for name in ("segment_ids", "position_ids")} | {"attention_mask": _real(batch)}
    logits, balance, _ = transformer(parameters, batch["input_ids"], config, **ids)
    loss = objective.total(logits, batch)
    dlogits = objective.total_vjp(logits, batch, per_token)
    gradients = transformer_vjp(parameters, batch["input_ids"], config, **ids, cotangent=(dlogits, share))
    return loss * per_token, balance * share, gradients


def _array(x: Any) -> Any:
    return x if isinstance(x, Bounded) else np.asarray(x)


def _total(terms: Iterator[Any]) -> Any:
    """Add in the order of the micro-batches."""
    return functools.reduce(operator.add, terms)


def _real(batch: Mapping[str, Any]) -> np.ndarray:
    """Say which tokens are no padding: 1 in the attention mask, and not in a segment below 0 (TRAINING-7)."""
    real = np.ones(batch["input_ids"].shape, int)
    for name, least in (("attention_mask", 1), ("segment_ids", 0)):
        if name in batch:
            require_equal(f"shape of {name}", batch[name].shape, "shape of input_ids", real.shape)
            real = real * (batch[name] >= least)
    return real


def _documents(batch: Mapping[str, Any]) -> int:
    """Count the documents, one for each segment of each row that has a token which is no padding (TRAINING-3)."""
    real = _real(batch)
    segment = batch.get("segment_ids", np.zeros_like(real))
    return len({(row, int(segment[row, i])) for row, i in np.ndindex(*real.shape) if real[row, i]})


def _check(state: TrainingState, window: Window, config: Mapping[str, Any]) -> None:
    """Refuse an empty window, and a state whose names are not the model's (TRAINING-12)."""
    if not window:
        raise ValueError("window has 0 micro-batches but an update needs at least 1")
    shapes = parameter_shapes(config)
    for part in ("parameters", "means", "squares"):
        names = getattr(state, part)
        if odd := sorted(set(names) ^ set(shapes)):
            raise ValueError(f"state.{part} and the model differ in {odd[0]!r}: {len(names)} names, not {len(shapes)}")
