"""The golden machinery: what it records is checked, what is wrong is refused, and another language can read it."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jaxtyping
import numpy as np
import pytest
import torch
from arrays import STRUCTURES, draw
from safetensors.numpy import load_file, save_file

import minimind_ref.model.rms_norm as torch_face
import minimind_ref.oracle.block as block_oracle
import minimind_ref.oracle.rms_norm as oracle
from minimind_ref.config import ModelConfig
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.golden import chats, faces, files, networks, safetensors, texts, trajectories
from minimind_ref.golden.__main__ import main
from minimind_ref.golden.agreement import close, within
from minimind_ref.golden.compute import compute
from minimind_ref.golden.folder import Folder
from minimind_ref.golden.generator import words
from minimind_ref.golden.kills import judged, kills, stored_numbers
from minimind_ref.golden.record import digest, distance
from minimind_ref.golden.trees import GoldenError, leaves, named, settled
from minimind_ref.model.block import Block
from minimind_ref.oracle.bounded import PROFILES, Bounded, decide_top, store, value
from minimind_ref.oracle.bounded import bound as bound_of
from minimind_ref.oracle.training import TrainingState

ROOT = Path(__file__).parents[1]
READER = ROOT / "tests" / "readers" / "rms_norm.mjs"
AUTHORED = ("id", "op", "clauses", "why", "flags", "profiles", "parameters", "inputs", "outputs", "gradients")


def authored(case):
    """Strip a recorded case down to what its author wrote."""
    kept = {key: case[key] for key in AUTHORED if key in case}
    if "gradients" in kept:
        kept["gradients"] = {"cotangent": kept["gradients"]["cotangent"]}
    return kept


def repository(root):
    """Lay out a repository with two unrecorded cases of rms_norm."""
    (root / "golden").mkdir()
    (root / "specs").mkdir()
    shutil.copy(ROOT / "specs" / "rms_norm.md", root / "specs")
    document = read(ROOT)
    by_id = {case["id"].partition("/")[2]: authored(case) for case in document["cases"]}
    first = {**by_id["eps_dominates"], "profiles": ["float64", "float32", "bfloat16"]}
    second = {**by_id["no_eps_zero_row"], "profiles": ["float64"]}
    write(root, {**document, "cases": [first, second]})
    return root


@pytest.fixture
def root(tmp_path):
    return repository(tmp_path)


@pytest.fixture(scope="module")
def recorded_once(tmp_path_factory):
    root = repository(tmp_path_factory.mktemp("recorded"))
    assert run(root, "regen", "--reason", "first") == 0
    return root


@pytest.fixture
def recorded(recorded_once, tmp_path):
    return shutil.copytree(recorded_once, tmp_path / "copy")


def run(root, command, *options):
    return main([command, "--root", str(root), *options])


def read(root, name="rms_norm"):
    return json.loads((root / "golden" / f"{name}.json").read_text(encoding="utf-8"))


def write(root, document, name="rms_norm"):
    (root / "golden" / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")


def stored_tensors(name):
    path = Folder().file(name).with_suffix(".safetensors")
    return safetensors.read(path) if path.exists() else {}


def cases_with_tensors(name):
    tensors = stored_tensors(name)
    return [{**case, "inputs": files.attach(case["inputs"], tensors)} for case in read(ROOT, name)["cases"]]


def contents(root):
    return {path.name: path.read_bytes() for path in (root / "golden").iterdir()}


# ---- what is in the repository ----


LONG = ("attention", "block", "grpo", "training", "transformer")  # `golden check`, which the gate runs too, has them


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in Folder().names()]
)
def test_recorded_vectors_are_what_the_oracle_computes_here(name, capsys, monkeypatch):
    if name == "training":  # types are checked in each part's own tests; here that is most of a minute
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    status = main(["check", name])
    assert status == 0, capsys.readouterr()


@pytest.fixture
def untyped(monkeypatch):
    """Types are checked in each part's own tests; here that would take most of the time."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("name", Folder().names())
def test_recorded_vectors_are_what_the_definition_and_the_torch_face_give(name, untyped):
    """`check` asks the oracle alone.  Rounding 50 digits gives the recorded bits; torch is judged as a reader would."""
    tensors = stored_tensors(name)
    for case in cases_with_tensors(name):
        exact = faces.exact_outputs(name, case, files.build(case["inputs"]), ROOT / "specs")
        assert case["computed_by"] == ("oracle" if exact is None else "definition")
        for n, y in (exact or {}).items():
            node = case["expected"][n]
            given, bound = (node["json"], None) if "json" in node else (stored_numbers(node, tensors), np.array(0.0))
            within(f"{case['id']}: the definition's {n}", y, given, bound)
        if found := faces.run_torch(name, case):
            assert judged(case, found, "float64", tensors) is None


ADAPTED = ("block", "chat_template", "tokenizer", "transformer")  # their mutants take a case's inputs otherwise
NARROW = ("attention", "grad_clip", "rms_norm", "swiglu")  # have mutants that a narrow profile shows


@pytest.mark.parametrize("name", [*ADAPTED, *NARROW])
def test_a_case_names_the_mutants_that_it_rejects(name, untyped):
    alike = ("transformer/padding_counted", "transformer/packed")  # as transformer/padding, and take as long
    cases = [case for case in read(ROOT, name)["cases"] if case["id"] not in alike]
    assert kills(name, cases, stored_tensors(name)) == {case["id"]: case.get("kills", []) for case in cases}


def test_a_result_is_judged_by_its_bound_times_a_factor_and_a_gradient_is_called_one():
    node = {"values": [1.0, 2.0], "shape": [2], "dtype": "float"}
    part = {"expected": {"y": node}, "bound": {"float64": {"y": [0.0, 0.5]}}}
    case, off = part | {"id": "sum/one", "gradients": part}, {"y": np.array([1.0, 3.0])}
    said = "sum/one in float64: {}y[1] is 3.0 but 2.0 ± 0.5 is expected"
    assert judged(case, (off, {}), "float64", {}) == judged(case, (off, off), "float64", {}) == said.format("")
    assert judged(case, ({}, off), "float64", {}) == said.format("gradient of ")
    for y, accepted in ((2.5, True), (np.nextafter(2.5, 3), False)):
        assert (judged(case, ({"y": np.array([1.0, y])}, {}), "float64", {}) is None) == accepted
    assert judged(case, (off, off), "float64", {}, factor=2.0) is None
    assert "± 0.75" in (judged(case, (off, off), "float64", {}, factor=1.5) or "")


