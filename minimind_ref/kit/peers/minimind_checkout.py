"""Imports the modules of a MiniMind checkout, each generation's apart from the other's."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from minimind_ref.errors import UserError

ROOTS = ("model", "dataset", "trainer")  # the packages of a checkout, called alike in both generations


class Checkout:
    """A folder with MiniMind's model/model_minimind.py."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        source = self.path / "model" / "model_minimind.py"
        if not source.is_file():
            raise UserError(f"{path} is no checkout of MiniMind: it has no model/model_minimind.py")
        self.generation = 3 if "q_norm" in source.read_text(encoding="utf-8") else 2

    @cached_property
    def model(self) -> ModuleType:
        """model/model_minimind.py."""
        return self.module("model.model_minimind")

    def module(self, name: str) -> ModuleType:
        """Import one module, and forget its name: the other checkout has the same."""
        with self.first():
            return importlib.import_module(name)

    @contextmanager
    def first(self) -> Iterator[None]:
        """Let the checkout come first on the path."""
        before, kept = list(sys.path), {n: m for n, m in sys.modules.items() if belongs(n)}
        for n in kept:
            del sys.modules[n]
        sys.path.insert(0, str(self.path))
        try:
            yield
        finally:
            sys.path[:] = before
            for n in [n for n in sys.modules if belongs(n)]:
                del sys.modules[n]
            sys.modules.update(kept)

    def config(self, **fields: Any) -> Any:
        """Build its configuration."""
        return self.model.MiniMindConfig(**fields)


def belongs(name: str) -> bool:
    """Say whether a module's name is one of a checkout's."""
    return name.partition(".")[0] in ROOTS
