"""Held-out loss, comparable across tokenizers, beside two baselines on the same tokens."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from minimind_ref.data.baselines import Baselines
from minimind_ref.data.batches import Batch, batches
from minimind_ref.data.packing import IGNORE
from minimind_ref.data.rows import FirstRows
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.loss.cross_entropy import cross_entropy
from minimind_ref.train.device import Placement
from minimind_ref.train.distributed import Ranks, total


class Evaluation(NamedTuple):
    """Losses in nats a token over `tokens` supervised tokens, and bits per byte of the text that they stand for."""

    loss: float
    perplexity: float
    bits_per_byte: float
    unigram: float
    bigram: float
    tokens: int

    def values(self) -> dict[str, float]:
        """What metrics.jsonl keeps."""
        own = {f"held_out_{key}": getattr(self, key) for key in ("loss", "perplexity", "bits_per_byte", "tokens")}
        return {**own, "unigram": self.unigram, "bigram": self.bigram}

    def lines(self) -> list[str]:
        """What a person reads."""
        return [
            f"loss {self.loss:.4f} nats/token, perplexity {self.perplexity:.2f}, {self.bits_per_byte:.3f} bits/byte",
            f"unigram {self.unigram:.4f} ({_beside(self.unigram, self.loss)} than the model), "
            f"bigram {self.bigram:.4f} ({_beside(self.bigram, self.loss)}), on the same {self.tokens:,} tokens",
        ]


def _beside(baseline: float, loss: float) -> str:
    return f"{abs(baseline - loss):.2f} {'less' if baseline < loss else 'more'}"


def perplexity(loss: float) -> float:
    """Give e to a loss in nats, finite however absurd the loss."""
    return math.exp(min(loss, 700.0))


def combine(parts: Sequence[Evaluation]) -> Evaluation:
    """The evaluation of several disjoint sets of tokens together."""
    tokens = sum(part.tokens for part in parts)
    loss, unigram, bigram = (
        sum(getattr(part, name) * part.tokens for part in parts) / tokens for name in ("loss", "unigram", "bigram")
    )
    num_bytes = sum(part.loss * part.tokens / part.bits_per_byte for part in parts)
    return Evaluation(loss, perplexity(loss), loss * tokens / num_bytes, unigram, bigram, tokens)


class HeldOut(NamedTuple):
    """What an evaluation reads: rows, the bytes of each token, and the baselines."""

    rows: FirstRows
    batch_size: int
    bytes_of: np.ndarray  # (v,) bytes of text that each token stands for
    baselines: Baselines


def token_bytes(tokenizer: Tokenizer, vocab_size: int) -> np.ndarray:
    """How many bytes of text each id stands for, 0 for control tokens and ids beyond the tokenizer's."""
    sizes = np.zeros(vocab_size, dtype=np.int64)
    for index, value in tokenizer.bytes_of.items():
        sizes[index] = len(value)
    return sizes


@torch.no_grad()
def evaluate(network: nn.Module, held_out: HeldOut, placement: Placement, ranks: Ranks) -> Evaluation | None:
    """Sum the losses of the held-out rows over all ranks; the network is in training mode again afterwards.

    None where no row has a token to predict.
    """
    network.eval()
    sums = np.zeros(5)
    options = dict(batch_size=held_out.batch_size, seed=0, epoch=0, shuffle=False)
    rows = batches(held_out.rows, rank=ranks.rank, world_size=ranks.world_size, **options)  # type: ignore[arg-type]
    for batch in rows:
        sums += _sums(network, batch, held_out, placement)
    nll, unigram, bigram, num_bytes, tokens = total(sums.tolist(), ranks, placement.device)
    network.train()
    if tokens == 0:
        return None
    loss = nll / tokens
    return Evaluation(
        loss=loss,
        perplexity=perplexity(loss),
        bits_per_byte=nll / math.log(2) / max(num_bytes, 1),
        unigram=unigram / tokens,
        bigram=bigram / tokens,
        tokens=int(tokens),
    )


def _sums(network: nn.Module, batch: Batch, held_out: HeldOut, placement: Placement) -> np.ndarray:
    """Model, unigram and bigram losses, bytes and number of one batch's supervised tokens."""
    with placement.autocast():
        logits = network(*inputs(batch, placement.device)).logits
        nll = cross_entropy(logits, batch.labels.to(placement.device), reduction="sum", implementation="fused")
    supervised = batch.labels != IGNORE
    previous, labels = batch.input_ids[supervised].numpy(), batch.labels[supervised].numpy()
    unigram, bigram = held_out.baselines.unigram_nll(labels), held_out.baselines.bigram_nll(previous, labels)
    return np.array([nll.item(), unigram.sum(), bigram.sum(), held_out.bytes_of[labels].sum(), len(labels)])


def inputs(batch: Batch, device: torch.device) -> tuple[torch.Tensor | None, ...]:
    """The network's arguments: input_ids, attention_mask, position_ids, segment_ids."""
    tensors = (batch.input_ids, batch.attention_mask, batch.position_ids, batch.segment_ids)
    return tuple(None if tensor is None else tensor.to(device, non_blocking=True) for tensor in tensors)
