"""Array libraries: how a case's NumPy arrays become an implementation's, and its results NumPy's again.

Floating arrays are float64 here, already rounded to the profile's storage format; `dtype` names that format.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minimind_ref.errors import UserError
from minimind_ref.kit import gradients
from minimind_ref.kit.binding import parameters_of

Plain = tuple[np.ndarray, str]
WIDE = {"f": np.float64, "b": np.bool_, "i": np.int64, "u": np.int64}


@dataclass(frozen=True)
class Library:
    """An array library: conversions both ways, the profiles that it has by default, its own way to gradients.

    `holds` says what an array of the library is; `plain` gives its numbers and the name of the dtype that they had.
    """

    name: str
    array: Callable[[np.ndarray, str], Any]
    holds: Callable[[Any], bool]
    plain: Callable[[Any], Plain]
    profiles: tuple[str, ...]
    gradient: Callable[..., list[Any]] | None = None

    def make(self, x: np.ndarray, profile: str) -> Any:
        """Make an array of the library; integers and booleans keep their own dtype in every profile."""
        return self.array(np.array(x), profile if x.dtype.kind == "f" else str(x.dtype))


def is_numeric(y: Any) -> bool:
    """Say whether y is a NumPy array of numbers (objects and text are none)."""
    return isinstance(y, np.ndarray | np.generic) and (y.dtype.kind in WIDE or y.dtype.name == "bfloat16")


def widened(y: Any) -> Plain:
    """Give a NumPy array's numbers in float64, int64 or bool, with the dtype that it had."""
    kind = "f" if y.dtype.name == "bfloat16" else y.dtype.kind
    return np.asarray(y).astype(WIDE[kind]), y.dtype.name


def numpy_array(x: np.ndarray, dtype: str) -> np.ndarray:
    """Make a NumPy array; bfloat16 where ml_dtypes is installed."""
    if dtype == "bfloat16":
        import ml_dtypes  # type: ignore

        return x.astype(ml_dtypes.bfloat16)
    return x.astype(dtype)


def numpy_library() -> Library:
    """NumPy, whose functions are judged in float64 unless they claim more."""
    return Library("numpy", numpy_array, is_numeric, widened, ("float64",))


def torch_library() -> Library:
    """Torch on the CPU, gradients by autograd."""
    import torch

    def array(x: np.ndarray, dtype: str) -> Any:
        return torch.from_numpy(np.array(x)).to(getattr(torch, dtype))

    def holds(y: Any) -> bool:
        return isinstance(y, torch.Tensor) and not y.is_complex()

    def plain(y: Any) -> Plain:
        y, dtype = y.detach().cpu(), str(y.dtype).removeprefix("torch.")
        return widened((y.double() if y.is_floating_point() else y).numpy())[0], dtype

    one = torch.ones(1)
    gradients.torch_gradient(lambda given: given, [one], [one])  # what torch imports only now costs no call its time
    return Library("torch", array, holds, plain, ("float64", "float32"), gradients.torch_gradient)


def jax_library() -> Library:
    """JAX, gradients by jax.vjp; float64 only where jax_enable_x64 is set."""
    import jax  # type: ignore
    import jax.numpy as jnp  # type: ignore

    def array(x: np.ndarray, dtype: str) -> Any:
        return jnp.asarray(x) if x.dtype.kind != "f" else jnp.asarray(x, dtype=dtype)

    def holds(y: Any) -> bool:
        return isinstance(y, jax.Array)

    profiles = ("float64", "float32") if jax.config.jax_enable_x64 else ("float32",)
    return Library("jax", array, holds, lambda y: widened(np.asarray(y)), profiles, gradients.jax_gradient)


def mlx_library() -> Library:
    """MLX, gradients by mx.vjp."""
    import mlx.core as mx  # type: ignore

    def array(x: np.ndarray, dtype: str) -> Any:
        if x.dtype.kind != "f":
            return mx.array(x)
        return mx.array(x.astype(np.float32)).astype(getattr(mx, dtype))

    def plain(y: Any) -> Plain:
        dtype = str(y.dtype).removeprefix("mlx.core.").rstrip("_")
        return widened(np.array(y.astype(mx.float32) if dtype == "bfloat16" else y))[0], dtype

    return Library("mlx", array, lambda y: isinstance(y, mx.array), plain, ("float32",), gradients.mlx_gradient)


def pair_library(pair: Sequence[Callable[..., Any]]) -> Library:
    """Build from converters: to_array(NumPy array) and from_array(theirs) -> NumPy array, or (it, its dtype's name)."""
    to_array, from_array = pair
    takes_dtype = len(parameters_of(to_array) or ()) > 1

    def array(x: np.ndarray, dtype: str) -> Any:
        return to_array(x, dtype) if takes_dtype else to_array(numpy_array(x, dtype))

    def holds(y: Any) -> bool:
        if y is None or isinstance(y, bool | int | float | str | list | tuple | dict):
            return False
        try:
            plain(y)
        except Exception:
            return False
        return True

    def plain(y: Any) -> Plain:
        found = from_array(y)
        return (widened(found[0])[0], str(found[1])) if isinstance(found, tuple) else widened(found)

    return Library("converters", array, holds, plain, ("float32",))


LIBRARIES = {"numpy": numpy_library, "torch": torch_library, "jax": jax_library, "mlx": mlx_library}


def library(arrays: Any) -> Library:
    """Find a library by its name, or build one from a pair of converters."""
    if isinstance(arrays, Library):
        return arrays
    if isinstance(arrays, tuple | list) and len(arrays) == 2 and all(map(callable, arrays)):
        return pair_library(arrays)
    if not isinstance(arrays, str) or arrays not in LIBRARIES:
        raise UserError(f"arrays is {arrays!r} but must be one of {', '.join(LIBRARIES)} or (to_array, from_array)")
    try:
        return LIBRARIES[arrays]()
    except ImportError as error:
        raise UserError(f"arrays={arrays!r} needs {error.name}, which is not installed") from None
