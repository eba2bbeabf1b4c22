"""Rewards for tests, named on the command line as reward_functions:NAME."""


def prompt_length(prompts, answers, references):
    """The same for all answers to a prompt, another for another prompt."""
    return [float(len(prompt[-1]["content"])) for prompt in prompts]


def fails(prompts, answers, references):
    raise KeyError("x")


def not_a_number(prompts, answers, references):
    return [float("nan")] * len(answers)


def too_few(prompts, answers, references):
    return [1.0]
