"""Runs somebody else's code: what it prints is kept, what it raises is caught, and it may not take for ever.

A time-out interrupts Python code by a timer signal on the main thread.  Elsewhere (another thread, Windows) the code
runs in a thread of its own, which is left behind when its time is over.  A loop inside C code is not interrupted: run
such an implementation as a process (`--exec`).
"""

import contextlib
import io
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

PATIENCE = 5  # how much longer than it may compute a call may take


class OutOfTime(BaseException):
    """Raised inside the code when its time is over; a BaseException, so that `except Exception` does not catch it."""


@dataclass(frozen=True)
class Ran:
    """What came of it: a value, or a problem ("raised", "timeout") and the text that says what."""

    value: Any = None
    problem: str = ""
    text: str = ""
    printed: str = ""
    error: BaseException | None = None


def run(function: Callable[[], Any], seconds: float) -> Ran:
    """Call a function of no arguments under guard."""
    spoken = io.StringIO()
    on_main = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    with (
        contextlib.redirect_stdout(spoken),
        contextlib.redirect_stderr(spoken),
        warnings.catch_warnings(),
        np.errstate(),
    ):
        warnings.simplefilter("ignore")
        ran = _timed(function, seconds) if on_main else _threaded(function, seconds)
    return replace(ran, printed=spoken.getvalue())


def _timed(function: Callable[[], Any], seconds: float) -> Ran:
    try:
        with _alarm(seconds):
            return caught(function)
    except OutOfTime:
        return Ran(problem="timeout", text=f"took longer than {seconds:g} s")


def clock(seconds: float) -> Callable[[], bool]:
    """Start a clock that says when the time is over: of computing, or much more of waiting.

    Where a machine is shared, a call waits for its turn, and that must not decide a verdict.
    """
    computed, begun = time.process_time(), time.monotonic()
    return lambda: time.process_time() - computed >= seconds or time.monotonic() - begun >= PATIENCE * seconds


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Set the timer, and put back the handler and whatever time another timer had left."""

    spent = clock(seconds)

    def ring(*_: Any) -> None:
        if spent():
            raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    left = signal.setitimer(signal.ITIMER_REAL, seconds, min(seconds, 1.0))[
        0
    ]  # rings again: a bare `except` may swallow the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)


def _threaded(function: Callable[[], Any], seconds: float) -> Ran:
    found: list[Ran] = []
    thread = threading.Thread(target=lambda: found.append(caught(function)), daemon=True)
    spent = clock(seconds)
    thread.start()
    thread.join(seconds)
    while thread.is_alive() and not spent():
        thread.join(min(seconds, 1.0))
    return found[0] if found else Ran(problem="timeout", text=f"took longer than {seconds:g} s")


def caught(function: Callable[[], Any]) -> Ran:
    """Call, and turn what is raised (SystemExit too) into a problem."""
    try:
        return Ran(function())
    except OutOfTime:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Ran(problem="raised", text=described(error), error=error)


def described(error: BaseException) -> str:
    """Say what was raised and where, on one line."""
    try:
        said = " ".join(str(error).split())
    except Exception:
        said = "its message cannot be read"
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if "minimind_ref/kit/" not in frame.filename.replace("\\", "/")]
    where = f" ({outside[-1].filename}:{outside[-1].lineno})" if outside else ""
    return f"raised {type(error).__name__}" + (f": {said[:300]}" if said else "") + where
