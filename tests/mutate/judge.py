"""Run the tests that reach a mutant, each mutant in a fork of a process that has collected them already."""

import ast
import gc
import importlib.machinery
import mmap
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.mutate.mutants import Mutant

GIGABYTE = 2**30
OPTIONS = (
    *("-q", "--tb=no", "--capture=sys", "-p", "no:cacheprovider", "-o", "tmp_path_retention_policy=none"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # hypothesis is imported before the forks
)


@dataclass
class Module:
    """A file of the package, its syntax tree and those of its mutants that are to be judged."""

    path: Path
    tree: ast.Module
    mutants: list[Mutant]

    def code_with(self, mutant: Mutant) -> CodeType:
        """Compile the file with one edit in it."""
        old = mutant.apply()
        code = compile(ast.fix_missing_locations(self.tree), str(self.path), "exec", dont_inherit=True)
        mutant.undo(old)
        return code


@dataclass
class Verdict:
    """What became of a mutant: "killed" by a test, "survived", or "unreached" by any test of this process."""

    mutant: Mutant
    name: str
    by: str = ""


def forked(work: Callable[[], int], wall: float) -> int | str:
    """Run `work` in a fork and give its exit code, or "signal 9" and the like; it dies with what it started."""
    pid = os.fork()
    if not pid:
        code = 99
        try:
            os.setsid()
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + 8 * GIGABYTE, hard))
            code = work()
        except BaseException as error:  # an edit may raise anything, and the fork must end here
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(code)
    end = time.monotonic() + wall
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            break
        time.sleep(0.002)
    _kill_group(pid)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else f"signal {os.WTERMSIG(status)}"


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@dataclass
class Test:
    """A collected test: its CPU time, the lines that it ran, and how many mutants it has killed."""

    item: pytest.Item
    seconds: float = 0.0
    lines: set[tuple[str, int]] = field(default_factory=set)
    kills: int = 0


