"""The files of a folder of tasks: which questions each holds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

from minimind_ref.data.tasks.questions import SPLITS, Question, distinct_questions, question
from minimind_ref.data.tasks.records import RECORDS, Record
from minimind_ref.data.tasks.stream import Stream
from minimind_ref.data.tasks.task import TASKS
from minimind_ref.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Records a file: the training files' own numbers, and one each for all validation and all held-out files."""

    pretrain: int = 8000
    sft: int = 48000
    dpo: int = 4000
    grpo: int = 4000
    validation: int = 500
    held_out: int = 1000

    def __post_init__(self) -> None:
        for f in fields(self):
            if getattr(self, f.name) < 1:
                raise UserError(f"--{f.name} {getattr(self, f.name)} must be at least 1")


def write(
    folder: str | Path,
    *,
    seed: int = 0,
    habit: float = 0.0,
    tasks: Sequence[str] = tuple(TASKS),
    sizes: Sizes | None = None,
) -> dict[str, int]:
    """Write {pretrain,sft,dpo,grpo}_{train,validation,held_out}.jsonl; returns each file's number of records.

    The training files hold successive stretches of one sequence of questions, in which a question may come again in
    other words; the validation files hold the same questions in each format, every one once, and so do the held-out
    ones.  `habit` is the share of sft_train.jsonl's answers that end in MARK; no other file's right answer does.
    Raises UserError for tasks, shares and sizes that cannot be, before anything is written.
    """
    _check(habit, tasks)
    plan = _plan(tasks, sizes or Sizes(), seed)
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        return {
            name: _write_lines(
                path / name, (RECORDS[kind](q, Stream(seed, kind, q.task, split, n), habit) for n, q in questions)
            )
            for (kind, split), questions in plan.items()
            for name in (f"{kind}_{split}.jsonl",)
        }
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None


def _check(habit: float, tasks: Sequence[str]) -> None:
    if not 0 <= habit <= 1:
        raise UserError(f"--habit {habit} must lie in [0, 1]")
    for name in tasks:
        if name not in TASKS:
            raise UserError(f"--tasks: {name!r} is not one of {', '.join(TASKS)}")
    if not tasks or len(set(tasks)) < len(tasks):
        raise UserError(f"--tasks {','.join(tasks)!r} must name one task or more, each once")


Numbered = Iterable[tuple[int, Question]]


def _plan(tasks: Sequence[str], sizes: Sizes, seed: int) -> dict[tuple[str, str], Numbered]:
    """The questions of each (kind, split) with their numbers, the tasks taking turns."""
    plan: dict[tuple[str, str], Numbered] = {}
    start = 0
    for kind in RECORDS:
        turns = [divmod(i, len(tasks)) for i in range(start, start + getattr(sizes, kind))]
        plan[kind, "train"] = _lazily(tasks, turns, seed)
        start += -(-len(turns) // len(tasks)) * len(tasks)
    for split in SPLITS[1:]:
        questions = _distinct(tasks, split, getattr(sizes, split), seed)
        plan |= {(kind, split): questions for kind in RECORDS}
    return plan


def _lazily(tasks: Sequence[str], turns: Sequence[tuple[int, int]], seed: int) -> Iterator[tuple[int, Question]]:
    return ((number, question(tasks[turn], "train", number, seed=seed)) for number, turn in turns)


def _distinct(tasks: Sequence[str], split: str, size: int, seed: int) -> list[tuple[int, Question]]:
    each = -(-size // len(tasks))
    columns = {task: list(islice(distinct_questions(task, split, seed=seed), each)) for task in tasks}
    for task, column in columns.items():
        if len(column) < each:
            raise UserError(f"--{split} {size}: asks for {each} questions of {task}, which has {len(column)} there")
    return [(n, column[n]) for n in range(each) for column in columns.values()][:size]


def _write_lines(path: Path, records: Iterator[Record]) -> int:
    """Write JSON Lines, whole or not at all."""
    lines = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records]
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(b"".join(lines))
    os.replace(partial, path)
    return len(lines)
