"""Cases made on the spot from a seed: inputs for which each term matters, answered by the oracle with its bounds.

A generator draws inputs from the counter-based generator of golden/README.md, so that the same seed gives the same
case on every machine, and a failing one can be asked again by its name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import numpy as np

from minimind_ref.golden.generator import draw
from minimind_ref.kit.case import ORDER, Answers, Case, Expected, by_oracle
from minimind_ref.kit.operation import Operation

FIRST_SEED, SEEDS_A_CASE = 1 << 20, 32
MOST_UNDECIDED = 0.25  # a case of which more is undecided says too little, and is not asked


@dataclass(frozen=True)
class Drawn:
    """What a generator gives: arguments, output names, and the shapes of the outputs that get a cotangent.

    `ulps`: allowed for results of options alone, which carry no bound.  `scalars`: inputs given as numbers.
    """

    inputs: dict[str, Any]
    parameters: dict[str, Any]
    outputs: tuple[str, ...]
    cotangent: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    profiles: tuple[str, ...] = ORDER
    ulps: float = 0.0
    scalars: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generator:
    """A way to draw cases of an operation, and the clauses that they speak for."""

    operation: str
    clauses: tuple[str, ...]
    make: Callable[["Seeds"], Drawn]

    @property
    def name(self) -> str:
        """Name it as its cases are named."""
        return self.make.__name__


class Seeds:
    """Hands out seeds, each once: `arrays` and integers of one case never share numbers."""

    def __init__(self, number: int) -> None:
        self.number, self.next = number, FIRST_SEED + SEEDS_A_CASE * number

    def take(self) -> int:
        """Give the next seed."""
        self.next += 1
        return self.next - 1

    def draw(self, *shape: int, scale: float = 1.0, structure: str = "normal") -> np.ndarray:
        """Draw an array."""
        return draw(self.take(), shape, scale, structure)


GENERATORS: list[Generator] = []


def generator(operation: str, *clauses: str) -> Callable[[Callable[[Seeds], Drawn]], Callable[[Seeds], Drawn]]:
    """Register the decorated function as a generator of an operation's cases; its docstring says why they exist."""

    def register(make: Callable[[Seeds], Drawn]) -> Callable[[Seeds], Drawn]:
        GENERATORS.append(Generator(operation, clauses, make))
        return make

    return register


@cache
def load() -> tuple[Generator, ...]:
    """Import all generators."""
    package = import_module("minimind_ref.kit.generators")
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    return tuple(GENERATORS)


@cache
def cases(operation: Operation, count: int, seed: int) -> tuple[Case, ...]:
    """Give `count` cases of each generator of an operation, from consecutive seeds."""
    mine = [g for g in load() if g.operation == operation.name]
    return tuple(case(operation, g, seed + i) for g in mine for i in range(count))


def case(operation: Operation, made_by: Generator, number: int) -> Case:
    """Make one case."""
    drawn, seeds = made_by.make(Seeds(number)), Seeds(number)
    seeds.next += SEEDS_A_CASE // 2
    along = {n: seeds.draw(*shape, structure="uniform") for n, shape in drawn.cotangent.items()}
    asked = Case(
        id=f"{operation.name}/generated/{made_by.name}_{number}", operation=operation, clauses=made_by.clauses,
        why=" ".join((made_by.make.__doc__ or "").split()), inputs=drawn.inputs, parameters=drawn.parameters,
        outputs=drawn.outputs, answer=lambda _: ({}, {}), profiles=drawn.profiles, cotangent=along,
    )  # fmt: skip
    answered = by_oracle(asked)

    @cache
    def answer(profile: str) -> Answers:
        outputs, gradients = answered.answer(profile)
        return {n: loosened(e, drawn.ulps) for n, e in outputs.items()}, gradients

    numbers = {n: float(x) if n in drawn.scalars else x for n, x in drawn.inputs.items()}
    return replace(answered, answer=answer, inputs=numbers)


def loosened(expected: Expected, ulps: float) -> Expected:
    """Allow for units in the last place where no bound was carried."""
    if not ulps or expected.bound is None:
        return expected
    size = np.where(np.isfinite(expected.value), np.abs(np.asarray(expected.value, np.float64)), 0.0)
    return Expected(expected.value, expected.bound + ulps * np.spacing(size))


def telling(asked: Case, profile: str) -> bool:
    """Say whether enough of the answer is decided."""
    undecided = [np.isinf(e.bound) for e in asked.answer(profile)[0].values() if e.bound is not None]
    return sum(u.sum() for u in undecided) <= MOST_UNDECIDED * sum(u.size for u in undecided)
