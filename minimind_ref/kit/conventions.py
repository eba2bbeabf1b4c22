"""Where an operation's public call is not the oracle's: state in and state out as plain arrays, a report by name.

`public(name, function)` gives a function with the oracle's arguments (the oracle itself, or a known bug) in the
operation's own convention; adaptations.py writes golden cases in it.  Longer than the house's 150 lines: one table.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from minimind_ref.oracle import adamw, grad_scaler, training

Function = Callable[..., Any]


def public(name: str, function: Function) -> Function:
    """Give a function with the oracle's arguments in the operation's convention."""
    return WRAPPED[name](function) if name in WRAPPED else function


def stepped(update: Function) -> Function:
    """AdamW: parameter, mean and square in and out, and the number of this update, counted from 1."""

    def adamw_step(
        param: Any, grad: Any, mean: Any, square: Any, *, step: int, lr: float, beta1: float, beta2: float,
        eps: float, weight_decay: float,
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        options = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        new, after = update(param, grad, adamw.Moments(mean, square, step - 1), **options)
        return new, after.mean, after.square

    return adamw_step


def driven(update: Function) -> Function:
    """The loss scaler, driven through windows that overflowed or not: the scale after each window's update."""

    def drive(
        overflows: Any, *, init_scale: float, growth_factor: float, backoff_factor: float, growth_interval: int
    ) -> Any:
        state, scales = grad_scaler.initial_state(init_scale), []
        factors = {"growth_factor": growth_factor, "backoff_factor": backoff_factor, "growth_interval": growth_interval}
        for found_inf in overflows:
            state = update(state, bool(found_inf), **factors)
            scales.append(state.scale)
        return np.array(scales)

    return drive


def rendered(function: Function) -> Function:
    """A conversation as text."""

    def render(
        messages: Any, *, template: str = "minimind2", add_generation_prompt: bool = False, tools: Any = None,
        thinking: bool | None = None,
    ) -> str:  # fmt: skip
        options = {"add_generation_prompt": add_generation_prompt, "tools": tools, "thinking": thinking}
        return function(messages, template=template, **options)

    return render


def masked(function: Function) -> Function:
    """A conversation as ids, and for each whether the loss covers it."""

    def sft_mask(
        messages: Any, tokenizer: Any, *, template: str = "minimind2", add_generation_prompt: bool = False,
        tools: Any = None, thinking: bool | None = None,
    ) -> tuple[list[int], list[bool]]:  # fmt: skip
        options = {"add_generation_prompt": add_generation_prompt, "tools": tools, "thinking": thinking}
        return function(tokenizer, messages, template=template, **options)

    return sft_mask


def spanned(function: Function) -> Function:
    """The spans [start, end) of the rendered text that the loss covers."""

    def spans(messages: Any, *, template: str = "minimind2", tools: Any = None) -> list[list[int]]:
        return [list(span) for span in function(messages, template=template, tools=tools)]

    return spans


def network(function: Function) -> Function:
    """Logits, balance loss and cache."""

    def logits(
        parameters: Any, input_ids: Any, config: Any, *, attention_mask: Any = None, position_ids: Any = None,
        segment_ids: Any = None, cache: Any = None,
    ) -> tuple[Any, ...]:  # fmt: skip
        rows = {"attention_mask": attention_mask, "position_ids": position_ids, "segment_ids": segment_ids}
        return function(parameters, input_ids, config, **given(rows | {"cache": cache}))

    return logits


def loss_alone(function: Function) -> Function:
    """The network's loss; its gradients are the operation's gradients."""

    def loss(
        parameters: Any, input_ids: Any, labels: Any, config: Any, *, normaliser: Any = None, aux_weight: float = 1.0,
        attention_mask: Any = None, position_ids: Any = None, segment_ids: Any = None,
    ) -> Any:  # fmt: skip
        rows = {"attention_mask": attention_mask, "position_ids": position_ids, "segment_ids": segment_ids}
        weights = {"normaliser": normaliser, "aux_weight": aux_weight}
        return function(parameters, input_ids, labels, config, **weights, **given(rows))[0]

    return loss


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is None."""
    return {name: x for name, x in options.items() if x is not None}


def trained(function: Function) -> Function:
    """One step of training: a state by name in, the state and what the step saw out."""

    def step(
        state: Any, window: Any, config: Any, *, learning_rate: float, total_steps: int, warmup_steps: int = 0,
        floor_ratio: float = 0.1, betas: Any = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01,
        max_norm: float = 1.0,
    ) -> tuple[Any, Any]:  # fmt: skip
        clock = {"total_steps": total_steps, "warmup_steps": warmup_steps, "floor_ratio": floor_ratio}
        rest = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "max_norm": max_norm}
        before = training.TrainingState(**state)
        return function(before, window, config, learning_rate=learning_rate, **clock, **rest)

    return step


def listed(function: Function) -> Function:
    """Text cut where no merge may cross."""

    def split(text: str) -> list[str]:
        return list(function(text))

    return split


def learnt(function: Function) -> Function:
    """The merges that training gives, and the tokens in the order of their ids."""

    def train(texts: Any, vocab_size: int, special_tokens: Any) -> tuple[list[list[str]], list[str]]:
        vocab, merges = function(texts, vocab_size, special_tokens)
        return [list(pair) for pair in merges], sorted(vocab, key=vocab.__getitem__)

    return train


WRAPPED: dict[str, Callable[[Function], Function]] = {
    "adamw.step": stepped,
    "grad_scaler": driven,
    "bpe.split": listed,
    "bpe.train": learnt,
    "chat_template.render": rendered,
    "sft_mask": masked,
    "supervised_spans": spanned,
    "transformer": network,
    "transformer.loss": loss_alone,
    "training.step": trained,
}
