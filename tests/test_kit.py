"""The kit judges our own faces as passing, every known bug as failing by its owner, and no bad behaviour breaks it."""

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from minimind_ref.errors import UserError
from minimind_ref.golden.definitions import clauses
from minimind_ref.kit import Implementation, check, generated, guard, lawful, suspects, unshown, vectors, verify
from minimind_ref.kit.case import ORDER
from minimind_ref.kit.examine import cases_of
from minimind_ref.kit.implementation import load
from minimind_ref.kit.mutant import load_mutants
from minimind_ref.kit.operation import LEVELS
from minimind_ref.kit.ours import oracles, torch_faces
from minimind_ref.kit.registry import ALL, OPERATIONS, operation
from minimind_ref.kit.report import AGAINST, WORST_FIRST
from minimind_ref.kit.verdicts import responsible

ROOT = Path(__file__).parents[1]
FAMOUS = [
    *("rms_norm", "apply_rope", "rope_frequencies", "attention", "swiglu", "route", "aux_loss", "moe"),
    *("cross_entropy", "dpo_loss", "sequence_logp", "group_advantages", "kl_k3", "grpo_loss", "adamw.step"),
    *("cosine_schedule", "clip_grad_norm", "grad_scaler", "filter_logits", "penalise_repetition", "choose_token"),
    *("bpe.encode", "chat_template.render", "sft_mask", "pack", "transformer", "training.step"),
]


def right(x, weight, *, eps):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def right_in_numpy(x, weight, *, eps):
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def statuses(report, status):
    return {verdict.clause for verdict in report.verdicts if verdict.status == status}


# --- what is right passes


def test_our_oracles_pass_in_every_operation():
    report = verify(oracles)
    assert report.passed, str(report)
    assert {verdict.operation for verdict in report.verdicts} == set(OPERATIONS)
    assert {"PASS", "NOT RUN"} == {verdict.status for verdict in report.verdicts}


@pytest.mark.parametrize("level", [*(name for name in LEVELS if name != "Backward")])
def test_our_torch_passes_in_every_precision(level):
    report = verify(torch_faces, [level, "Backward"] if level == "Forward" else [level])
    assert report.passed, str(report)
    reasons = {verdict.detail for verdict in report.verdicts if verdict.status == "NOT RUN"}
    assert not any(reason.startswith("no case shows it") for reason in reasons), reasons


def test_every_operation_that_was_promised_is_there():
    assert set(FAMOUS) <= set(OPERATIONS)
    assert {entry.name for entry in ALL if entry.name in torch_faces.functions} == set(OPERATIONS)


def test_every_must_is_shown_or_has_a_reason_why_not():
    components = {entry.component for entry in ALL}
    for component in components:
        peers = [entry for entry in ALL if entry.component == component]
        shown = {c for entry in peers for case in cases_of(entry, "full", 0) for c in case.clauses}
        shown |= {c for entry in peers for c in (entry.dtype, entry.pure) if c}
        laws = {law.clause for entry in peers for law in lawful.of(entry)}
        musts = {clause.id for clause in clauses(component) if clause.level == "MUST"}
        reasons = {c for c in unshown.REASONS if c in musts}
        assert musts - shown - laws == reasons - shown - laws, component
        assert not reasons & (shown | laws) - unshown.REFUSALS, component
        assert {c for entry in peers for c in responsible(entry)} == musts


def test_an_honest_function_that_computes_in_float32_is_judged_there():
    def honest(x, weight, *, eps):
        return right(x.float(), weight.float(), eps=eps).to(x.dtype)

    report = check("rms_norm", honest, arrays="torch")
    assert report.passed and "computes in float32 inside" in report.notes[0]
    assert not check("rms_norm", honest, arrays="torch", profiles=["float64"]).passed


def test_what_is_recorded_in_float64_alone_is_asked_in_float32_where_only_that_is_claimed():
    made = Implementation("single", arrays="torch", profiles=["float32"], levels=["Optimiser"])
    made.op("training.step", torch_faces.functions["training.step"])
    asked = {"ops": ["training.step"], "case": "training/moe_step_1"}
    assert {"TRAINING-2", "TRAINING-6"} <= statuses(verify(made, **asked), "PASS")
    made.op("training.step", lambda *a, **o: torch_faces.functions["training.step"](*a, **(o | {"weight_decay": 0.5})))
    assert "TRAINING-6" in statuses(verify(made, **asked), "FAIL")


def test_float64_is_judged_where_it_is_kept():
    def slightly_wrong(x, weight, *, eps):
        return right(x, weight, eps=eps) * (1 + 2.0**-40)

    report = check("rms_norm", slightly_wrong, arrays="torch")
    assert "RMS_NORM-1" in statuses(report, "FAIL")


