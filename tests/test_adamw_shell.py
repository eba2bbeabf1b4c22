"""AdamW as a torch.optim.Optimizer: groups, skipped parameters, two forms, state dicts, refusals (specs/adamw.md)."""

import copy
import io

import numpy as np
import pytest
import torch
from arrays import draw
from tolerance import assert_same, assert_within

from minimind_ref.optim.adamw import AdamW, Moments, adamw_update, init_moments
from minimind_ref.oracle import adamw as oracle
from minimind_ref.oracle.bounded import bound_inputs

IMPLEMENTATIONS = ["explicit", "foreach"]
SHAPES = [(7, 5), (3,), (), (2, 3, 5), (11,)]
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def parameters(dtype=torch.float64) -> list[torch.Tensor]:
    return [torch.tensor(draw(i, s)).to(dtype).requires_grad_() for i, s in enumerate(SHAPES)]


def gradient(i: int, step: int) -> np.ndarray | None:
    """Small and large gradients by turns; parameter 1 has none in every third step, so that counts differ."""
    absent = i == 1 and step % 3 == 1
    return None if absent else draw(100 * step + i + 9, SHAPES[i], 2.0 ** (-26 * (step % 2)))


def advance(optimizer, params, steps) -> None:
    for step in steps:
        for i, p in enumerate(params):
            g = gradient(i, step)
            p.grad = None if g is None else torch.tensor(g).to(p.dtype)
        for group in optimizer.param_groups:
            group["lr"] = 2.0 ** -(4 + step % 4)
        optimizer.step()