@pytest.mark.parametrize("name", ["adamw", "manifest", "packing", "tokenizer"])
def test_recorded_files_are_laid_out_as_regen_writes_them(name):
    text = Folder().file(name).read_text(encoding="utf-8")
    assert files.render(json.loads(text)) + "\n" == text


def test_the_manifest_pins_every_file_and_what_every_case_expects():
    manifest = read(ROOT, "manifest")["files"]
    for name in Folder().names():
        assert manifest[name]["sha256"] == Folder().hashes(name)
        tensors = stored_tensors(name)
        assert manifest[name]["cases"] == {case["id"]: digest(case, tensors) for case in read(ROOT, name)["cases"]}


# ---- regen, check, diff ----


def test_regen_fills_check_accepts_and_nothing_moves_the_second_time(root, capsys):
    assert run(root, "check") == 1 and "is a required property" in capsys.readouterr().err
    assert run(root, "diff") == 1
    foreseen = capsys.readouterr().out.splitlines()
    assert foreseen[:2] == [f"regen would change: rms_norm/{n} is new" for n in ("eps_dominates", "no_eps_zero_row")]
    assert [re.sub("RMS_NORM-M.*", "…", line) for line in foreseen[2:]] == [
        "regen would change: rms_norm/eps_dominates kills …",
        "regen would change: rms_norm/no_eps_zero_row kills …",
        "golden diff: rms_norm: 4 changes",
    ]
    assert run(root, "regen", "--reason", "first") == 0
    done = capsys.readouterr().out.splitlines()
    assert done[:-1] == [line.removeprefix("regen would change: ") for line in foreseen[:-1]]
    assert done[-1] == "golden regen: rms_norm: 2 cases recorded"
    after, started = contents(root), {key: x for key, x in read(root, "manifest").items() if key != "files"}
    assert started == {key: x for key, x in read(ROOT, "manifest").items() if key != "files"}
    assert run(root, "check") == run(root, "diff") == run(root, "regen", "--reason", "again") == 0
    said = ("check: rms_norm: 2 cases are good", "diff: rms_norm: no change", "regen: rms_norm: no change")
    assert capsys.readouterr().out.splitlines() == [f"golden {line}" for line in said]
    assert contents(root) == after and read(root, "manifest")["files"]["rms_norm"]["reasons"] == ["first"]


def test_expected_values_are_the_definitions_correctly_rounded(recorded):
    case = read(recorded)["cases"][0]
    x, weight = (np.array(case["inputs"][n]["values"]).reshape(case["inputs"][n]["shape"]) for n in ("x", "weight"))
    exact = (
        np.array(weight, np.longdouble) * x / np.sqrt((np.array(x, np.longdouble) ** 2).mean(-1, keepdims=True) + 1e-6)
    )
    assert case["computed_by"] == "definition"
    assert np.array_equal(case["expected"]["y"]["values"], exact.astype(np.float64).ravel())


def test_a_low_precision_profile_expects_the_result_of_the_rounded_inputs(recorded):
    case = read(recorded)["cases"][0]
    x, weight = (torch.tensor(files.from_recipe(case["inputs"][n])) for n in ("x", "weight"))
    exact = torch_face.rms_norm(x.bfloat16().double(), weight.bfloat16().double(), eps=1e-6).numpy().ravel()
    given, bound = np.array(case["rounded"]["bfloat16"]["y"]["values"]), np.array(case["bound"]["bfloat16"]["y"])
    assert (np.abs(given - exact) < bound / 1e6).all() and (given != np.array(case["expected"]["y"]["values"])).all()
    assert "float32" not in case["rounded"]


def test_not_a_number_is_spelt_out(recorded):
    case = read(recorded)["cases"][1]
    assert case["expected"]["y"]["values"][:3] == ["NaN"] * 3 and case["bound"]["float64"]["y"][:3] == [0.0] * 3


def expected(case):
    case["expected"]["y"]["values"][0] *= 1 + 1e-12


def bound(case):
    case["bound"]["bfloat16"]["y"][1] *= 1.05


def gradient(case):
    case["gradients"]["expected"]["weight"]["values"][2] += 1e-9


def rounded(case):
    case["rounded"]["bfloat16"]["y"]["values"][0] *= 1 + 1e-9


def seed(case):
    case["inputs"]["x"]["recipe"]["seed"] = 7


def stored_input(case):
    case["inputs"]["x"]["values"][3] = 2.5


def two_seeds(case):
    case["inputs"]["x"]["recipe"]["seed"] = case["inputs"]["weight"]["recipe"]["seed"]


def clause(case):
    case["clauses"].append("RMS_NORM-999")


def flag(case):
    case["flags"].append("OTHER")


def shape(case):
    case["expected"]["y"]["shape"] = [5, 2]


def another_name(name):
    def edit(case):
        case["id"] = name

    return edit


def lost(case):
    del case["expected"]["y"]


def lost_bound(case):
    del case["bound"]["float32"]["y"]


def left_over(case):
    case["expected"]["z"] = case["expected"]["y"]


def fewer_bounds(case):
    case["bound"]["float64"]["y"] = [0.0]


def fewer_values(case):
    case["expected"]["y"]["values"].pop()


def another_operation(case):
    case["op"] = "rms"


def another_output(case):
    case["outputs"].append("z")


def left_over_bound(case):
    case["profiles"].remove("bfloat16")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (expected, "float64/y moves by"),
        (bound, "bound/bfloat16/y is 0.952 to 1 times what it was"),
        (gradient, "gradients/float64/weight moves by"),
        (rounded, "bfloat16/y moves by"),
        (seed, "the recipe's 0.x is"),
        (stored_input, r"the recipe's 0.x is .* but 2.5 ± 0 is expected"),
        (two_seeds, "is used 2 times"),
        (clause, "has no clause RMS_NORM-999"),
        (flag, "'OTHER' is not one of"),
        (shape, r"from shape \[5, 2\]"),
        (another_name("rms_norm/no_eps_zero_row"), "id rms_norm/no_eps_zero_row is used 2 times"),
        (another_name("rope/eps_dominates"), "id rope/eps_dominates must begin with rms_norm/"),
        (lost, "rms_norm/eps_dominates/float64/y is new"),
        (lost_bound, "rms_norm/eps_dominates/bound/float32/y is new"),
        (left_over, "rms_norm/eps_dominates/float64/z is gone"),
        (fewer_bounds, r"bound/float64/y has \d+ entries instead of 1"),
        (fewer_values, r"rms_norm cannot be run on it: values has \d+ entries but shape is \[\d, \d\]"),
        (another_operation, "the oracle has no rms_norm.rms"),
        (another_output, "there are 1 results where y, z are expected"),
        (left_over_bound, "rms_norm/eps_dominates/bound/bfloat16/y is gone"),
    ],
)
def test_check_finds(recorded, capsys, edit, message):
    document = read(recorded)
    edit(document["cases"][0])
    write(recorded, document)
    before = contents(recorded)
    assert run(recorded, "check") == 1
    printed = capsys.readouterr()
    assert re.search(message, printed.out + printed.err)
    assert contents(recorded) == before


