"""False verdicts that the kit once gave: wrong implementations that it let pass, right ones that it rejected."""

import math
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from minimind_ref.errors import UserError
from minimind_ref.kit import Implementation, check, guard, verify
from minimind_ref.kit.laws.network import one_factor_for_the_window
from minimind_ref.kit.ours import torch_faces
from minimind_ref.kit.process import program
from minimind_ref.kit.registry import OPERATIONS
from minimind_ref.oracle.grad_clip import clip_grad_norm
from minimind_ref.oracle.objectives import SUPERVISED
from minimind_ref.oracle.training import window_gradients

MINIMIND2 = "transformer/minimind2"


def statuses(report, status):
    return {verdict.clause for verdict in report.verdicts if verdict.status == status}


def named(op, function, choices=None, **options):
    made = Implementation("theirs", choices=choices, **options)
    made.op(op, function)
    return made


def test_a_wrong_network_is_not_excused_as_float32():
    def doubled(parameters, input_ids, config, **options):
        logits, aux, _ = torch_faces.functions["transformer"](parameters, input_ids, config, **options)
        return 2 * logits, aux

    report = verify(named("transformer", doubled, arrays="torch"), ["transformer"], case=MINIMIND2)
    assert "TRANSFORMER-1" in statuses(report, "FAIL") and report.notes == ()


def test_a_network_that_computes_in_float32_is_judged_in_float32():
    def single(parameters, input_ids, config, **options):
        narrow = {name: p.float() for name, p in parameters.items()}
        found = torch_faces.functions["transformer"](narrow, input_ids, config, **options)
        return tuple(y.to(parameters["model.norm.weight"].dtype) for y in found[:2])

    report = verify(named("transformer", single, arrays="torch"), ["transformer"], case=MINIMIND2)
    assert report.passed and "TRANSFORMER-1" in statuses(report, "PASS")
    assert report.notes == ("transformer computes in float32 inside; it is judged there, not in float64",)


def test_what_always_raises_is_not_said_to_compute_in_float32():
    def raises(x, weight, *, eps):
        raise TypeError("argsort() takes no such argument")

    report = check("rms_norm", raises, arrays="torch")
    assert not report.passed and report.notes == ()


def test_a_float64_that_is_refused_is_judged_in_float32():
    def single_only(x, weight, *, eps):
        if x.dtype == torch.float64:
            raise TypeError("float64 is not supported")
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))

    assert check("rms_norm", single_only, arrays="torch").passed


def test_laws_take_results_by_name():
    def by_name(param, grad, mean, square, *, step, lr, beta1, beta2, eps, weight_decay):
        m, v = torch.lerp(mean, grad, 1 - beta1), square * beta2 + grad * grad * (1 - beta2)
        c1, c2 = 1 - beta1**step, math.sqrt(1 - beta2**step)
        p = param - lr * weight_decay * param
        return {"square": v, "mean": m, "param": p - lr * c2 / c1 * m / (v.sqrt() + eps * c2)}

    report = check("adamw.step", by_name, arrays="torch")
    assert report.passed and {"ADAMW-7", "ADAMW-8", "ADAMW-10", "ADAMW-20"} <= statuses(report, "PASS"), str(report)


def rate(step, *, total_steps, peak, warmup_steps=0, floor_ratio=0.1):
    """A product in another order: peak last."""
    if step >= total_steps:
        return floor_ratio * peak
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1) * peak
    x = (step - warmup_steps) / (total_steps - warmup_steps)
    return (floor_ratio + (1 - floor_ratio) * 0.5 * (1.0 + math.cos(math.pi * x))) * peak


def test_a_declared_choice_keeps_the_bounds():
    undeclared, declared = (check("cosine_schedule", rate, choices=c) for c in ({}, {"form": "cosine"}))
    assert undeclared.passed and declared.passed, str(declared)

    def other(step, *, total_steps, peak, warmup_steps=0, floor_ratio=0.1):
        run = {"total_steps": total_steps, "peak": peak, "warmup_steps": warmup_steps}
        if step < warmup_steps or step >= total_steps:
            return rate(step, floor_ratio=floor_ratio, **run)
        return rate(step, floor_ratio=0.0, **run) + floor_ratio * peak

    assert check("cosine_schedule", other, choices={"form": "minimind2"}).passed


