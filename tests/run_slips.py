"""`python tests/run_slips.py [COMPONENT or CLAUSE ...]`: does a clause's own test catch the wrong line?

Each slip runs in a forked process, which reads the wrong text in place of the file, and the tests that name the clause.
Caught is what makes a test fail; an error before any test ran, or two minutes of computing without an answer, is not.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from typing import Any

import pytest
import traceability
from hypothesis import Phase, settings
from slips import PACKAGE, SLIPS, Slip

PATIENCE = 120  # seconds of a processor
NO_VERDICT = 70
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
HEAVY = ("torch", "tokenizers", "transformers", "jaxtyping", "beartype", "hypothesis.strategies")  # loaded once for all


class WithoutShrinking:
    """The same examples every time, and the first that fails will do."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("slips", settings(derandomize=True, database=None, phases=phases))
        settings.load_profile("slips")


def put_in_place(slip: Slip) -> None:
    """Let imports of the slip's file read the wrong text, and no compiled one."""
    read, wrong = SourceFileLoader.get_data, slip.source().encode()

    def get_data(self: Any, path: str) -> bytes:
        if os.path.dirname(path).endswith("__pycache__") and os.path.basename(path).startswith(f"{slip.path.stem}."):
            raise OSError(path)
        return wrong if os.path.abspath(path) == str(slip.path) else read(self, path)

    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE.name]:
        del sys.modules[name]
    sys.dont_write_bytecode = True
    SourceFileLoader.get_data = get_data  # type: ignore[method-assign]


def run_tests(slip: Slip, tests: Sequence[str]) -> int:
    """Run tests, with a slip in place, in a process of its own, and give pytest's exit status, or the signal's."""
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, PATIENCE)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1), os.dup2(silence, 2)
        try:
            put_in_place(slip)
            os._exit(int(pytest.main([*OPTIONS, *tests], plugins=[WithoutShrinking()])))
        finally:
            os._exit(NO_VERDICT)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def verdict(slip: Slip) -> str | None:
    """Say why a slip is not caught; None where it is."""
    tests = traceability.tests_by_clause().get(slip.clause, [])
    status = run_tests(slip, [str(traceability.TESTS / test) for test in tests]) if tests else 5
    return {0: "its tests pass", 1: None, 5: "no test runs", -signal.SIGPROF: "no answer"}.get(
        status, f"pytest exits with {status}"
    )


def main(wanted: Sequence[str], say: Callable[[str], None] = print) -> int:
    """Run the slips of some components or clauses, or all."""
    names = {name.upper() for name in wanted}
    chosen = [s for s in SLIPS if not names or names & {s.clause, s.clause.rpartition("-")[0]}]
    for name in HEAVY:
        importlib.import_module(name)
    missed = 0
    for slip in chosen:
        reason = verdict(slip)
        missed += reason is not None
        say(f"{slip}: {'caught' if reason is None else 'NOT CAUGHT, ' + reason}")
    say(f"{len(chosen) - missed} of {len(chosen)} slips are caught")
    return 1 if missed or not chosen else 0


if __name__ == "__main__":
    os.chdir(PACKAGE.parent)
    sys.exit(main(sys.argv[1:]))