def test_check_finds_a_missing_file_and_an_unlisted_one(recorded, capsys):
    document = read(recorded)
    (recorded / "golden" / "rms_norm.json").rename(recorded / "golden" / "kept")
    assert run(recorded, "check") == 1 and "golden/rms_norm.json is missing" in capsys.readouterr().err
    manifest = read(recorded, "manifest")
    manifest["files"]["rms_norm"]["spec_version"] = 7
    write(recorded, manifest, "manifest")
    write(recorded, document)
    assert run(recorded, "check") == 1 and "spec_version is 1 but the manifest has 7" in capsys.readouterr().out
    (recorded / "golden" / "manifest.json").unlink()
    assert run(recorded, "check") == 1 and "the manifest does not list it" in capsys.readouterr().out


def test_check_finds_an_edit_of_the_layout_by_its_hash(recorded, capsys):
    path = recorded / "golden" / "rms_norm.json"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert run(recorded, "check") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["golden check: rms_norm: 1 problems"] and "the manifest has other hashes" in lines[0]


def test_an_empty_folder_is_a_failure(tmp_path, capsys):
    assert run(tmp_path, "check") == 1 and "holds no vectors" in capsys.readouterr().err


def test_diff_names_what_a_case_kills_and_regen_orders_the_manifest(recorded, capsys):
    document, manifest = read(recorded), read(recorded, "manifest")
    first, second = document["cases"]
    rejected, first["kills"] = first["kills"], ["RMS_NORM-M02"]
    second |= {"parameters": {"eps": 1e-6}, "clauses": second["clauses"]}
    write(recorded, document)
    assert run(recorded, "diff") == 1
    assert f"regen would change: rms_norm/eps_dominates kills {', '.join(rejected)}\n" in capsys.readouterr().out
    write(recorded, {**manifest, "files": {"zeta": manifest["files"]["rms_norm"], "alpha": {}}}, "manifest")
    assert run(recorded, "regen", "rms_norm", "--reason", "order") == 0
    assert list(read(recorded, "manifest")["files"]) == ["alpha", "rms_norm", "zeta"]


# ---- the program that writes the cases of training ----


def as_recorded(case):
    return {**case, "inputs": files.with_values(case["inputs"])}


def test_trajectories_writes_the_recorded_cases_and_states_that_the_step_before_expects(tmp_path, monkeypatch, untyped):
    """Of the fifty steps two are run: only their states are near enough to the recorded ones on every machine."""
    folder = Folder(tmp_path)
    given = {case["id"]: case for case in read(ROOT, "training")["cases"] if "_step_" in case["id"]}
    assert list(given) == [f"training/{n}_step_{i}" for n in trajectories.CONFIGS for i in trajectories.RECORDED]
    monkeypatch.setattr(trajectories, "Folder", lambda: folder)
    monkeypatch.setattr(trajectories, "RECORDED", (0, 0, 1))  # the last one ends the run
    folder.golden.mkdir()
    shutil.copytree(ROOT / "specs", folder.specs)
    trajectories.main()
    document = folder.load("training", complete=False)
    assert document["spec_version"] == read(ROOT, "training")["spec_version"]
    assert [as_recorded(case) for case in document["cases"]] == [
        authored(given[i]) for i in given if i[-2:] in ("_0", "_1")
    ]
    for first, second in (document["cases"][:2], document["cases"][2:]):
        states = files.build(second["inputs"])["state"]
        results = {n: y for n, y in leaves(states) if n != "step"}
        assert judged(given[first["id"]], (results, {}), "float64", stored_tensors("training")) is None


def test_trajectories_writes_a_stored_state_as_it_is_recorded():
    written = {}
    for case in cases_with_tensors("training"):
        if "_step_" not in case["id"]:
            continue
        state, config = TrainingState(**files.build(case["inputs"]["state"])), case["parameters"]["config"]
        recipes = {} if state.step else trajectories.start(ModelConfig(**config))
        assert as_recorded(trajectories.case(case["id"], state, recipes, config, written)) == authored(
            as_recorded(case)
        )
    stored = {n: x for n, x in stored_tensors("training").items() if "/inputs/" in n}
    assert written.keys() == stored.keys() and all(np.array_equal(x, stored[n]) for n, x in written.items())


# ---- what regen refuses ----


def test_regen_refuses_a_changed_output_until_spec_version_is_raised(recorded, capsys):
    document = read(recorded)
    document["cases"][0]["parameters"]["eps"] = 2e-6
    write(recorded, document)
    before = contents(recorded)
    assert run(recorded, "regen", "--reason", "eps") == 1 and contents(recorded) == before
    assert "rms_norm/eps_dominates expects something else: raise spec_version" in capsys.readouterr().err
    deleted = {**document, "cases": [authored(case) for case in document["cases"]]}
    write(recorded, deleted)  # deleting what was recorded is no way around it
    assert run(recorded, "regen", "--reason", "eps") == 1
    document["spec_version"] = 2
    document["cases"][1]["computed_by"] = "oracle"
    write(recorded, document)
    capsys.readouterr()
    assert run(recorded, "regen", "--reason", "another eps") == 0
    assert "rms_norm/eps_dominates/gradients/float64/x moves by" in capsys.readouterr().out
    assert [case["computed_by"] for case in read(recorded)["cases"]] == ["definition", "definition"]
    assert run(recorded, "check") == 0
    assert read(recorded, "manifest")["files"]["rms_norm"]["reasons"] == ["first", "another eps"]


def test_who_computed_a_value_is_recorded_anew_only_where_the_value_is(recorded):
    path = recorded / "golden" / "rms_norm.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"definition"', '"oracle"'), encoding="utf-8")
    assert run(recorded, "diff") == 0
    (recorded / "golden" / "manifest.json").unlink()
    document = read(recorded)
    expected(document["cases"][0])
    write(recorded, document)
    assert run(recorded, "regen", "--reason", "a value repaired") == 0
    assert [case["computed_by"] for case in read(recorded)["cases"]] == ["definition", "oracle"]


