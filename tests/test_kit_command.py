"""The kit from outside: the command, programs over stdin and stdout, answers in files, the pytest plugin."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from minimind_ref.errors import UserError
from minimind_ref.kit import Implementation, tensors, verify
from minimind_ref.kit.grade import grade, write_cases
from minimind_ref.kit.process import program
from minimind_ref.kit.program import DiedError, Program
from minimind_ref.kit.registry import OPERATIONS

ROOT = Path(__file__).parents[1]
RUNNER = Path(__file__).parent / "readers" / "kit_runner.py"
THEIRS = """
import numpy as np
from minimind_ref.kit import Implementation

right, wrong = Implementation("right"), Implementation("wrong", expected_failures={"RMS_NORM-6": "issue 12"})

@right.op("rms_norm")
def _(x, weight, *, eps):
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)

@right.vjp("rms_norm")
def _(x, weight, *, eps, cotangent):
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    dx = r * weight * cotangent - x * r**3 * (weight * cotangent * x).mean(-1, keepdims=True)
    return dx, (cotangent * x * r).reshape(-1, x.shape[-1]).sum(0)

@wrong.op("rms_norm")
def _(x, weight, *, eps):
    return weight * x / (np.sqrt((x * x).mean(-1, keepdims=True)) + eps)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "their_kit.py").write_text(THEIRS)
    return tmp_path


def run(folder, *arguments, module="minimind_ref.kit"):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)


def runner(fault=""):
    return shlex.join([sys.executable, str(RUNNER), *([fault] if fault else [])])


def judged(fault="", **asked):
    with program(runner(fault), None, 60.0) as (implementation, asking):
        return verify(implementation, ["rms_norm"], runner=asking, **asked)


def test_the_command_passes_what_is_right(folder):
    done = run(folder, "run", "their_kit:right", "--ops", "rms_norm", "--json", "report.json")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[-1].startswith("right: passed: 12 of 17 clauses; 1 choice, 4 not run")
    report = json.loads((folder / "report.json").read_text())
    assert report["passed"] and report["counts"]["PASS"] == 12


def test_the_command_fails_what_is_wrong_and_its_last_line_but_one_runs(folder):
    done = run(folder, "run", "their_kit:wrong", "--ops", "rms_norm")
    assert (done.returncode, done.stderr) == (1, "")
    assert "EXPECTED FAILURE  rms_norm  RMS_NORM-6  issue 12" in done.stdout
    line = re.search(r"again +python -m minimind_ref\.kit (run their_kit:wrong --case .*)$", done.stdout, re.MULTILINE)[
        1
    ]
    again = run(folder, *shlex.split(line))
    assert again.returncode == 1 and "RMS_NORM-M03, eps is added outside the root" in again.stdout
    assert len(again.stdout) < len(done.stdout)
    law = run(folder, "run", "their_kit:wrong", "--case", "rms_norm/law/scaled")
    assert law.returncode == 1 and "x·32 with eps·1024 changes the result" in law.stdout