def test_a_pair_of_converters_stands_for_a_library():
    class Own:
        def __init__(self, numbers):
            self.numbers = numbers

    pair = (Own, lambda own: own.numbers if isinstance(own, Own) else own)

    def on_own(x, weight, *, eps):
        return Own(right_in_numpy(x.numbers, weight.numbers, eps=eps))

    report = check("rms_norm", on_own, arrays=pair, profiles=["float64"], levels=["Forward"])
    assert report.passed and len(statuses(report, "PASS")) > 8
    assert not check("rms_norm", on_own, arrays=pair, profiles=["float64"]).passed  # no gradient


def test_results_may_come_by_name():
    pack = OPERATIONS["pack"].reference
    names = ("input_ids", "labels", "segment_ids", "position_ids")
    report = check("pack", lambda *given, **options: dict(reversed(list(pack(*given, **options)._asdict().items()))))
    assert report.passed, str(report)
    swapped = check("pack", lambda *given, **options: {n: pack(*given, **options).input_ids for n in names})
    assert "PACKING-5" in statuses(swapped, "FAIL")


# --- what is wrong fails, by its owner and under its name


LONG = ("training.step",)  # each of its bugs is held against each other's answers, step by step
UNSEEN = {"ADAMW-M13": "adamw.step is told the count and does not return it"}


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, id=entry.name, marks=pytest.mark.slow if entry.name in LONG else ())
        for entry in ALL
        if suspects.of(entry)
    ],
)
def test_every_known_bug_is_rejected_by_its_owner_and_called_by_its_name(entry):
    for bug in suspects.of(entry):
        made = suspects.implementation_of(entry, bug)
        made.refusals = True
        made.levels = tuple(level for level in LEVELS if level != "Backward" or made.vjps)
        made.profiles = ("float32", "float16") if bug.narrow else ("float64",)
        report = verify(made, [entry.name])
        if bug.id in UNSEEN:
            assert report.passed, UNSEEN[bug.id]
            continue
        assert bug.owner in {verdict.clause for verdict in report.failures}, f"{bug}\n{report}"
        if bug.owner not in unshown.REFUSALS:
            assert bug.id in report.summary, f"{bug}\n{report}"


def test_every_known_bug_has_an_operation():
    of_an_operation = {bug.id for entry in ALL for bug in suspects.of(entry)}
    of_no_operation = {bug.id for bug in load_mutants().values() if bug.op == "initial_distribution"}  # it draws
    assert of_an_operation | of_no_operation == set(load_mutants()) and not of_an_operation & of_no_operation


def test_a_failure_says_all_there_is_to_say():
    def outside(x, weight, *, eps):
        return weight * x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps)

    report = check("rms_norm", outside, arrays="torch")
    failure = next(verdict for verdict in report.verdicts if verdict.clause == "RMS_NORM-1").failure
    assert (failure.case, failure.profile, failure.part) == ("rms_norm/eps_dominates", "float64", "y")
    assert abs(float(failure.got) - float(failure.expected)) / float(failure.bound) == failure.ratio
    text = str(report)
    assert "`eps` is added to the mean, inside the root." in text
    assert "RMS_NORM-M03, eps is added outside the root (OLMo #281 (NRM-4))" in text
    assert "print(check('rms_norm', outside, arrays='torch', case='rms_norm/eps_dominates', profile='float64'))" in text
    again = eval(re.search(r"print\((check\(.*\))\)$", text, re.MULTILINE)[1], {"check": check, "outside": outside})
    assert statuses(again, "FAIL") >= {"RMS_NORM-1"}
    assert text.endswith(report.summary) and report.summary.startswith("outside: NOT PASSED: 2 of 17 clauses")


def test_a_wrong_gradient_breaks_the_clause_of_its_input_alone():
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight):
            return weight.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient / 2

    report = check("rms_norm", lambda x, weight, *, eps: right(x, Halved.apply(weight), eps=eps), arrays="torch")
    assert statuses(report, "FAIL") == {"RMS_NORM-11"}


def test_the_verdict_is_the_same_every_time():
    def wrong(x, weight, *, eps):
        return x

    assert check("rms_norm", wrong).to_json() == check("rms_norm", wrong).to_json()


# --- whatever it does is a verdict


def no_result(x, weight, *, eps):
    return None


def raises(x, weight, *, eps):
    raise KeyError("weight")


def leaves(x, weight, *, eps):
    sys.exit(3)


def text_for_numbers(x, weight, *, eps):
    return "0.5"


