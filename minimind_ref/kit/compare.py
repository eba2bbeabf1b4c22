"""Holds one result against what is expected: equal, or within the bound element by element."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minimind_ref.kit.case import Expected
from minimind_ref.kit.outcome import Result


@dataclass(frozen=True)
class Comparison:
    """How a result compares: `ratio` is the largest error ÷ bound, `text` says where it is worst; `kind` is what is
    wrong: "" (nothing), type, shape, value."""

    ratio: float = 0.0
    kind: str = ""
    text: str = ""
    expected: str = ""
    got: str = ""
    bound: str = ""

    @property
    def good(self) -> bool:
        """Say whether the result is right."""
        return not self.kind


def compare(name: str, result: Result, expected: Expected) -> Comparison:
    """Compare a result of that name."""
    if not isinstance(expected.value, np.ndarray | np.generic):
        return _data(name, result.value, expected.value)
    want = np.asarray(expected.value)
    try:
        got = np.asarray(result.value)
    except Exception:
        got = np.array(None)
    if got.dtype.kind not in "fiub":
        return Comparison(
            np.inf, "type", f"{name} is {_of(result.value)} but an array of {want.dtype.name} is expected"
        )
    if got.shape != want.shape:
        return Comparison(np.inf, "shape", f"{name} has shape {got.shape} but {want.shape} is expected")
    if want.dtype.kind != "f":
        return _whole(name, got, want, expected.bound)
    bound = np.zeros(want.shape) if expected.bound is None else np.broadcast_to(expected.bound, want.shape)
    return _numbers(name, got.astype(np.float64), want, bound)


def _numbers(name: str, got: np.ndarray, want: np.ndarray, bound: np.ndarray) -> Comparison:
    with np.errstate(all="ignore"):
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        open_ = np.isinf(bound) & ~np.isnan(got)  # undecided: either branch is right
        error = np.where(same | open_, 0.0, np.abs(got - want))
        ratio = np.where(error == 0, 0.0, np.where(np.isnan(error), np.inf, error / bound))
    if not ratio.size or ratio.max() <= 1:
        return Comparison(float(ratio.max()) if ratio.size else 0.0)
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(ratio)), ratio.shape))
    place, values, allowed = f"{name}{list(at) if at else ''}", (float(got[at]), float(want[at])), float(bound[at])
    short = [f"{x:.9g}" for x in values]
    value, wanted = map(repr, values)
    shown = " instead of ".join(short if len(set(short)) > 1 else (value, wanted))
    times = f", {ratio[at]:.3g} times the bound" if np.isfinite(ratio[at]) else ", no error is allowed" * (allowed == 0)
    off = int((ratio > 1).sum())
    text = f"{place} is {shown} ± {allowed:.3g}{times} ({off} of {ratio.size} are off)"
    return Comparison(float(ratio[at]), "value", text, wanted, value, repr(allowed))


def _whole(name: str, got: np.ndarray, want: np.ndarray, bound: Any) -> Comparison:
    """Whole numbers and booleans must be equal, except where the choice is undecided."""
    if got.dtype.kind == "f":
        return Comparison(np.inf, "type", f"{name} has dtype {got.dtype.name} but {want.dtype.name} is expected")
    unclear = np.zeros(want.shape, bool) if bound is None else np.broadcast_to(np.isinf(bound), want.shape)
    wrong = (got.astype(np.int64) != want.astype(np.int64)) & ~unclear
    if not wrong.any():
        return Comparison()
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = f"{name}{list(at) if at else ''}"
    text = f"{place} is {got[at]} instead of {want[at]} ({int(wrong.sum())} of {wrong.size} are off)"
    return Comparison(np.inf, "value", text, str(want[at]), str(got[at]), "0")


def _data(name: str, got: Any, want: Any) -> Comparison:
    """Text and lists of ids must be equal; tuples and arrays count as lists."""
    found, wanted = _listed(got), _listed(want)
    if found == wanted and type(found) is type(wanted):
        return Comparison()
    if type(found) is not type(wanted):
        return Comparison(np.inf, "type", f"{name} is {_of(got)} but {_of(want)} is expected")
    at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted)))
    shown = [repr(x[max(at - 10, 0) : at + 30]) for x in (found, wanted)]
    text = f"{name} differs from place {at} on: {shown[0]} instead of {shown[1]}"
    return Comparison(np.inf, "value", text, repr(wanted)[:300], repr(found)[:300], "0")


def _listed(x: Any) -> Any:
    if isinstance(x, np.ndarray | np.generic):
        return x.tolist()
    if isinstance(x, tuple | list | range):
        return [_listed(entry) for entry in x]
    return x


def _of(x: Any) -> str:
    return "None" if x is None else f"a {type(x).__name__}"
