"""MiniMind, with every "is this implementation right?" answered by a runnable test."""

from importlib import import_module
from typing import Any

_HOMES = {
    "ModelConfig": "config",
    "PRESETS": "config",
    "count_parameters": "config",
    "Transformer": "model.transformer",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that `import minimind_ref.oracle` loads no torch."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