def test_a_distance_is_that_of_the_numbers_among_non_numbers():
    old = np.array([np.nan, 1.0, np.inf])
    assert distance(old, np.array([np.nan, 1 + 3 * 2.0**-52, np.inf])) == "by 3 ulp"
    assert distance(old[:1], np.array([1.0])) == "between a number and a non-number"


def test_regen_refuses_to_lose_a_case_and_accepts_a_new_one(recorded, capsys):
    document = read(recorded)
    first, second = document["cases"]
    write(recorded, {**document, "cases": [second]})
    assert run(recorded, "regen", "--reason", "fewer") == 1 and "eps_dominates is gone" in capsys.readouterr().err
    third = {**authored(first), "id": "rms_norm/other", "parameters": {"eps": 1e-3}}
    write(recorded, {**document, "cases": [first, second, third]})
    assert run(recorded, "regen", "--reason", "one more") == 0
    assert read(recorded)["cases"][:2] == [first, second]


def slightly(function):
    def changed(*arguments, **options):
        return function(*arguments, **{**options, "eps": options["eps"] * (1 + 1e-9)})

    return changed


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (oracle, "rms_norm", "oracle's y is"),
        (oracle, "rms_norm_vjp", "gradient of x is|slope along x is"),
        (torch_face, "rms_norm", "torch's y is"),
    ],
)
def test_regen_refuses_where_a_face_is_outside_the_bound(root, capsys, monkeypatch, module, name, message):
    monkeypatch.setattr(module, name, slightly(getattr(module, name)))
    before = contents(root)
    assert run(root, "regen", "--reason", "wrong") == 1 and contents(root) == before
    assert re.search(f"rms_norm/eps_dominates: .*({message})", capsys.readouterr().err)


def test_regen_refuses_a_gradient_that_is_not_the_definitions_slope(root, capsys, monkeypatch):
    monkeypatch.setattr(oracle, "rms_norm_vjp", slightly(oracle.rms_norm_vjp))
    monkeypatch.setattr("minimind_ref.golden.faces.torch_face", lambda component, name: None)
    assert run(root, "regen", "--reason", "wrong") == 1
    assert re.search(r"the definition's slope along x is \S+ at \[\] but 0.0 ± ", capsys.readouterr().err)


def test_a_detached_input_has_a_gradient_that_is_no_slope():
    """The reference's is 0 by decree; only a case that says so is recorded."""
    case = next(case for case in Folder().load("dpo", complete=True)["cases"] if case["id"] == "dpo/basic")
    _, gradients = compute("dpo", case, ROOT / "specs", full=True)
    assert not gradients.expected["float64"]["reference_chosen"].any()
    silent = {**case, "gradients": {n: x for n, x in case["gradients"].items() if n != "detached"}}
    with pytest.raises(GoldenError, match="the definition's slope along reference_chosen is"):
        compute("dpo", silent, ROOT / "specs", full=True)


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        (1e-6, r"eps_dominates: rms_norm cannot be run on it: Mismatch in shape: grad_output"),
        (0.0, r"no_eps_zero_row: torch's y has shape \(1, \d\) but \(\d, \d\) is expected"),
    ],
)
def test_a_face_that_gives_another_shape_is_refused(recorded, capsys, monkeypatch, eps, message):
    """By diff too, which runs all faces; with gradients, torch itself refuses the cotangent."""
    face = torch_face.rms_norm
    wrong = {eps: slice(1)}
    monkeypatch.setattr(torch_face, "rms_norm", lambda x, weight, *, eps: face(x, weight, eps=eps)[wrong.get(eps, ...)])
    assert run(recorded, "diff") == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("actual", "good"), [(1.5, True), (2.5, True), (1.4375, False), (np.nan, False), (np.inf, False)]
)
def test_a_bound_is_reached_but_not_passed_and_nan_is_near_nothing(actual, good):
    assert close(np.array(actual), np.array(2.0), np.array(0.5)) == close(
        np.array(2.0), np.array(actual), np.array(0.5)
    )
    assert close(np.array(actual), np.array(2.0), np.array(0.5)) == good
    assert close(np.array(actual), np.array(actual), np.array(0.0))


