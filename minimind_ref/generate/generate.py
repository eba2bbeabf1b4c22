"""Continue prompts token by token, with the key/value cache."""

from collections.abc import Sequence

import torch

from minimind_ref.generate.sampling import filter_logits, penalise_repetition
from minimind_ref.model.transformer import Transformer


@torch.no_grad()
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
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Sample a continuation of every prompt; each ends with the first of `stop_ids`, or at `max_new_tokens`.

    Prompts of different lengths are padded on the left, which changes nothing for them.  `generator` must live on the
    model's device.  The model's mode is left as it was.
    Raises ValueError for an empty prompt, or one that leaves no room in the rotary table.
    """
    longest = _check(model, prompts, max_new_tokens)
    device = next(model.parameters()).device
    padding = [longest - len(prompt) for prompt in prompts]
    ids = torch.tensor([[0] * n + list(p) for n, p in zip(padding, prompts, strict=True)], device=device)
    real = torch.tensor([[0] * n + [1] * (longest - n) for n in padding], device=device)
    stops = torch.tensor(list(stop_ids), dtype=torch.long, device=device)
    finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    training, cache, new = model.training, None, ids
    model.eval()
    for _ in range(max_new_tokens):
        output = model(new, attention_mask=real, cache=cache)
        cache = output.cache
        logits = output.logits[:, -1].float()
        if repetition_penalty != 1:
            logits = penalise_repetition(logits, ids, repetition_penalty)
        logits = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        new = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
        ids, real = torch.cat((ids, new), dim=1), torch.cat((real, real.new_ones(len(prompts), 1)), dim=1)
        finished |= torch.isin(new[:, 0], stops)
        if finished.all():
            break
    model.train(training)
    return [_until(row, set(stop_ids)) for row in ids[:, longest:].tolist()]


def _check(model: Transformer, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> int:
    """Refuse what cannot be continued; returns the longest prompt's length."""
    shortest, longest = min(map(len, prompts), default=0), max(map(len, prompts), default=0)
    if shortest == 0:
        raise ValueError(f"prompts must hold at least one token each; {len(prompts)} given, one of them empty")
    limit = model.config.max_position_embeddings
    if longest + max_new_tokens > limit + 1:  # the last sampled token is never an input
        raise ValueError(
            f"a prompt of {longest} and {max_new_tokens} new tokens exceed max_position_embeddings={limit}"
        )
    return longest


def _until(ids: list[int], stop_ids: set[int]) -> list[int]:
    """The ids up to and including the first stop."""
    for position, index in enumerate(ids):
        if index in stop_ids:
            return ids[: position + 1]
    return ids
