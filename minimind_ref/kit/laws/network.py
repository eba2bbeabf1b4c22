"""Laws of the whole network and of a training step, on the recorded parameters."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minimind_ref.kit import vectors
from minimind_ref.kit.binding import NoAnswerError
from minimind_ref.kit.properties import law
from minimind_ref.kit.registry import operation

Function = Callable[..., Any]
ROUNDING = 2.0**-16  # of a result's size: float32 is some 2^-22 off, and two swapped tokens of a cache put it 2^-11 off


def recorded(name: str, at: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give inputs and parameters of an operation's first recorded case, or of one that follows."""
    case = vectors.recorded(operation(name))[at]
    return case.inputs, case.parameters


def apart(what: str, whose: str, *, found: Any, wanted: Any) -> str | None:
    """Say how far a result is from what it must be, where it is more than rounding or NaN."""
    off = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    return None if off <= ROUNDING else f"{what} {off:.3g} of the size off {whose}"


@law("transformer", "TRANSFORMER-13")
def causal(transformer: Function) -> str | None:
    """Change the last token: the logits before it keep their bits."""
    inputs, options = recorded("transformer")
    ids = np.array(inputs["input_ids"])
    before = np.asarray(transformer(inputs["parameters"], ids.copy(), **options)[0])
    ids[:, -1] = (ids[:, -1] + 1) % options["config"]["vocab_size"]
    after = np.asarray(transformer(inputs["parameters"], ids, **options)[0])
    return None if np.array_equal(before[:, :-1], after[:, :-1]) else "the last token changes the logits before it"


@law("transformer", "TRANSFORMER-7")
def any_cut(transformer: Function) -> str | None:
    """Cut the tokens in two and pass on the cache that the first piece returns: the logits are those of one pass."""
    inputs, options = recorded("transformer")
    parameters, ids = inputs["parameters"], inputs["input_ids"]
    whole = np.asarray(transformer(parameters, ids, **options)[0], np.float64)
    _, _, *state = transformer(parameters, ids[:, :2], **options)
    if not state or state[0] is None:
        raise NoAnswerError("it returns no cache")
    rest = np.asarray(transformer(parameters, ids[:, 2:], cache=state[0], **options)[0], np.float64)
    if rest.shape != whole[:, 2:].shape:
        return f"the second piece's logits have shape {rest.shape}"
    return apart("after a cut the logits are", "those of one pass", found=rest, wanted=whole[:, 2:])


def alone_and_padded(transformer: Function, at: int = 0) -> list[np.ndarray]:
    """Give the real tokens' logits and the balance loss of two rows alone; then padded, with all logits behind them.

    One row is padded left, one right, and a third is nothing but padding.
    """
    inputs, options = recorded("transformer", at)
    rows, real = (
        np.stack([np.pad(x[0], (1, 0)), np.pad(x[1], (0, 1)), np.zeros(x.shape[1] + 1, x.dtype)])
        for x in (inputs["input_ids"], np.ones_like(inputs["input_ids"]))
    )
    alone = transformer(inputs["parameters"], inputs["input_ids"], **options)
    padded = transformer(inputs["parameters"], rows, attention_mask=real, **options)
    (logits, aux), (every, balance) = (map(np.asarray, result[:2]) for result in (alone, padded))
    return [logits, aux, every[real == 1].reshape(logits.shape), balance, every]


@law("transformer", "TRANSFORMER-4")
def padding_is_not_seen(transformer: Function) -> str | None:
    """Pad rows, and add one of padding: the real tokens' logits are those of the rows alone."""
    logits, _, padded, *_ = alone_and_padded(transformer)
    return apart("beside padding the logits are", "those of the rows alone", found=padded, wanted=logits)


@law("transformer", "TRANSFORMER-9")
def padding_does_not_count(transformer: Function) -> str | None:
    """Pad rows, and add one of padding: the balance loss is that of the rows alone."""
    _, aux, _, balance, _ = alone_and_padded(transformer, 1)
    return apart("beside padding the balance loss is", "that of the rows alone", found=balance, wanted=aux)


@law("transformer", "TRANSFORMER-14")
def padding_is_finite(transformer: Function) -> str | None:
    """Pad rows, and add one of padding: every logit is finite, also where a token sees nothing."""
    return None if np.isfinite(alone_and_padded(transformer)[-1]).all() else "there are logits that are not finite"


@law("training.step", "TRAINING-8")
def nothing_supervised(step: Function) -> str | None:
    """A window without a target has the loss 0, and leaves no NaN behind."""
    inputs, options = recorded("training.step")
    window = [batch | {"labels": np.full_like(batch["labels"], -100)} for batch in inputs["window"]]
    state, report = step(inputs["state"], window, **options)
    loss = report["loss"] if isinstance(report, dict) else report[0]
    if float(np.asarray(loss)) != 0:
        return f"a window without a target has the loss {loss!r}"
    parts = state["parameters"] if isinstance(state, dict) else state[0]
    return None if all(np.isfinite(p).all() for p in parts.values()) else "a window without a target leaves NaN behind"


@law("training.step", "TRAINING-4")
def one_factor_for_the_window(step: Function) -> str | None:
    """Clip hard in the first step: the averages are an unclipped step's, shortened to (1 - beta1)·max_norm."""
    inputs, options = recorded("training.step")
    free, clipped = (averages(step, inputs, options | {"max_norm": most}) for most in (2.0**20, 2.0**-6))
    wanted = (1 - options["betas"][0]) * 2.0**-6 / np.linalg.norm(free) * free
    off = float(np.linalg.norm(clipped - wanted) / np.linalg.norm(wanted))
    # beyond clipping's 1e-6 and float32's rounding, and far below what clipping each part of the window changes
    return None if off <= 2.0**-10 else f"the averages of a clipped step are {off:.3g} of their size off one factor"


def averages(step: Function, inputs: dict[str, Any], options: dict[str, Any]) -> np.ndarray:
    """Make a step, and give AdamW's averages of the gradient in one row."""
    state, _ = step(inputs["state"], inputs["window"], **options)
    means = state["means"] if isinstance(state, dict) else state[1]
    return np.concatenate([np.ravel(np.asarray(means[name], np.float64)) for name in inputs["state"]["parameters"]])