def test_what_contradicts_the_good_answers_is_not_suspected():
    def smoothing_exchanged(chosen, rejected, old_chosen, old_rejected, *, beta, form="sigmoid", label_smoothing=0.0):
        margin = (chosen - old_chosen) - (rejected - old_rejected)
        right, wrong = np.logaddexp(0, -beta * margin), np.logaddexp(0, beta * margin)
        share = 1 - label_smoothing if label_smoothing else 0.0
        losses = {"sigmoid": (1 - share) * right + share * wrong, "hinge": np.maximum(0, 1 - beta * margin)}
        return np.mean(losses.get(form, (margin - 1 / (2 * beta)) ** 2))

    shown = check("dpo_loss", smoothing_exchanged).summary
    assert "DPO-M09" in shown and "DPO-M05" not in shown


def test_a_level_that_an_operation_does_not_have_is_bad_input():
    with pytest.raises(UserError, match="no clause of dpo_loss belongs to the claimed levels Forward"):
        check("dpo_loss", lambda *a, **o: 0.0, levels=["Forward"])


# --- wrong implementations that no case told from right ones


def attention(q, k, v, *, mask=None, causal=True, scale=None, exponential=torch.exp, hidden=-1e30, cap=1e30):
    s, t, group = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    seen = torch.ones(q.shape[0], s, t, dtype=torch.bool) if mask is None else mask
    seen = (seen & torch.ones(s, t, dtype=torch.bool).tril(t - s) if causal else seen)[:, None]
    k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
    z = torch.einsum("bsnh,btnh->bnst", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    z = z.clamp(-cap, cap).masked_fill(~seen, hidden)
    top = z.amax(-1, keepdim=True).detach() if exponential is torch.exp else 0.0
    e = exponential(z - top)
    p = e / e.sum(-1, keepdim=True) * seen.any(-1, keepdim=True)
    return torch.einsum("bnst,btnh->bsnh", p, v)


def attention_that(**wrong):
    return lambda q, k, v, *, mask=None, causal=True, scale=None: attention(
        q, k, v, mask=mask, causal=causal, scale=scale, **wrong
    )


def test_scores_beyond_the_exponentials_range():
    assert check("attention", attention_that(), arrays="torch").passed
    for wrong in ({"cap": 50.0}, {"hidden": -1e4}, {"exponential": lambda z: torch.exp(z) + 0.0}):
        assert not check("attention", attention_that(**wrong), arrays="torch").passed, wrong


def test_an_answer_in_several_parts():
    def from_first_to_last(logp, mask, *, reduction="sum"):
        m = mask.int()
        m = (m.cumsum(1) > 0) & (m.flip(1).cumsum(1).flip(1) > 0)
        total = torch.where(m, logp, 0.0).sum(1)
        return total / m.sum(1).clamp(min=1) if reduction == "mean" else total

    assert {"DPO-1", "DPO-2", "DPO-3"} <= statuses(check("sequence_logp", from_first_to_last, arrays="torch"), "FAIL")


def test_k3_that_is_clamped():
    def clamped(logp, reference_logp):
        gap = reference_logp.detach() - logp
        return (torch.expm1(gap) - gap).clamp(max=10)

    assert "GRPO-8" in statuses(check("kl_k3", clamped, arrays="torch"), "FAIL")


def test_clipping_each_micro_batch_is_not_clipping_the_window():
    def clipped_each(state, window, config, *, max_norm, betas, **options):
        total = None
        for batch in window:
            gradients = window_gradients(state["parameters"], [batch], config, objective=SUPERVISED)[2]
            clipped, _ = clip_grad_norm(list(gradients.values()), max_norm)
            total = clipped if total is None else [a + b for a, b in zip(total, clipped, strict=True)]
        clipped, _ = clip_grad_norm(total, max_norm)
        return {"means": {name: (1 - betas[0]) * g for name, g in zip(gradients, clipped, strict=True)}}, {}

    assert one_factor_for_the_window(OPERATIONS["training.step"].reference) is None
    assert "off one factor" in one_factor_for_the_window(clipped_each)


# --- what once broke the kit


class UnreadableError(Exception):
    def __str__(self):
        raise RuntimeError("no message")


class Unreadable:
    def __array__(self, *given, **options):
        raise RuntimeError("no numbers")


def raise_unreadable():
    raise UnreadableError


def rms_norm(x, weight, *, eps):
    return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda y: y.detach().to_sparse(), "returned a Tensor whose numbers cannot be read"),
        (lambda y: y.to("meta"), "returned a Tensor whose numbers cannot be read"),
        (lambda y: (y, 1), "y is a tuple but an array of float64 is expected"),
        (lambda y: Unreadable(), "y is a Unreadable but an array of float64 is expected"),
        (lambda y: raise_unreadable(), "raised UnreadableError: its message cannot be read"),
    ],
)
def test_what_cannot_be_read_is_a_verdict(spoil, said):
    report = check("rms_norm", lambda x, weight, *, eps: spoil(rms_norm(x, weight, eps=eps)), arrays="torch")
    assert not report.passed and said in str(report)


