"""Log-probabilities of the labelled tokens, scored the same way for the policy, its past and its reference."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minimind_ref.data.packing import IGNORE
from minimind_ref.loss.cross_entropy import token_logp
from minimind_ref.train.device import Placement


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
