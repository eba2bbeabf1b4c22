"""How well a network does the built-in tasks: exact match on held-out questions, and preference between answers."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from minimind_ref.data.chat_template import encode_chat
from minimind_ref.data.packing import IGNORE
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.model.transformer import Transformer
from minimind_ref.train import rewards
from minimind_ref.train.answers import answer, score_fixed
from minimind_ref.train.device import Placement

ROWS = 128
"""Questions that are answered at once."""
Z = 1.959963984540054
"""97.5 % of a normal distribution lie below it."""


@dataclass(frozen=True)
class TaskQuestion:
    """A question of a task, and its only right answer."""

    task: str
    prompt: str
    answer: str


class Share(NamedTuple):
    """`right` of `total` (a mean of counts may be no whole), with Wilson's 95 % interval for the share behind it."""

    right: float
    total: int

    @property
    def value(self) -> float:
        """The share itself; 0 of nothing."""
        return self.right / max(self.total, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds of the share.  Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209-212."""
        n = self.total
        if not n:
            return 0.0, 1.0
        centre = (self.value + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z / (1 + Z * Z / n) * math.sqrt(self.value * (1 - self.value) / n + Z * Z / (4 * n * n))
        return centre - half if self.right else 0.0, centre + half if self.right < n else 1.0

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def read_questions(path: Path, count: int | None = None) -> list[TaskQuestion]:
    """The questions of one of the tasks' files in SFT's format, at most `count`."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][:count]
    turns = [(record["task"], record["conversations"]) for record in records]
    return [TaskQuestion(task, user["content"], assistant["content"]) for task, (user, assistant) in turns]


def answers(
    model: Transformer,
    tokenizer: Tokenizer,
    questions: Sequence[TaskQuestion],
    placement: Placement,
    *,
    temperature: float,
    seed: int,
    template: str,
    max_new_tokens: int = 32,
) -> list[str]:
    """The network's answer to each question; one that does not end is cut."""
    generator = torch.Generator(placement.device).manual_seed(seed)
    texts: list[str] = []
    for start in range(0, len(questions), ROWS):
        prompts = [[{"role": "user", "content": q.prompt}] for q in questions[start : start + ROWS]]
        ids = [encode_chat(tokenizer, p, add_generation_prompt=True, template=template).ids for p in prompts]
        with placement.autocast():
            options: dict[str, Any] = dict(temperature=temperature, generator=generator)
            found = answer(model, tokenizer, ids, max_new_tokens=max_new_tokens, **options)
        texts += [one.text for one in found]
    return texts


def right_probabilities(
    model: Transformer,
    tokenizer: Tokenizer,
    questions: Sequence[TaskQuestion],
    placement: Placement,
    *,
    template: str,
) -> list[float]:
    """How probable each question's right answer is, end token included: what its sampled answers score on average.

    (A little less than that: the same text cut into other tokens is not counted.)
    """
    found: list[float] = []
    for start in range(0, len(questions), ROWS):
        chats = [
            encode_chat(
                tokenizer,
                [{"role": "user", "content": q.prompt}, {"role": "assistant", "content": q.answer}],
                template=template,
            )
            for q in questions[start : start + ROWS]
        ]
        ids = pad_sequence([torch.tensor(chat.ids) for chat in chats], batch_first=True)
        targets = pad_sequence([torch.tensor(chat.supervised) for chat in chats], batch_first=True)
        present = pad_sequence([torch.ones(len(chat.ids), dtype=torch.long) for chat in chats], batch_first=True)
        labels = torch.where(targets, ids, IGNORE)[:, 1:]
        inputs = (tensor.to(placement.device) for tensor in (ids[:, :-1], present[:, :-1], labels))
        logp = score_fixed(model, *inputs, placement=placement)
        found += logp.double().sum(-1).exp().tolist()
    return found


def paired_change(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """The mean change over the same questions, and the 95 % interval of a normal distribution."""
    changes = np.subtract(after, before)
    half = Z * float(changes.std(ddof=1)) / math.sqrt(len(changes))
    return float(changes.mean()), float(changes.mean()) - half, float(changes.mean()) + half


def exact_match(questions: Sequence[TaskQuestion], texts: Sequence[str]) -> dict[str, Share]:
    """Per task, and over all under "all": how many answers get the reward for an exact match."""
    right: dict[str, list[float]] = {}
    hits = rewards.exact_match([], list(texts), [question.answer for question in questions])
    for question, hit in zip(questions, hits, strict=True):
        right.setdefault(question.task, []).append(hit)
    right["all"] = [hit for hits in right.values() for hit in hits]
    return {task: Share(sum(hits), len(hits)) for task, hits in right.items()}


def mean(several: Sequence[dict[str, Share]]) -> dict[str, Share]:
    """The mean of several answers to the same questions; its interval is one answer's, too wide rather than narrow."""
    return {
        task: Share(math.fsum(shares[task].right for shares in several) / len(several), share.total)
        for task, share in several[0].items()
    }


def as_json(shares: dict[str, Share]) -> dict[str, Any]:
    """Shares as the pipeline's results.json keeps them."""
    return {task: [share.right, share.total] for task, share in shares.items()}
