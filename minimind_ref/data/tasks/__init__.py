"""The built-in tasks: generated questions whose answers can be checked, in English and Chinese wording.

A question is a task and its operands; the wording is not part of it.  Which split a question belongs to follows from a
hash of the question alone, so that no seed, wording or language carries one from training into validation or held-out.
Strings are letters set apart by spaces, so that each is a token of its own: in a word, byte pairs would hide them.
"""

from minimind_ref.data.tasks.files import Sizes, write
from minimind_ref.data.tasks.questions import SPLITS, Question, distinct_questions, question, split_of
from minimind_ref.data.tasks.records import MARK
from minimind_ref.data.tasks.task import TASKS, Task

__all__ = [
    "MARK",
    "SPLITS",
    "TASKS",
    "Question",
    "Sizes",
    "Task",
    "distinct_questions",
    "question",
    "split_of",
    "write",
]
