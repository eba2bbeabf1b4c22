"""Rows to batches of tensors: seeded order, shares of ranks, resume at any position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader

from minimind_ref.data.packing import IGNORE, Rows, blank_row
from minimind_ref.data.rows import FirstRows, PackedRows, PaddedRows


class Batch(NamedTuple):
    """One micro-step's input of one rank, int64.

    Packed rows come with segment_ids (-1: padding) and position_ids, padded ones with attention_mask (1: real token).
    num_targets counts labels that are not -100, num_documents the pieces (packed) or documents (padded).
    """

    input_ids: Int[Tensor, "b s"]
    labels: Int[Tensor, "b s"]
    segment_ids: Int[Tensor, "b s"] | None
    position_ids: Int[Tensor, "b s"] | None
    attention_mask: Int[Tensor, "b s"] | None
    num_targets: int
    num_documents: int


def micro_steps(samples: int, batch_size: int, epochs: int = 1, world_size: int = 1) -> int:
    """Micro-steps of each rank in a run: epochs · ⌈samples / (world_size · batch_size)⌉, no row dropped."""
    for name, number in (
        ("samples", samples),
        ("batch_size", batch_size),
        ("epochs", epochs),
        ("world_size", world_size),
    ):
        if number < (0 if name == "samples" else 1):
            raise ValueError(f"{name}={number} must be at least {0 if name == 'samples' else 1}")
    return epochs * -(-samples // (world_size * batch_size))


def epoch_order(samples: int, *, seed: int, epoch: int, shuffle: bool = True) -> Int[np.ndarray, " n"]:
    """The order of an epoch's rows: a permutation of 0 … samples - 1 that (seed, epoch) determines.

    Ranks the raw output of PCG64, whose stream NumPy promises to keep; it does not promise that of `permutation`.
    """
    if not shuffle:
        return np.arange(samples)
    return np.argsort(np.random.PCG64([seed, epoch]).random_raw(samples), kind="stable")


def batches(
    rows: PackedRows | PaddedRows | FirstRows,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """Yield one rank's batches of one epoch, from micro-step `start` on.

    Global batch g holds the order's entries [g·n·b, (g+1)·n·b), n ranks of b, and rank r the r-th b of them: n ranks
    see together what one rank with batch_size n·b sees.  Where the last global batch leaves a rank without a row, it
    gets one row of padding, so that every rank makes the same number of steps.
    num_workers > 0 prepares batches in as many processes; the batches are the same.
    """
    indices = shares(
        len(rows),
        batch_size=batch_size,
        seed=seed,
        epoch=epoch,
        shuffle=shuffle,
        rank=rank,
        world_size=world_size,
        start=start,
    )
    return load(
        rows, indices, partial(collate, packed=rows.packed, length=rows.length, pad_id=rows.pad_id), num_workers
    )


def shares(
    samples: int,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
) -> Iterator[list[int]]:
    """The samples of each of one rank's micro-steps, as `batches` says; none where the last leaves none for it."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} must lie between 0 and world_size={world_size} less one")
    if start < 0:
        raise ValueError(f"start={start} must not be negative")
    order = epoch_order(samples, seed=seed, epoch=epoch, shuffle=shuffle)
    stride = world_size * batch_size
    stop = micro_steps(samples, batch_size, 1, world_size) * stride
    return (order[i : i + batch_size].tolist() for i in range(start * stride + rank * batch_size, stop, stride))


def load(
    samples: Any, indices: Iterator[list[int]], collate: Callable[[list[Any]], Any], num_workers: int
) -> Iterator[Any]:
    """`collate` of the samples at each list of indices, prepared in `num_workers` processes where that is not 0."""
    generator = torch.Generator()  # its own: a loader takes a number from the global one at every start
    loader = DataLoader(
        samples,
        batch_sampler=indices,  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=collate,
        generator=generator,
    )
    return iter(loader)


def collate(rows: list[Rows], *, packed: bool, length: int, pad_id: int) -> Batch:
    """Stack rows into a batch; none become one row of padding."""
    stacked = [torch.from_numpy(np.stack(x)) for x in zip(*(rows or [blank_row(length, pad_id=pad_id)]), strict=True)]
    input_ids, labels, segment_ids, position_ids = stacked
    return Batch(
        input_ids=input_ids,
        labels=labels,
        segment_ids=segment_ids if packed else None,
        position_ids=position_ids if packed else None,
        attention_mask=None if packed else (segment_ids >= 0).long(),
        num_targets=int((labels != IGNORE).sum()),
        num_documents=int((segment_ids.amax(dim=1) + 1).sum()),
    )


def trimmed(batch: Batch) -> Batch:
    """A padded batch without the columns that are padding in every row; one is left of a batch of nothing else."""
    if batch.attention_mask is None:
        return batch
    length = max(1, int(batch.attention_mask.sum(dim=1).max()))
    rows = (batch.input_ids, batch.labels, batch.attention_mask)
    input_ids, labels, attention_mask = (x[:, :length] for x in rows)
    return batch._replace(input_ids=input_ids, labels=labels, attention_mask=attention_mask)
