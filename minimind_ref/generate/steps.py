"""The loop of generation: a forward pass with the cache, a choice, and again."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minimind_ref.generate.sampling import choose_token, filter_logits, penalise_repetition
from minimind_ref.model.attention import KeyValue
from minimind_ref.model.transformer import Cache, Transformer


@dataclass(frozen=True)
class Choice:
    """How the next ids come out of the last position's logits."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    generator: torch.Generator | None

    def draw(self, rows: int, device: torch.device) -> Float[Tensor, "b"]:
        """One uniform number a row; greedy choice draws none."""
        if self.temperature == 0:
            return torch.zeros(rows, device=device)
        return torch.rand(rows, generator=self.generator, device=device)

    def __call__(
        self, logits: Float[Tensor, "b v"], uniform: Float[Tensor, "b"], ids: Int[Tensor, "b t"], real: Tensor
    ) -> Int[Tensor, "b"]:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.repetition_penalty != 1:
            logits = penalise_repetition(logits, ids, self.repetition_penalty, mask=real)
        logits = filter_logits(
            logits, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p
        )
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        return choose_token(logits, uniform)

    def check(self) -> None:
        """Refuse bad settings before the first forward pass, by trying them on one token."""
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty={self.repetition_penalty} must be above 0 and finite")
        one = torch.zeros(1, 1)
        filter_logits(one, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)


def steps(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: list[int],
    num_samples: int,
    choice: Choice,
) -> Iterator[list[int | None]]:
    """One forward pass a step; the prompts' is shared by their samples, and a row that has ended is left out.

    The caller's modes hold between steps.  (no_grad, and not inference_mode: nothing that a network may keep of this
    is unfit for a later training step.)
    """
    ids, real = _padded(prompts, next(model.parameters()).device)
    stops = torch.tensor(stop_ids, dtype=torch.long, device=ids.device)
    total = len(ids) * num_samples
    rows = torch.arange(total, device=ids.device)  # those that go on
    new, cache = ids, None
    for step in range(max_new_tokens):
        with torch.no_grad(), evaluating(model):
            last = torch.arange(new.shape[1], device=ids.device).expand_as(new) == new.shape[1] - 1
            logits, _, cache = model(new, attention_mask=real, cache=cache, logits_mask=last)
            if step == 0:
                prompt_of = rows // num_samples
                ids, real, logits, cache = ids[prompt_of], real[prompt_of], logits[prompt_of], _take(cache, prompt_of)
            new = choice(logits, choice.draw(total, ids.device)[rows], ids, real)[:, None]
            ids, real = torch.cat((ids, new), dim=1), torch.cat((real, torch.ones_like(new)), dim=1)
        chosen = dict(zip(rows.tolist(), new[:, 0].tolist(), strict=True))
        yield [chosen.get(row) for row in range(total)]
        going = ~torch.isin(new[:, 0], stops)
        if not going.all():
            rows, new, ids, real, cache = rows[going], new[going], ids[going], real[going], _take(cache, going)
        if not len(rows):
            return


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and each of its parts back into the mode that it had."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Prompts side by side, ending together, and where they are real."""
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    ids = torch.tensor([[0] * n + list(prompt) for n, prompt in zip(padding, prompts, strict=True)], device=device)
    real = torch.tensor([[0] * n + [1] * (longest - n) for n in padding], device=device)
    return ids, real


def _take(cache: Cache, rows: Tensor) -> Cache:
    return tuple(KeyValue(keys[rows], values[rows]) for keys, values in cache)
