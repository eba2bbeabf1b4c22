"""specs/cross_entropy.md, clause by clause."""

import math

import jaxtyping
import numpy as np
import pytest
import strategies
import torch
from arrays import draw
from hypothesis import assume, given
from hypothesis import strategies as st
from laws import assert_law, decimal_vjp, exact
from spec_blocks import definition, floats
from tolerance import agree, agree_vjp, assert_same, assert_within, ulps

from minimind_ref.loss.cross_entropy import cross_entropy, token_logp
from minimind_ref.oracle import cross_entropy as oracle

PROFILES = ("float64", "float32", "bfloat16", "float16")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
REDUCTIONS = ("mean", "sum", "none")
FORMS = ("explicit", "fused")
RESULT = {"float64": torch.float64}  # every other profile's losses are float32
forms, reductions = st.sampled_from(FORMS), st.sampled_from(REDUCTIONS)


@st.composite
def cases(draw_, ignored=True):
    """Logits of a fraction to a few hundred; some rows ignored, and unequally many per batch row."""
    b, s, v = draw_(st.sampled_from([(2, 3, 7), (3, 2, 11), (1, 5, 3)]))
    logits = draw_(strategies.arrays((b, s, v), of=("normal", "uniform", "sorted", "offset", "ties"), low=-2, high=5))
    labels = draw_(strategies.indices((b, s), 0, v))
    if ignored:
        drop = draw_(strategies.indices((b, s), 0, 3)) == 0
        labels = np.where(drop, -100, labels)
        labels[-1, 0], labels[0, -1] = v - 1, -100
    picked = np.take_along_axis(logits, np.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    losses = np.logaddexp.reduce(logits, axis=-1) - picked
    assume(np.median(losses[labels != -100]) > 2**-10)  # a loss near 0 is known to a rounding of its logits only
    return {"logits": logits, "labels": labels}


def fixed():
    labels = np.array([[1, -100, 4], [0, -100, -100]])
    return {"logits": draw(1, (2, 3, 5), 2.0), "labels": labels}


def tensors(case, dtype=torch.float64):
    return torch.tensor(case["logits"], dtype=dtype), torch.tensor(case["labels"])


# ---- agreement ----
@pytest.mark.parametrize("profile", PROFILES)
@given(case=cases(), form=forms, reduction=reductions)
def test_cross_entropy_1_2_agrees_with_the_oracle(profile, case, form, reduction):
    agree(
        oracle.cross_entropy, cross_entropy, case, profile=profile, reduction=reduction,
        output_dtype=RESULT.get(profile, torch.float32), face_options={"implementation": form},
    )  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES)
@given(case=cases(), form=forms, reduction=reductions)
def test_cross_entropy_8_gradient_agrees_with_the_oracle(profile, case, form, reduction):
    agree_vjp(
        oracle.cross_entropy_vjp, cross_entropy, case, profile=profile, reduction=reduction,
        face_options={"implementation": form},
    )  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES)
@given(case=cases(ignored=False))
def test_cross_entropy_13_token_logp_agrees_with_the_oracle(profile, case):
    result = RESULT.get(profile, torch.float32)
    agree(oracle.token_logp, token_logp, case, profile=profile, output_dtype=result)
    agree_vjp(oracle.token_logp_vjp, token_logp, case, profile=profile)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("form", FORMS)
def test_cross_entropy_12_a_whole_vocabulary_agrees_with_the_oracle(profile, form):
    labels = np.array([6399, -100, 0, 17, 4095])
    case = {"logits": draw(2, (5, 6400), 4.0), "labels": labels}
    options = {"profile": profile, "face_options": {"implementation": form}}
    agree(oracle.cross_entropy, cross_entropy, case, output_dtype=RESULT.get(profile, torch.float32), **options)
    agree_vjp(oracle.cross_entropy_vjp, cross_entropy, case, **options)


@pytest.mark.parametrize("kind", ["float", "decimal"])
@given(case=cases(), reduction=reductions)
def test_cross_entropy_1_2_oracle_agrees_with_the_definition(kind, case, reduction):
    expected = floats(definition("cross_entropy", kind).cross_entropy(*case.values(), reduction=reduction))
    bounds = oracle.cross_entropy(*exact(*case.values()), reduction=reduction)
    assert_law(oracle.cross_entropy(**case, reduction=reduction), bounds, expected)


