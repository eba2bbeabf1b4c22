"""The pytest plugin: `pytest --minimind-impl PKG.MODULE:IMPL` adds one item for each clause that is claimed.

An item fails as its clause does, is skipped where the clause was not run or another option was chosen, and is an
expected failure where that was declared.  It works with any arguments, and with `--pyargs minimind_ref.kit` alone.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # the plugin is loaded in every run of pytest: what it needs is imported when it is asked to judge
    from minimind_ref.kit.report import Report, Verdict

KEY = pytest.StashKey["Report"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("minimind_ref", "conformance kit")
    group.addoption("--minimind-impl", metavar="PKG.MODULE:IMPL", help="judge this implementation, an item a clause")
    group.addoption(
        "--minimind-ops",
        metavar="OP[,OP…]",
        help="operations or levels, parted by commas or, in quotes, by spaces; none: all that it claims",
    )
    group.addoption("--minimind-level", choices=["quick", "full"], default="quick", help="how many generated inputs")


def pytest_collection(session: pytest.Session) -> None:
    """Load the implementation before anything is collected, so that what is not found is one line."""
    config = session.config
    if target := config.getoption("--minimind-impl"):
        from minimind_ref.errors import UserError
        from minimind_ref.kit.implementation import load
        from minimind_ref.kit.judging import verify

        asked = config.getoption("--minimind-ops")
        try:
            ops = asked.replace(",", " ").split() if asked else None
            config.stash[KEY] = verify(load(target), ops, str(config.getoption("--minimind-level")))
        except UserError as error:
            raise pytest.UsageError(f"--minimind-impl: {error}") from None


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the items behind those of the tests that were asked for."""
    found = config.stash.get(KEY, None)
    if found is not None:
        parent = Clauses.from_parent(session, name=config.getoption("--minimind-impl"), report=found)
        items += parent.collect()


class Clauses(pytest.Collector):
    """All clauses of one implementation."""

    def __init__(self, *, report: "Report", **options: Any) -> None:
        super().__init__(**options)
        self.report = report

    def collect(self) -> Iterator[pytest.Item]:
        """Give one item for each verdict."""
        for verdict in self.report.verdicts:
            yield ClauseItem.from_parent(self, name=f"{verdict.operation}[{verdict.clause}]", verdict=verdict)


class ClauseItem(pytest.Item):
    """One clause of one operation."""

    def __init__(self, *, verdict: "Verdict", **options: Any) -> None:
        super().__init__(**options)
        self.verdict = verdict

    def runtest(self) -> None:
        """Turn the verdict into pytest's."""
        from minimind_ref.kit import report

        status = self.verdict.status
        if status in (report.NOT_RUN, report.CHOICE):
            pytest.skip(f"{status}: {self.verdict.detail}")
        if status == report.EXPECTED:
            pytest.xfail(self.verdict.detail)
        if status != report.PASS:
            raise ClauseError(self.verdict)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Show the kit's message and no traceback."""
        if isinstance(excinfo.value, ClauseError):
            from minimind_ref.kit import text

            return "\n".join(text.explained([self.verdict]))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, int | None, str]:
        """Say where the clause stands."""
        return f"specs/{self.verdict.clause.rpartition('-')[0].lower()}.md", None, self.name


class ClauseError(AssertionError):
    """A clause that is broken."""