def transposed(x, weight, *, eps):
    return right_in_numpy(x, weight, eps=eps).T


def not_a_number(x, weight, *, eps):
    return np.full(x.shape, np.nan)


def two_results(x, weight, *, eps):
    return x, weight


def needs_more(x, weight, bias, *, eps):
    return x


def objects(x, weight, *, eps):
    return np.array([object()] * 3)


@pytest.mark.parametrize(
    "function, said",
    [
        (no_result, "y is None but an array of float64 is expected"),
        (raises, "raised KeyError: 'weight'"),
        (leaves, "raised SystemExit: 3"),
        (text_for_numbers, "y is a str but an array of float64 is expected"),
        (transposed, r"y has shape \(.*\) but \(.*\) is expected"),
        (not_a_number, "is nan instead of"),
        (two_results, "is a tuple but an array"),
        (needs_more, "raised TypeError"),
        (objects, "is a ndarray but an array of float64"),
    ],
)
def test_bad_behaviour_is_a_verdict(function, said):
    report = check("rms_norm", function, levels=["Forward"])
    failure = next(verdict for verdict in report.verdicts if verdict.clause == "RMS_NORM-1").failure
    assert re.search(said, failure.message), failure.message
    assert not report.passed and str(report)


def test_a_missing_result_is_told_by_name():
    report = check("pack", lambda documents, length, *, pad_id=0: (np.zeros(3), np.zeros(3)))
    assert "returned 2 results but input_ids, labels, segment_ids, position_ids are expected" in str(report)


def test_a_wrong_dtype_is_a_verdict():
    report = check("rms_norm", lambda x, weight, *, eps: right(x, weight, eps=eps).double(), arrays="torch",
                   profiles=["float32"])  # fmt: skip
    assert statuses(report, "FAIL") == {"RMS_NORM-16"}
    assert "y has dtype float64 but float32 is expected for float32 inputs" in str(report)
    whole = check("pack", lambda *a, **o: tuple(x.astype(float) for x in OPERATIONS["pack"].reference(*a, **o)))
    assert "input_ids has dtype float64 but int64 is expected" in str(whole)


def test_changing_an_argument_is_a_verdict():
    def in_place(param, grad, mean, square, **options):
        mean *= options["beta1"]
        mean /= options["beta1"]
        square += 1.0
        return OPERATIONS["adamw.step"].reference(param, grad, mean, square - 1.0, **options)

    report = check("adamw.step", in_place)
    assert "ADAMW-13" in statuses(report, "FAIL")
    assert "it changed its argument" in str(report) and "square" in str(report)


def hangs(x, weight, *, eps):
    while True:
        with contextlib.suppress(Exception):
            time.sleep(0.001)


def test_hanging_is_a_verdict():
    start = time.monotonic()
    report = check("rms_norm", hangs, seconds=0.2)
    assert time.monotonic() - start < 60
    assert statuses(report, "FAIL") and "took longer than 0.2 s" in str(report)
    assert "not asked any more" in str(report)


def test_hanging_outside_the_main_thread_is_a_verdict():
    found = []
    worker = threading.Thread(target=lambda: found.append(guard.run(lambda: time.sleep(3), 0.1)))
    worker.start()
    worker.join()
    assert (found[0].problem, found[0].text) == ("timeout", "took longer than 0.1 s")


def test_printing_is_kept_and_told(capfd):
    def chatty(x, weight, *, eps):
        print("norm!", file=sys.stderr)
        print("norm?")
        return x

    report = check("rms_norm", chatty)
    assert "rms_norm prints" in report.notes
    assert "'norm!\\nnorm?'" in str(report)
    assert capfd.readouterr() == ("", "")


def test_what_is_not_there_is_not_implemented():
    made = Implementation("one", levels=["Forward"])
    made.op("rms_norm", right_in_numpy)
    report = verify(made)
    assert statuses(report, "NOT IMPLEMENTED") >= {"ATTENTION-1", "SWIGLU-1", "TRANSFORMER-1"}
    assert not report.passed
    assert verify(made, ["rms_norm"]).passed
    musts = {c for entry in ALL if entry.level == "Forward" for c in responsible(entry) if c not in entry.backward}
    assert sum(report.counts.values()) == len(musts)


def test_a_missing_gradient_is_not_implemented():
    report = check("rms_norm", right_in_numpy)
    assert statuses(report, "NOT IMPLEMENTED") == {"RMS_NORM-10", "RMS_NORM-11", "RMS_NORM-12"}
    assert not report.passed and ": INCOMPLETE, none fails: 9 of 17 clauses; " in report.summary
    vjp = OPERATIONS["rms_norm"].reference_vjp
    assert check(
        "rms_norm",
        right_in_numpy,
        vjp=lambda x, weight, *, eps, cotangent: vjp(x, weight, eps=eps, cotangent=cotangent),
    ).passed
    short = check("rms_norm", right_in_numpy, vjp=lambda x, weight, *, eps, cotangent: x)
    assert "gave 1 gradients but there are 2: x, weight" in str(short)


