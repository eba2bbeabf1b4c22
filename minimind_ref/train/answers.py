"""Answers of a network, and log-probabilities scored the same way for the policy, its past and its reference."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minimind_ref.data.packing import IGNORE
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import RunError
from minimind_ref.generate.generate import generate
from minimind_ref.loss.cross_entropy import token_logp
from minimind_ref.model.transformer import Transformer
from minimind_ref.train.device import Placement


class Answer(NamedTuple):
    """One answer: its ids, whether it ended by itself, its text without the end token."""

    ids: list[int]
    finished: bool
    text: str


def answer(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
) -> list[Answer]:
    """`num_samples` answers to each prompt, from the whole distribution: what is not filtered is scored as it was.

    Raises RunError where the network's logits are no distribution.
    """
    stops = {*tokenizer.stop_ids, *tokenizer.lacking(model.config.vocab_size)}
    try:
        found = generate(
            model,
            prompts,
            max_new_tokens=max_new_tokens,
            stop_ids=sorted(stops),
            temperature=temperature,
            num_samples=num_samples,
            generator=generator,
        )
    except ValueError as error:
        raise RunError(f"the network cannot answer: {error}") from None
    ended = [ids[-1] in stops for ids in found]
    return list(map(Answer, found, ended, map(tokenizer.decode, found)))  # an end token is no text


def score(
    network: nn.Module,
    input_ids: Int[Tensor, "b s"],
    attention_mask: Int[Tensor, "b s"],
    labels: Int[Tensor, "b s"],
    temperature: float = 1.0,
) -> tuple[Float[Tensor, "b s"], Tensor]:
    """log p(label) under logits / temperature, 0 where there is no label, and the load balance."""
    mask = labels != IGNORE
    output = network(input_ids, attention_mask=attention_mask, logits_mask=mask)
    logits = output.logits.to(torch.promote_types(output.logits.dtype, torch.float32))
    logp = token_logp(logits / temperature if temperature != 1 else logits, labels[mask])
    return logp.new_zeros(labels.shape).masked_scatter(mask, logp), output.aux_loss


@torch.no_grad()
def score_fixed(network: nn.Module, *inputs: Tensor, placement: Placement, temperature: float = 1.0) -> Tensor:
    """The log-probabilities of `score` without a gradient, in the precision of the training step."""
    with placement.autocast():
        return score(network, *inputs, temperature=temperature)[0]
