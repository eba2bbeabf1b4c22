"""Run the tests that reach a mutant, each mutant in a fork of a process that has collected them already."""

import ast
import copy
import gc
import importlib.machinery
import json
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import RLock
from types import CodeType, FunctionType
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from tqdm import tqdm

from tests.mutate.mutants import BODIES, Mutant

GIGABYTE = 2**30
EXAMPLES = 5  # of hypothesis, a test: what only a later draw notices deserves a test of its own
REACHED = "__reached__"
OPTIONS = (
    *("-q", "--tb=no", "--capture=sys", "-p", "no:cacheprovider", "-o", "tmp_path_retention_policy=none"),
    "--assert=plain",  # where the package is installed, pytest would load its modules itself, not the edited source
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # hypothesis is imported before the forks
)


@dataclass
class Module:
    """A file of the package, its syntax tree and those of its mutants that are to be judged."""

    path: Path
    tree: ast.Module
    mutants: list[Mutant]
    functions: list[FunctionType] = field(default_factory=list)

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
    """A collected test: its CPU time, the lines that it or its fixtures ran, and how many mutants it has killed."""

    item: pytest.Item
    seconds: float = 0.0
    lines: set[tuple[str, int]] = field(default_factory=set)
    kills: int = 0


class Repeatable:
    """A pytest plugin: hypothesis draws the same examples every time, and does not shrink what fails."""

    def __init__(self, order: dict[str, float] | None = None):
        self.order = order or {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the tests that are known to be likely and fast first."""
        items.sort(key=lambda item: self.order.get(item.nodeid, 0.0))

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Choose hypothesis's profile after conftest.py has chosen its own."""
        settings.register_profile(
            "mutate", deadline=None, max_examples=EXAMPLES, derandomize=True, database=None,
            phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        settings.load_profile("mutate")

    def pytest_runtest_setup(self) -> None:
        """Let a test that hangs end the process."""
        signal.setitimer(signal.ITIMER_PROF, 120)


class Judge(Repeatable):
    """A pytest plugin: runs the collected tests once as they are, then against every mutant of some modules."""

    def __init__(self, modules: list[Module], report: Callable[[Verdict], None], orders: IO[str]):
        super().__init__()
        self.modules, self.report, self.orders = modules, report, orders
        self.failed: list[str] = []
        self.limits: dict[str, float] = {}
        self.lines: set[tuple[str, int]] = set()
        self.fixtures: dict[pytest.FixtureDef[Any], set[tuple[str, int]]] = {}

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

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Note what a fixture runs: it is made once, for the first of the tests that may notice what it holds."""
        around, self.lines = self.lines, self.fixtures.setdefault(fixturedef, set())
        try:
            return (yield)
        finally:
            around |= self.lines
            self.lines = around

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of pytest's own loop."""
        tests = [Test(item) for item in session.items]
        for module in self.modules:
            module.functions = functions_of(module.path)
            instrumented(module, partial(self.reached, str(module.path)))
        for i, test in enumerate(tests):
            self.lines, start = test.lines, time.process_time()
            self.run(test, tests[i + 1] if i + 1 < len(tests) else None)
            test.seconds = time.process_time() - start
            for definitions in test.item._fixtureinfo.name2fixturedefs.values():  # type: ignore[attr-defined]
                test.lines |= set().union(*(self.fixtures.get(x, set()) for x in definitions))
            self.limits[test.item.nodeid] = 2 + 10 * test.seconds
        signal.setitimer(signal.ITIMER_PROF, 0)
        if self.failed or not tests:
            raise pytest.UsageError(f"without a mutation these fail: {self.failed}, of {len(tests)} tests")
        json.dump([order_for(module, tests) for module in self.modules], self.orders)
        self.orders.flush()
        forget()
        gc.freeze()
        for module in self.modules:
            for mutant in module.mutants:
                self.report(self.judge(mutant, module, tests))
        return True

    def reached(self, path: str, line: int) -> None:
        """Note a line that the running test runs."""
        self.lines.add((path, line))

    def run(self, test: Test, following: Test | None) -> None:
        """Run one test as pytest would."""
        following_item = following.item if following else None
        test.item.config.hook.pytest_runtest_protocol(item=test.item, nextitem=following_item)

    def judge(self, mutant: Mutant, module: Module, tests: list[Test]) -> Verdict:
        """Run the tests that reach a mutant, the likeliest and fastest first, until one fails."""
        lines = {(str(module.path), line) for line in mutant.lines}
        reaching = [t for t in tests if not lines.isdisjoint(t.lines)]
        if not reaching or not (edits := installers(mutant, module)):
            return Verdict(mutant, "unreached")
        reaching.sort(key=lambda t: t.seconds / (1 + t.kills))
        outcome, last = self.first_failure(reaching, edits)
        if outcome == 0:
            return Verdict(mutant, "survived")
        if last is None:
            raise RuntimeError(f"{mutant.identity} could not be made: {outcome}")
        if not last.kills and self.first_failure([last], [])[0] != 0:
            raise RuntimeError(f"{last.item.nodeid} passes, but not when it is run once more in a fork")
        last.kills += 1
        return Verdict(mutant, "killed", f"{last.item.nodeid}{'' if outcome == 1 else f' ({outcome})'}")

    def first_failure(self, tests: list[Test], edits: list[Callable[[], None]]) -> tuple[int | str, Test | None]:
        """Make edits in a fork and run tests there until one fails: how the fork ended, and in which test."""
        at = mmap.mmap(-1, 4)

        def work() -> int:
            for install in edits:
                install()
            silence(1, 2)
            for i, test in enumerate(tests, 1):
                at[:] = i.to_bytes(4, "little")
                self.run(test, tests[i] if i < len(tests) else None)
                if self.failed:
                    return 1
            return 0

        outcome = forked(work, wall=60 + 40 * sum(t.seconds for t in tests))
        last = int.from_bytes(at[:], "little")
        return outcome, tests[last - 1] if last else None


def order_for(module: Module, tests: list[Test]) -> dict[str, float]:
    """Rank tests for the mutants of a module's import: those that run something of it, by their time, then others."""
    reaching = {t.item.nodeid for t in tests if any(name == str(module.path) for name, _ in t.lines)}
    return {t.item.nodeid: t.seconds + (t.item.nodeid not in reaching) * 1e6 for t in tests}


def run_judge(tests: list[str], judge: Judge) -> int:
    """Collect some test files and let the judge run them."""
    silence(1)
    tqdm.set_lock(RLock())  # its own is shared with the forks, and one that fails while it draws never releases it
    return pytest.main([*OPTIONS, *tests], plugins=[judge])


def silence(*descriptors: int) -> None:
    """Drop what this process and those that it starts write to some file descriptors."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)


def instrumented(module: Module, reached: Callable[[int], None]) -> None:
    """Let the living functions of a file call `reached` with the line of each statement before it runs."""
    tree = copy.deepcopy(module.tree)
    for node in outermost(tree):
        for part in list(ast.walk(node)):
            for field_name in BODIES:
                block = getattr(part, field_name, None)
                if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                    setattr(part, field_name, [x for s in block for x in (_call(s.lineno), s)])
    code = compile(ast.fix_missing_locations(tree), str(module.path), "exec", dont_inherit=True)
    for node in outermost(module.tree):
        for function, its_code in replacements(node, module, code):
            function.__globals__[REACHED] = reached
            function.__code__ = its_code


def _call(line: int) -> ast.Expr:
    call = ast.Call(ast.Name(REACHED, ast.Load()), [ast.Constant(line)], [])
    return ast.Expr(call, lineno=line, end_lineno=line, col_offset=0, end_col_offset=0)


def forget() -> None:
    """Empty every cached function of the package and of its tests, which would hide a mutant."""
    for thing in gc.get_objects():
        if type(thing).__name__ == "_lru_cache_wrapper":
            home = str(getattr(sys.modules.get(thing.__module__), "__file__", None) or "")
            if "/tests/" in home or "/minimind_ref/" in home:
                thing.cache_clear()


def functions_of(path: Path) -> list[FunctionType]:
    """Give the living functions that were compiled from a file, wrapped ones too."""
    everything = gc.get_objects()  # isinstance would wake deprecated things
    return [f for f in everything if type(f) is FunctionType and f.__code__.co_filename == str(path)]


def replacements(node: ast.FunctionDef, module: Module, code: CodeType) -> list[tuple[FunctionType, CodeType]]:
    """Pair the living copies of an outermost function with its code in another compilation of its file."""
    firsts = {node.lineno, *(d.lineno for d in node.decorator_list)}

    def same(c: CodeType) -> bool:
        return c.co_name == node.name and c.co_firstlineno in firsts

    living, codes = filter(lambda f: same(f.__code__), module.functions), list(filter(same, _codes(code)))
    return [(f, c) for f in living for c in codes if len(f.__code__.co_freevars) == len(c.co_freevars)]


def installers(mutant: Mutant, module: Module) -> list[Callable[[], None]]:
    """Give what puts a mutant of a function's body, or of its defaults, into each living copy of the function."""
    around = [n for n in outermost(module.tree) if n.lineno <= mutant.lines.start <= (n.end_lineno or 0)]
    if not around:
        return []
    pairs = replacements(around[0], module, module.code_with(mutant))
    if mutant.inner:
        return [partial(setattr, function, "__code__", code) for function, code in pairs]
    return [partial(_install_defaults, function, mutant, around[0]) for function, _ in pairs]


def _install_defaults(function: FunctionType, mutant: Mutant, node: ast.FunctionDef) -> None:
    mutant.apply()
    arguments = copy.deepcopy(node.args)
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    bare = ast.fix_missing_locations(ast.Expression(ast.Lambda(arguments, ast.Constant(None))))
    made = eval(compile(bare, "defaults", "eval"), function.__globals__)
    function.__defaults__, function.__kwdefaults__ = made.__defaults__, made.__kwdefaults__


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


def judge_loaded(mutant: Mutant, module: Module, tests: list[str], order: dict[str, float]) -> Verdict:
    """Judge a mutant of what runs at import: a fork that has not imported the package imports the edited source."""

    def work() -> int:
        old = mutant.apply()
        source = ast.unparse(ast.fix_missing_locations(module.tree)).encode()
        mutant.undo(old)
        serve(module.path, source)
        silence(1, 2)
        return int(pytest.main([*OPTIONS, "-x", *tests], plugins=[Repeatable(order)]) != pytest.ExitCode.OK)

    outcome = forked(work, wall=1800)
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