def test_a_gradient_that_is_cut_off_or_raises_is_a_verdict():
    report = check("rms_norm", lambda x, weight, *, eps: right(x, weight, eps=eps).detach(), arrays="torch")
    assert "it has no gradient (detach, no_grad or .data?)" in str(report)
    assert statuses(report, "FAIL") >= {"RMS_NORM-10", "RMS_NORM-11"} and "RMS_NORM-1" in statuses(report, "PASS")


def test_a_missing_argument_is_not_implemented():
    full = OPERATIONS["attention"].reference
    report = check("attention", lambda q, k, v, *, causal=True, scale=None: full(q, k, v, causal=causal, scale=scale),
                   levels=["Forward"])  # fmt: skip
    assert "ATTENTION-4" in statuses(report, "NOT IMPLEMENTED") and "it takes no argument 'mask'" in str(report)
    assert not report.passed


def test_a_law_that_needs_a_missing_argument_is_not_implemented():
    report = check("rms_norm", lambda x, weight: x, levels=["Forward"])
    assert {verdict.status for verdict in report.verdicts} == {"NOT IMPLEMENTED", "NOT RUN"}


# --- choices, expected failures, blocked


def before(x, weight, *, eps):
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def test_a_declared_choice_is_judged_by_its_own_answers():
    asked = {"arrays": "torch", "profiles": ["bfloat16", "float16"], "levels": ["Forward"]}
    fixed = check("rms_norm", before, choices={"cast": "before"}, **asked)
    assert fixed.passed and "RMS_NORM-15" in statuses(fixed, "PASS")
    undeclared = check("rms_norm", before, **asked)
    assert "RMS_NORM-15" in statuses(undeclared, "CHOICE") and "RMS_NORM-14" in statuses(undeclared, "FAIL")


def test_an_expected_failure_is_strict():
    def expecting(excuses, function):
        made = Implementation("mine", levels=["Forward"], expected_failures=excuses)
        made.op("rms_norm", function)
        return verify(made, ["rms_norm"])

    def off_by_one_feature(x, weight, *, eps):
        return np.concatenate([right_in_numpy(x, weight, eps=eps)[..., :-1], 0 * x[..., -1:]], axis=-1)

    plain = expecting({}, off_by_one_feature)
    excused = expecting(dict.fromkeys(statuses(plain, "FAIL"), "issue 12"), off_by_one_feature)
    assert statuses(excused, "EXPECTED FAILURE") == statuses(plain, "FAIL") and not statuses(excused, "FAIL")
    assert excused.as_expected and not excused.passed and "issue 12" in str(excused)
    passing = expecting({"RMS_NORM-1": "issue 12"}, right_in_numpy)
    assert statuses(passing, "FAIL") == {"RMS_NORM-1"} and not passing.as_expected
    assert "declared as an expected failure (issue 12), but it passes" in str(passing)


def test_what_a_failed_part_explains_is_blocked():
    made = Implementation("mine", levels=["Forward"])
    aux_loss, moe = OPERATIONS["aux_loss"].reference, OPERATIONS["moe"].reference
    made.op("aux_loss", lambda *given, **options: 2 * aux_loss(*given, **options))
    made.op("moe", lambda *given, **options: (moe(*given, **options)[0], 2 * moe(*given, **options)[1]))
    report = verify(made, ["aux_loss", "moe"])
    blocked = [verdict for verdict in report.verdicts if verdict.status == "BLOCKED"]
    assert {verdict.operation for verdict in blocked} == {"moe"}
    assert blocked[0].detail == "aux_loss failed: mend that first" and not report.passed


def test_refusals_are_asked_where_they_are_claimed():
    made = Implementation("mine", refusals=True)

    @made.op("rope_frequencies")
    def _(head_dim, *, theta, scaling=None):
        known = scaling if scaling and scaling["type"].startswith("yarn") else None
        return OPERATIONS["rope_frequencies"].reference(head_dim, theta=theta, scaling=known)

    assert "ROPE-22" in statuses(verify(made, ["rope_frequencies"]), "FAIL")
    made.refusals = False
    assert "ROPE-22" in statuses(verify(made, ["rope_frequencies"]), "NOT RUN")


# --- the report


