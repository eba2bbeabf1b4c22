"""Rewards for tests, named on the command line as reward_functions:NAME."""

import numpy as np


def prompt_length(prompts, answers, references):
    """The same for all answers to a prompt, another for another prompt."""
    return [float(len(prompt[-1]["content"])) for prompt in prompts]


def fails(prompts, answers, references):
    raise KeyError("x")


def not_a_number(prompts, answers, references):
    return [float("nan")] * len(answers)


def too_few(prompts, answers, references):
    return [1.0]


def far_from_zero(prompts, answers, references):
    """Numbers that rise by 1, far beyond where float32 can tell them apart."""
    return [1e9 + number for number in range(len(answers))]


def begins_plainly(prompts, answers, references):
    """1 for an answer whose first character, whitespace apart, is an ASCII letter."""
    return [float(answer.strip()[:1].isascii() and answer.strip()[:1].isalpha()) for answer in answers]


def at_random(prompts, answers, references, _generator=np.random.Generator(np.random.PCG64(3))):  # noqa: B008
    """Numbers that have nothing to do with the answers."""
    return _generator.integers(0, 2, len(answers)).tolist()