class Repeatable:
    """A pytest plugin: hypothesis draws the same examples every time, and does not shrink what fails."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Choose hypothesis's profile after conftest.py has chosen its own."""
        settings.register_profile(
            "mutate", deadline=None, max_examples=20, derandomize=True, database=None,
            phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        settings.load_profile("mutate")

    def pytest_runtest_setup(self) -> None:
        """Let a test that hangs end the process."""
        signal.setitimer(signal.ITIMER_PROF, 120)


class Judge(Repeatable):
    """A pytest plugin: runs the collected tests once as they are, then against every mutant of some modules."""

    def __init__(self, modules: list[Module], report: Callable[[Verdict], None]):
        self.modules, self.report = modules, report
        self.failed: list[str] = []
        self.limits: dict[str, float] = {}

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Give a test ten times its time."""
        signal.setitimer(signal.ITIMER_PROF, self.limits.get(item.nodeid, 0))

    def pytest_internalerror(self, excrepr: object) -> None:
        """Say what went wrong in the judge itself, whose output is dropped."""
        os.write(2, f"{excrepr}\n".encode())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what failed."""
        if report.failed:
            self.failed.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of pytest's own loop."""
        tests = [Test(item) for item in session.items]
        watched = {str(module.path) for module in self.modules}
        for i, test in enumerate(tests):
            start = time.process_time()
            test.lines = traced(watched, lambda i=i: self.run(tests[i], tests[i + 1] if i + 1 < len(tests) else None))
            test.seconds = time.process_time() - start
            self.limits[test.item.nodeid] = 2 + 10 * test.seconds
        signal.setitimer(signal.ITIMER_PROF, 0)
        if self.failed or not tests:
            raise pytest.UsageError(f"without a mutation these fail: {self.failed}, of {len(tests)} tests")
        forget()
        living = [(module, list(functions_of(module.path))) for module in self.modules]
        gc.freeze()  # what is frozen cannot be listed
        for module, functions in living:
            for mutant in module.mutants:
                self.report(self.judge(mutant, module, functions, tests))
        return True

    def run(self, test: Test, following: Test | None) -> None:
        """Run one test as pytest would."""
        following_item = following.item if following else None
        test.item.config.hook.pytest_runtest_protocol(item=test.item, nextitem=following_item)

    def judge(self, mutant: Mutant, module: Module, functions: list[FunctionType], tests: list[Test]) -> Verdict:
        """Run the tests that reach a mutant, the likeliest and fastest first, until one fails."""
        lines = {(str(module.path), line) for line in mutant.lines}
        reaching = [t for t in tests if not lines.isdisjoint(t.lines)]
        if not reaching or not (edited := matches(mutant, module, functions)):
            return Verdict(mutant, "unreached")
        reaching.sort(key=lambda t: t.seconds / (1 + t.kills))
        at = mmap.mmap(-1, 4)

        def work() -> int:
            silence(1, 2)
            for function, code in edited:
                function.__code__ = code
            for i, test in enumerate(reaching):
                at[:] = i.to_bytes(4, "little")
                self.run(test, reaching[i + 1] if i + 1 < len(reaching) else None)
                if self.failed:
                    return 1
            return 0

        outcome = forked(work, wall=60 + 40 * sum(t.seconds for t in reaching))
        if outcome == 0:
            return Verdict(mutant, "survived")
        last = reaching[int.from_bytes(at[:], "little")]
        last.kills += 1
        return Verdict(mutant, "killed", f"{last.item.nodeid}{'' if outcome == 1 else f' ({outcome})'}")


def run_judge(tests: list[str], judge: Judge) -> int:
    """Collect some test files and let the judge run them."""
    silence(1)
    return pytest.main([*OPTIONS, *tests], plugins=[judge])


def silence(*descriptors: int) -> None:
    """Drop what this process and those that it starts write to some file descriptors."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)


def traced(watched: set[str], work: Callable[[], None]) -> set[tuple[str, int]]:
    """Run `work` and give the lines of the watched files that it ran, in any thread."""
    lines: set[tuple[str, int]] = set()

    def enter(frame: FrameType, event: str, argument: object) -> Callable | None:
        name = frame.f_code.co_filename
        if name not in watched:
            return None

        def step(frame: FrameType, event: str, argument: object) -> Callable:
            lines.add((name, frame.f_lineno))
            return step

        return step(frame, event, argument)

    threading.settrace(enter)
    sys.settrace(enter)
    try:
        work()
    finally:
        sys.settrace(None)
        threading.settrace(None)
    return lines


def forget() -> None:
    """Empty every cached function of the package and of its tests, which would hide a mutant."""
    for thing in gc.get_objects():
        if type(thing).__name__ == "_lru_cache_wrapper":
            home = str(getattr(sys.modules.get(thing.__module__), "__file__", None) or "")
            if "/tests/" in home or "/minimind_ref/" in home:
                thing.cache_clear()


def functions_of(path: Path) -> Iterator[FunctionType]:
    """Give the living functions that were compiled from a file, wrapped ones too."""
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename == str(path):
            yield thing


def matches(mutant: Mutant, module: Module, functions: list[FunctionType]) -> list[tuple[FunctionType, CodeType]]:
    """Give the living functions that a mutant of a function's body edits, each with its new code."""
    if not mutant.inner:
        return []
    node = next(n for n in outermost(module.tree) if mutant.lines.start in range(n.lineno, (n.end_lineno or 0) + 1))
    codes = {c.co_firstlineno: c for c in _codes(module.code_with(mutant)) if c.co_name == node.name}
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    code = codes[first]
    living = [f for f in functions if f.__code__.co_name == node.name and f.__code__.co_firstlineno in (first, node.lineno)]
    return [(f, code) for f in living if len(f.__code__.co_freevars) == len(code.co_freevars)]


def outermost(node: ast.AST) -> Iterator[ast.FunctionDef]:
    """Give the functions of a module and the methods of its classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield child
        else:
            yield from outermost(child)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def judge_loaded(mutant: Mutant, module: Module, tests: list[Path], wall: float) -> Verdict:
    """Judge a mutant of what runs at import: a fork that has not imported the package imports the edited source."""

    def work() -> int:
        old = mutant.apply()
        source = ast.unparse(ast.fix_missing_locations(module.tree)).encode()
        mutant.undo(old)
        serve(module.path, source)
        silence(1, 2)
        return int(pytest.main([*OPTIONS, "-x", *map(str, tests)], plugins=[Repeatable()]) != pytest.ExitCode.OK)

    outcome = forked(work, wall)
    if outcome == 0:
        return Verdict(mutant, "survived")
    return Verdict(mutant, "killed", "with its import" if outcome == 1 else f"with its import ({outcome})")


def serve(path: Path, source: bytes) -> None:
    """Let every later import of a file read this source, and no compiled file."""
    loader = importlib.machinery.SourceFileLoader
    get_data, path_stats = loader.get_data, loader.path_stats

    def data(self: importlib.machinery.SourceFileLoader, name: str) -> bytes:
        return source if name == str(path) else get_data(self, name)

    def stats(self: importlib.machinery.SourceFileLoader, name: str) -> dict:
        if name == str(path):
            raise OSError("no compiled file of an edited source")
        return path_stats(self, name)

    loader.get_data, loader.path_stats = data, stats
