"""What GRPO rewards: functions of prompts, answers and references, weighted, added up and checked.

A reward is `fn(prompts, answers, references) -> numbers`, one an answer: prompts are lists of messages as in the data,
answers texts without the end token, references the texts that the data gives, or None.
"""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from minimind_ref.data.tokenizer import END, PAD, START
from minimind_ref.errors import RunError

Messages = list[dict[str, Any]]
Reward = Callable[[list[Messages], list[str], list[str | None]], Sequence[float]]

SPAN = (20, 800)
"""Characters of an answer to a prompt without a reference that `length` likes: MiniMind-3's range."""
_UNIT = re.compile(r"[^\W\u3400-\u9fff]+|\S")  # a word, or one Chinese character or sign


def exact_match(prompts: list[Messages], answers: list[str], references: list[str | None]) -> list[float]:
    """Reward 1 for the reference, whitespace around either apart, else 0; ValueError where there is no reference."""
    for number, reference in enumerate(references):
        if reference is None:
            raise ValueError(f"the prompt of answer {number} has no reference to match")
    return [float(a.strip() == r.strip()) for a, r in zip(answers, references, strict=True) if r is not None]


def format(prompts: list[Messages], answers: list[str], references: list[str | None]) -> list[float]:
    """Reward 1 for one line of sound text: not blank, no broken character, no control token spelt out; else 0."""
    bad = (PAD, START, END, "\ufffd")
    return [float(len(a.strip().splitlines()) == 1 and not any(text in a for text in bad)) for a in answers]


def length(prompts: list[Messages], answers: list[str], references: list[str | None]) -> list[float]:
    """Reward the right length: the shorter of answer and reference over the longer, in characters.

    Without a reference: 1 inside SPAN, else 0.
    """
    return [_length(len(a.strip()), r) for a, r in zip(answers, references, strict=True)]


def repetition(prompts: list[Messages], answers: list[str], references: list[str | None]) -> list[float]:
    """Reward variety: the share of an answer's trigrams (of words, Chinese characters, signs) that are new in it."""
    return [_variety(_UNIT.findall(answer.lower())) for answer in answers]


def _length(characters: int, reference: str | None) -> float:
    if reference is None:
        return float(SPAN[0] <= characters <= SPAN[1])
    shorter, longer = sorted((characters, len(reference.strip())))
    return shorter / longer if longer else 1.0


def _variety(units: list[str]) -> float:
    trigrams = list(zip(units, units[1:], units[2:], strict=False))
    return len(set(trigrams)) / len(trigrams) if trigrams else 1.0


BUILT_IN: Mapping[str, Reward] = {f.__name__: f for f in (exact_match, format, length, repetition)}


@dataclass(frozen=True)
class Term:
    """One reward and what it is multiplied by."""

    name: str
    weight: float
    function: Reward


@dataclass(frozen=True)
class Rewards:
    """The weighted sum of rewards; whatever a function does wrong is a RunError of one line that names it."""

    terms: tuple[Term, ...]

    def __call__(
        self, prompts: Sequence[Messages], answers: Sequence[str], references: Sequence[str | None]
    ) -> list[float]:
        """The sum for each answer."""
        rows = zip(*self.parts(prompts, answers, references).values(), strict=True)
        return [self._sum(number, values) for number, values in enumerate(rows)]

    def _sum(self, number: int, values: Sequence[float]) -> float:
        weighted = [term.weight * value for term, value in zip(self.terms, values, strict=True)]
        if not math.isfinite(sum(weighted)):
            each = " + ".join(f"{term.weight:g} · {value:g}" for term, value in zip(self.terms, values, strict=True))
            raise RunError(f"the rewards of answer {number} add up to no finite number: {each}")
        return math.fsum(weighted)

    def parts(
        self, prompts: Sequence[Messages], answers: Sequence[str], references: Sequence[str | None]
    ) -> dict[str, list[float]]:
        """Each reward's own values, unweighted, by its name.

        A function gets copies: what it does to them reaches nobody else.
        """
        if not len(prompts) == len(answers) == len(references):
            raise ValueError(f"{len(prompts)} prompts, {len(answers)} answers and {len(references)} references")
        return {t.name: _values(t, prompts, answers, references) for t in self.terms}


def _values(
    term: Term, prompts: Sequence[Messages], answers: Sequence[str], references: Sequence[str | None]
) -> list[float]:
    copies = [[dict(message) for message in prompt] for prompt in prompts]
    try:
        values = term.function(copies, list(answers), list(references))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise RunError(
            f"reward {term.name} raised {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        ) from error
    values = values.tolist() if hasattr(values, "tolist") else values  # type: ignore[attr-defined]
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise RunError(f"reward {term.name} returned {_short(values)}, not a list of numbers")
    if len(values) != len(answers):
        raise RunError(f"reward {term.name} returned {len(values)} values for {len(answers)} answers")
    return [_number(term.name, number, value) for number, value in enumerate(values)]


def _number(name: str, number: int, value: Any) -> float:
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    try:
        found = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:  # an integer, or a fraction, of more than 308 digits
        found = math.inf
    if not math.isfinite(found):
        raise RunError(f"reward {name} returned {_short(value)} for answer {number}, not a finite number")
    return found


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes out no integer of more than 4,300 digits
        text = f"a number of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