def test_the_report_counts_every_clause_once_by_its_worst_verdict():
    report = verify(oracles, ["Inference"])
    assert sum(report.counts.values()) == len({verdict.clause for verdict in report.verdicts})
    body = json.loads(report.to_json())
    assert body["passed"] and body["counts"] == report.counts and len(body["verdicts"]) == len(report.verdicts)
    assert {verdict["status"] for verdict in body["verdicts"]} <= set(WORST_FIRST)
    margins = [
        verdict.margin for verdict in check("rms_norm", right, arrays="torch").verdicts if verdict.status == "PASS"
    ]
    assert any(0 < margin <= 1 for margin in margins if margin is not None)


def test_nothing_judged_is_not_passed():
    report = check("training.step", lambda *given, **options: None, profiles=["float16"])
    assert not report.passed and {verdict.status for verdict in report.verdicts} == {"NOT RUN"}


def test_generated_cases_are_the_same_on_every_machine():
    case = generated.cases(operation("rms_norm"), 1, 5)[0]
    assert case.id == "rms_norm/generated/heavy_rows_5"
    assert case.inputs["x"][0, 0] == generated.cases.__wrapped__(operation("rms_norm"), 1, 5)[0].inputs["x"][0, 0]
    other = generated.cases(operation("rms_norm"), 1, 6)[0]
    assert not np.array_equal(case.inputs["x"], other.inputs["x"])
    taken = [node for entry in ALL for c in generated.cases(entry, 2, 0) for node in (c.id,)]
    assert len(taken) == len(set(taken)) > 2 * len(ALL)


def test_generated_cases_are_decided_and_have_bounds_that_bite():
    for entry in ALL:
        for case in generated.cases(entry, 2, 0):
            profile = "float64" if "float64" in case.profiles else case.profiles[0]
            assert generated.telling(case, profile), case.id
            for name, expected in case.answer(profile)[0].items():
                if expected.bound is not None and np.asarray(expected.value).dtype.kind == "f":
                    finite = np.isfinite(expected.bound) & np.isfinite(expected.value)
                    ratio = np.asarray(expected.bound)[finite] / np.maximum(np.abs(expected.value[finite]), 1e-6)
                    assert np.median(ratio) < 1e-9, (case.id, name)


def test_recorded_cases_are_all_put():
    for component in {entry.component for entry in ALL}:
        recorded = {case["id"] for case in vectors.document(component)["cases"]}
        peers = [entry for entry in ALL if entry.component == component]
        put = {case.id for entry in peers for case in vectors.recorded(entry)}
        assert recorded - put == LEFT_OUT & recorded, component


LEFT_OUT: set[str] = set()  # recorded cases that no operation asks


# --- what cannot be judged is said in one line


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: check("rmsnorm", len), "there is no operation 'rmsnorm'; did you mean rms_norm?"),
        (lambda: Implementation("x", profiles=["float8"]), "profiles has 'float8' but the known ones are float64"),
        (lambda: Implementation("x", levels=["Sideways"]), "levels has 'Sideways' but the known ones are Forward"),
        (
            lambda: check("rms_norm", right, arrays="numba"),
            "arrays is 'numba' but must be one of numpy, torch, jax",
        ),
        (lambda: verify(right), "implementation is a function but must be a kit.Implementation"),
        (lambda: verify(oracles, level="slow"), "level is 'slow' but must be one of quick, full"),
        (lambda: verify(oracles, ["rms_norm"], case="rms_norm/none"), "no case 'rms_norm/none' was judged"),
        (lambda: load("nowhere"), "'nowhere' must be PKG.MODULE:NAME"),
        (lambda: load("no_such_module:impl"), "importing no_such_module raised ModuleNotFoundError"),
        (lambda: load("minimind_ref.kit.ours:nothing"), "nothing is not there but must be"),
        (lambda: load("minimind_ref.kit.ours:encode"), "encode is a function but must be"),
    ],
)
def test_a_mistake_in_the_question_is_one_line(call, said):
    with pytest.raises(UserError, match=re.escape(said)):
        call()


def test_a_library_that_is_not_installed_is_one_line():
    if "mlx" in sys.modules:
        pytest.skip("mlx is installed")
    with pytest.raises(UserError, match="arrays='mlx' needs mlx"):
        check("rms_norm", right, arrays="mlx")


def test_orders_of_precision_are_known():
    assert ORDER == ("float64", "float32", "bfloat16", "float16") and set(AGAINST) < set(WORST_FIRST)


def run(*arguments, folder=ROOT):
    command = [sys.executable, "-m", "minimind_ref.kit", *arguments]
    environment = {"PYTHONPATH": f"{ROOT}:{folder}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=120)