def test_a_wrapper_that_takes_any_keyword_is_asked_what_it_wraps():
    report = check("rms_norm", lambda *given, **options: rms_norm(*given, **options), arrays="torch")
    assert report.passed and "RMS_NORM-15" in statuses(report, "CHOICE"), str(report)


def test_waiting_for_a_turn_is_not_computing():
    def spin():
        while True:
            pass

    assert guard.run(lambda: time.sleep(0.6) or "done", 0.2).value == "done"
    assert [guard.run(call, 0.2).problem for call in (spin, lambda: time.sleep(9))] == ["timeout", "timeout"]


def test_numpys_error_state_is_put_back():
    def strict(x, weight, *, eps):
        np.seterr(all="raise")
        return rms_norm(x, weight, eps=eps)

    before = np.geterr()
    assert check("rms_norm", strict, arrays="torch").passed and np.geterr() == before


def test_torch_imports_what_it_puts_off_before_the_clock_runs():
    code = (
        "import sys; from minimind_ref.kit.arrays import library; library('torch'); before = set(sys.modules); import "
        "torch; x = torch.ones(1, requires_grad=True); torch.autograd.grad([2 * x], [x], [torch.ones(1)]); "
        "print(len(set(sys.modules) - before))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "0\n"


PROGRAM = """
import json, os, shutil, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "hello" in asked:
        print(json.dumps({"name": "odd", "ops": ["rms_norm"], "choices": CHOICES}), flush=True)
        continue
    answer = {"id": asked["id"], "outputs": {"y": {"shape": [1], "dtype": "float64", "values": [1.0]}}}
    text = None
    SPOIL
    print(text or json.dumps(answer), flush=True)
"""


@pytest.mark.parametrize(
    "spoil, said",
    [
        ("text = '[' * 100000", "answered no JSON"),
        ("answer['outputs']['y']['values'] = [10**400]", "answered what cannot be read: int too large"),
        ("answer['outputs']['y'] = {'tensor': ['y']}", "answered what cannot be read: unhashable"),
        ("os.mkdir(asked['answer'])", "answered what cannot be read"),
        ("shutil.rmtree(os.path.dirname(asked['tensors']))", "y has shape (1,)"),
    ],
)
def test_a_program_that_answers_nonsense_has_a_verdict(tmp_path, spoil, said):
    (tmp_path / "odd.py").write_text(PROGRAM.replace("CHOICES", "{}").replace("SPOIL", spoil))
    with program(f"{sys.executable} {tmp_path / 'odd.py'}", ["float64"], 30.0) as (made, runner):
        report = verify(made, ["rms_norm"], runner=runner)
    assert not report.passed and said in report.to_json()


def test_a_greeting_whose_choices_are_no_object_is_bad_input(tmp_path):
    (tmp_path / "odd.py").write_text(PROGRAM.replace("CHOICES", "[1]").replace("SPOIL", "pass"))
    command = f"{sys.executable} {tmp_path / 'odd.py'}"
    with pytest.raises(UserError, match="no dict of choices"), program(command, None, 30.0):
        pass
