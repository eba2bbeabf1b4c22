"""Judges a program in any language: it is asked over stdin and stdout (protocol.py says how)."""

import contextlib
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minimind_ref.errors import UserError
from minimind_ref.kit import protocol, vectors
from minimind_ref.kit.binding import NoAnswerError, NotPutError
from minimind_ref.kit.case import Case
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.operation import Operation
from minimind_ref.kit.outcome import Outcome
from minimind_ref.kit.program import DiedError, Program

MOST_STARTS = 4  # a program that died or fell silent is started again, so that its other answers count


class ProcessRunner:
    """Keeps a program running and puts cases to it."""

    live = True

    def __init__(self, command: str, folder: Path, seconds: float) -> None:
        self.command, self.folder, self.seconds = shlex.split(command), folder, seconds
        self.program: Program | None = None
        self.starts, self.number, self.last = 0, 0, ""
        self.hello: dict[str, Any] = {}

    def start(self) -> Program:
        """Start the program and let it say what it has."""
        self.stop()
        self.starts += 1
        self.program = Program(self.command, self.folder, self.seconds)
        self.hello = protocol.greeting(self.program.exchange({"hello": 1}))
        return self.program

    def stop(self) -> None:
        """End the program."""
        if self.program is not None:
            self.program.stop()
            self.program = None

    def has(self, name: str) -> bool:
        """Say whether the program offers the operation."""
        return name in self.hello.get("ops", [])

    def ask(self, case: Case, profile: str, *, gradient: bool = True) -> Outcome:
        """Put a case to the program; one that died is started again a few times."""
        for name, option in self.fixed(case.operation.name).items():
            if case.parameters.get(name, option) != option:
                return Outcome(problem="choice", text=f"{name}={case.parameters[name]!r}: it takes {name}={option!r}")
        self.number += 1
        if self.program is None and self.starts >= MOST_STARTS:
            return Outcome(problem="raised", text=f"was started {MOST_STARTS} times; the last time it {self.last}")
        try:
            return self.exchange(case, profile, gradient and bool(self.hello.get("gradients")))
        except DiedError as error:
            found = Outcome(problem=error.kind, text=str(error))
        except ValueError as error:
            found = Outcome(problem="type", text=str(error))
        except Exception as error:  # whatever can be wrong with an answer: its depth, its numbers, its file
            found = Outcome(problem="type", text=f"answered what cannot be read: {error}")
        finally:
            for file in self.folder.glob(f"{self.number}.*"):
                with contextlib.suppress(OSError):
                    file.unlink()
        self.stop()
        self.last = found.text
        return found

    def exchange(self, case: Case, profile: str, gradient: bool) -> Outcome:
        """Ask and read the answer."""
        self.folder.mkdir(exist_ok=True)  # the program may have removed it
        asked = protocol.question(case, profile, self.number, self.folder, gradient=gradient)
        line = (self.program or self.start()).exchange(asked)
        file = protocol.answer_file(self.folder, self.number)
        return protocol.outcome(protocol.parsed(line, self.number), case, profile, file)

    def fixed(self, name: str) -> dict[str, Any]:
        """Give the choices that the program declared for an operation."""
        choices = self.hello.get("choices") or {}
        return {key[len(name) + 1 :]: x for key, x in choices.items() if key.startswith(f"{name}.")}

    def answer(self, operation: Operation, arguments: dict[str, Any], profile: str) -> Any:
        """Put a law's question to the program: a case of which no answer is expected."""
        known = vectors.recorded(operation)
        if not known or any("." in name for name in known[0].outputs):
            raise NotPutError("this law is not put to programs")
        inputs = {name: x for name, x in arguments.items() if hasattr(x, "dtype") or isinstance(x, dict | list)}
        rest = {name: x for name, x in arguments.items() if name not in inputs}
        case = Case(f"{operation.name}/law", operation, (), "", inputs, rest, known[0].outputs, lambda _: ({}, {}))
        found = self.ask(case, profile)
        if found.problem:
            unasked = found.problem in ("cannot", "choice")
            raise NoAnswerError(found.text, choice=found.problem == "choice") if unasked else RuntimeError(found.text)
        values = [found.outputs[name].value for name in case.outputs]
        return values[0] if len(values) == 1 else tuple(values)


@contextlib.contextmanager
def program(
    command: str, profiles: Sequence[str] | None, seconds: float
) -> Iterator[tuple[Implementation, ProcessRunner]]:
    """Run a program while it is judged."""
    with tempfile.TemporaryDirectory(prefix="minimind-kit-", ignore_cleanup_errors=True) as folder:
        runner = ProcessRunner(command, Path(folder), seconds)
        try:
            runner.start()
            name, claimed = str(runner.hello.get("name", command)), profiles or runner.hello.get("profiles")
            made = Implementation(name, profiles=claimed or ["float64"], choices=runner.hello.get("choices"))
            made.origin = f"--exec {shlex.quote(command)}"
            yield made, runner
        except (DiedError, protocol.NonsenseError) as error:
            raise UserError(f"--exec {command}: at the greeting it {error}") from None
        finally:
            runner.stop()
