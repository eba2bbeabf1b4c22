"""Judges a program in any language: it is asked over stdin and stdout (protocol.py says how)."""

import contextlib
import json
import queue
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minimind_ref.errors import UserError
from minimind_ref.kit import protocol, vectors
from minimind_ref.kit.binding import NoAnswerError
from minimind_ref.kit.case import Case
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.operation import Operation
from minimind_ref.kit.outcome import Outcome

MOST_STARTS = 4  # a program that died or fell silent is started again, so that its other answers count


class DiedError(RuntimeError):
    """The program ended, or did not answer in time; `kind` is "raised" or "timeout"."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class ProcessRunner:
    """Keeps a program running and puts cases to it."""

    live = True

    def __init__(self, command: str, folder: Path, seconds: float) -> None:
        self.command, self.folder, self.seconds = shlex.split(command), folder, seconds
        self.process: subprocess.Popen[str] | None = None
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.starts = self.number = 0
        self.hello: dict[str, Any] = {}
        self.choices: dict[str, Any] = {}

    def start(self) -> dict[str, Any]:
        """Start the program and let it say what it has."""
        self.stop()
        self.starts += 1
        self.complaints = (self.folder / "stderr.txt").open("w+")
        try:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.complaints,
                text=True,
                bufsize=1,
            )
        except OSError as error:
            raise UserError(f"--exec {self.command[0]}: {error.strerror}") from None
        self.lines = queue.Queue()
        threading.Thread(target=_pump, args=(self.process.stdout, self.lines), daemon=True).start()
        self.hello = protocol.greeting(self.exchange({"hello": 1}))
        return self.hello

    def exchange(self, message: dict[str, Any]) -> str:
        """Write one line and read one."""
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.lines.get(timeout=self.seconds)
        except queue.Empty:
            raise DiedError("timeout", f"did not answer within {self.seconds:g} s") from None
        except OSError:
            line = None
        if line is None:
            raise DiedError("raised", self.last_words())
        return line

    def last_words(self) -> str:
        """Say how the program ended."""
        assert self.process is not None
        status = self.process.wait(timeout=self.seconds)
        self.complaints.seek(0)
        said = " ".join(self.complaints.read()[-400:].split())
        return f"died with exit status {status}" + (f", saying {said!r}" if said else "")

    def stop(self) -> None:
        """End the program that this runner started."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout, self.complaints):
                with contextlib.suppress(OSError):
                    assert pipe is not None
                    pipe.close()
            self.process = None

    def has(self, name: str) -> bool:
        """Say whether the program offers the operation."""
        return name in self.hello.get("ops", [])

    def ask(self, case: Case, profile: str, *, gradient: bool = True) -> Outcome:
        """Put a case to the program; one that died is started again a few times."""
        for name, option in self.fixed(case.operation.name).items():
            if case.parameters.get(name, option) != option:
                return Outcome(problem="choice", text=f"{name}={case.parameters[name]!r}: it takes {name}={option!r}")
        self.number += 1
        asked = protocol.question(
            case, profile, self.number, self.folder, gradient=gradient and bool(self.hello.get("gradients"))
        )
        file = protocol.answer_file(self.folder, self.number)
        try:
            if self.process is None:
                if self.starts >= MOST_STARTS:
                    return Outcome(problem="raised", text="died too often to be started again")
                self.start()
            return protocol.outcome(protocol.parsed(self.exchange(asked), self.number), case, profile, file)
        except DiedError as error:
            self.stop()
            return Outcome(problem=error.kind, text=str(error))
        except ValueError as error:
            self.stop()
            return Outcome(problem="type", text=str(error))
        finally:
            file.unlink(missing_ok=True)
            (self.folder / f"{self.number}.safetensors").unlink(missing_ok=True)

    def fixed(self, name: str) -> dict[str, Any]:
        """Give the choices that the program declared for an operation."""
        return {key[len(name) + 1 :]: x for key, x in self.choices.items() if key.startswith(f"{name}.")}

    def answer(self, operation: Operation, arguments: dict[str, Any], profile: str) -> Any:
        """Put a law's question to the program: a case of which no answer is expected."""
        known = vectors.recorded(operation)
        if not known or any("." in name for name in known[0].outputs):
            raise NoAnswerError("this law is not put to programs")
        inputs = {name: x for name, x in arguments.items() if hasattr(x, "dtype") or isinstance(x, dict | list)}
        rest = {name: x for name, x in arguments.items() if name not in inputs}
        case = Case(f"{operation.name}/law", operation, (), "", inputs, rest, known[0].outputs, lambda _: ({}, {}))
        found = self.ask(case, profile, gradient=False)
        if found.problem:
            unasked = found.problem in ("cannot", "choice")
            raise NoAnswerError(found.text, choice=found.problem == "choice") if unasked else RuntimeError(found.text)
        values = [found.outputs[name].value for name in case.outputs]
        return values[0] if len(values) == 1 else tuple(values)


def _pump(stream: Any, lines: "queue.Queue[str | None]") -> None:
    """Read lines until the program ends."""
    with contextlib.suppress(ValueError, OSError):
        for line in stream:
            lines.put(line)
    lines.put(None)


@contextlib.contextmanager
def program(
    command: str, profiles: Sequence[str] | None, seconds: float
) -> Iterator[tuple[Implementation, ProcessRunner]]:
    """Run a program while it is judged."""
    with tempfile.TemporaryDirectory(prefix="minimind-kit-") as folder:
        runner = ProcessRunner(command, Path(folder), seconds)
        try:
            hello = runner.start()
            claimed = profiles or hello.get("profiles")
            choices = hello.get("choices") or {}
            made = Implementation(str(hello.get("name", command)), profiles=claimed or ["float64"], choices=choices)
            made.origin, runner.choices = f"--exec {shlex.quote(command)}", choices
            yield made, runner
        except (DiedError, protocol.NonsenseError) as error:
            raise UserError(f"--exec {command}: at the greeting it {error}") from None
        finally:
            runner.stop()
