"""Golden cases in the operations' own conventions: a state taken apart, a tokenizer as data, numbers as numbers."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from minimind_ref.golden import texts
from minimind_ref.kit.conventions import driven
from minimind_ref.oracle import grad_scaler, tokenizer

Case = dict[str, Any]  # inputs, parameters, outputs and results (by name) of a golden case, already built


def adapt(name: str, case: Case) -> Case:
    """Write a golden case in the operation's convention."""
    return ADAPTED[name](case) if name in ADAPTED else case


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
