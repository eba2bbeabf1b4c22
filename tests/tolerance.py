"""Compare results with the bounds that oracles derive: the only place where the tests meet a tolerance.

`agree` and `agree_vjp` run an oracle on bound-carrying inputs and a torch face on the same rounded inputs. `ulps`
states the few tolerances that no oracle derives, with their reason.

Longer than the house's 150 lines, so that every tolerance of the tests is in one file.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from minimind_ref.oracle.bounded import PROFILES, Bounded, bound_inputs
from minimind_ref.oracle.bounded import bound as bound_of
from minimind_ref.oracle.bounded import value as value_of
from minimind_ref.oracle.precision import Format

DTYPES = {name: getattr(torch, name) for name in PROFILES}
FORMATS: dict[str, Format] = {profile.storage.name: profile.storage for profile in PROFILES.values()}
# VERIFICATION.md, "A bound must not be vacuous": for a component in float64.
MEDIAN_LIMIT = 1e-9


@dataclass(frozen=True)
class Ulps:
    """A tolerance of `count` units in the last place of the expected value in `dtype`, for a stated reason."""

    count: float
    dtype: str
    reason: str

    def of(self, expected: np.ndarray) -> np.ndarray:
        """Give the tolerance of each expected value: count · 2^(exponent − digits + 1), subnormal spacing near zero."""
        fmt = FORMATS[self.dtype]
        exponent = np.where(expected == 0, fmt.smallest_exponent, np.frexp(expected)[1] - 1)
        exponent = np.maximum(exponent, fmt.smallest_exponent)
        return self.count * np.ldexp(1.0, exponent - fmt.digits + 1)


def ulps(count: float, dtype: str | torch.dtype, *, reason: str) -> Ulps:
    """State a tolerance in units in the last place; the reason says why no oracle bounds it and why so many."""
    name = str(dtype).removeprefix("torch.")
    if name not in FORMATS:
        raise ValueError(f"dtype is {name}, expected one of {', '.join(FORMATS)}")
    if count < 0 or not reason.strip():
        raise ValueError(f"ulps need a count of at least 0 and a reason, got {count} and {reason!r}")
    return Ulps(count, name, reason)


@dataclass(frozen=True)
class Agreement:
    """How near a result came: what `assert_within` measured over all elements."""

    size: int
    undecided: float
    largest_error_over_bound: float
    median_bound_over_value: float


def assert_within(actual: Any, expected: Any, bound: Any = None, *, undecided: float = 0.0) -> Agreement:
    """Assert |actual − expected| ≤ bound for every element, and return how near it came.

    The bound is that of a Bounded `expected`, an array, or `ulps(…)`; without one the two must be equal. NaN fails on
    either side, an empty array fails, shapes must be the same (only a scalar bound is broadcast), an infinity must be
    met exactly. At most the share `undecided` of the elements may have an infinite bound; there all but NaN passes.
    """
    y, v = _plain(actual), np.asarray(value_of(expected), np.float64)
    if isinstance(bound, Ulps):
        bound = bound.of(v)
    e = np.asarray(bound_of(expected) if bound is None else bound, np.float64)
    assert y.shape == v.shape, f"the result has shape {y.shape} but {v.shape} is expected"
    assert y.size, f"an empty result of shape {y.shape} shows nothing"
    assert e.shape in ((), v.shape), f"the bound has shape {e.shape} but the result {v.shape}"
    e = np.broadcast_to(e, v.shape)
    assert not np.isnan(y).any(), f"NaN in {int(np.isnan(y).sum())} of {y.size} results, first at {_first(np.isnan(y))}"
    assert not np.isnan(v).any() and not np.isnan(e).any(), (
        "NaN is expected, or bounds a result: nothing can be checked"
    )
    open_share = float(np.isinf(e).mean())
    assert open_share <= undecided, f"{open_share:.1%} of the results are undecided, at most {undecided:.1%} may be"
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = np.where(y == v, 0.0, np.abs(y - v))
        ratio = np.where(error == 0, 0.0, np.where(np.isinf(e), 0.0, error / e))
    wrong = ratio > 1
    if wrong.any():
        worst = np.unravel_index(np.argmax(ratio), ratio.shape)
        raise AssertionError(
            f"{int(wrong.sum())} of {y.size} results are outside their bound; worst at {tuple(map(int, worst))}: "
            f"{y[worst]!r} instead of {v[worst]!r} ± {e[worst]:.3g}, an error of {ratio[worst]:.3g} bounds"
        )
    return Agreement(y.size, open_share, float(ratio.max()), _median_ratio(v, e))


def _median_ratio(v: np.ndarray, e: np.ndarray) -> float:
    """Give the median of bound ÷ |value| over what is neither zero nor infinite nor undecided."""
    sized = (v != 0) & np.isfinite(v) & np.isfinite(e)
    with np.errstate(over="ignore"):
        return float(np.median(e[sized] / np.abs(v[sized]))) if sized.any() else 0.0


def assert_same(a: Any, b: Any) -> None:
    """Assert that two arrays are the same bit for bit: shape, dtype, the sign of zero and NaN's payload included."""
    a, b = (x.detach().cpu() if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x)) for x in (a, b))
    assert a.shape == b.shape, f"shapes {tuple(a.shape)} and {tuple(b.shape)} differ"
    assert a.dtype == b.dtype, f"dtypes {a.dtype} and {b.dtype} differ"
    assert a.numel(), f"empty arrays of shape {tuple(a.shape)} show nothing"
    a_bytes, b_bytes = (x.contiguous().view(-1).view(torch.uint8).view(a.numel(), -1) for x in (a, b))
    differ = (a_bytes != b_bytes).any(dim=1)
    if differ.any():
        at = int(differ.nonzero()[0])
        first = f"first at flat index {at}: {a.reshape(-1)[at].item()!r} and {b.reshape(-1)[at].item()!r}"
        raise AssertionError(f"{int(differ.sum())} of {a.numel()} elements differ in their bits, {first}")


