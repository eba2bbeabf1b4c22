"""The tasks: how a question's operands are drawn, what the answer is, and how one errs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from minimind_ref.data.tasks.stream import Stream

LETTERS = "abcdefghiklmnoprstuw"
"""Without the rare ones, which few tokenizers hold with a space before them."""

Operands = dict[str, str]


@dataclass(frozen=True)
class Task:
    """One kind of question.

    `key` is what makes two questions the same; `slip` errs as one errs, and now and then hits the right answer.
    """

    name: str
    draw: Callable[[Stream], Operands]
    answer: Callable[[Operands], str]
    slip: Callable[[Operands, Stream], str]
    key: Callable[[Operands], str]

    def wrong_answer(self, operands: Operands, stream: Stream) -> str:
        """A plausible wrong answer."""
        right = self.answer(operands)
        while (wrong := self.slip(operands, stream)) == right:
            pass
        return wrong


def _letters(stream: Stream, least: int, most: int, alphabet: str = LETTERS) -> str:
    return " ".join(stream.choose(alphabet) for _ in range(least + stream.below(most - least + 1)))


def _reverse(operands: Operands) -> str:
    return operands["letters"][::-1]


def _upper(operands: Operands) -> str:
    return operands["letters"].upper()


def _sum(operands: Operands) -> str:
    return str(int(operands["a"]) + int(operands["b"]))


def _count(operands: Operands) -> str:
    return str(operands["letters"].count(operands["letter"]))


def _draw_count(stream: Stream) -> Operands:
    """Letters out of three, so that the one that is counted comes a few times."""
    alphabet = "".join(stream.choose(LETTERS) for _ in range(3))
    return {"letter": alphabet[0], "letters": _letters(stream, 3, 7, alphabet)}


def _slip_letters(answer: Callable[[Operands], str]) -> Callable[[Operands, Stream], str]:
    """Two neighbours exchanged, one letter left out, one written twice, or one wrong."""

    def slip(operands: Operands, stream: Stream) -> str:
        letters = answer(operands).split()
        i = stream.below(len(letters) - 1)
        other = stream.choose(LETTERS)
        return " ".join(
            stream.choose(
                (
                    [*letters[:i], letters[i + 1], letters[i], *letters[i + 2 :]],
                    letters[:i] + letters[i + 1 :],
                    [*letters[: i + 1], *letters[i:]],
                    [*letters[:i], other.upper() if letters[i].isupper() else other, *letters[i + 1 :]],
                )
            )
        )

    return slip


def _slip_number(answer: Callable[[Operands], str], steps: tuple[int, ...]) -> Callable[[Operands, Stream], str]:
    """A little too much or too little, never below zero."""

    def slip(operands: Operands, stream: Stream) -> str:
        right, step = int(answer(operands)), stream.choose(steps)
        return str(right + step if right + step >= 0 else right - step)

    return slip


def _string_task(name: str, answer: Callable[[Operands], str]) -> Task:
    return Task(
        name,
        draw=lambda stream: {"letters": _letters(stream, 2, 6)},
        answer=answer,
        slip=_slip_letters(answer),
        key=lambda operands: operands["letters"],
    )


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        _string_task("reverse", _reverse),
        _string_task("upper", _upper),
        Task(
            "sum",
            draw=lambda stream: {"a": str(stream.below(100)), "b": str(stream.below(100))},
            answer=_sum,
            slip=_slip_number(_sum, (-10, -1, 1, 10)),
            key=lambda operands: " ".join(sorted(operands.values())),
        ),
        Task(
            "count",
            draw=_draw_count,
            answer=_count,
            slip=_slip_number(_count, (-1, 1)),
            key=lambda operands: f"{operands['letter']} in {operands['letters']}",
        ),
    )
}
