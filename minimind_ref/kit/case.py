"""One question to an implementation: inputs, what is expected, and how near an answer must be."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minimind_ref.golden.faces import with_bounds
from minimind_ref.golden.trees import typed
from minimind_ref.kit import trees
from minimind_ref.kit.operation import Operation
from minimind_ref.oracle.bounded import PROFILES, Bounded, bound, value

ORDER = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Expected:
    """A value and, per element, how far a result may be from it; without a bound the two must be equal."""

    value: Any
    bound: np.ndarray | None = None


Results = dict[str, Expected]
Answers = tuple[Results, Results]  # of the outputs and of the gradients, by name


@dataclass(frozen=True)
class Case:
    """A case in the operation's convention.

    `answer(profile)` gives what is expected; `cotangent` is by output name, and empty where no gradient is asked for;
    `of` names the inputs that have a gradient, where not every floating one has.
    """

    id: str
    operation: Operation
    clauses: tuple[str, ...]
    why: str
    inputs: dict[str, Any]
    parameters: dict[str, Any]
    outputs: tuple[str, ...]
    answer: Callable[[str], Answers]
    profiles: tuple[str, ...] = ORDER
    cotangent: dict[str, np.ndarray] = field(default_factory=dict)
    of: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    link: str = ""

    @property
    def exact(self) -> bool:
        """Say whether no precision matters: there is no floating array among the inputs."""
        return not trees.floating(self.inputs)

    @property
    def size(self) -> int:
        """Count the numbers of the inputs; the smallest failing case is shown."""
        sizes = [getattr(x, "size", len(x) if isinstance(x, str | list) else 1) for _, x in trees.leaves(self.inputs)]
        return sum(sizes)

    def stored(self, profile: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Give inputs and cotangents as the profile stores them, in float64."""
        fmt = PROFILES[profile].storage

        def rounded(_: str, x: Any) -> Any:
            return np.asarray(fmt.round(x)) if trees.is_floating(x) else x

        return trees.map_named(rounded, self.inputs), trees.map_named(rounded, self.cotangent)

    def restored(self, inputs: dict[str, Any], cotangent: dict[str, np.ndarray]) -> "Case":
        """Ask about other inputs, or the same ones as a profile stores them."""
        return replace(self, inputs=inputs, cotangent=cotangent)


def by_oracle(case: Case) -> Case:
    """Let the oracle answer, whose bounds hold for every order of summation; each profile is computed once."""
    known: dict[str, Answers] = {}

    def answer(profile: str) -> Answers:
        if profile not in known:
            known[profile] = compute(case, profile)
        return known[profile]

    return replace(case, answer=answer)


def compute(case: Case, profile: str) -> Answers:
    """Run the oracle and its gradient on bound-carrying inputs."""
    operation, (inputs, cotangent) = case.operation, case.stored(profile)
    inputs = {name: np.asarray(x) if isinstance(x, float) else x for name, x in inputs.items()}  # numbers carry, too
    carried = typed(operation.reference, carrying(inputs, profile))
    outputs = dict(zip(case.outputs, flat(operation.reference(**carried, **case.parameters)), strict=False))
    gradients: dict[str, Any] = {}
    if cotangent:
        assert operation.reference_vjp is not None
        given = list(carrying(cotangent, profile).values())
        found = operation.reference_vjp(
            **carried, **case.parameters, cotangent=given[0] if len(given) == 1 else tuple(given)
        )
        pulled = [g for g in flat(found) if g is not None]
        gradients = dict(zip(case.of or trees.floating(case.inputs), pulled, strict=True))
    return tuple({name: expected(y) for name, y in each.items()} for each in (outputs, gradients))  # type: ignore[return-value]


def carrying(x: Any, profile: str) -> Any:
    """Let the floating leaves carry bounds, those of lists too."""
    return trees.map_named(lambda _, leaf: with_bounds(leaf, profile), x)


def flat(result: Any) -> list[Any]:
    """Give the leaves of an oracle's result, its lists of token ids whole."""
    if isinstance(result, tuple) and not hasattr(result, "_fields"):
        return [leaf for part in result for leaf in flat(part)]
    return [leaf for _, leaf in trees.leaves(result)]


def expected(y: Any) -> Expected:
    """Read value and bound of what the oracle gave; an undecided element has an infinite bound."""
    if isinstance(y, Bounded):
        kind = y.value.dtype.kind
        return Expected(value(y), bound(y) if kind == "f" or np.isinf(bound(y)).any() else None)
    if trees.is_floating(y) or isinstance(y, float):
        return Expected(np.asarray(y), np.zeros(np.shape(y)))
    return Expected(np.asarray(y) if hasattr(y, "dtype") or isinstance(y, bool | int) else y)