@pytest.mark.parametrize("kind", ["float", "decimal"])
@given(case=cases(ignored=False))
def test_cross_entropy_1_oracle_token_logp_agrees_with_the_definition(kind, case):
    expected = floats(definition("cross_entropy", kind).token_logp(*case.values()))
    assert_law(oracle.token_logp(**case), oracle.token_logp(*exact(*case.values())), expected)
    assert_same(oracle.token_logp(**case), -oracle.cross_entropy(**case, reduction="none"))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_8_oracle_gradient_is_the_definitions(reduction):
    case = fixed()
    cotangent = draw(3, (2, 3)) if reduction == "none" else np.array(0.75)
    run = definition("cross_entropy", "decimal").cross_entropy
    truth = decimal_vjp(run, case, cotangent=cotangent, reduction=reduction)
    gradient = oracle.cross_entropy_vjp(**case, cotangent=cotangent, reduction=reduction)
    bounds = oracle.cross_entropy_vjp(*exact(*case.values()), cotangent=exact(cotangent)[0], reduction=reduction)
    assert_law(gradient, bounds, truth[0])


def test_cross_entropy_13_oracle_gradient_of_token_logp_is_the_definitions():
    case = {"logits": draw(4, (2, 3, 5), 2.0), "labels": np.array([[1, 0, 4], [2, 2, 3]])}
    cotangent = draw(5, (2, 3))
    truth = decimal_vjp(definition("cross_entropy", "decimal").token_logp, case, cotangent=cotangent)
    bounds = oracle.token_logp_vjp(*exact(*case.values()), cotangent=exact(cotangent)[0])
    assert_law(oracle.token_logp_vjp(**case, cotangent=cotangent), bounds, truth[0])


# ---- what is supervised ----
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e4])
def test_cross_entropy_3_ignored_rows_have_no_influence(dtype, form, reduction, junk):
    results = []
    for filling in (0.0, junk):
        logits, labels = tensors(fixed(), dtype)
        logits[labels == -100] = filling
        loss = cross_entropy(logits.requires_grad_(), labels, reduction=reduction, implementation=form)
        loss.backward(torch.ones_like(loss))
        assert not logits.grad[labels == -100].any() and logits.grad[labels != -100].all()
        results.append((loss.detach(), logits.grad))
    for clean, dirty in zip(*results, strict=True):
        assert_same(dirty, clean)


@pytest.mark.parametrize("junk", [math.nan, math.inf])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_3_oracle_does_not_look_at_ignored_rows(reduction, junk):
    clean, dirty = fixed(), fixed()
    dirty["logits"][dirty["labels"] == -100] = junk
    cotangent = draw(6, (2, 3)) if reduction == "none" else np.array(0.75)
    assert_same(oracle.cross_entropy(**dirty, reduction=reduction), oracle.cross_entropy(**clean, reduction=reduction))
    gradients = [oracle.cross_entropy_vjp(**c, reduction=reduction, cotangent=cotangent) for c in (dirty, clean)]
    assert_same(*gradients)
    assert not gradients[0][dirty["labels"] == -100].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("rows", [(2, 3), (0,), (2, 0)])
def test_cross_entropy_4_nothing_to_supervise_is_zero(dtype, form, reduction, rows):
    logits = torch.full((*rows, 5), math.nan, dtype=dtype, requires_grad=True)
    loss = cross_entropy(logits, torch.full(rows, -100), reduction=reduction, implementation=form)
    loss.sum().backward()
    assert loss.shape == (rows if reduction == "none" else ()) and not loss.any()
    assert logits.grad.shape == logits.shape and not logits.grad.any()
    values = (np.full((*rows, 5), math.nan), np.full(rows, -100))
    result = oracle.cross_entropy(*values, reduction=reduction)
    assert result.shape == tuple(loss.shape) and not result.any()
    gradient = oracle.cross_entropy_vjp(*values, reduction=reduction, cotangent=np.ones_like(result))
    assert gradient.shape == (*rows, 5) and not gradient.any()


@pytest.mark.parametrize("form", FORMS)
def test_cross_entropy_5_nothing_is_shifted(form):
    """Logits that name their own row's label are right; the next or the previous row's label is wrong."""
    labels = torch.tensor([[3, 0, 4, 1], [2, 4, 0, 3]])
    logits = 30.0 * torch.nn.functional.one_hot(labels, 5).double()
    assert cross_entropy(logits, labels, implementation=form) < 1e-12
    assert cross_entropy(logits, labels.roll(1, 1), implementation=form) > 29
    assert cross_entropy(logits, labels.roll(-1, 1), implementation=form) > 29