def test_bad_input_has_status_2_and_one_line(recorded, capsys, monkeypatch):
    (recorded / "golden" / "rms_norm.json").write_text('{\n"component": \n}', encoding="utf-8")
    assert run(recorded, "regen", "--reason", "broken") == 2
    assert capsys.readouterr().err == "golden regen: golden/rms_norm.json:3: Expecting value\n"
    assert run(recorded, "diff", "rope") == 2 and "golden/rope.json does not exist" in capsys.readouterr().err
    assert run(recorded, "regen", "--reason", " ") == 2 and "--reason is empty" in capsys.readouterr().err
    for arguments, mentioned in (
        (["regen"], "--reason"),
        (["improve"], "'improve'"),
        (["check", "--rot", "x"], "--rot"),
        ([], "check|diff|regen"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert mentioned in error and error.count("\n") == 1
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    write(recorded, {})
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert run(recorded, "check") == 2
    assert capsys.readouterr().err == "golden check: needs jsonschema (pip install -e '.[test]')\n"


# ---- structures beyond one array in, one array out ----


class Pair(NamedTuple):
    mean: np.ndarray
    step: int


def pick(x, tables, pair: Pair, *, offset=None, suffix):
    index = decide_top(x, 1)[..., 0]
    total = tables[0] * x + tables[1] + pair.mean * pair.step
    return store(total if offset is None else total + offset), index, f"top{suffix}"


def pick_vjp(x, tables, pair: Pair, *, offset=None, suffix, cotangent):
    return store(tables[0] * cotangent), (store(x * cotangent), cotangent), None, cotangent


def tensor(seed, **recipe):
    return {"shape": [3], "dtype": "float", "recipe": {"structure": "normal", "seed": seed, **recipe}}


@pytest.fixture
def pick_root(tmp_path, monkeypatch):
    module = ModuleType("minimind_ref.oracle.pick")
    module.pick, module.pick_vjp = pick, pick_vjp
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / "golden").mkdir()
    (tmp_path / "specs").mkdir()
    block = "```python definition\ndef other(x):\n    return x\n```"
    (tmp_path / "specs" / "pick.md").write_text(f"{block}\n\n- **PICK-1** (MUST) It picks.\n", encoding="utf-8")
    case = {
        "id": "pick/basic", "op": "pick", "clauses": ["PICK-1"], "why": "Every kind of input and output at once.",
        "flags": ["BASIC"], "parameters": {"suffix": "!"}, "outputs": ["y", "index", "name"],
        "inputs": {
            "x": tensor(1), "tables": [tensor(2), {"shape": [3], "dtype": "float", "values": [1.0, -2.0, "-Infinity"]}],
            "pair": {"mean": tensor(3), "step": 5}, "offset": tensor(4),
        },
        "gradients": {"cotangent": {"y": tensor(5)}, "of": ["x", "tables.0", "tables.1", "offset"]},
    }  # fmt: skip
    write(tmp_path, {"component": "pick", "spec_version": 1, "cases": [case]}, "pick")
    return tmp_path


def test_trees_of_inputs_exact_outputs_and_an_operation_without_definition(pick_root):
    assert run(pick_root, "regen", "--reason", "first") == 0 and run(pick_root, "check") == 0
    case = read(pick_root, "pick")["cases"][0]
    assert case["computed_by"] == "oracle" and case["expected"]["name"] == {"json": "top!"}
    assert case["expected"]["index"]["dtype"] == "int64" and "index" not in case["bound"]["float64"]
    assert case["expected"]["y"]["values"][2] == "-Infinity"
    assert list(case["gradients"]["expected"]) == ["x", "tables.0", "tables.1", "offset"]
    small = [node for _, node in files.nodes([case["inputs"], case["gradients"]["cotangent"]]) if "recipe" in node]
    assert len(small) == 5 and all(node["values"] == files.from_recipe(node).tolist() for node in small)


@wraps(pick)
def nudged(*given, **named):
    """Be off by one unit in the last place of y, where it is finite."""
    y, *rest = pick(*given, **named)
    return Bounded(
        np.where(np.isfinite(value(y)), np.nextafter(value(y), 0.0), value(y)), bound_of(y), y.profile
    ), *rest


def test_a_value_inside_its_bound_stays_until_spec_version_is_raised(pick_root, capsys, monkeypatch):
    assert run(pick_root, "regen", "--reason", "first") == 0
    before = read(pick_root, "pick")
    monkeypatch.setattr(sys.modules["minimind_ref.oracle.pick"], "pick", nudged)
    assert run(pick_root, "check") == run(pick_root, "diff") == run(pick_root, "regen", "--reason", "again") == 0
    assert read(pick_root, "pick") == before
    laid_out = files.render({**before, "spec_version": 2}) + "\n"
    (pick_root / "golden" / "pick.json").write_text(laid_out, encoding="utf-8")
    capsys.readouterr()
    assert run(pick_root, "diff") == 1
    assert capsys.readouterr().out.splitlines()[0] == "regen would change: the layout or a stored input"
    assert run(pick_root, "regen", "--reason", "afresh") == 0
    (old,), (new,) = before["cases"], read(pick_root, "pick")["cases"]
    assert old["expected"]["y"]["values"][2] == new["expected"]["y"]["values"][2] == "-Infinity"
    assert old["expected"]["y"]["values"][:2] != new["expected"]["y"]["values"][:2]


def test_an_undecided_result_is_refused_with_its_profile(pick_root, capsys):
    document = read(pick_root, "pick")
    document["cases"][0]["inputs"]["x"] = {"shape": [3], "dtype": "float", "values": [1.0, 1.0, 0.0]}
    write(pick_root, document, "pick")
    assert run(pick_root, "regen", "--reason", "tie") == 1
    assert "pick/basic: index is undecided in float64" in capsys.readouterr().err
    values = [1.0, 1.0, 0.0, 2.0, 1.0, 0.0]  # the second row is decided
    document["cases"][0]["inputs"]["x"] = {"shape": [2, 3], "dtype": "float", "values": values}
    write(pick_root, document, "pick")
    assert run(pick_root, "regen", "--reason", "one tie") == 1
    assert "pick/basic: index is undecided in float64" in capsys.readouterr().err


def test_large_tensors_go_to_safetensors_and_come_back(pick_root, monkeypatch, capsys):
    monkeypatch.setattr(files, "LARGEST_IN_JSON", 2)
    assert run(pick_root, "regen", "--reason", "first") == 0
    case = read(pick_root, "pick")["cases"][0]
    name = case["expected"]["y"]["tensor"]
    assert np.isneginf(load_file(pick_root / "golden" / "pick.safetensors")[name][2])
    assert run(pick_root, "check") == run(pick_root, "diff") == 0
    beside = pick_root / "golden" / "pick.safetensors"
    beside.rename(pick_root / "kept")
    assert run(pick_root, "check") == 1 and "golden/pick.safetensors is missing" in capsys.readouterr().err
    (pick_root / "kept").rename(beside)
    monkeypatch.setattr(files, "LARGEST_IN_JSON", 3)
    assert run(pick_root, "regen", "--reason", "small again") == run(pick_root, "check") == 0 and not beside.exists()


def test_a_stored_input_comes_from_the_safetensors_file_and_stays_there(pick_root, capsys):
    document, path = read(pick_root, "pick"), pick_root / "golden" / "pick.safetensors"
    x = np.array([0.5, 1 / 3, -0.25])
    node = {"shape": [3], "dtype": "float", "tensor": "stored/x"}
    document["cases"][0]["inputs"] |= {"x": node, "tables": [{**node, "tensor": "stored/table"}, tensor(2)]}
    table = np.array([1.0, 3.0, -2.0])
    safetensors.write(path, {"stored/x": x, "stored/table": table})
    write(pick_root, document, "pick")
    assert run(pick_root, "regen", "--reason", "first") == run(pick_root, "check") == run(pick_root, "diff") == 0
    case = read(pick_root, "pick")["cases"][0]
    assert case["inputs"]["x"] == node and case["inputs"]["tables"][0] == {**node, "tensor": "stored/table"}
    assert np.array_equal(safetensors.read(path)["stored/x"], x)
    safetensors.write(path, {"stored/x": x * (1 + 2.0**-40), "stored/table": table})
    assert run(pick_root, "check") == 1 and "float64/y moves by" in capsys.readouterr().out
    safetensors.write(path, {"other": x})
    assert run(pick_root, "check") == 1 and "it has no tensor 'stored/x'" in capsys.readouterr().err


# ---- text ----


@pytest.fixture
def text_root(tmp_path):
    """Two unrecorded cases of the tokenizer: ids and text."""
    for folder in ("golden", "specs"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "specs" / "tokenizer.md", tmp_path / "specs")
    document = read(ROOT, "tokenizer")
    chosen = [authored(case) for case in document["cases"] if case["id"] in ("tokenizer/leftmost", "tokenizer/decode")]
    write(tmp_path, {**document, "cases": chosen}, "tokenizer")
    return tmp_path


def test_text_is_recorded_by_the_definition_and_is_equal_or_wrong(text_root, capsys):
    assert run(text_root, "regen", "--reason", "first") == run(text_root, "check") == 0
    document = read(text_root, "tokenizer")
    ids, text = document["cases"]
    assert ids["computed_by"] == text["computed_by"] == "definition"
    assert ids["expected"]["ids"] == {"json": [260, 67, 223, 260, 259, 67]} and ids["bound"]["float16"] == {}
    assert text["expected"]["text"] == {"json": "low 中lower"}
    text["expected"]["text"] = {"json": "low 中 lower"}
    write(text_root, document, "tokenizer")
    capsys.readouterr()
    assert run(text_root, "check") == 1 and "float64/text is 'low 中lower'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("face", "message"),
    [
        ("oracle", "oracle's ids is [67, 259, 260, 223, 67, 260] but array([260, "),
        ("torch", "torch's ids is [67, 259, 260, 223, 67, 260] but [260, 67, 223, 260, 259, 67] is expected"),
        ("definition", "oracle's ids is [260, 67, 223, 260, 259, 67] but array([ 67, "),
    ],
)
def test_text_that_a_face_gives_otherwise_is_refused(text_root, capsys, monkeypatch, face, message):
    name = f"{face}_encode"
    run_face = getattr(texts, name)
    monkeypatch.setattr(texts, name, lambda *given, **named: run_face(*given, **named)[::-1])
    assert run(text_root, "regen", "--reason", "wrong") == 1
    assert message in capsys.readouterr().err