def test_a_partial_implementation_does_not_pass(folder):
    done = run(folder, "run", "their_kit:right", "--ops", "rms_norm", "swiglu")
    assert done.returncode == 1 and "NOT IMPLEMENTED   swiglu  SWIGLU-1, -2" in done.stdout


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["run"], "run: give PKG.MODULE:IMPL or --exec COMMAND, one of the two"),
        (["run", "nowhere:impl"], "nowhere:impl: importing nowhere raised ModuleNotFoundError"),
        (
            ["run", "their_kit:other"],
            "their_kit:other: other is not there but must be a minimind_ref.kit.",
        ),
        (["run", "their_kit:right", "--ops", "rmsnorm"], "there is no operation 'rmsnorm'; did you mean rms_norm?"),
        (["run", "their_kit:right", "--case", "rms_norm/nine"], "--case rms_norm/nine: there is no such case"),
        (["run", "their_kit:right", "--levle", "full"], "unknown flag --levle"),
        (["grade", "nowhere"], "nowhere/kit.json is not there: `kit cases DIR` writes the questions and it"),
        (["run", "--exec", "no-such-program"], "--exec no-such-program: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(folder, arguments, said):
    done = run(folder, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and said in done.stderr and done.stderr.count("\n") == 1


def test_operations_are_listed_with_their_arguments(folder):
    lines = run(folder, "ops").stdout.splitlines()
    assert len(lines) == len(OPERATIONS)
    assert "Forward    rms_norm(x, weight, *, eps, cast='after') -> y" in lines
    assert "Data       bpe.train(texts, vocab_size, special_tokens) -> merges, tokens" in lines


# --- programs


def test_a_program_is_judged_with_its_gradients_in_both_precisions():
    report = judged()
    assert report.passed, str(report)
    assert report.settings["profiles"] == ("float64", "float32") and report.counts["PASS"] >= 12


@pytest.mark.parametrize(
    "fault, said",
    [
        ("dies", "died with exit status 1, saying 'out of memory'"),
        ("closes", "closed its output"),
        ("nonsense", "answered no JSON: 'y = [0.5, 0.25]'"),
        ("error", "answered the error 'no kernel for this shape'"),
        ("lacking", "its outputs lack y"),
        ("no_file", "the answer's file has no tensor 'y'"),
        ("bad_file", "is no safetensors file"),
        ("bad_values", "a tensor's values cannot be read"),
    ],
)
def test_a_program_that_misbehaves_gets_a_verdict(fault, said):
    report = judged(fault)
    assert not report.passed and said in str(report)
    again = next(verdict for verdict in report.verdicts if verdict.clause == "RMS_NORM-1").failure.reproduction
    assert again.startswith(f"python -m minimind_ref.kit run --exec {shlex.quote(runner(fault))} --case rms_norm/")


def test_a_program_that_has_no_such_argument_has_not_implemented_it():
    assert {v.status for v in judged("cannot").verdicts} == {"NOT IMPLEMENTED", "NOT RUN"}


def test_a_silent_program_gets_a_verdict():
    with program(runner("silent"), None, 60.0) as (implementation, asking):
        asking.program.seconds = 1.0  # the greeting had a minute, however busy the machine
        report = verify(implementation, ["rms_norm"], runner=asking)
    assert not report.passed and "did not answer within 1 s" in str(report)


def test_a_program_that_stops_reading_is_not_waited_for(tmp_path):
    asked = Program([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, 0.5)
    start = time.monotonic()
    with pytest.raises(DiedError, match=r"did not answer within 0\.5 s"):
        asked.exchange({"text": "more than a pipe holds" * 10000})
    asked.stop()
    assert time.monotonic() - start < 50


def test_a_package_without_vectors_says_so_in_one_line(tmp_path):
    shutil.copytree(ROOT / "minimind_ref", tmp_path / "minimind_ref")
    for arguments in (["ops"], ["run", "minimind_ref.kit.ours:oracles", "--ops", "rms_norm"]):
        done = subprocess.run(
            [sys.executable, "-m", "minimind_ref.kit", *arguments], capture_output=True, text=True,
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""},
        )  # fmt: skip
        assert done.returncode == 2 and done.stderr.startswith(f"error: golden/ and specs/ are neither in {tmp_path}")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command, said, seconds",
    [
        (["-c", "print(1)"], "answered '1', which is no object", 60.0),
        (["-c", "print('{}')"], "which has no list of ops", 60.0),
        (["-c", "import sys; sys.exit('no GPU')"], "died with exit status 1, saying 'no GPU'", 60.0),
        (["-c", "import time; time.sleep(60)"], "did not answer within 1 s", 1.0),
    ],
)
def test_a_program_that_does_not_greet_is_refused(command, said, seconds):
    asked = program(shlex.join([sys.executable, *command]), None, seconds)
    with pytest.raises(UserError, match=re.escape(said)), asked:
        pass


# --- answers in files


def test_questions_are_written_and_answers_are_graded(tmp_path):
    assert write_cases(tmp_path, ["rms_norm", "sft_mask", "training.step", "bpe.encode"], ["float64", "float32"]) > 30
    with pytest.raises(UserError, match="has no answers"):
        grade(tmp_path)
    for question in tmp_path.glob("rms_norm/*.json"):
        asked = json.loads(question.read_text())
        kept = tensors.read(question.with_name(question.name.removesuffix("json") + "safetensors"))
        x, weight = (kept[asked["inputs"][name]["tensor"]][0] for name in ("x", "weight"))
        with np.errstate(all="ignore"):
            y = OPERATIONS["rms_norm"].reference(x, weight, **asked["parameters"])
        dtype = asked["profile"]
        answer = {"outputs": {"y": {"shape": list(y.shape), "dtype": dtype, "values": [repr_of(v) for v in y.ravel()]}}}
        question.with_name(question.name.removesuffix("json") + "answer.json").write_text(json.dumps(answer))
    report = grade(tmp_path)
    assert "RMS_NORM-1" in {v.clause for v in report.verdicts if v.status == "PASS"}
    assert {v.clause for v in report.verdicts if v.status == "NOT IMPLEMENTED"} == {
        f"RMS_NORM-{n}" for n in (10, 11, 12)
    }
    assert not {v.clause for v in report.verdicts if v.status == "FAIL"}
    (tmp_path / "rms_norm" / "basic.float64.answer.json").write_text("0.5")
    assert "basic.float64.answer.json: answered '0.5', which is no object" in str(grade(tmp_path))


def repr_of(number):
    return float(number) if np.isfinite(number) else "NaN" if np.isnan(number) else "Infinity"


def test_tensors_of_every_dtype_come_back(tmp_path):
    numbers = np.array([[1.0, -0.5, 2.0**-14], [0.0, 3.0, -256.0]])
    given = {name: (numbers, name) for name in ("float64", "float32", "float16", "bfloat16")}
    given |= {
        "ids": (np.array([1, -100]), "int64"),
        "mask": (np.array([True, False]), "bool"),
        "one": (np.array(2.5), "float32"),
    }
    tensors.write(tmp_path / "x.safetensors", given)
    found = tensors.read(tmp_path / "x.safetensors")
    assert {n: dtype for n, (_, dtype) in found.items()} == {n: dtype for n, (_, dtype) in given.items()}
    assert all(np.array_equal(found[n][0], x) and found[n][0].shape == x.shape for n, (x, _) in given.items())
    theirs = load_file(tmp_path / "x.safetensors")
    assert {n: str(x.dtype).removeprefix("torch.") for n, x in theirs.items()} == {n: d for n, (_, d) in given.items()}
    assert all(np.array_equal(theirs[n].double(), x.astype(float)) for n, (x, _) in given.items())


# --- inside pytest


PLUGIN = "minimind_ref.kit.plugin"


def plugin(folder, *arguments):
    installed = any(point.value == PLUGIN for point in entry_points(group="pytest11"))  # pytest finds it by itself then
    named = [] if installed else ["-p", PLUGIN]
    return run(folder, *named, "-p", "no:cacheprovider", *arguments, module="pytest")


def test_the_plugin_has_an_item_for_each_clause(folder):
    (folder / "test_theirs.py").write_text("def test_theirs():\n    pass\n")
    done = plugin(folder, "--minimind-impl", "their_kit:wrong", "--minimind-ops", "rms_norm", "-v")
    assert done.returncode == 1
    assert "test_theirs.py::test_theirs PASSED" in done.stdout
    assert "rms_norm[RMS_NORM-3] PASSED" in done.stdout and "rms_norm[RMS_NORM-13] SKIPPED" in done.stdout
    assert "rms_norm[RMS_NORM-6] XFAIL" in done.stdout and "rms_norm[RMS_NORM-1] FAILED" in done.stdout
    assert "looks like  RMS_NORM-M03, eps is added outside the root" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_plugin_works_with_pyargs_and_says_what_it_does_not_find(folder):
    done = plugin(
        folder, "--minimind-impl", "their_kit:right", "--minimind-ops", "rms_norm", "--pyargs", "minimind_ref.kit", "-q"
    )
    assert done.returncode == 0 and re.search(r"12 passed, 5 skipped", done.stdout)
    missing = plugin(folder, "--minimind-impl", "their_kit:nothing")
    assert missing.returncode == 4 and "--minimind-impl: their_kit:nothing: nothing is not there" in missing.stderr
    unknown = plugin(folder, "--minimind-impl", "their_kit:right", "--minimind-ops", "rmsnorm")
    assert unknown.returncode == 4 and "did you mean rms_norm?" in unknown.stderr


def test_the_plugin_costs_nothing_where_it_is_not_asked():
    code = "import sys, minimind_ref.kit.plugin; print(*sorted(m for m in sys.modules if m.startswith('minimind_ref')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["minimind_ref", "minimind_ref.kit", "minimind_ref.kit.plugin"]


def test_the_entry_point_is_the_plugin():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points.pytest11]\nminimind_ref = "minimind_ref.kit.plugin"' in project


def test_an_implementation_by_name_has_its_own_line_to_run_again(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    made = Implementation("mine", levels=["Forward"])
    made.op("rms_norm", lambda x, weight, *, eps: x)
    text = str(verify(made, ["rms_norm"]))
    assert re.search(r"again +print\(verify\(implementation, \['rms_norm'\], case='rms_norm/", text)