@pytest.mark.parametrize("form", FORMS)
def test_cross_entropy_15_ignore_index_may_be_an_id(form):
    case = fixed()
    with_padding = {**case, "labels": np.where(case["labels"] == -100, 3, case["labels"])}
    options = {"profile": "float64", "ignore_index": 3, "face_options": {"implementation": form}}
    agree(oracle.cross_entropy, cross_entropy, with_padding, **options)
    padded = cross_entropy(*tensors(with_padding), ignore_index=3, implementation=form)
    assert_same(padded, cross_entropy(*tensors(case), implementation=form))
    with pytest.raises(ValueError, match="-100"):
        cross_entropy(*tensors(case), ignore_index=3, implementation=form)


# ---- identities ----
@given(case=cases(), form=forms, constant=st.sampled_from([-512.0, -3.0, 64.0, 1024.0]))
def test_cross_entropy_6_a_constant_changes_nothing(case, form, constant):
    shifted = {**case, "logits": case["logits"] + constant}  # exact: the entries have 16 fractional bits, or few
    moved = oracle.cross_entropy(*exact(*shifted.values()))
    still = oracle.cross_entropy(*exact(*case.values()))
    assert_law(cross_entropy(*tensors(shifted), implementation=form), moved, still)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("level", [0.0, -50.0, 8192.0])
def test_cross_entropy_7_equal_logits_give_log_v(profile, level):
    case = {"logits": np.full((3, 11), level), "labels": np.array([0, 10, 4])}
    bounds = oracle.cross_entropy(*exact(*case.values(), profile=profile), reduction="none")
    assert_law(
        cross_entropy(*tensors(case, getattr(torch, profile)), reduction="none"), bounds, np.full(3, math.log(11))
    )


@given(case=cases(ignored=False), form=forms)
def test_cross_entropy_7_between_zero_and_log_v_plus_range(case, form):
    loss = cross_entropy(*tensors(case), reduction="none", implementation=form).numpy()
    z = case["logits"]
    highest = math.log(z.shape[-1]) + z.max(-1) - z.min(-1)
    assert (loss >= 0).all() and (loss <= np.nextafter(highest, math.inf)).all()


@given(case=cases(), form=forms)
def test_cross_entropy_8_gradient_rows_sum_to_zero_and_are_short(case, form):
    logits, labels = tensors(case)
    cross_entropy(logits.requires_grad_(), labels, implementation=form).backward()
    bounds = oracle.cross_entropy_vjp(*exact(*case.values()), cotangent=exact(np.array(1.0))[0])
    assert_law(logits.grad.sum(-1), np.sum(bounds, axis=-1), np.zeros(labels.shape))
    count = (labels != -100).sum()
    assert (logits.grad.norm(dim=-1) * count <= np.nextafter(math.sqrt(2), 2)).all()
    at_label = logits.grad.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    assert (at_label <= 0).all()


@given(case=cases(), form=forms, data=st.data())
def test_cross_entropy_9_any_cut_gives_the_same_total(case, form, data):
    logits, labels = tensors(case)
    logits, labels = logits.flatten(0, 1), labels.flatten()
    pieces = data.draw(strategies.cuts(len(labels)))
    total, gradients = 0.0, []
    for piece in pieces:
        part = logits[piece].clone().requires_grad_()
        loss = cross_entropy(part, labels[piece], implementation=form) * (labels[piece] != -100).sum()
        loss.backward()
        total, gradients = total + loss.item(), [*gradients, part.grad]
    count = (labels != -100).sum().item()
    bounded = exact(*case.values())
    assert_law(np.array(total / count), oracle.cross_entropy(*bounded), oracle.cross_entropy(*bounded))
    whole = oracle.cross_entropy_vjp(*bounded, cotangent=exact(np.array(1.0))[0])
    assert_law((torch.cat(gradients) / count).reshape(case["logits"].shape), whole, whole)


@pytest.mark.parametrize("form", FORMS)
def test_cross_entropy_9_the_mean_of_means_is_another_number(form):
    logits, labels = tensors(fixed())
    means = [cross_entropy(logits[i], labels[i], implementation=form).item() for i in range(2)]
    assert abs(sum(means) / 2 - cross_entropy(logits, labels, implementation=form).item()) > 0.05


@pytest.mark.parametrize("cached", [1, 7, 12, 1000])
def test_cross_entropy_9_a_cpu_takes_few_rows_at_a_time(monkeypatch, cached):
    logits, labels = tensors(fixed(), torch.bfloat16)
    whole = logits.clone().requires_grad_()
    parts = logits.clone().requires_grad_()
    expected = cross_entropy(whole, labels, reduction="none", implementation="fused")
    monkeypatch.setattr("minimind_ref.loss.cross_entropy._CACHED", cached)
    found = cross_entropy(parts, labels, reduction="none", implementation="fused")
    found.sum().backward()
    expected.sum().backward()
    assert torch.equal(found, expected)
    assert torch.equal(parts.grad, whole.grad)


