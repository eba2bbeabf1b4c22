"""Where an operation's public call is not the oracle's: state in and state out as plain arrays, tokenizers as data.

`reference("adamw.step")` gives the oracle in the operation's own convention; `adapt("adamw.step", case)` writes a golden case in it.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from minimind_ref.golden import texts
from minimind_ref.oracle import adamw, chat_template, grad_scaler, tokenizer, training, transformer

Case = dict[str, Any]  # inputs, parameters, outputs and results (by name) of a golden case, already built


def reference(name: str) -> Callable[..., Any] | None:
    """Find the oracle under the operation's convention; None where it is the oracle's own."""
    return REFERENCES.get(name)


def adapt(name: str, case: Case) -> Case:
    """Write a golden case in the operation's convention."""
    return ADAPTED[name](case) if name in ADAPTED else case


def adamw_step(
    param: Any, grad: Any, mean: Any, square: Any, *, step: int, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Make update number `step`, counted from 1; give parameter, mean and square."""
    before = adamw.Moments(mean, square, step - 1)
    new, after = adamw.adamw_update(
        param, grad, before, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay
    )
    return new, after.mean, after.square


def drive_scaler(
    overflows: Any, *, init_scale: float, growth_factor: float, backoff_factor: float, growth_interval: int
) -> Any:
    """Drive the scaler through windows that overflowed or not; give the scale after each window's update."""
    state, scales = grad_scaler.initial_state(init_scale), []
    factors = {"growth_factor": growth_factor, "backoff_factor": backoff_factor, "growth_interval": growth_interval}
    for found_inf in overflows:
        state = grad_scaler.update(state, bool(found_inf), **factors)
        scales.append(state.scale)
    return np.array(scales)


def render(
    messages: Any, *, template: str = "minimind2", add_generation_prompt: bool = False, tools: Any = None,
    thinking: bool | None = None,
) -> str:  # fmt: skip
    """Render a conversation as text."""
    options = {"add_generation_prompt": add_generation_prompt, "tools": tools, "thinking": thinking}
    return chat_template.render_text(messages, template=template, **options)


def sft_mask(
    messages: Any, tokenizer: Any, *, template: str = "minimind2", add_generation_prompt: bool = False,
    tools: Any = None, thinking: bool | None = None,
) -> tuple[list[int], list[bool]]:  # fmt: skip
    """Encode a conversation; give the ids, and for each whether the loss covers it."""
    options = {"add_generation_prompt": add_generation_prompt, "tools": tools, "thinking": thinking}
    return chat_template.encode_chat(tokenizer, messages, template=template, **options)


def spans(messages: Any, *, template: str = "minimind2", tools: Any = None) -> list[list[int]]:
    """Give the spans [start, end) of the rendered text that the loss covers."""
    return [list(span) for span in chat_template.supervised_spans(messages, template=template, tools=tools)]


def network(
    parameters: Any, input_ids: Any, config: Any, *, attention_mask: Any = None, position_ids: Any = None,
    segment_ids: Any = None, cache: Any = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Give logits and balance loss."""
    rows = {"attention_mask": attention_mask, "position_ids": position_ids, "segment_ids": segment_ids}
    return transformer.transformer(parameters, input_ids, config, **rows, cache=cache)[:2]


def loss(
    parameters: Any, input_ids: Any, labels: Any, config: Any, *, normaliser: Any = None, aux_weight: float = 1.0,
    attention_mask: Any = None, position_ids: Any = None, segment_ids: Any = None,
) -> Any:  # fmt: skip
    """Give the network's loss alone."""
    rows = {"attention_mask": attention_mask, "position_ids": position_ids, "segment_ids": segment_ids}
    return transformer.loss_and_gradients(
        parameters, input_ids, labels, config, normaliser=normaliser, aux_weight=aux_weight, **rows
    )[0]


def training_step(
    state: Any, window: Any, config: Any, *, learning_rate: float, total_steps: int, warmup_steps: int = 0,
    floor_ratio: float = 0.1, betas: Any = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01,
    max_norm: float = 1.0,
) -> tuple[Any, Any]:  # fmt: skip
    """Make one update; state in, state and report out."""
    clock = {"learning_rate": learning_rate, "total_steps": total_steps, "warmup_steps": warmup_steps}
    rest = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "max_norm": max_norm}
    before = training.TrainingState(**state)
    return training.training_step(before, window, config, floor_ratio=floor_ratio, **clock, **rest)


def pieces(text: str) -> list[str]:
    """Cut text where no merge may cross."""
    return list(tokenizer.pieces(text))


REFERENCES: dict[str, Callable[..., Any]] = {
    "adamw.step": adamw_step,
    "grad_scaler": drive_scaler,
    "bpe.encode": tokenizer.encode,
    "bpe.decode": tokenizer.decode,
    "bpe.split": pieces,
    "chat_template.render": render,
    "sft_mask": sft_mask,
    "supervised_spans": spans,
    "transformer": network,
    "transformer.loss": loss,
    "training.step": training_step,
}


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
