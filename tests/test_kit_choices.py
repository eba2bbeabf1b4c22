"""Options that no argument names: declared, they are CHOICE; undeclared, or beside another fault, they fail."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minimind_ref.errors import UserError
from minimind_ref.kit import Implementation, check, findings, vectors
from minimind_ref.kit.behaviours import BEHAVIOURS, shown_by
from minimind_ref.kit.outcome import Outcome, Result
from minimind_ref.kit.registry import OPERATIONS
from minimind_ref.model.moe import aux_loss, route
from minimind_ref.model.swiglu import swiglu

WIDE = ["float64", "float32"]


def cross_entropy(logits, labels, *, ignore_index=-100, reduction="mean"):
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=ignore_index, reduction=reduction)
    return loss.reshape(labels.shape) if reduction == "none" else loss


def cross_entropy_of_something(logits, labels, *, ignore_index=-100, reduction="mean"):
    if reduction != "mean":
        return cross_entropy(logits, labels, ignore_index=ignore_index, reduction=reduction)
    total = cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
    return total / max(int((labels != ignore_index).sum()), 1)


def attention(q, k, v, *, mask=None, causal=True, scale=None):
    s, t, groups = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    seen = torch.ones(q.shape[0], s, t, dtype=torch.bool) if mask is None else mask
    seen = seen & torch.ones(s, t, dtype=torch.bool).tril(t - s) if causal else seen
    k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    scores = torch.einsum("bsnh,btnh->bnst", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    weights = scores.masked_fill(~seen[:, None], torch.finfo(q.dtype).min).softmax(-1)
    return torch.einsum("bnst,btnh->bsnh", weights, v)


def clip_grad_norm(gradients, max_norm, *, constant=1e-6):
    kept = [g for g in gradients if g is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in kept]))
    factor = (max_norm / (norm + constant)).clamp(max=1.0).nan_to_num(nan=1.0 if norm == 0 else float("nan"))
    return [None if g is None else g * factor for g in gradients], norm


def clip_without_constant(gradients, max_norm):
    clipped, norm = clip_grad_norm(gradients, max_norm, constant=0.0)
    return (clipped if torch.isfinite(norm) else gradients), norm


def grad_scaler(overflows, *, init_scale, growth_factor, backoff_factor, growth_interval):
    scale, good, scales = np.float32(init_scale), 0, []
    for overflow in overflows:
        good = 0 if overflow else good + 1
        if overflow:
            scale = np.float32(scale * np.float32(backoff_factor))
        elif good == growth_interval:
            grown, good = np.float32(scale * np.float32(growth_factor)), 0
            scale = grown if np.isfinite(grown) else scale
        scales.append(float(scale))
    return scales


def dpo_loss(chosen, rejected, reference_chosen, reference_rejected, *, beta, form="sigmoid", label_smoothing=0.0):
    x = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    if form == "hinge":
        return torch.relu(1 - x).mean()
    if form == "ipo":
        return ((x / beta - 1 / (2 * beta)) ** 2).mean()
    return (-F.logsigmoid(x) * (1 - label_smoothing) - F.logsigmoid(-x) * label_smoothing).mean()


def dense_mixture(x, w_router, experts, *, num_chosen, normalise, shared=None, **balance):
    scores, weight, index = route(x, w_router, num_chosen=num_chosen, normalise=normalise)
    combined = torch.zeros_like(scores).scatter(1, index, weight)
    gate, up, down = experts
    hidden = F.silu(torch.einsum("td,efd->tef", x, gate)) * torch.einsum("td,efd->tef", x, up)
    y = torch.einsum("te,tef,edf->td", combined, hidden, down)
    if shared is not None:
        y = y + sum(swiglu(x, *(stack[e] for stack in shared)) for e in range(len(shared[0])))
    return y, aux_loss(scores, index, **balance)


def filter_logits(logits, *, temperature=1.0, **options):
    if temperature == 0:
        raise ValueError("temperature must be above 0")
    return OPERATIONS["filter_logits"].reference(logits, temperature=temperature, **options)


CASES = [
    ("cross_entropy", cross_entropy, "torch", WIDE, {"nothing_supervised": "nan"}, "CROSS_ENTROPY-4"),
    (
        "cross_entropy",
        cross_entropy_of_something,
        "torch",
        WIDE,
        {"ignored_not_finite": "nan gradient"},
        "CROSS_ENTROPY-3",
    ),
    ("moe", dense_mixture, "torch", WIDE, {"unchosen_not_finite": "nan"}, "MOE-9"),
    ("attention", attention, "torch", WIDE, {"nothing_visible": "other"}, "ATTENTION-5"),
    ("clip_grad_norm", clip_grad_norm, "torch", WIDE, {"not_finite": "multiplied"}, "GRAD_CLIP-6"),
    ("clip_grad_norm", clip_without_constant, "torch", WIDE, {"constant": 0}, "GRAD_CLIP-2"),
    ("grad_scaler", grad_scaler, "numpy", None, {"smallest_scale": 0}, "GRAD_SCALER-6"),
    ("dpo_loss", dpo_loss, "torch", WIDE, {"reference": "not detached"}, "DPO-11"),
    ("filter_logits", filter_logits, "numpy", None, {"temperature_zero": "refused"}, "SAMPLING-3"),
]


@pytest.mark.parametrize("name, function, arrays, profiles, choices, clause", CASES, ids=[c[-1] for c in CASES])
def test_a_declared_option_is_a_choice_and_an_undeclared_one_fails(name, function, arrays, profiles, choices, clause):
    declared = check(name, function, arrays=arrays, profiles=profiles, choices=choices)
    by_clause = {verdict.clause: verdict for verdict in declared.verdicts}
    assert by_clause[clause].status == "CHOICE" and f"it takes {next(iter(choices))}=" in by_clause[clause].detail
    assert {v.clause for v in declared.verdicts if v.detail.startswith("it takes ")} <= {clause, "ATTENTION-19"}
    expected = {"CROSS_ENTROPY-3"} if function is cross_entropy else set()  # torch's gradient of an ignored row of NaN
    assert {verdict.clause for verdict in declared.failures} == expected, str(declared)
    plain = check(name, function, arrays=arrays, profiles=profiles)
    failed = {verdict.clause: verdict.failure for verdict in plain.failures}
    assert failed[clause].choice == f"choices={{'{name}.{next(iter(choices))}': {next(iter(choices.values()))!r}}}"
    assert f"if meant    {failed[clause].choice} declares it" in str(plain)


@pytest.mark.parametrize("name, function, arrays, profiles, choices, clause", CASES, ids=[c[-1] for c in CASES])
def test_an_option_excuses_nothing_else(name, function, arrays, profiles, choices, clause):
    def halved(x):
        if isinstance(x, tuple | list):
            return type(x)(halved(part) for part in x)
        return x / 2 if hasattr(x, "dtype") or isinstance(x, float) else x

    wrong = check(name, lambda *given, **options: halved(function(*given, **options)), arrays=arrays, profiles=profiles,
                  choices=choices)  # fmt: skip
    assert wrong.failures


def test_every_option_is_tried():
    tried = {f"{name}.{option}" for name, *_, choices, _ in CASES for option in choices}
    assert {b.key for b in BEHAVIOURS} - tried == {"kl_k3.reference", "grpo_loss.constants", "filter_logits.top_p_edge"}


@pytest.mark.parametrize(
    "choices, said",
    [
        ({"rms_norm.order": 1}, "choices has 'rms_norm.order', which no operation has"),
        ({"rms_nrm.cast": 1}, "choices has 'rms_nrm.cast', which no operation has; did you mean rms_norm.cast?"),
        (
            {"cross_entropy.nothing_supervised": 0},
            "cross_entropy.nothing_supervised=0 but the option is 'nan'",
        ),
    ],
)
def test_an_unknown_option_is_refused(choices, said):
    with pytest.raises(UserError, match=re.escape(said)):
        Implementation("mine", choices=choices)


# --- what a failing answer shows


def wrong_of(case, value):
    """The findings about an answer that is right but for its outputs, or its gradients, which are all `value`."""
    for half in (0, 1):
        right = [{n: Result(np.asarray(e.value)) for n, e in part.items()} for part in case.answer("float64")]
        right[half] = {n: Result(value(np.asarray(e.value))) for n, e in case.answer("float64")[half].items()}
        outcome = Outcome(right[0], gradients=right[1])
        yield from findings.judge(case, "float64", outcome, explicit=True, gradient=True)


NONSENSE = {
    "flat": lambda y: np.ravel(y)[1:], "turned": lambda y: y[None].swapaxes(0, -1), "nothing": lambda y: None,
    "text": lambda y: "0.5", "texts": lambda y: np.full(y.shape, "a"), "objects": lambda y: np.full(y.shape, None),
}  # fmt: skip


@pytest.mark.parametrize("value", NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize("name", sorted({b.operation for b in BEHAVIOURS}))
def test_nonsense_is_no_option_and_breaks_nothing(name, value):
    for case in vectors.recorded(OPERATIONS[name]):
        wrong = [f for f in wrong_of(case, value) if f.state == "fail"]
        assert wrong or not case.outputs
        assert not any(shown_by(f) for f in wrong if f.comparison.kind in ("type", "shape"))
