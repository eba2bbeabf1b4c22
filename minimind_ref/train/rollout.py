"""Answers sampled from the policy, what they are worth, and how likely they were: what GRPO learns from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minimind_ref.data.conversations import Prompt
from minimind_ref.data.packing import IGNORE
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.loss.grpo import group_advantages, grpo_divisor
from minimind_ref.model.transformer import Transformer
from minimind_ref.train.answers import answer, score_fixed
from minimind_ref.train.device import Placement
from minimind_ref.train.rewards import Rewards
from minimind_ref.train.stage_settings import GRPOSettings


class Answers(NamedTuple):
    """A micro-step's answers, the groups of its prompts one after the other; prompts padded left, answers right."""

    input_ids: Int[Tensor, "b s"]
    attention_mask: Int[Tensor, "b s"]
    labels: Int[Tensor, "b s"]  # the answer's next token, -100 elsewhere
    old_logp: Float[Tensor, "b s"]
    reference_logp: Float[Tensor, "b s"]
    advantages: Float[Tensor, " b"]
    num_targets: int

    @property
    def mask(self) -> Tensor:
        """Where an answer's tokens are predicted, its first end token included."""
        return self.labels != IGNORE

    @property
    def num_documents(self) -> int:
        """The answers, over which the load balance is a mean."""
        return int(self.attention_mask.any(dim=1).sum())


class Scored(NamedTuple):
    """Sampled answers with their text, whether they ended by themselves, and their rewards."""

    ids: list[list[int]]
    finished: list[bool]
    rewards: Float[Tensor, "p r"]


@dataclass(frozen=True)
class Sampler:
    """What answers are sampled and judged with."""

    tokenizer: Tokenizer
    rewards: Rewards
    max_new_tokens: int

    def __call__(
        self,
        model: Transformer,
        prompts: Sequence[Prompt],
        *,
        num_samples: int,
        temperature: float,
        generator: torch.Generator | None = None,
    ) -> Scored:
        """`num_samples` answers to each prompt, and what they are worth."""
        ids = [prompt.ids for prompt in prompts]
        options: dict[str, Any] = dict(temperature=temperature, num_samples=num_samples, generator=generator)
        found = answer(model, self.tokenizer, ids, max_new_tokens=self.max_new_tokens, **options)
        each = [prompt for prompt in prompts for _ in range(num_samples)]
        texts = [one.text for one in found]
        found_rewards = self.rewards([p.messages for p in each], texts, [p.reference for p in each])
        values = torch.tensor(found_rewards, dtype=torch.float64)  # in float32, 1e9 and 1e9 + 1 are one number
        return Scored([one.ids for one in found], [one.finished for one in found], values.view(-1, num_samples))


def roll_out(
    policy: Transformer,
    reference: Transformer,
    prompts: Sequence[Prompt],
    sampler: Sampler,
    settings: GRPOSettings,
    placement: Placement,
    generator: torch.Generator,
) -> tuple[Answers, Scored]:
    """Sample a group for each prompt, judge it, and score every token under the policy as it is and the reference.

    Both scores take the precision, the layout and the temperature of the training step, so that the ratio starts at
    exactly 1 and the divergence of equal networks is exactly 0.
    """
    with placement.autocast():
        scored = sampler(
            policy,
            prompts,
            num_samples=settings.num_generations,
            temperature=settings.temperature,
            generator=generator,
        )
    each = [prompt.ids for prompt in prompts for _ in range(settings.num_generations)]
    ids, mask, labels = (x.to(placement.device) for x in lay_out(each, scored.ids, sampler.tokenizer.pad_id))

    def logp(network: Transformer) -> Tensor:
        return score_fixed(network, ids, mask, labels, placement=placement, temperature=settings.temperature)

    advantages = group_advantages(scored.rewards, scale=settings.scale_rewards).float().flatten().to(placement.device)
    divisor = grpo_divisor(labels != IGNORE, normalise=settings.normalise)
    old_logp = logp(policy)
    reference_logp = logp(reference) if settings.beta else old_logp
    return Answers(ids, mask, labels, old_logp, reference_logp, advantages, divisor), scored


def no_answers(pad_id: int, device: torch.device) -> Answers:
    """A row of padding, for a rank that the last batch leaves without a prompt."""
    ids, nothing = torch.full((1, 1), pad_id, device=device), torch.zeros(1, 1, device=device)
    mask = torch.zeros_like(ids)
    return Answers(ids, mask, torch.full_like(ids, IGNORE), nothing, nothing, nothing[0], 0)


def lay_out(prompts: Sequence[list[int]], answers: Sequence[list[int]], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and labels (b s): prompts end at one column, answers begin in the next."""
    before, after = max(map(len, prompts)), max(map(len, answers))
    ids = torch.full((len(prompts), before + after), pad_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for row, (prompt, new) in enumerate(zip(prompts, answers, strict=True)):
        start, stop = before - len(prompt), before + len(new)
        ids[row, start:stop] = torch.tensor([*prompt, *new])
        mask[row, start:stop] = 1
        labels[row, before - 1 : stop - 1] = torch.tensor(new)
    return ids, mask, labels
