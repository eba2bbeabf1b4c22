"""No right implementation is rejected: other orders of summation, fused forms, torch's own, Hugging Face's parts."""

from collections import Counter

import numpy as np
import pytest
import torch
from honest import HONEST, NARROW, wide
from test_mutants import document
from tolerance import DTYPES

from minimind_ref.golden import faces, kills
from minimind_ref.golden.compute import as_stored
from minimind_ref.golden.trees import is_floating, leaves, map_leaves, named, settled, typed
from minimind_ref.kit.binding import CannotExpressError

CLAIMS = [(h, profile) for h in HONEST for profile in h.profiles]


def converted(x, arrays, profile):
    """Give a leaf as the implementation takes it, in the profile's dtype."""
    if not hasattr(x, "dtype"):
        return x
    tensor = torch.from_numpy(np.array(x)).to(DTYPES[profile]) if is_floating(x) else torch.from_numpy(np.array(x))
    return tensor.requires_grad_(is_floating(x)) if arrays == "torch" else tensor.numpy()


def plain(y):
    """Give a result as a case expects it."""
    if isinstance(y, torch.Tensor):
        y = y.detach()
        return (y.double() if y.is_floating_point() else y).numpy()
    return settled(y)


def verdict(h, case, profile, tensors):
    """What a case says of an honest implementation, gradients by autograd included; None if it is accepted."""
    stored, cotangents = as_stored(case, profile)
    inputs = map_leaves(lambda x: converted(x, h.arrays, profile), stored)
    found = h.function(**typed(faces.oracle(h.component, case["op"]), inputs), **case["parameters"])
    outputs = found if isinstance(found, dict) else named(case["outputs"], found)
    gradients = {}
    if "gradients" in case and h.arrays == "torch" and set(outputs) == set(case["outputs"]):
        by_name = {n: x for n, x in leaves(inputs) if isinstance(x, torch.Tensor)}
        wanted = {n: by_name[n] for n in faces.gradient_names(case)}
        along = [torch.from_numpy(np.array(c)).to(outputs[n].dtype) for n, c in cotangents.items()]
        ends = [outputs[n] for n in cotangents]
        each = torch.autograd.grad(ends, list(wanted.values()), along, allow_unused=True, materialize_grads=True)
        gradients = {n: plain(g) for n, g in zip(wanted, each, strict=True)}
    return kills.judged(case, ({n: plain(y) for n, y in outputs.items()}, gradients), profile, tensors)


@pytest.mark.parametrize("h, profile", CLAIMS, ids=[f"{h.op}-{h.name}-{profile}" for h, profile in CLAIMS])
def test_an_honest_implementation_is_accepted(h, profile):
    cases, tensors = document(h.component)
    judged = Counter()
    for case in cases:
        if case["op"] == h.op and profile in case["bound"]:
            try:
                said = verdict(h, case, profile, tensors)
            except (CannotExpressError, ModuleNotFoundError):  # it is not offered, or transformers is not installed
                continue
            assert said is None
            judged[case["id"]] += 1
    if not judged:
        pytest.importorskip("transformers", reason="these implementations are transformers' (extra hf)")
    assert judged, "an implementation that is never judged shows nothing"


def test_every_component_with_bounds_has_an_honest_implementation_beside_ours():
    assert {h.component for h in HONEST} >= {
        "rms_norm", "rope", "attention", "swiglu", "moe", "cross_entropy", "dpo", "grpo", "adamw", "grad_clip",
        "grad_scaler", "cosine_schedule", "sampling",
    }  # fmt: skip


def test_narrow_inputs_are_widened_to_float32():
    assert {wide(torch.zeros(1, dtype=d)).dtype for d in NARROW[1:]} == {torch.float32}
    assert wide(np.zeros(1, np.float16)).dtype == np.float32 and wide(np.zeros(1)).dtype == np.float64
