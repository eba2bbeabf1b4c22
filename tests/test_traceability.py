"""Every clause is held by tests that name it, by a text that was reviewed, by wrong implementations it rejects."""

import re
import subprocess
import sys

import pytest
import review
import run_slips
import slips
import traceability
from slips import SLIPS, Slip
from traceability import COMPONENTS, EXPLAINED, all_clauses

MUST = [i for i, clause in all_clauses().items() if clause.level == "MUST"]


def test_every_must_has_a_test_that_names_it():
    assert [i for i in MUST if i not in traceability.tests_by_clause()] == []


def test_only_clauses_that_exist_are_named():
    named = {
        "tests": traceability.tests_by_clause(),
        "golden cases": traceability.cases_by_clause(),
        "mutants and slips": traceability.mutants_by_clause(),
        "laws": traceability.laws(),
        "explanations": EXPLAINED,
    }
    assert {kind: unknown for kind, ids in named.items() if (unknown := sorted(set(ids) - set(all_clauses())))} == {}


def test_every_text_is_the_one_that_was_reviewed():
    changed = review.unreviewed(review.read_lock())
    assert changed == [], f"read their tests again, then: python tests/review.py {' '.join(changed)}"


def test_every_must_has_a_wrong_implementation_or_a_reason():
    wrong = traceability.mutants_by_clause()
    assert [i for i in MUST if i not in wrong and i not in EXPLAINED] == []
    assert [i for i in EXPLAINED if i in wrong] == [], "it has one now: take it off EXPLAINED"


def test_the_table_is_what_is_there():
    assert review.PAGE.read_text(encoding="utf-8") == review.page(), "run: python tests/review.py"


@pytest.mark.parametrize("component", COMPONENTS)
def test_slips_fit_the_code(component):
    for slip in [s for s in SLIPS if s.clause.startswith(f"{component.upper()}-")]:
        assert slip.right != slip.wrong
        compile(slip.source(), slip.file, "exec")
    assert {slip.clause.rpartition("-")[0].lower() for slip in slips.read(slips.FOLDER / f"{component}.diff")} == {
        component
    }


@pytest.mark.slow
@pytest.mark.parametrize("component", COMPONENTS)
def test_slips_are_caught_by_their_clauses_tests(component):
    command = [sys.executable, "tests/run_slips.py", component]
    run = subprocess.run(command, cwd=traceability.ROOT, capture_output=True, text=True, env=None)
    assert run.returncode == 0, run.stdout + run.stderr


# --- the gates themselves


def test_names_and_lists_of_clauses_are_understood():
    assert traceability.ids_in("(MOE-1, -3 and -5)") == {"MOE-1", "MOE-3", "MOE-5"}
    assert traceability.ids_in("RMS_NORM-1 to 3, RMS_NORM-9 and 10.") == {f"RMS_NORM-{n}" for n in (1, 2, 3, 9, 10)}
    assert traceability.ids_in_name("test_rms_norm_10_11_gradients") == {"RMS_NORM-10", "RMS_NORM-11"}
    assert traceability.ids_in_name("test_rope_1_and_15_to_17_agree") == {f"ROPE-{n}" for n in (1, 15, 16, 17)}
    assert traceability.ids_in_name("test_adamw_shell_2_d") == traceability.ids_in_name("test_rope_3d") == set()
    found = dict(
        traceability.functions_in('@cases  # MOE-4\ndef test_x():\n    """(MOE-7)"""\n\n\ndef other():\n    pass\n')
    )
    assert found == {"test_x": {"MOE-4", "MOE-7"}}


def test_a_changed_a_new_and_a_lost_clause_are_noticed():
    lock = {i: review.fingerprint(clause) for i, clause in all_clauses().items()}
    assert review.unreviewed(lock) == []
    new = lock.pop("MOE-3")
    assert review.unreviewed(lock) == ["MOE-3"]
    assert review.unreviewed({**lock, "MOE-3": new[::-1]}) == ["MOE-3"]
    assert review.unreviewed({**lock, "MOE-3": new, "MOE-99": new}) == ["MOE-99"]


def test_a_review_locks_what_it_names_and_shows_its_tests(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(review, "LOCK", tmp_path / "clauses.lock")
    review.review(["ROPE-9", "MOE-3"])
    assert review.read_lock() == {i: review.fingerprint(all_clauses()[i]) for i in ("ROPE-9", "MOE-3")}
    assert "test_rope.py::test_rope_9_only_the_distance_matters" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="MOE-99 is no clause"):
        review.review(["MOE-99"])


def test_a_slip_is_a_text_that_stands_once(tmp_path):
    (tmp_path / "moe.diff").write_text(
        "@@ MOE-4 model/moe.py\n- import torch\n-     from\n+ a\n\n@@ MOE-5 checks.py\n- b\n"
    )
    first, second = slips.read(tmp_path / "moe.diff")
    assert first == Slip("MOE-4", "model/moe.py", "import torch\n    from", "a") and second.wrong == ""
    with pytest.raises(ValueError, match="occurs 0 times"):
        first.source()
    (tmp_path / "moe.diff").write_text("@@ MOE-4 model/moe.py\n+ only new\n")
    with pytest.raises(ValueError, match="line 1 begins no slip"):
        slips.read(tmp_path / "moe.diff")


@pytest.mark.slow
def test_what_changes_nothing_is_not_caught():
    harmless = Slip("GRAD_CLIP-10", "optim/grad_clip.py", "if not max_norm > 0:", "if not 0 < max_norm:")
    assert run_slips.verdict(harmless) == "its tests pass"
    broken = Slip("GRAD_CLIP-10", "optim/grad_clip.py", "import torch\n", "import no_such_module\n")
    assert re.match("pytest exits with [24]", str(run_slips.verdict(broken)))
