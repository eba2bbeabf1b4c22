"""Runs the executable definitions of specs/ with floats or with 50-digit decimals, and reads their clauses."""

import decimal
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, wraps
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "specs"
DIGITS = 50
GUARD = 15  # digits beyond the 50, for the angle reduction of sin and cos up to 1e9 and for the last rounding
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798")
BLOCK = re.compile(r"^```python definition\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLAUSE = re.compile(
    r"^- \*\*([A-Z][A-Z0-9_]*-\d+)\*\* \((MUST|SHOULD)(?:: ([^)]*))?\) (.*(?:\n(?!- |\n|#).*)*)", re.MULTILINE
)


@dataclass(frozen=True)
class Clause:
    """One testable idea: a permanent id, MUST or SHOULD, the reason of a SHOULD, and the text on one line."""

    id: str
    level: str
    reason: str | None
    text: str


def clauses(name: str, folder: Path = SPECS) -> list[Clause]:
    """Read the clauses of specs/NAME.md in their order."""
    found = CLAUSE.findall((folder / f"{name}.md").read_text(encoding="utf-8"))
    return [Clause(id, level, reason or None, " ".join(text.split())) for id, level, reason, text in found]


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _log(x: float) -> float:
    return -math.inf if x == 0 else math.log(x)


def _sin(x: Decimal) -> Decimal:
    """Taylor's series after reduction to |x| ≤ π, with digits to spare: no libm."""
    with decimal.localcontext() as context:
        context.prec = DIGITS + 2 * GUARD
        x = x % (2 * PI)
        x = x - 2 * PI if x > PI else x
        term, total, n = x, x, 1
        while abs(term) > Decimal(10) ** (-DIGITS - 2 * GUARD):
            term *= -x * x / ((n + 1) * (n + 2))
            total, n = total + term, n + 2
    return +total


def _cos(x: Decimal) -> Decimal:
    with decimal.localcontext() as context:
        context.prec = DIGITS + 2 * GUARD
        shifted = x + PI / 2
    return _sin(shifted)


FLOAT: dict[str, Any] = {
    "Number": float, "sqrt": math.sqrt, "exp": _exp, "log": _log, "sin": math.sin, "cos": math.cos, "pi": math.pi
}  # fmt: skip
DECIMAL: dict[str, Any] = {
    "Number": Decimal, "sqrt": Decimal.sqrt, "exp": Decimal.exp, "log": Decimal.ln, "sin": _sin, "cos": _cos, "pi": PI
}  # fmt: skip


def numbers(x: Any, kind: str) -> Any:
    """Turn arrays and floats, nested anyhow, into lists of Numbers; integers, bools, None and strings stay."""
    if isinstance(x, np.ndarray | np.generic):
        x = x.tolist()
    if isinstance(x, dict):
        return {key: numbers(entry, kind) for key, entry in x.items()}
    if isinstance(x, list | tuple):
        entries = [numbers(entry, kind) for entry in x]
        return type(x)(*entries) if hasattr(x, "_fields") else type(x)(entries)
    if isinstance(x, float):
        return Decimal.from_float(x) if kind == "decimal" else x
    return float(x) if isinstance(x, Decimal) and kind == "float" else x


def floats(x: Any) -> Any:
    """Turn what a definition returns into arrays, each decimal correctly rounded; a tuple gives a tuple."""
    return tuple(floats(entry) for entry in x) if isinstance(x, tuple) else _array(x)


def _array(x: Any) -> Any:
    if isinstance(x, str) or (isinstance(x, list) and any(isinstance(entry, str) for entry in x)):
        return x
    if isinstance(x, list) and len({len(entry) if isinstance(entry, list) else 0 for entry in x}) > 1:
        return x  # lists of unequal lengths are no array
    array = np.array(x)
    return array.astype(np.float64) if array.dtype == object else array


def prepared(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """Let a definition's function take arrays, and run it with 50 digits to trust, or with floats."""

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        with decimal.localcontext() as context:
            context.prec = DIGITS + GUARD
            context.Emin, context.Emax = decimal.MIN_EMIN, decimal.MAX_EMAX
            for signal in (decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow):
                context.traps[signal] = False  # NaN and infinities come out as in IEEE arithmetic
            context.traps[decimal.FloatOperation] = True  # Number(0.1) and x < 0.1 are errors, as x * 0.1 is
            return function(*[numbers(a, kind) for a in arguments], **{k: numbers(x, kind) for k, x in options.items()})

    return run


def source(name: str, folder: Path = SPECS) -> str:
    """Give the source of the one definition block of specs/NAME.md."""
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    if len(blocks) != 1:
        raise ValueError(f"specs/{name}.md has {len(blocks)} definition blocks but must have 1")
    return "\n" * text.count("\n", 0, blocks[0].start(1)) + blocks[0].group(1)  # a traceback names the file's line


@cache
def definition(name: str, kind: str, folder: Path = SPECS) -> SimpleNamespace:
    """Execute the definition of specs/NAME.md with kind "float" or "decimal"; its functions take arrays or lists.

    What they return is nested lists of floats or Decimals: `floats` turns it into arrays.
    """
    if kind not in ("float", "decimal"):
        raise ValueError(f"kind is {kind!r} but must be float or decimal")
    injected = DECIMAL if kind == "decimal" else FLOAT
    namespace: dict[str, Any] = dict(injected)
    exec(compile(source(name, folder), f"specs/{name}.md", "exec"), namespace)
    return SimpleNamespace(**{n: prepared(f, kind) for n, f in functions(namespace, injected)})


def functions(namespace: dict[str, Any], injected: dict[str, Any]) -> Iterable[tuple[str, FunctionType]]:
    """List what a definition defines."""
    return ((n, f) for n, f in namespace.items() if isinstance(f, FunctionType) and n not in injected)
