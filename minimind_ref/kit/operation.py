"""An operation of the kit: what a function that is judged takes and gives, and which clauses it answers for."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

from minimind_ref.golden import faces
from minimind_ref.golden.definitions import Clause, clauses
from minimind_ref.kit import conventions, home

ORACLES = {"bpe.split": "pieces"}  # where the oracle's function is called neither
LEVELS = ("Forward", "Backward", "Optimiser", "Alignment", "Inference", "Data")


@dataclass(frozen=True)
class Operation:
    """One function of the public surface, as an implementation offers it.

    `golden` is its name in golden/<component>.json.  Clauses: `backward` are those that gradients alone show, `both`
    those that forward and gradients share, `narrow` those that only bfloat16 and float16 show; `dtype` and `pure` say
    which clause a wrong dtype or a changed input breaks.  `wide` names what stays float32 where the rest is narrow;
    `of_input` says of which inputs' gradients a clause speaks, where not of all.
    `choices` are the arguments that name a choice between good implementations: an implementation may be fixed to one.
    `needs` are the operations that it is composed of.  An `optional` one stands beside another that shows most of its
    clauses: where it is absent, only the others count against an implementation.
    """

    name: str
    component: str
    golden: str
    level: str
    backward: tuple[str, ...] = ()
    both: tuple[str, ...] = ()
    dtype: str | None = None
    pure: str | None = None
    choices: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    optional: bool = False
    of_input: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    narrow: tuple[str, ...] = ()

    @cached_property
    def reference(self) -> Callable[..., Any]:
        """The oracle, in the operation's own convention."""
        module = import_module(f"minimind_ref.oracle.{self.component}")
        return conventions.public(self.name, getattr(module, ORACLES.get(self.name, self.golden)))

    @cached_property
    def reference_vjp(self) -> Callable[..., Any] | None:
        """The oracle's hand-derived gradient, where there is one."""
        if not self.differentiable:
            return None
        return faces.oracle(self.component, f"{self.golden}_vjp")

    @property
    def differentiable(self) -> bool:
        """Say whether gradients are part of the operation."""
        return bool(self.backward or self.both)

    @cached_property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """The public arguments by name; those without a default must be understood by every implementation."""
        return dict(inspect.signature(self.reference).parameters)

    def stays_wide(self, name: str, *, output: bool) -> bool:
        """Say whether an input or output is float32 where the profile is narrow; "*" stands for all outputs."""
        return name.split(".")[0] in self.wide or (output and "*" in self.wide)

    @property
    def formula(self) -> str:
        """The component's first clause, which says what the values are."""
        return next(iter(self.clauses))

    @property
    def signature(self) -> str:
        """Write the call down for people."""
        plain = [p.replace(annotation=inspect.Parameter.empty) for p in self.arguments.values()]
        return f"{self.name}{inspect.Signature(plain)}"

    @cached_property
    def clauses(self) -> dict[str, Clause]:
        """The component's MUST clauses by id, in the order of the specification."""
        found = clauses(self.component, home.specs())
        return {clause.id: clause for clause in found if clause.level == "MUST"}

    def level_of(self, clause: str) -> str:
        """Say to which level a clause belongs: gradients of the forward operations are a level of their own."""
        return "Backward" if clause in self.backward and self.level == "Forward" else self.level
