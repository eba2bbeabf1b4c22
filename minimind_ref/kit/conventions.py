"""Where an operation's public call is not the oracle's: state in and state out as plain arrays, tokenizers as data.

`public(name, function)` gives a function with the oracle's arguments (the oracle itself, or a known bug) in the
operation's own convention; `adapt(name, case)` writes a golden case in it.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from minimind_ref.golden import texts
from minimind_ref.oracle import adamw, grad_scaler, tokenizer, training

Function = Callable[..., Any]
Case = dict[str, Any]  # inputs, parameters, outputs and results (by name) of a golden case, already built


def public(name: str, function: Function) -> Function:
    """Give a function with the oracle's arguments in the operation's convention."""
    return WRAPPED[name](function) if name in WRAPPED else function


def adapt(name: str, case: Case) -> Case:
    """Write a golden case in the operation's convention."""
    return ADAPTED[name](case) if name in ADAPTED else case


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
    """Logits and balance loss, without the cache."""

    def logits(
        parameters: Any, input_ids: Any, config: Any, *, attention_mask: Any = None, position_ids: Any = None,
        segment_ids: Any = None, cache: Any = None,
    ) -> tuple[Any, Any]:  # fmt: skip
        rows = {"attention_mask": attention_mask, "position_ids": position_ids, "segment_ids": segment_ids}
        return function(parameters, input_ids, config, **rows, cache=cache)[:2]

    return logits


def loss_alone(function: Function) -> Function:
    """The network's loss; its gradients are the operation's gradients."""

    def loss(
        parameters: Any, input_ids: Any, labels: Any, config: Any, *, normaliser: Any = None, aux_weight: float = 1.0,
        attention_mask: Any = None, position_ids: Any = None, segment_ids: Any = None,
    ) -> Any:  # fmt: skip
        rows = {"attention_mask": attention_mask, "position_ids": position_ids, "segment_ids": segment_ids}
        weights = {"normaliser": normaliser, "aux_weight": aux_weight}
        return function(parameters, input_ids, labels, config, **weights, **rows)[0]

    return loss


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
drive_scaler = driven(grad_scaler.update)


class CaseTokenizer(SimpleNamespace):
    """A tokenizer as a case gives it: `vocab`, `merges`, `control_ids`, and `encode`, which gives no control id."""

    def encode(self, text: str) -> list[int]:
        """Encode text as text, by the oracle."""
        return tokenizer.encode(text, self.vocab, self.merges)


def read_tokenizer(node: Any) -> CaseTokenizer:
    """Build a case's tokenizer."""
    made = texts.read(node)
    control = {name: made.vocab[name] for name in made.special}
    return CaseTokenizer(vocab=made.vocab, merges=[tuple(pair) for pair in made.merges], control_ids=control)


def _adamw(case: Case) -> Case:
    inputs = dict(case["inputs"])
    moments = inputs.pop("moments")
    inputs |= {"mean": moments["mean"], "square": moments["square"]}
    parameters = case["parameters"] | {"step": moments["step"] + 1}
    return case | {"inputs": inputs, "parameters": parameters, "outputs": ["param", "mean", "square"]}


def _scaler(case: Case) -> Case:
    (scale, good_steps), parameters = case["inputs"]["state"], dict(case["parameters"])
    overflows = np.array([False] * good_steps + [bool(case["inputs"]["found_inf"])])
    defaults = {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    parameters = {"init_scale": float(scale)} | defaults | parameters
    scales = drive_scaler(overflows, **parameters)
    if scales[-1] != case["expected"]["scale"]["values"][0]:
        raise ValueError(f"{case['id']}: driving the scaler gives {scales[-1]}")
    exact = {"scales": (scales, np.zeros(scales.shape))}
    return case | {"inputs": {"overflows": overflows}, "parameters": parameters, "outputs": ["scales"], "fixed": exact}


def _tokenizer(case: Case) -> Case:
    inputs = dict(case["inputs"])
    made = read_tokenizer(inputs.pop("tokenizer"))
    inputs["vocab"] = made.vocab
    if "text" in inputs:
        return case | {"inputs": inputs | {"merges": made.merges}}
    return case | {"inputs": inputs, "parameters": case["parameters"] | {"special_tokens": list(made.control_ids)}}


def _conversation(case: Case) -> Case:
    return case | {"inputs": case["inputs"] | {"tokenizer": read_tokenizer(case["inputs"]["tokenizer"])}}


def _rate(case: Case) -> Case:
    return case | {"inputs": case["inputs"] | {"peak": float(case["inputs"]["peak"])}, "profiles": ["float64"]}


def _gradients(case: Case) -> Case:
    return case | {"inputs": case["inputs"] | {"gradients": list(case["inputs"]["gradients"])}}


ADAPTED: dict[str, Callable[[Case], Case]] = {
    "adamw.step": _adamw,
    "grad_scaler": _scaler,
    "grad_scaler.unscale": _gradients,
    "clip_grad_norm": _gradients,
    "bpe.encode": _tokenizer,
    "bpe.decode": _tokenizer,
    "sft_mask": _conversation,
    "cosine_schedule": _rate,
}
