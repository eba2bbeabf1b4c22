"""What the kit's README shows is what happens: every example is run, every line that it prints is compared."""

import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest

from minimind_ref.kit.behaviours import KEYS

README = Path(__file__).parents[1] / "minimind_ref" / "kit" / "README.md"
EXAMPLE = re.compile(r"^```python (\w+)\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = EXAMPLE.findall(README.read_text(encoding="utf-8"))


@pytest.mark.parametrize("library, code, printed", EXAMPLES, ids=[library for library, _, _ in EXAMPLES])
def test_an_example_prints_what_the_page_says(library, code, printed):
    pytest.importorskip(library)
    spoken = io.StringIO()
    with contextlib.redirect_stdout(spoken):
        exec(compile(code, str(README), "exec"), {"__name__": "__main__"})
    assert spoken.getvalue() == printed


def test_the_examples_are_in_numpy_torch_and_jax():
    assert [library for library, _, _ in EXAMPLES] == ["numpy", "torch", "jax"]


def test_the_page_names_every_claim_verdict_and_level():
    page = README.read_text(encoding="utf-8")
    report = importlib.import_module("minimind_ref.kit.report")
    levels = importlib.import_module("minimind_ref.kit.operation").LEVELS
    assert all(f"| {status} |" in page for status in report.WORST_FIRST)
    assert ", ".join(levels) in page
    assert all(f"`{key}`" in page for key in KEYS)