@given(case=cases(), form=forms, seed=strategies.seeds)
def test_cross_entropy_10_order_of_the_vocabulary(case, form, seed):
    order = np.random.default_rng(seed).permutation(case["logits"].shape[-1])
    place = np.append(np.argsort(order), -100)  # the last entry serves label −100, written −1
    permuted = {"logits": case["logits"][..., order], "labels": place[np.maximum(case["labels"], -1)]}
    bounds = oracle.cross_entropy(*exact(*case.values()))
    assert_law(cross_entropy(*tensors(permuted), implementation=form), bounds, bounds)


@pytest.mark.parametrize("form", FORMS)
def test_cross_entropy_10_order_of_one_alone_matters(form):
    logits, labels = tensors(fixed())
    loss = cross_entropy(logits, labels, implementation=form)
    moved = cross_entropy(logits.roll(1, -1), labels, implementation=form)
    assert (loss - moved).abs() > 0.05


# ---- extremes and dtypes ----
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1e4, 6e4])
def test_cross_entropy_11_large_logits(profile, form, size):
    logits = np.array([[size, -size, 0.0], [-size, size, 1.0], [size, size, size], [-size, -size, -size]])
    case = {"logits": logits, "labels": np.array([0, 0, 1, 2])}
    agree(
        oracle.cross_entropy, cross_entropy, case, profile=profile, reduction="none",
        output_dtype=RESULT.get(profile, torch.float32), face_options={"implementation": form},
    )  # fmt: skip
    agree_vjp(oracle.cross_entropy_vjp, cross_entropy, case, profile=profile, face_options={"implementation": form})
    value, bound = math.log(3), ulps(4, "float32", reason="the logarithm of 3, and a sum with a large logit")
    if profile == "float64":
        result = cross_entropy(*tensors(case), reduction="none", implementation=form)
        assert_within(result[2:], np.full(2, value), ulps(2**17, "float64", reason=bound.reason))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_cross_entropy_11_minus_infinity_is_probability_zero(dtype, form):
    logits = torch.tensor([[1.0, -math.inf, 2.0], [0.5, -math.inf, 0.25]], dtype=dtype, requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0, 2]), reduction="none", implementation=form)
    loss.sum().backward()
    without = cross_entropy(logits[:, ::2], torch.tensor([0, 1]), reduction="none", implementation=form)
    assert_same(loss, without)
    assert logits.grad.isfinite().all() and not logits.grad[:, 1].any()
    assert cross_entropy(logits, torch.tensor([1, 2]), reduction="none", implementation=form)[0] == math.inf
    assert token_logp(logits, torch.tensor([1, 2]))[0] == -math.inf
    values = logits.detach().double().numpy()
    assert oracle.cross_entropy(values, np.array([1, 2]), reduction="none")[0] == math.inf
    assert np.isfinite(oracle.token_logp_vjp(values, np.array([0, 2]), cotangent=np.ones(2))).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_12_result_is_float32_and_gradient_is_the_logits(dtype, form, reduction):
    logits, labels = tensors(fixed(), dtype)
    loss = cross_entropy(logits.requires_grad_(), labels, reduction=reduction, implementation=form)
    loss.sum().backward()
    wide = torch.promote_types(dtype, torch.float32)
    assert loss.dtype == wide and logits.grad.dtype == dtype
    assert token_logp(logits, labels.clamp(min=0)).dtype == wide
    same = cross_entropy(logits.detach().to(wide), labels, reduction=reduction, implementation=form)
    assert_same(loss, same)  # nothing was computed in the logits' own precision


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_cross_entropy_2_8_a_single_row(form, reduction):
    case = {"logits": draw(7, (5,)), "labels": np.array(3)}
    options = {"profile": "float64", "reduction": reduction, "face_options": {"implementation": form}}
    agree(oracle.cross_entropy, cross_entropy, case, **options)
    agree_vjp(oracle.cross_entropy_vjp, cross_entropy, case, **options)


