"""What a stage offers to a run, and the arithmetic of epochs, micro-steps and windows that all stages share."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from torch import nn

from minimind_ref.data.batches import micro_steps
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.model.transformer import Transformer
from minimind_ref.optim.accumulation import windows as cut
from minimind_ref.train.distributed import Ranks
from minimind_ref.train.loop import Loss
from minimind_ref.train.settings import Settings


class Findings(Protocol):
    """What an evaluation found: measurements for metrics.jsonl, and lines for a person."""

    def values(self) -> dict[str, float]: ...
    def lines(self) -> list[str]: ...


class Stage(Protocol):
    """Data, loss and evaluation of one stage."""

    prefix: str  # of its weights' file
    fingerprint: str  # of all that its data depend on
    tokenizer: Tokenizer
    targets: str  # what its loss sums over
    curves: tuple[tuple[str, ...], ...]  # keys of metrics.jsonl, a panel each

    @property
    def total_windows(self) -> int: ...
    def describe(self) -> list[str]: ...
    def windows(self, start: int) -> Iterator[list[Any]]: ...
    def loss(self, network: nn.Module, batch: Any) -> Loss: ...
    def measures(self) -> dict[str, float]: ...
    def evaluate(self, network: nn.Module) -> Findings | None: ...
    def sample(self, model: Transformer) -> str: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Epochs:
    """How the samples of a run are cut into micro-steps and accumulation windows."""

    samples: int
    settings: Settings
    ranks: Ranks

    @property
    def batch_size(self) -> int:
        """Samples a micro-step and process."""
        assert self.settings.batch_size is not None  # the command line filled it
        return self.settings.batch_size

    @property
    def micro_steps(self) -> int:
        """Micro-steps an epoch."""
        return micro_steps(self.samples, self.batch_size, 1, self.ranks.world_size)

    @property
    def windows_per_epoch(self) -> int:
        """Accumulation windows an epoch."""
        return len(cut(self.micro_steps, self.settings.accumulation_steps))

    @property
    def total_windows(self) -> int:
        """Accumulation windows of the whole run."""
        return self.windows_per_epoch * self.settings.epochs

    def windows(self, start: int, stream: Callable[[int, int], Iterator[Any]]) -> Iterator[list[Any]]:
        """The windows from number `start` on; `stream(epoch, first)` gives an epoch's micro-batches from `first` on."""
        for epoch in range(start // self.windows_per_epoch, self.settings.epochs):
            done = start % self.windows_per_epoch if epoch == start // self.windows_per_epoch else 0
            micro_batches = stream(epoch, done * self.settings.accumulation_steps)
            while window := list(islice(micro_batches, self.settings.accumulation_steps)):
                yield window

    def options(self, epoch: int, first: int) -> dict[str, Any]:
        """The arguments of `batches` and `shares` for an epoch from micro-step `first` on."""
        s = self.settings
        return dict(
            batch_size=self.batch_size,
            seed=s.seed,
            epoch=epoch,
            shuffle=s.shuffle,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            start=first,
        )

    def line(self, samples: str, steps_a_window: int = 1) -> str:
        """The step arithmetic, for a person."""
        s = self.settings
        ranks = f" × {self.ranks.world_size} processes" if self.ranks.world_size > 1 else ""
        epochs = f"{self.micro_steps:,} micro-steps × {s.epochs} epoch{'s' * (s.epochs > 1)}"
        updates = f" × {steps_a_window} updates" * (steps_a_window > 1)
        steps = self.total_windows * steps_a_window
        return (
            f"steps     {self.samples:,} {samples} / batch {self.batch_size}{ranks} = {epochs}{updates}; "
            f"{steps:,} optimiser steps (accumulation {s.accumulation_steps})"
            + (f", of which --max_steps takes {s.max_steps:,}" if s.max_steps and s.max_steps < steps else "")
        )
