"""A program that is asked line by line: started, written to, read from, and ended, each within its time."""

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minimind_ref.errors import UserError


class DiedError(RuntimeError):
    """The program ended, or did not answer in time; `kind` is "raised" or "timeout"."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Program:
    """One run of a program; what it says on stderr is kept for its last words."""

    def __init__(self, command: Sequence[str], folder: Path, seconds: float) -> None:
        self.seconds, self.lines = seconds, queue.Queue()
        text: dict[str, Any] = {"encoding": "utf-8", "errors": "replace"}  # what it says can always be shown
        self.complaints = (folder / "stderr.txt").open("w+", **text)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.complaints}
        try:
            self.process = subprocess.Popen(command, **pipes, **text)
        except OSError as error:
            self.complaints.close()
            raise UserError(f"--exec {command[0]}: {error.strerror}") from None
        threading.Thread(target=self._read, daemon=True).start()

    def exchange(self, message: dict[str, Any]) -> str:
        """Write one line and read one.  The writing has its time too: a program that does not read fills the pipe."""
        writer = threading.Thread(target=self._write, args=(json.dumps(message) + "\n",), daemon=True)
        writer.start()
        writer.join(self.seconds)
        try:
            line = self.lines.get(timeout=self.seconds)
        except queue.Empty:
            raise DiedError("timeout", f"did not answer within {self.seconds:g} s") from None
        if line is None:
            raise DiedError("raised", self.last_words())
        return line

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # it died: reading says so
            self.process.stdin.write(line)  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self.process.stdout:  # type: ignore[union-attr]
                self.lines.put(line)
        self.lines.put(None)

    def last_words(self) -> str:
        """Say how the program ended."""
        try:
            end = f"died with exit status {self.process.wait(timeout=min(self.seconds, 1.0))}"
        except subprocess.TimeoutExpired:
            end = "closed its output"
        self.complaints.seek(0)
        said = " ".join(self.complaints.read()[-400:].split())
        return end + (f", saying {said!r}" if said else "")

    def stop(self) -> None:
        """End the program."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.complaints):
            with contextlib.suppress(OSError, ValueError):
                pipe.close()  # type: ignore[union-attr]
