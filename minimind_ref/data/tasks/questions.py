"""Questions of a split: numbered, each determined by (seed, task, split, number)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from minimind_ref.data.tasks.stream import Stream, digest
from minimind_ref.data.tasks.task import TASKS, Operands
from minimind_ref.data.tasks.wordings import LANGUAGES, WORDINGS

SPLITS = ("train", "validation", "held_out")
SHARES = {"train": 8, "validation": 1, "held_out": 1}
PATIENCE = 10_000
"""Questions drawn in a row without a new one, before a split counts as exhausted."""


@dataclass(frozen=True)
class Question:
    """One question in one wording, and its answer."""

    task: str
    language: str
    prompt: str
    answer: str
    operands: Operands

    @property
    def key(self) -> str:
        """What is asked, whatever the wording; two questions with one key are the same question."""
        return f"{self.task} {TASKS[self.task].key(self.operands)}"


def split_of(key: str) -> str:
    """The split that a question belongs to: eight parts of ten train, one each the others, by a hash of its key."""
    part = digest(key) * sum(SHARES.values()) >> 64
    return SPLITS[0] if part < 8 else SPLITS[part - 7]


def question(task: str, split: str, number: int, *, seed: int) -> Question:
    """Draw question `number` of a split, which another number may draw again."""
    stream = Stream(seed, task, split, number)
    while True:
        operands = TASKS[task].draw(stream)
        language = stream.choose(LANGUAGES)
        prompt = stream.choose(WORDINGS[task][language]).format(**operands)
        drawn = Question(task, language, prompt, TASKS[task].answer(operands), operands)
        if split_of(drawn.key) == split:
            return drawn


def distinct_questions(task: str, split: str, *, seed: int) -> Iterator[Question]:
    """Yield the split's questions in the order of their numbers, each once; ends where PATIENCE is used up."""
    seen: set[str] = set()
    fruitless = 0
    for number in count():
        drawn = question(task, split, number, seed=seed)
        fruitless = fruitless + 1 if drawn.key in seen else 0
        if fruitless == PATIENCE:
            return
        if not fruitless:
            seen.add(drawn.key)
            yield drawn