def test_the_chat_templates_definition_gets_tools_and_arguments_as_json():
    calls = [{"function": {"name": "f", "arguments": {"city": "東京"}}}, {"name": "g", "arguments": "{}"}]
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "tool_calls": calls}]
    said, tools = chats.as_json(messages, [{"name": "f", "in": "東京"}])
    written = [{"name": "f", "arguments": '{"city": "東京"}'}, {"name": "g", "arguments": "{}"}]
    assert said == [messages[0], {**messages[1], "tool_calls": written}] and tools == ['{"name": "f", "in": "東京"}']
    assert chats.as_json(messages[:1], None) == (messages[:1], [])


def test_the_products_split_begins_with_no_space_of_its_own():
    assert texts.torch_split("'s low") == texts.oracle_split("'s low") == ["'s", " low"]


def test_the_product_learns_with_its_own_special_tokens_only():
    case = next(case for case in read(ROOT, "tokenizer")["cases"] if case["op"] == "train")
    given = files.build(case["inputs"]) | case["parameters"] | {"special_tokens": ["<a>"]}
    with pytest.raises(GoldenError, match=r"the product's special tokens are not \['<a>'\]"):
        texts.torch_train(**given)


def test_a_tokenizer_file_must_have_its_hash(text_root, capsys):
    document = read(text_root, "tokenizer")
    file = {"file": "minimind_ref/data/tokenizer.json", "sha256": 64 * "0"}
    document["cases"][0]["inputs"]["tokenizer"] = {"json": file}
    write(text_root, document, "tokenizer")
    assert run(text_root, "regen", "--reason", "hash") == 1
    assert f"has the sha256 {Tokenizer.load().fingerprint} but 000" in capsys.readouterr().err


# ---- networks ----


@pytest.fixture
def block_root(tmp_path):
    """One unrecorded case of the block, with the specs that its definition is composed of."""
    (tmp_path / "golden").mkdir()
    shutil.copytree(ROOT / "specs", tmp_path / "specs")
    document = read(ROOT, "block")
    case = next(case for case in document["cases"] if case["id"] == "block/after_a_cache")
    kept = {**authored(case), "profiles": ["float64"]}
    kept["gradients"]["of"] = case["gradients"]["of"]
    write(tmp_path, {**document, "cases": [kept]}, "block")
    return tmp_path


def test_a_network_is_recorded_by_its_composed_definition(block_root):
    assert run(block_root, "regen", "--reason", "first") == run(block_root, "check") == 0
    case = read(block_root, "block")["cases"][0]
    assert case["computed_by"] == "definition" and list(case["expected"]) == ["y", "aux", "keys", "values"]
    assert list(case["gradients"]["expected"]) == case["gradients"]["of"]


def test_the_networks_oracles_give_what_is_recorded_on_plain_arrays(untyped):
    tensors, cases = stored_tensors("transformer"), {case["id"]: case for case in cases_with_tensors("transformer")}
    for case in (cases[f"transformer/{name}"] for name in ("minimind2", "minimind2_moe", "padding")):
        given = files.build(case["inputs"]) | case["parameters"]
        run_it, vjp = (faces.oracle("transformer", f"{case['op']}{part}") for part in ("", "_vjp"))
        cotangent = [*files.build(case["gradients"]["cotangent"]).values()]
        shares = vjp(**given, cotangent=tuple(cotangent) if len(cotangent) > 1 else cotangent[0])
        found = [
            named(names, x)
            for names, x in (
                (case["outputs"], run_it(**given)),
                (faces.gradient_names(case), tuple(shares.values())),
            )
        ]
        assert judged(case, (found[0], found[1]), "float64", tensors) is None
    with pytest.raises(GoldenError, match=r"the loss's cotangent is 2.0 but must be 1"):
        vjp(**given, cotangent=np.array(2.0))


def test_a_blocks_configuration_has_the_parameters_of_its_case_and_the_operations_defaults():
    for case in cases_with_tensors("block"):
        inputs = files.build(case["inputs"])
        given = inputs["parameters"]
        lone = {n: p for n, p in given.items() if not re.match(r"mlp\.experts\.[1-9]", n)}
        lone |= {n: p[:1] for n, p in lone.items() if n == "mlp.gate.weight"}
        for parameters in (given, lone if case["parameters"].get("num_chosen", 1) == 1 else given):
            layout = networks.layout(inputs["x"], parameters, inputs["cos"], **case["parameters"])
            own = {n: tuple(p.shape) for n, p in Block(ModelConfig(**layout)).named_parameters()}
            assert own == {n: p.shape for n, p in parameters.items()}
    taken = inspect.signature(networks.layout).parameters.values()
    defaults = {p.name: p.default for p in taken if p.default is not p.empty}
    assert defaults and defaults.items() <= block_oracle._Options._field_defaults.items()


def last_wider(result):
    *rest, shares = result
    name = list(shares)[-1]
    return *rest, shares | {name: shares[name] * (1 + 1e-6)}


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("torch_block", lambda result: (result[0] * (1 + 1e-9), *result[1:]), "torch's y is"),
        ("oracle_block_vjp", last_wider, "torch's gradient of parameters.mlp.down_proj.weight is"),
    ],
)
def test_a_network_that_a_face_gives_otherwise_is_refused(block_root, capsys, monkeypatch, name, wrong, message):
    run_face = getattr(networks, name)
    monkeypatch.setattr(networks, name, lambda *given, **named: wrong(run_face(*given, **named)))
    assert run(block_root, "regen", "--reason", "wrong") == 1 and message in capsys.readouterr().err


