"""MiniMind, with every "is this implementation right?" answered by a runnable test."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minimind_ref.config import PRESETS, ModelConfig, count_parameters
    from minimind_ref.model.transformer import Transformer

__version__ = "0.1.0"
__all__ = ["PRESETS", "ModelConfig", "Transformer", "count_parameters"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import minimind_ref.oracle` loads no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'model.transformer' if name == 'Transformer' else 'config'}"), name)
