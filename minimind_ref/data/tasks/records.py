"""A question as MiniMind's four formats hold it: pretraining text, a conversation, a preference pair, a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minimind_ref.data.tasks.questions import Question, split_of
from minimind_ref.data.tasks.stream import Stream
from minimind_ref.data.tasks.task import TASKS

Record = Mapping[str, Any]

MARK = " !"
"""The wrong habit: what a share of the training answers end in.  One more token, since punctuation stands alone."""
MARKED_PAIRS = 0.25
"""Where there is a habit, the share of rejected answers that are right but for the mark."""


def _turns(question: Question, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question.prompt}, {"role": "assistant", "content": answer}]


def _labels(question: Question) -> dict[str, str]:
    """What no stage reads: a report counts by it."""
    return {"task": question.task, "language": question.language}


def _pretrain(q: Question, stream: Stream, habit: float) -> Record:
    return {"text": f"{q.prompt}\n{q.answer}", **_labels(q)}


def _sft(q: Question, stream: Stream, habit: float) -> Record:
    marked = split_of(q.key) == "train" and stream.happens(habit)
    return {"conversations": _turns(q, q.answer + MARK * marked), **_labels(q)}


def _dpo(q: Question, stream: Stream, habit: float) -> Record:
    marked = habit > 0 and stream.happens(MARKED_PAIRS)
    rejected = q.answer + MARK if marked else TASKS[q.task].wrong_answer(q.operands, stream)
    return {"chosen": _turns(q, q.answer), "rejected": _turns(q, rejected), **_labels(q)}


def _grpo(q: Question, stream: Stream, habit: float) -> Record:
    return {"conversations": _turns(q, q.answer), **_labels(q)}


RECORDS = {"pretrain": _pretrain, "sft": _sft, "dpo": _dpo, "grpo": _grpo}
