"""Options that no argument names: declared, they are CHOICE; undeclared, or beside another fault, they fail."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kit_cases import asked

from minimind_ref.errors import UserError
from minimind_ref.kit import Implementation, check, findings, vectors
from minimind_ref.kit.behaviours import BEHAVIOURS, excused, shown_by
from minimind_ref.kit.case import Expected
from minimind_ref.kit.outcome import Outcome, Result
from minimind_ref.kit.registry import OPERATIONS
from minimind_ref.model.moe import aux_loss, route
from minimind_ref.model.swiglu import swiglu

WIDE = ["float64", "float32"]
NAN, INF = np.nan, np.inf


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
    norm = torch.linalg.vector_norm(torch.cat([torch.zeros(1), *[g.flatten() for g in kept]]))
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


def shows(key, case, part, *, outputs=None, gradients=None, **rest):
    """Say whether a failure of this part of an answer is recognised as the option."""
    whole = Outcome(
        {n: Result(np.asarray(y)) for n, y in (outputs or {}).items()},
        gradients={n: Result(np.asarray(g)) for n, g in (gradients or {}).items()} or None, **rest,
    )  # fmt: skip
    behaviour = next(b for b in BEHAVIOURS if b.key == key)
    return behaviour.shown(findings.Finding(case, "float64", part, "fail", case.clauses, outcome=whole))


def a_case(name, answer, gradients=None, parameters=None, **inputs):
    """A case of made-up inputs; an answer may be 1/4 off."""
    outputs, pulled = (
        {n: Expected(np.asarray(y), np.full(np.shape(y), 0.25)) for n, y in part.items()}
        for part in (answer, gradients or {})
    )
    arrays = {n: tuple(map(np.asarray, x)) if isinstance(x, tuple) else np.asarray(x) for n, x in inputs.items()}
    return asked(name, outputs, pulled, inputs=arrays, parameters=parameters or {})


def test_nothing_supervised_is_a_loss_of_nan_where_no_row_has_a_target():
    def told(labels, loss, part="loss", gradient=None, **parameters):
        case = a_case("cross_entropy", {"loss": 0.0}, {"logits": np.zeros((2, 3))}, parameters,
                      logits=np.ones((2, 3)), labels=labels)  # fmt: skip
        found = {"outputs": {"loss": loss}, "gradients": {"logits": np.full((2, 3), gradient)}}
        return shows("cross_entropy.nothing_supervised", case, part, **found)

    assert told([-100, -100], NAN) and told([7, 7], NAN, ignore_index=7)
    assert not told([-100, 1], NAN) and not told([-100, -100], NAN, ignore_index=7)
    assert not told([-100, -100], 1.0) and not told([-100, -100], [NAN]) and not told([-100, -100], "nan")
    assert told([-100, -100], NAN, "gradient logits", NAN) and not told([-100, -100], NAN, "gradient logits", 1.0)
    assert not told([-100, -100], 0.0, "gradient logits", NAN) and not told([-100, -100], NAN, "dtype")


def test_an_ignored_row_that_is_not_finite_may_have_a_gradient_of_nan():
    right = [[0.0, 0.0], [1.0, -1.0], [0.0, 0.0]]

    def told(gradient, part="gradient logits", labels=(-100, 1, -100), **parameters):
        logits = [[INF, 1.0], [1.0, 2.0], [1.0, 1.0]]
        case = a_case("cross_entropy", {"loss": 0.0}, {"logits": right}, parameters, logits=logits, labels=list(labels))
        return shows("cross_entropy.ignored_not_finite", case, part, gradients={"logits": gradient} if gradient else {})

    lost = [NAN, NAN]
    assert told([lost, [1.25, -1.0], [0.0, 0.0]]) and told([lost, *right[1:]], labels=(1, 0, 1), ignore_index=1)
    assert not told([lost, [1.5, -1.0], [0.0, 0.0]]) and not told([lost, right[1], lost])
    assert not told([lost, *right[1:]], labels=(1, 0, -100))  # it has a target
    assert not told([lost, *right[1:]], "loss") and not told(None)


def test_nan_may_come_of_experts_that_nobody_chose_and_are_infinite():
    def told(y, part="y", experts=([1.0, INF], [1.0, 1.0]), **gradients):
        case = a_case("moe", {"y": [1.0, 2.0]}, {"x": [1.0, 2.0]}, experts=experts)
        return shows("moe.unchosen_not_finite", case, part, outputs={"y": y}, gradients=gradients)

    assert told([NAN, 2.25]) and told([NAN, NAN]) and told([1.0, 1.0], "gradient x", x=[1.0, NAN])
    assert not told([NAN, 2.5]) and not told([1.0, 2.5]) and not told([NAN, 1.0], "gradient x", x=[1.0, 1.0])
    assert not told([NAN, 2.0], experts=([1.0], [1.0])) and told([NAN, 2.0], experts=([1.0], [INF]))
    assert not told([NAN, 2.0], "dtype") and not told([NAN, 2.0], "gradient x")
    case = a_case("moe", {"y": [1.0], "aux": 0.5}, experts=([INF],))  # the balance has no expert's weights in it
    assert not shows("moe.unchosen_not_finite", case, "aux", outputs={"aux": NAN})


def test_only_rows_that_see_nothing_may_differ():
    def told(out, part="out", s=3, t=2, b=1, **options):
        mask = options.pop("mask", None)
        inputs = {"q": np.ones((b, s, 1, 1)), "k": np.ones((b, t, 1, 1))}
        right = {n: np.zeros(x.shape) for n, x in inputs.items()}
        case = a_case("attention", {"out": right["q"]}, right, options, **inputs, **({"mask": mask} if mask else {}))
        found = np.reshape(np.array(out, float), (b, -1, 1, 1))
        name = part.removeprefix("gradient ")
        answer = {"gradients": {name: found}} if name in right else {"outputs": {"out": found}}
        return shows("attention.nothing_visible", case, part, **answer)

    assert told([9, 0.25, 0])  # of three queries at two keys the first is ahead of them
    assert not told([9, 0.5, 0]) and not told([9, 0, 0], causal=False) and not told([9, 0], s=2)
    hidden = [[[True, True], [False, False], [True, False]]]
    assert told([0, 9, 0], mask=hidden, causal=False) and told([9, 9, 0], mask=hidden)
    assert not told([9, 9, 0], mask=hidden, causal=False) and not told([0, 9], s=2, mask=[[[True] * 2] * 2])
    assert told([9, 0, 0], "gradient q") and not told([0, 9, 0], "gradient q") and not told([9, 0], "gradient q", s=2)
    assert told([9, NAN], "gradient k") and not told([9, 9], "gradient k", s=2)
    second = [[[True, True]] * 2, [[True, False], [False, False]]]  # of two rows, a query of the second sees nothing
    assert told([0, 0, 9, 9], "gradient k", s=2, b=2, mask=second)
    assert not told([9, 0, 9, 9], "gradient k", s=2, b=2, mask=second)
    assert not told([9, 0, 0], "dtype") and not told([9, 0, 0], "gradient")  # one that raises, say
    assert not shows("attention.nothing_visible", asked("attention", {}), "law")  # which has no inputs of its own


def test_clipping_may_leave_out_the_constant_in_its_denominator():
    def told(gradient, part="gradients.0", norm=2.0**-10, max_norm=2.0**-12, bound=2.0**-40):
        exact = {"gradients.0": Expected(np.array([2.0**-12]), np.full(1, bound)), "norm": Expected(np.array(norm))}
        case = asked("clip_grad_norm", exact, parameters={"max_norm": max_norm})
        return shows("clip_grad_norm.constant", case, part, outputs={"gradients.0": [gradient], "norm": norm})

    grown = 2.0**-12 * (1 + 1e-6 * 2.0**10)
    assert told(grown) and told(grown - 0.99 * 2.0**-40) and not told(grown - 1.01 * 2.0**-40)
    assert told(grown + 1e6 * 2.0**-52, norm=2.0**-40, max_norm=2.0**-42, bound=0.0) is False
    doubled = {"norm": 1e-6, "max_norm": 2.0**-22}  # and its bound with it
    assert told(2.0**-11 - 1.99 * 2.0**-40, **doubled) and not told(2.0**-11 - 2.01 * 2.0**-40, **doubled)
    half = grown * (1 - 2.0**-51)  # two places off, which is what a product of rounded numbers is
    assert told(half, bound=0.0) and not told(grown * (1 - 2.0**-49), bound=0.0)
    assert not told(2.0**-12) and not told(grown, "norm") and not told(grown, "dtype")
    assert not told(grown, max_norm=1.0) and told(2.0**-12, max_norm=1.0)  # nothing is clipped
    assert told(2.0**-12, max_norm=2.0**-10 + 1e-6)
    assert not told(2.0**-12, max_norm=2.0**-10)  # with the constant the norm is beyond it


def test_the_scale_may_fall_to_0_and_nowhere_else():
    def told(scales, overflows, part="scales", init=2.0**-125, interval=2):
        options = {"init_scale": init, "growth_factor": 4.0, "backoff_factor": 0.5, "growth_interval": interval}
        case = a_case("grad_scaler", {"scales": np.zeros(len(overflows))}, None, options, overflows=overflows)
        return shows("grad_scaler.smallest_scale", case, part, outputs={"scales": scales})

    yes, no = True, False
    falls = [2.0**-126, 2.0**-127, 2.0**-128]
    assert told(falls, [yes] * 3) and not told(falls, [yes] * 3, "dtype") and not told([0.0] * 3, [yes] * 3)
    assert told([2.0**-150 * 2, 0.0, 0.0, 0.0], [yes, yes, no, no], init=2.0**-148)
    assert told([2.0**-126, 2.0**-127, 2.0**-127, 2.0**-125], [yes, yes, no, no])
    assert told([2.0**-126, 2.0**-126, 2.0**-127, 2.0**-127], [yes, no, yes, no])  # an overflow begins the count again
    assert told([1.0, 2.0**127, 2.0**127], [no] * 3, init=1.0) is False
    assert told([2.0**127] * 2, [no] * 2, init=2.0**127, interval=1)  # a product beyond the range leaves it
    assert told([2.0**126, 2.0**126], [no] * 2, init=2.0**124, interval=1)
    largest = 2.0**128 - 2.0**104  # of float32
    assert told([largest], [no], init=largest / 4, interval=1)


def test_a_refusal_is_raised_at_temperature_0():
    def told(problem, part="call", temperature=0):
        case = a_case("filter_logits", {"filtered": [0.0]}, None, {"temperature": temperature}, logits=[0.0])
        return shows("filter_logits.temperature_zero", case, part, problem=problem)

    assert told("raised")
    assert not told("timeout") and not told("raised", "filtered") and not told("raised", temperature=1)


def test_one_more_token_may_be_kept_where_top_p_is_asked_for():
    small = 2.0**-11
    logits = np.log([[1 / 2, 1 / 4, 1 / 4 - small, small], [2 / 5, 1 / 5, 1 / 5, 1 / 5]])
    (a, b, _, _), (c, d, _, _) = logits

    def told(*rows, part="filtered", **options):
        right = [[a, -INF, -INF, -INF], [c, d, -INF, -INF]]
        case = a_case("filter_logits", {"filtered": right}, None, options or {"top_p": 0.5}, logits=logits)
        return shows("filter_logits.top_p_edge", case, part, outputs={"filtered": rows})

    edge, inside = [a, b, -INF, -INF], [c, d, -INF, -INF]  # the first row's mass is exactly a half
    assert told(edge, inside) and told(edge, [c + 0.25, d, -INF, -INF]) and not told(edge, [c + 0.5, d, -INF, -INF])
    assert not told(edge, [c, d, d, -INF]) and not told([a, -INF, -INF, -INF], [c, d, d, -INF])
    assert not told([a, b, b, -INF], inside) and not told([a + 0.5, b, -INF, -INF], inside)
    assert not told([a, -INF, -INF, -INF], inside) and not told([-INF, b, -INF, -INF], inside)
    assert not told(edge, inside, part="dtype") and not told(edge, inside, top_k=2)
    assert told(edge, inside, top_p=0.5, min_p=0.01) and not told(edge, inside, top_p=0.5001)
    assert not told(edge, inside, top_p=0.5, temperature=0.5) and not told(edge, inside, top_p=0.5, top_k=1)
    equal, right, found = np.zeros((1, 4)), [[0.0, 0.0, -INF, -INF]], [[0.0, 0.0, 0.0, -INF]]
    for below, shown in ((2.0**-23, True), (2.0**-22, False)):  # of a half, in float32
        case = a_case("filter_logits", {"filtered": right}, None, {"top_p": 0.5 - below}, logits=equal)
        assert shows("filter_logits.top_p_edge", case, "filtered", outputs={"filtered": found}) is shown


@pytest.mark.parametrize(
    "key, name, constant, others",
    [
        ("dpo_loss.reference", "dpo_loss", ["reference_chosen", "reference_rejected"], ["policy_chosen"]),
        ("kl_k3.reference", "kl_k3", ["reference_logp"], ["logp"]),
        ("grpo_loss.constants", "grpo_loss", ["old_logp", "reference_logp", "advantages"], ["logp"]),
    ],
)
def test_a_gradient_may_go_to_what_is_held_constant_and_to_nothing_else(key, name, constant, others):
    case = a_case(name, {"loss": 0.0})
    assert all(shows(key, case, f"gradient {one}") for one in constant)
    assert not any(shows(key, case, part) for part in ("loss", "dtype", *(f"gradient {one}" for one in others)))


def test_an_infinite_norm_may_multiply():
    case = a_case("clip_grad_norm", {"norm": 0.0})
    for part, text, shown in (
        ("law", "gradients of infinite norm were changed", True),
        ("law", "the norm of an infinite gradient is nan", False),
        ("norm", "gradients of infinite norm were changed", False),
    ):
        found = findings.Finding(case, "float64", part, "fail", ("GRAD_CLIP-6",), text)
        assert ("not_finite" in {b.name for b in shown_by(found)}) == shown


def test_a_declared_option_excuses_its_own_clauses_alone():
    case = a_case("filter_logits", {"filtered": [0.0]}, None, {"temperature": 0}, logits=[0.0])
    refused = findings.Finding(
        case, "float64", "call", "fail", ("SAMPLING-3", "SAMPLING-5"), "raised it", outcome=Outcome(problem="raised")
    )
    key = "filter_logits.temperature_zero"
    told = excused(refused, {key: "refused"})
    assert (told.state, told.text, told.clauses) == (
        "excused", "it takes temperature_zero='refused'", ("SAMPLING-3",),
    )  # fmt: skip
    assert excused(refused, {}) is refused and excused(refused, {key: "greedy"}) is refused
    passing = replace(refused, state="pass")
    assert excused(passing, {key: "refused"}) is passing
    of_another = replace(refused, case=a_case("swiglu", {"out": [0.0]}, None, {"temperature": 0}))
    assert excused(of_another, {key: "refused"}) is of_another