@pytest.mark.parametrize("profile", DTYPES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_adamw_16_both_forms_stay_within_the_oracle(implementation, profile):
    params, betas = parameters(DTYPES[profile]), (0.8, 0.95)
    optimizer = AdamW(params, betas=betas, eps=1e-8, weight_decay=0.1, implementation=implementation)
    options = {"beta1": betas[0], "beta2": betas[1], "eps": 1e-8, "weight_decay": 0.1}
    advance(optimizer, params, range(6))
    for i, p in enumerate(params):
        (expected,) = bound_inputs(draw(i, SHAPES[i]), profile=profile)
        moments = oracle.init_moments(expected)
        for step in range(6):
            g = gradient(i, step)
            if g is not None:
                (g,) = bound_inputs(g, profile=profile)
                expected, moments = oracle.adamw_update(expected, g, moments, lr=2.0 ** -(4 + step % 4), **options)
        assert_within(p.detach(), expected)
        assert_within(optimizer.state[p]["square"], moments.square)
        assert optimizer.state[p]["step"] == moments.step == (4 if i == 1 else 6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_adamw_14_groups_keep_to_themselves(implementation):
    def run(decay: float) -> list[torch.Tensor]:
        params = parameters()
        groups = [{"params": params[::2], "weight_decay": decay}, {"params": params[1::2], "weight_decay": 0.0}]
        advance(AdamW(groups, implementation=implementation), params, range(3))
        return [p.detach() for p in params]

    alone = parameters()
    advance(AdamW(alone[1::2], weight_decay=0.0, implementation=implementation), alone, range(3))
    for i, (a, b) in enumerate(zip(run(0.0), run(0.5), strict=True)):
        assert torch.equal(a, b) == (i % 2 == 1)
        assert torch.equal(b, alone[i].detach()) == (i % 2 == 1)  # the second group was stepped at all


def test_adamw_14_second_mention_is_refused():
    p, q = parameters()[:2]
    with pytest.raises(ValueError, match="more than one parameter group"):
        AdamW([{"params": [p]}, {"params": [q, p]}])
    with pytest.raises(ValueError, match="more than once"):
        AdamW([p, q, p])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_adamw_15_no_gradient_is_no_update_but_zeros_are(implementation):
    params = parameters()[:3]
    params[1].data[0] = -0.0  # adding a zero to what is skipped would show
    start = [p.detach().clone() for p in params]
    optimizer = AdamW(params, lr=0.5, weight_decay=0.5, implementation=implementation)
    params[0].grad, params[2].grad = torch.zeros_like(params[0]), torch.ones_like(params[2])
    optimizer.step()
    assert_same(params[1].detach(), start[1])
    assert not optimizer.state.get(params[1])
    assert_same(params[0].detach(), start[0] * 0.75)
    assert optimizer.state[params[0]]["step"] == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_adamw_19_state_dict_continues_bit_for_bit(implementation, dtype):
    straight = parameters(dtype)
    optimizer = AdamW(straight, betas=(0.8, 0.95), implementation=implementation)
    advance(optimizer, straight, range(4))
    resumed = [p.detach().clone().requires_grad_() for p in straight]
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = AdamW(resumed, implementation=implementation)
    again.load_state_dict(torch.load(file, weights_only=True))
    wide = dtype if dtype == torch.float64 else torch.float32
    assert all(again.state[p]["mean"].dtype == again.state[p]["square"].dtype == wide for p in resumed)
    advance(optimizer, straight, range(4, 8))
    advance(again, resumed, range(4, 8))
    for a, b in zip(straight, resumed, strict=True):
        assert_same(a.detach(), b.detach())
        assert_same(optimizer.state[a]["square"], again.state[b]["square"])


def test_adamw_19_loading_copies():
    params = parameters()[:1]
    optimizer = AdamW(params)
    advance(optimizer, params, range(1))
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    again = AdamW(parameters()[:1])
    again.load_state_dict(saved)
    advance(again, again.param_groups[0]["params"], range(1, 3))
    assert_same(saved["state"][0]["mean"], kept["state"][0]["mean"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["state"][0].pop("mean"), "the moments of parameter 0 are square, step, not mean, square, step"),
        (lambda s: s["state"][0].update(extra=1), "square, step, extra, not"),
        (lambda s: s["state"][0].update(mean=torch.zeros(2)), "mean of parameter 0 has shape"),
        (lambda s: s["state"][0].update(step="3"), "step of parameter 0 is '3'"),
        (lambda s: s["state"].update({7: s["state"][0]}), "moments of parameter 7; its groups have"),
        (lambda s: s["param_groups"][0].pop("eps"), "lacks 'eps'"),
        (lambda s: s["param_groups"][0].update(betas=(2.0, 0.9)), "beta1=2.0"),
    ],
)
def test_adamw_19_a_state_that_is_not_the_parameters_is_refused_and_loads_nothing(change, message):
    params = parameters()[:1]
    optimizer = AdamW(params)
    advance(optimizer, params, range(1))
    saved = copy.deepcopy(optimizer.state_dict())
    change(saved)
    advance(optimizer, params, range(1, 2))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"] and after["state"][0]["step"] == 2
    assert_same(after["state"][0]["mean"], before["state"][0]["mean"])


def test_adamw_19_moments_before_the_first_step_are_a_state():
    params = parameters()[:1]
    optimizer = AdamW(params)
    optimizer.state[params[0]].update(init_moments(params[0])._asdict())
    again = AdamW(parameters()[:1])
    again.load_state_dict(optimizer.state_dict())
    assert again.state_dict()["state"][0]["step"] == 0


# --- refusals

BAD = [
    ("lr", -0.1), ("lr", float("nan")), ("lr", float("inf")), ("eps", -1e-8), ("weight_decay", -0.01),
    ("weight_decay", float("nan")), ("beta1", 1.0), ("beta1", -0.1), ("beta2", 1.0), ("beta2", float("nan")),
]  # fmt: skip
GOOD = {"lr": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}


@pytest.mark.parametrize(("name", "number"), BAD)
def test_adamw_17_refuses_numbers(name, number):
    changed = GOOD | {name: number}
    three = [draw(i, (3,)) for i in range(3)]
    with pytest.raises(ValueError, match=f"{name}.*{number}"):
        oracle.adamw_update(three[0], three[1], oracle.Moments(three[2], three[2], 0), **changed)
    three = [torch.tensor(a) for a in three]
    with pytest.raises(ValueError, match=f"{name}.*{number}"):
        adamw_update(three[0], three[1], Moments(three[2], three[2], 0), **changed)
    betas = (changed.pop("beta1"), changed.pop("beta2"))
    with pytest.raises(ValueError, match=f"{name}.*{number}"):
        AdamW(parameters(), betas=betas, **changed)
    with pytest.raises(ValueError, match=f"{name}.*{number}"):
        AdamW([{"params": parameters(), "betas": betas, **changed}])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_adamw_17_refuses_a_rate_that_was_set_later(implementation):
    params = parameters()[:1]
    optimizer = AdamW(params, implementation=implementation)
    params[0].grad = torch.ones_like(params[0])
    optimizer.param_groups[0]["lr"] = -0.25
    with pytest.raises(ValueError, match=r"lr.*-0\.25"):
        optimizer.step()


@pytest.mark.parametrize("wrong", ["grad", "mean", "square", "step"])
def test_adamw_17_refuses_shapes_and_steps(wrong):
    arrays = {name: draw(1, (1, 3) if name == wrong else (3,)) for name in ("param", "grad", "mean", "square")}
    step = -1 if wrong == "step" else 0
    message = "step.*-1" if wrong == "step" else rf"{wrong}.*\(1, 3\).*\(3,\)"
    for function, moments, make in (
        (oracle.adamw_update, oracle.Moments, np.asarray),
        (adamw_update, Moments, torch.tensor),
    ):
        param, grad, mean, square = (make(a) for a in arrays.values())
        with pytest.raises(ValueError, match=message):
            function(param, grad, moments(mean, square, step), **GOOD)


def test_adamw_17_refuses_an_unknown_form():
    with pytest.raises(ValueError, match="fused"):
        AdamW(parameters(), implementation="fused")


@pytest.mark.parametrize(("implementation", "other"), [("explicit", "_foreach"), ("foreach", "_explicit")])
def test_adamw_16_each_form_is_computed_its_own_way(monkeypatch, implementation, other):
    monkeypatch.setattr(f"minimind_ref.optim.adamw.{other}", None)  # calling it raises
    params = parameters()
    advance(AdamW(params, implementation=implementation), params, range(2))


def test_adamw_16_a_closure_is_called_with_gradients_on_and_its_value_returned():
    params = parameters()
    optimizer = AdamW(params, lr=0.1)

    def closure():
        assert torch.is_grad_enabled()
        loss = sum((p**2).sum() for p in params)
        loss.backward()
        return loss

    before = [p.detach().clone() for p in params]
    assert float(optimizer.step(closure).detach()) == float(sum((p**2).sum() for p in before))
    assert all((p != old).all() for p, old in zip(params, before, strict=True))
    assert optimizer.step() is None


def test_adamw_16_defaults_are_torchs():
    ours, theirs = AdamW(parameters()).defaults, torch.optim.AdamW(parameters()).defaults
    assert ours == {name: theirs[name] for name in ("lr", "betas", "eps", "weight_decay")}
    assert AdamW(parameters()).implementation == "foreach"


def test_adamw_16_narrow_parameters_are_updated_in_float32_by_both_forms():
    """Rounded after the decay as well as after the step, every fourth of them would be another number."""
    found = {}
    for form in IMPLEMENTATIONS:
        p = torch.tensor(draw(5, (997,)), dtype=torch.bfloat16).requires_grad_()
        p.grad = torch.tensor(draw(6, (997,)), dtype=torch.bfloat16)
        AdamW([p], lr=2.0**-5, weight_decay=0.3, implementation=form).step()
        found[form] = p.detach()
    assert (found["explicit"] != found["foreach"]).float().mean() < 0.01
