"""Known wrong implementations: what the kit must reject, each with the clause that it breaks and where it was met.

A mutant is a NumPy function with the arguments of the oracle's function; where only the gradient is wrong, it is the
oracle's forward pass with another vjp.  `source` names who shipped it: a public repository and the number of an issue,
pull request or commit there.  A `narrow` one is wrong in precision: it computes in the dtype of its inputs, as far as
NumPy has it, and shows in float16 alone; the others are wrong in exact arithmetic and run on float64 arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

CALLED = {  # operation -> the oracle's function, where they are not called the same
    "adamw.step": "adamw_update",
    "grad_scaler.unscale": "unscale",
    "grad_scaler.update": "update",
    "bpe.split": "pieces",
    "bpe.encode": "encode",
    "bpe.decode": "decode",
    "bpe.train": "train",
    "chat_template.render": "render_text",
    "chat_template.sft_mask": "supervised_spans",
    "chat_template.encode": "encode_chat",
    "training.step": "training_step",
}


@dataclass(frozen=True)
class Mutant:
    """One wrong implementation of `op`; `owner` is the clause that must reject it."""

    op: str
    id: str
    owner: str
    summary: str
    source: str
    function: Callable[..., Any]
    vjp: Callable[..., Any] | None = None
    narrow: bool = False

    @property
    def component(self) -> str:
        """Name the component that the owner belongs to."""
        return self.owner.rpartition("-")[0].lower()

    @property
    def called(self) -> str:
        """Name the oracle's function whose place the mutant takes."""
        return CALLED.get(self.op, self.op)

    def __str__(self) -> str:
        """Say what the kit says when an output looks like this mutant's."""
        return f"{self.id}, {self.summary} ({self.source})"


MUTANTS: dict[str, Mutant] = {}


def mutant(
    op: str, id: str, *, owner: str, summary: str, source: str, gradient: bool = False, narrow: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as a mutant, or (`gradient`) as the wrong vjp of the oracle's own function."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        if id in MUTANTS:
            raise ValueError(f"mutant {id} is defined twice")
        made = Mutant(op, id, owner, summary, source, function, narrow=narrow)
        if gradient:
            right = getattr(import_module(f"minimind_ref.oracle.{made.component}"), made.called)
            made = replace(made, function=right, vjp=function)
        MUTANTS[id] = made
        return function

    return register


def load_mutants(component: str | None = None) -> dict[str, Mutant]:
    """Import the mutants, all or one component's, and give them by id."""
    package = import_module("minimind_ref.kit.mutants")
    for module in iter_modules(package.__path__):
        if component in (None, module.name):
            import_module(f"{package.__name__}.{module.name}")
    return {i: m for i, m in sorted(MUTANTS.items()) if component in (None, m.component)}
