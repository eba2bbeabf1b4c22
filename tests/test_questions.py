"""specs/questions.md: every answer names clauses that exist, tests that exist and name them, and where it was asked."""

import re

import pytest
import traceability
from traceability import TESTS, all_clauses

from minimind_ref.golden.definitions import SPECS

PAGE = (SPECS / "questions.md").read_text(encoding="utf-8")
PARTS = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
LINES = re.compile(r"^- (clauses|tests|asked): (.+)$", re.MULTILINE)
HEADINGS = [part.partition("\n")[0] for part in PARTS]


def answer(part):
    """Take an entry apart: its verdict, and the three lists."""
    return part.partition("\n")[2].partition("\n- clauses:")[0].strip(), dict(LINES.findall(part))


@pytest.mark.parametrize("part", PARTS, ids=HEADINGS)
def test_an_answer_is_short_and_says_who_holds_it(part):
    verdict, lists = answer(part)
    sentences = re.findall(r"[.!?](?:\)|$|\s)", verdict)
    assert 1 <= len(sentences) <= 3 and len(verdict) <= 400, verdict
    assert list(lists) == ["clauses", "tests", "asked"]
    assert re.fullmatch(r"(?:[\w/-]+ )?#\d+(?:, (?:[\w/-]+ )?#\d+)*|found here; no issue is known", lists["asked"])


@pytest.mark.parametrize("part", PARTS, ids=HEADINGS)
def test_its_clauses_and_tests_exist(part):
    _, lists = answer(part)
    clauses, tests = lists["clauses"].split(", "), re.findall(r"`([^`]+)`", lists["tests"])
    assert [i for i in clauses if i not in all_clauses()] == []
    assert tests and lists["tests"] == ", ".join(f"`{test}`" for test in tests)
    for test in tests:
        file, _, name = test.partition("::")
        assert name in dict(traceability.functions_in((TESTS / file).read_text(encoding="utf-8"))), (
            f"{test} does not exist"
        )


def test_a_question_is_asked_once_and_can_be_searched_by_number():
    assert len(set(HEADINGS)) == len(HEADINGS) > 40
    assert "#749" in PAGE