def agree(
    oracle: Callable,
    face: Callable,
    inputs: Mapping[str, Any],
    *,
    profile: str,
    undecided: float = 0.0,
    median_limit: float | None = None,
    output_dtype: torch.dtype | None = None,
    face_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Agreement:
    """Assert that a torch face is within its oracle's bound, for every output, and has the profile's dtype.

    `inputs` maps argument names to float64, integer or boolean arrays, None, or tuples of these, in the order of the
    arguments; floating ones are first rounded to the profile's storage format, for both. `options` go to both as
    keywords, `face_options` (`implementation=`) to torch only. `output_dtype` overrides the dtype that floating outputs
    must have. In float64 the median bound ÷ |value| must be at most `median_limit` (1e-9 unless given).
    """
    bounded = [_bounded(x, profile) for x in inputs.values()]
    expected = oracle(**dict(zip(inputs, bounded, strict=True)), **options)
    tensors = {name: _tensor(x, profile) for name, x in zip(inputs, bounded, strict=True)}
    actual = face(**tensors, **options, **(face_options or {}))
    dtype = output_dtype or DTYPES[profile]
    for tensor in _leaves(actual):
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            assert tensor.dtype == dtype, f"an output has dtype {tensor.dtype}, expected {dtype}"
    return _compare(actual, expected, profile, undecided, median_limit)


def agree_vjp(
    oracle_vjp: Callable,
    face: Callable,
    inputs: Mapping[str, Any],
    *,
    profile: str,
    cotangent: Any = None,
    undecided: float = 0.0,
    median_limit: float | None = None,
    face_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Agreement:
    """Assert that torch's gradients of a face are within the bound of the oracle's hand-derived `<name>_vjp`.

    Inputs, options and limits as in `agree`. `cotangent` is an array, or a tuple for several floating outputs; without
    it a fixed pattern without zeros or symmetry is used. Gradients are compared for every floating input, in order.
    """
    bounded = [_bounded(x, profile) for x in inputs.values()]
    tensors = {name: _tensor(x, profile) for name, x in zip(inputs, bounded, strict=True)}
    sources = [t.requires_grad_() for t in _leaves(tensors.values()) if _floating(t)]
    outputs = [t for t in _leaves(face(**tensors, **options, **(face_options or {}))) if _floating(t)]
    assert outputs and sources, f"{len(outputs)} floating outputs and {len(sources)} floating inputs: nothing to derive"
    given = [_pattern(tuple(t.shape)) for t in outputs] if cotangent is None else list(_leaves(cotangent))
    cotangents = [_bounded(np.asarray(c, np.float64), profile) for c in given]
    assert len(cotangents) == len(outputs), f"cotangent has {len(cotangents)} entries for {len(outputs)} outputs"
    with torch.enable_grad():
        along = [_tensor(c, profile).to(t.dtype) for c, t in zip(cotangents, outputs, strict=True)]
        actual = torch.autograd.grad(outputs, sources, along, allow_unused=True, materialize_grads=True)
    named = dict(zip(inputs, bounded, strict=True))
    both = cotangents[0] if len(cotangents) == 1 else tuple(cotangents)
    return _compare(actual, oracle_vjp(**named, **options, cotangent=both), profile, undecided, median_limit)


def _compare(actual: Any, expected: Any, profile: str, undecided: float, median_limit: float | None) -> Agreement:
    """Compare all leaves as one result, so that shares and medians are the component's."""
    results, wanted = list(_leaves(actual)), list(_leaves(expected))
    assert results and len(results) == len(wanted), f"{len(results)} results for {len(wanted)} of the oracle"
    pairs = list(zip(results, wanted, strict=True))
    reports = [assert_within(a, e, undecided=1.0) for a, e in pairs]
    size = sum(r.size for r in reports)
    share = sum(r.undecided * r.size for r in reports) / size
    assert share <= undecided, f"{share:.1%} of the results are undecided, at most {undecided:.1%} may be"
    v = np.concatenate([np.ravel(value_of(e)).astype(np.float64) for _, e in pairs if _is_number(e)] or [np.zeros(0)])
    b = np.concatenate([np.ravel(bound_of(e)) for _, e in pairs if _is_number(e)] or [np.zeros(0)])
    median = _median_ratio(v, b)
    limit = median_limit if median_limit is not None else MEDIAN_LIMIT
    assert profile != "float64" or median <= limit, f"the median bound is {median:.3g} of the value, limit {limit:.3g}"
    return Agreement(size, share, max(r.largest_error_over_bound for r in reports), median)


def _leaves(x: Any) -> Iterator[Any]:
    """Give the arrays of nested tuples, lists and mappings in their order, leaving out None."""
    if isinstance(x, Mapping):
        x = x.values()
    if isinstance(x, torch.Tensor | Bounded | np.ndarray | np.generic | float | int):
        yield x
    elif x is not None:
        for part in x:
            yield from _leaves(part)


def _bounded(x: Any, profile: str) -> Any:
    """Round the floating arrays of an argument to the storage format and make them Bounded."""
    if isinstance(x, tuple | list):
        return type(x)(_bounded(part, profile) for part in x)
    return bound_inputs(x, profile=profile)[0] if isinstance(x, np.ndarray | np.floating) else x


def _tensor(x: Any, profile: str) -> Any:
    """Make the torch argument that holds the same numbers: floating ones in the profile's dtype."""
    if isinstance(x, tuple | list):
        return type(x)(_tensor(part, profile) for part in x)
    if isinstance(x, Bounded):
        return torch.tensor(x.value, dtype=DTYPES[profile])
    return torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x


def _plain(x: Any) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = (x.to(torch.float64) if x.is_floating_point() else x).numpy()
    return np.asarray(value_of(x), np.float64)


def _floating(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def _is_number(x: Any) -> bool:
    return np.asarray(value_of(x)).dtype.kind == "f"


def _pattern(shape: tuple) -> np.ndarray:
    """Give a fixed cotangent: no zeros, no symmetry, no period along any axis."""
    return np.cos(1.0 + 2.4 * np.arange(np.prod(shape, dtype=int))).reshape(shape)


def _first(mask: np.ndarray) -> tuple:
    return tuple(int(i) for i in np.argwhere(mask)[0])
