"""Pairs of answers with their scores under a frozen reference, computed once."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from minimind_ref.data.batches import Batch, collate, load, trimmed
from minimind_ref.data.packing import IGNORE
from minimind_ref.data.rows import SupervisedRows
from minimind_ref.data.token_file import TokenFile
from minimind_ref.files import write_atomically
from minimind_ref.loss.dpo import sequence_logp
from minimind_ref.train.answers import score
from minimind_ref.train.device import Placement


class Pairs(NamedTuple):
    """A micro-step's pairs: rows 2i and 2i + 1 are the chosen and the rejected answer of pair i."""

    batch: Batch
    reference: Float[Tensor, "p 2"]  # log-probabilities of chosen and rejected under the reference

    @property
    def num_targets(self) -> int:
        """The pairs, which the loss sums over."""
        return len(self.reference)

    @property
    def num_documents(self) -> int:
        """The answers, over which the load balance is a mean."""
        return self.batch.num_documents


class PairRows:
    """Sample i is the rows of pair i and its scores under the reference, zeros until `score_reference`."""

    def __init__(self, tokens: TokenFile, length: int, pad_id: int) -> None:
        self.rows = SupervisedRows(tokens, length, pad_id=pad_id)
        self.reference = torch.zeros(len(self), 2)

    def __len__(self) -> int:
        return len(self.rows) // 2

    def __getitem__(self, pair: int) -> tuple[Any, Any, Tensor]:
        return self.rows[2 * pair], self.rows[2 * pair + 1], self.reference[pair]

    def collate(self, samples: list[tuple[Any, Any, Tensor]]) -> Pairs:
        """Rows side by side, padded to the longest; without samples, one row of padding and no pair."""
        rows = [row for chosen, rejected, _ in samples for row in (chosen, rejected)]
        reference = torch.stack([scores for *_, scores in samples]) if samples else torch.zeros(0, 2)
        batch = collate(rows, packed=False, length=self.rows.length, pad_id=self.rows.pad_id)
        return Pairs(trimmed(batch), reference)


def score_pairs(
    network: nn.Module, pairs: Pairs, placement: Placement, reduction: str
) -> tuple[Float[Tensor, "p 2"], Tensor]:
    """The log-probabilities of each pair's two answers, and the load balance."""
    batch, device = pairs.batch, placement.device
    assert batch.attention_mask is not None  # rows are padded, not packed
    labels = batch.labels.to(device)
    logp, aux_loss = score(network, batch.input_ids.to(device), batch.attention_mask.to(device), labels)
    answers = sequence_logp(logp, labels != IGNORE, reduction=reduction)
    return answers[: 2 * pairs.num_targets].view(-1, 2), aux_loss


@torch.no_grad()
def score_all(
    model: nn.Module, part: PairRows, batch_size: int, placement: Placement, reduction: str
) -> Float[np.ndarray, "p 2"]:
    """The log-probabilities of all pairs' answers, in their order, in the precision of the training step."""
    found = [np.zeros((0, 2), np.float32)]
    indices = (list(range(i, min(i + batch_size, len(part)))) for i in range(0, len(part), batch_size))
    for pairs in load(part, indices, part.collate, 0):
        with placement.autocast():
            found.append(score_pairs(model, pairs, placement, reduction)[0].float().cpu().numpy())
    return np.concatenate(found)


def score_reference(
    model: nn.Module, parts: list[PairRows], file: Path, batch_size: int, placement: Placement, reduction: str
) -> None:
    """Fill the parts' scores with those of the network as it is now; from `file` where they were computed before."""
    if not file.exists():
        scores = np.concatenate([score_all(model, part, batch_size, placement, reduction) for part in parts])
        write_atomically(file, lambda opened: np.save(opened, scores))
    every = torch.from_numpy(np.load(file))
    for part, scores in zip(parts, every.split([len(part) for part in parts]), strict=True):
        part.reference = scores