def test_cross_entropy_12_oracle_computes_float32_logits_in_float64():
    case = fixed()
    narrow = case["logits"].astype(np.float32)
    assert_same(
        oracle.cross_entropy(narrow, case["labels"]), oracle.cross_entropy(narrow.astype(np.float64), case["labels"])
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("form", "other"),
    [("explicit", "torch.nn.functional.cross_entropy"), ("fused", "minimind_ref.loss.cross_entropy.token_logp")],
)
def test_cross_entropy_2_each_form_is_computed_its_own_way(monkeypatch, reduction, form, other):
    monkeypatch.setattr(other, None)  # calling it raises
    assert cross_entropy(*tensors(fixed()), reduction=reduction, implementation=form).isfinite().all()


# ---- refusals ----
@pytest.mark.parametrize(
    ("logits", "labels", "sizes"),
    [
        (np.ones((2, 3, 5)), np.zeros((2, 4), int), ("labels", "(2, 3)", "(2, 4)")),
        (np.ones((2, 3, 5)), np.zeros((2, 1), int), ("labels", "(2, 3)", "(2, 1)")),
        (np.ones((2, 3, 5)), np.zeros((6,), int), ("labels", "(2, 3)", "(6,)")),
        (np.ones((2, 3, 5)), np.zeros((2, 3, 1), int), ("labels", "(2, 3)", "(2, 3, 1)")),
        (np.ones((2, 5)), np.array([4, 5]), ("labels", "5")),
        (np.ones((2, 5)), np.array([-1, 4]), ("labels", "-1", "5")),
        (np.ones((2, 5)), np.array([-101, 4]), ("labels", "-101", "5")),
        (np.ones((2, 0)), np.zeros(2, int), ("logits", "0")),
        (np.ones((2, 0)), np.full(2, -100), ("of logits is 0",)),
    ],
)
def test_cross_entropy_14_refusals(logits, labels, sizes):
    x, y = torch.tensor(logits), torch.tensor(labels)
    calls = [
        lambda: cross_entropy(x, y),
        lambda: cross_entropy(x, y, implementation="fused", reduction="none"),
        lambda: token_logp(x, y),
        lambda: oracle.cross_entropy(logits, labels),
        lambda: oracle.cross_entropy_vjp(logits, labels, cotangent=np.array(1.0)),
        lambda: oracle.token_logp(logits, labels),
        lambda: oracle.token_logp_vjp(logits, labels, cotangent=np.ones(labels.shape)),
    ]
    for call in calls:
        with pytest.raises(ValueError) as refusal:
            call()
        assert all(size in str(refusal.value) for size in sizes), refusal.value


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [(np.ones((2, 5)), np.ones(2), ("labels", "float64")), (np.array(1.0), np.array(1), ("logits", "0 axes"))],
)
def test_cross_entropy_14_refusals_without_type_checks(logits, labels, words):
    """Under test jaxtyping would refuse these first; a user's program has nobody else."""
    x, y = torch.tensor(logits), torch.tensor(labels)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        for call in (
            lambda: cross_entropy(x, y),
            lambda: token_logp(x, y),
            lambda: oracle.cross_entropy(logits, labels),
            lambda: oracle.token_logp(logits, labels),
        ):
            with pytest.raises(ValueError) as refusal:
                call()
            assert all(word in str(refusal.value) for word in words), refusal.value
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_cross_entropy_14_token_logp_ignores_no_label():
    case = fixed()
    for call in (lambda: token_logp(*tensors(case)), lambda: oracle.token_logp(**case)):
        with pytest.raises(ValueError, match="-100"):
            call()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reduction": "average"}, ("average", "mean", "sum", "none")),
        ({"implementation": "fast"}, ("fast", "explicit", "fused")),
    ],
)
def test_cross_entropy_14_unknown_options(options, words):
    case = fixed()
    calls = [lambda: cross_entropy(*tensors(case), **options)]
    if "reduction" in options:
        calls.append(lambda: oracle.cross_entropy(**case, **options))
        calls.append(lambda: oracle.cross_entropy_vjp(**case, **options, cotangent=np.array(1.0)))
    for call in calls:
        with pytest.raises(ValueError) as refusal:
            call()
        assert all(word in str(refusal.value) for word in words)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16])
def test_cross_entropy_14_every_kind_of_integer_will_do(dtype):
    logits, labels = tensors(fixed())
    labels = labels.abs() % logits.shape[-1]
    for options in ({}, {"implementation": "fused"}):
        assert_same(cross_entropy(logits, labels.to(dtype), **options), cross_entropy(logits, labels, **options))
    assert_same(token_logp(logits, labels.to(dtype)), token_logp(logits, labels))
    with pytest.raises(ValueError, match=r"labels has dtype torch\.bool"):
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            token_logp(logits, labels.bool())
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)