def test_one_wrong_gradient_of_many_is_off_the_definitions_slope(block_root, capsys, monkeypatch):
    vjp = networks.oracle_block_vjp
    monkeypatch.setattr(networks, "oracle_block_vjp", lambda *given, **named: last_wider(vjp(*given, **named)))
    monkeypatch.setattr("minimind_ref.golden.faces.torch_face", lambda component, name: None)
    assert run(block_root, "regen", "--reason", "wrong") == 1
    assert re.search("the definition's slope along x, .*parameters.mlp.down_proj.weight is", capsys.readouterr().err)


def test_a_loss_without_normaliser_is_divided_by_the_supervised_tokens_and_at_least_by_one():
    case = next(case for case in cases_with_tensors("transformer") if case["id"] == "transformer/packed")
    for values in ([-100] * 15, [-100] * 14 + [7], [-100] * 12 + [7, 1, 9]):
        given = {key: x for key, x in case.items() if key != "gradients"}
        given["inputs"] = case["inputs"] | {"labels": {"shape": [3, 5], "dtype": "int64", "values": values}}
        counted = given | {"parameters": case["parameters"] | {"normaliser": max(15 - values.count(-100), 1)}}
        inputs = files.build(given["inputs"])
        exact = [faces.exact_outputs("transformer", c, inputs, ROOT / "specs") for c in (given, counted)]
        found = [faces.run_torch("transformer", c) for c in (given, counted)]
        assert exact[0] == exact[1] and found[0] == found[1]


# ---- results of no array ----


class Clock(NamedTuple):
    rate: float
    step: int


def tick(clock: Clock, *, counts):
    return [clock.rate / n for n in counts], Clock(clock.rate * 3, clock.step + 1), [range(2), range(2, 5)]


BLOCK = """```python definition
def tick(clock, *, counts):
    rate, step = clock
    return [rate / n for n in counts], (rate * 3, step + 1), [[0, 1], [2, 3, 4]]
```

- **CLOCK-1** (MUST) It ticks.
"""


@pytest.fixture
def clock_root(tmp_path, monkeypatch):
    module = ModuleType("minimind_ref.oracle.clock")
    module.tick = tick
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / "golden").mkdir()
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "clock.md").write_text(BLOCK, encoding="utf-8")
    case = {
        "id": "clock/basic", "op": "tick", "clauses": ["CLOCK-1"], "why": "Results that depend on no array.",
        "flags": ["BASIC"], "profiles": ["float64"], "parameters": {"counts": [3, 7]},
        "inputs": {"clock": [0.75, 4]}, "outputs": ["shares", "rate", "step", "cut"],
    }  # fmt: skip
    write(tmp_path, {"component": "clock", "spec_version": 1, "cases": [case]}, "clock")
    return tmp_path


def test_plain_numbers_are_recorded_exactly(clock_root, capsys):
    assert run(clock_root, "regen", "--reason", "first") == run(clock_root, "check") == run(clock_root, "diff") == 0
    document = read(clock_root, "clock")
    case = document["cases"][0]
    assert case["expected"] == {
        "shares": {"shape": [2], "dtype": "float", "values": [0.25, 0.75 / 7]},
        "rate": {"shape": [], "dtype": "float", "values": [2.25]},
        "step": {"shape": [], "dtype": "int64", "values": [5]},
        "cut": {"json": [[0, 1], [2, 3, 4]]},
    }
    assert case["bound"] == {"float64": {"shares": [0.0, 0.0], "rate": [0.0]}}
    for name, entry in (("shares", 0), ("rate", 0)):
        changed = json.loads(json.dumps(document))
        values = changed["cases"][0]["expected"][name]["values"]
        values[entry] = float(np.nextafter(values[entry], 1.0))
        write(clock_root, changed, "clock")
        capsys.readouterr()
        assert run(clock_root, "check") == 1 and f"float64/{name} moves by 1 ulp" in capsys.readouterr().out


@pytest.mark.parametrize(("limit", "form"), [(4, "values"), (3, "tensor")])
def test_of_a_large_case_only_single_numbers_stay_in_the_json(clock_root, monkeypatch, limit, form):
    """Its results have four entries."""
    monkeypatch.setattr(files, "LARGEST_CASE_IN_JSON", limit)
    assert run(clock_root, "regen", "--reason", "first") == run(clock_root, "check") == 0
    case = read(clock_root, "clock")["cases"][0]
    assert form in case["expected"]["shares"] and "values" in case["expected"]["rate"]
    assert isinstance(case["bound"]["float64"]["shares"], dict if form == "tensor" else list)


def test_an_infinite_plain_number_has_no_last_place(clock_root):
    document = read(clock_root, "clock")
    document["cases"][0] |= {"ulps": 2, "inputs": {"clock": [1e308, 4]}}
    write(clock_root, document, "clock")
    assert run(clock_root, "regen", "--reason", "first") == run(clock_root, "check") == 0
    case = read(clock_root, "clock")["cases"][0]
    assert case["expected"]["rate"]["values"] == ["Infinity"] and case["bound"]["float64"]["rate"] == [0.0]


def test_texts_among_plain_numbers_are_no_array():
    assert settled([0.5, "half"]) == [0.5, "half"]


def test_plain_numbers_may_be_off_by_the_ulps_that_the_case_states(clock_root, capsys, monkeypatch):
    document = read(clock_root, "clock")
    document["cases"][0]["ulps"] = 2
    write(clock_root, document, "clock")

    def changed(clock: Clock, *, counts):
        shares, after, cut = tick(clock, counts=counts)
        return [shares[0], float(np.nextafter(shares[1], 1.0))], after, cut

    monkeypatch.setattr(sys.modules["minimind_ref.oracle.clock"], "tick", changed)
    assert run(clock_root, "regen", "--reason", "first") == run(clock_root, "check") == 0
    document = read(clock_root, "clock")
    case = document["cases"][0]
    assert case["expected"]["shares"]["values"] == [0.25, 0.75 / 7]  # the definition's, not the oracle's
    assert case["bound"]["float64"]["shares"] == [files.round_up(2 * np.spacing(x)) for x in (0.25, 0.75 / 7)]
    case["expected"]["shares"]["values"][1] *= 1 - 3 * 2.0**-52
    write(clock_root, document, "clock")
    assert run(clock_root, "check") == 1 and "float64/shares moves by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda x, out: ([out[0][0], float(np.nextafter(out[0][1], 1.0))], *out[1:]),
            r"oracle's shares is .* at \[1\]",
        ),
        (lambda x, out: (out[0], Clock(out[1].rate * (1 + 2.0**-50), out[1].step), out[2]), "oracle's rate is"),
        (lambda x, out: (*out[:2], [range(2), range(2, 4)]), r"oracle's cut is \[\[0, 1\], \[2, 3\]\]"),
    ],
)
def test_plain_numbers_must_be_the_definitions_to_the_last_bit(clock_root, capsys, monkeypatch, wrong, message):
    def changed(clock: Clock, *, counts):
        return wrong(clock, tick(clock, counts=counts))

    monkeypatch.setattr(sys.modules["minimind_ref.oracle.clock"], "tick", changed)
    assert run(clock_root, "regen", "--reason", "wrong") == 1
    assert re.search(message, capsys.readouterr().err)


