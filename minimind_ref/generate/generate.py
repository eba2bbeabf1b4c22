"""Continue prompts token by token, with the key/value cache."""

from collections.abc import Iterator, Sequence

import torch

from minimind_ref.generate.steps import Choice, evaluating, steps
from minimind_ref.model.transformer import Transformer


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Continue every prompt `num_samples` times; each ends with the first of `stop_ids`, or at `max_new_tokens`.

    Only the new ids are returned, grouped by prompt: all samples of the first, then of the second.  The rest is as
    `stream` says.
    """
    chosen = stream(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        num_samples=num_samples,
        generator=generator,
    )
    rows: list[list[int]] = [[] for _ in range(len(prompts) * num_samples)]
    with evaluating(model):  # once, and not in every step
        for ids in chosen:
            for row, index in zip(rows, ids, strict=True):
                if index is not None:
                    row.append(index)
    return rows


def stream(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
) -> Iterator[list[int | None]]:
    """Give, as soon as it is chosen, each row's next id; None where a row has ended with one of `stop_ids`.

    For text, `tokenizer.decode_stream(index for (index,) in stream(model, [prompt], …))`.
    Prompts of different lengths are padded on the left, which changes nothing for them, the repetition penalty
    (of prompt and answer) included.  temperature 0 is greedy and draws nothing; else every step draws one uniform
    number a row from `generator`, which must live on the model's device.  The network runs in eval mode, without
    gradients, and has its own modes back whenever an id has been given or an error was raised.
    Raises ValueError at once for prompts that are empty or leave no room in the rotary table, and for bad settings.
    """
    choice = Choice(temperature, top_k, top_p, min_p, repetition_penalty, generator)
    _check(model, prompts, max_new_tokens, stop_ids, num_samples)
    choice.check()
    return steps(model, prompts, max_new_tokens, list(stop_ids), num_samples, choice)


def _check(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    num_samples: int,
) -> None:
    if not prompts:
        raise ValueError("prompts is empty: 0 given")
    for n, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(f"prompts[{n}] is empty but must hold at least one token")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 0")
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples} must be at least 1")
    for name, ids in (("stop_ids", stop_ids), *((f"prompts[{n}]", prompt) for n, prompt in enumerate(prompts))):
        outside = [index for index in ids if not 0 <= index < model.config.vocab_size]
        if outside:
            raise ValueError(f"{name} holds {outside[0]} but vocab_size={model.config.vocab_size}")
    longest, limit = max(map(len, prompts)), model.config.max_position_embeddings
    if longest + max_new_tokens > limit + 1:  # the last sampled token is never an input
        raise ValueError(
            f"a prompt of {longest} and {max_new_tokens} new tokens exceed max_position_embeddings={limit};"
            " a longer table with rope_scaling (YaRN) would hold them"
        )
