"""Which libraries are put under the kit, and which of them are installed here."""

import os
from dataclasses import dataclass
from importlib import import_module, metadata

from minimind_ref.kit.implementation import Implementation

LIBRARIES = ("torch", "transformers", "trl", "jax", "flax", "equinox", "optax", "mlx", "tinygrad")
ON_JAX = ("jax", "flax", "equinox", "optax")


@dataclass(frozen=True)
class Peer:
    """A library: its version ("" if it is not installed), its implementations, or why there are none."""

    name: str
    version: str
    implementations: tuple[Implementation, ...] = ()
    missing: str = ""

    @property
    def title(self) -> str:
        """Give name and version."""
        return f"{self.name} {self.version}".strip()


def version(name: str) -> str:
    """Give an installed library's version, "" otherwise."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""


def load(name: str) -> Peer:
    """Import a library's file; one that is not installed, or cannot be imported, says so and is never a pass."""
    found = version(name)
    if not found:
        return Peer(name, "", missing="not installed")
    if name in ON_JAX:  # read when jax is imported: without it there is no float64
        os.environ.setdefault("JAX_ENABLE_X64", "1")
    try:
        module = import_module(f"minimind_ref.kit.peers.{name}")
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        return Peer(name, found, missing=f"cannot be used here: {type(error).__name__}: {said}")
    return Peer(name, found, tuple(module.IMPLEMENTATIONS))