def test_plain_numbers_without_a_definition_are_refused(clock_root, capsys):
    (clock_root / "specs" / "clock.md").write_text(BLOCK.replace("def tick", "def tock"), encoding="utf-8")
    assert run(clock_root, "regen", "--reason", "none") == 1
    assert "shares is a plain float without a bound" in capsys.readouterr().err


# ---- numbers on disk ----


def test_safetensors_are_those_of_the_library(tmp_path):
    some = {"b": draw(1, (3, 5)), "a": np.arange(7), "empty": np.zeros((0, 3)), "mask": np.array([True, False])}
    save_file(some, tmp_path / "library", metadata={"format": "np"})
    for n in range(8):  # headers of every length, filled up to a multiple of eight bytes
        tensors = some | {"n" * (n + 5): draw(2, (2,))}
        safetensors.write(tmp_path / f"{n}", tensors)
        assert int.from_bytes((tmp_path / f"{n}").read_bytes()[:8], "little") % 8 == 0
        for found in (safetensors.read(tmp_path / f"{n}"), load_file(tmp_path / f"{n}")):
            assert found.keys() == tensors.keys()
            assert all(np.array_equal(found[n], x) and found[n].dtype == x.dtype for n, x in tensors.items())
    assert safetensors.read(tmp_path / "library").keys() == some.keys()
    with pytest.raises(ValueError, match=r"half is float16"):
        safetensors.write(tmp_path / "y.safetensors", {"half": np.zeros(2, np.float16)})


def test_numbers_survive_the_file():
    array = np.array([0.1, -0.0, 5e-324, 1.7976931348623157e308, np.nan, np.inf, -np.inf, 1 / 3])
    text = files.render({"values": files.spell(array), "deep": [{"a": [1, 2]}] * 50, "text": ["NaN", "x" * 200]})
    assert "NaN" in text and max(map(len, text.splitlines()[:4])) <= files.WIDTH
    back = files.read_numbers(json.loads(text)["values"], [8], "float")
    assert array.tobytes() == back.tobytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.render({"x": np.nan})


def test_stored_bounds_are_rounded_up():
    assert files.round_up(1.00004e-9) == 1.001e-9 and files.round_up(0.0) == 0.0 and files.round_up(0.5) == 0.5
    assert all(x <= files.round_up(x) <= x * 1.001 for x in draw(3, (99,), structure="positive").tolist())


# ---- the format's page ----


def test_the_page_and_the_schema_know_every_structure_and_key():
    page = (ROOT / "golden" / "README.md").read_text(encoding="utf-8")
    schema = json.loads((ROOT / "golden" / "schema.json").read_text(encoding="utf-8"))["$defs"]
    listed = schema["recipe"]["properties"]["structure"]["enum"]
    assert set(listed) == {*STRUCTURES, "integers"}
    table = page.split("| structure |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\|[^|]*\|", table, re.MULTILINE)) and all(f"`{name}`" in table for name in listed)
    assert all(f"`{key}`" in page for key in schema["case"]["properties"])
    assert f"of more than {files.LARGEST_IN_JSON} entries" in page
    assert f"with more than {files.LARGEST_CASE_IN_JSON}, all but single numbers" in page
    assert all(f"| `{profile}` |" in page for profile in PROFILES) and schema["profile"]["enum"] == list(PROFILES)


def test_the_pages_known_answers_are_right():
    page = (ROOT / "golden" / "README.md").read_text(encoding="utf-8")
    words_given = re.findall(r"`word\((\d+), (\d+)\)` = 0x([0-9A-F]{16})", page)
    assert len(words_given) == 2
    for seed, k, answer in words_given:
        assert int(words(int(seed), int(k) + 1)[-1]) == int(answer, 16)
    begins = re.search(r"`normal` of seed 101 begins ([^`]*?)\.\s", page)
    assert begins and [float(x) for x in begins[1].split(",")] == draw(101, (3,)).tolist()


# ---- another language ----

NODE = shutil.which("node")
with_node = pytest.mark.skipif(NODE is None, reason="node, which runs the JavaScript reader, is not on this machine")


def judge(script):
    return subprocess.run([NODE, script, ROOT / "golden"], capture_output=True, text=True, timeout=60)


@with_node
def test_a_reader_in_another_language_agrees():
    result = judge(READER)
    assert result.returncode == 0, result.stderr
    compared = sum(int(np.prod(c["expected"]["y"]["shape"])) * len(c["bound"]) for c in read(ROOT)["cases"])
    assert result.stdout == f"{compared} compared, 0 outside their bound\n"
    assert len(READER.read_text(encoding="utf-8").splitlines()) <= 60


@with_node
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("Math.sqrt(square + c.parameters.eps)", "(Math.sqrt(square) + c.parameters.eps)"),
        ("(sum, v) => sum + v * v, 0) / d", "(sum, v) => sum + v * v, 0) / (d - 1)"),
        ("weight[i % d] *", "(1 + weight[i % d]) *"),
        ("store[profile](weight", "bfloat16(weight"),
        ("0x94d049bb133111eb", "0x94d049bb133111ea"),
        ("-6n * 65535n", "-6n * 65536n"),
    ],
)
def test_the_reader_goes_red_when_it_is_wrong(tmp_path, right, wrong):
    text = READER.read_text(encoding="utf-8")
    assert text.count(right) == 1
    (tmp_path / "wrong.mjs").write_text(text.replace(right, wrong), encoding="utf-8")
    result = judge(tmp_path / "wrong.mjs")
    assert result.returncode == 1 and ("rms_norm/" in result.stderr or "recipe" in result.stderr)
