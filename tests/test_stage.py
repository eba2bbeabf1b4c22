"""How a run's samples are cut into micro-steps and windows, where it goes on, and how that is said."""

import pytest

from minimind_ref.train.distributed import Ranks
from minimind_ref.train.settings import Settings
from minimind_ref.train.stage import Epochs


def made(samples=23, ranks=Ranks(1, 2), **settings):  # noqa: B008 - a tuple
    given = {"batch_size": 3, "accumulation_steps": 3, "epochs": 2, "seed": 9, **settings}
    return Epochs(samples, Settings(**given), ranks)


def stream(epoch, first):
    """Four micro-batches an epoch: 23 samples on two ranks of three."""
    return iter([(epoch, i) for i in range(first, 4)])


def test_a_window_is_of_one_epoch_and_the_last_one_of_it_is_shorter():
    epochs = made()
    assert (epochs.micro_steps, epochs.windows_per_epoch, epochs.total_windows) == (4, 2, 4)
    every = list(epochs.windows(0, stream))
    assert every == [[(e, 0), (e, 1), (e, 2)] if half == 0 else [(e, 3)] for e in (0, 1) for half in (0, 1)]
    for start in range(5):
        assert list(epochs.windows(start, stream)) == every[start:]


def test_batches_are_drawn_for_the_epoch_the_rank_and_the_place():
    expected = dict(batch_size=3, seed=9, epoch=1, shuffle=False, rank=1, world_size=2, start=5)
    assert made(shuffle=False).options(1, 5) == expected


@pytest.mark.parametrize(
    ("epochs", "updates", "said"),
    [
        (made(), 1, "23 rows / batch 3 × 2 processes = 4 micro-steps × 2 epochs; 4 optimiser steps (accumulation 3)"),
        (
            made(ranks=Ranks(), epochs=1, max_steps=2),
            1,
            "23 rows / batch 3 = 8 micro-steps × 1 epoch; 3 optimiser steps (accumulation 3), "
            "of which --max_steps takes 2",
        ),
        (
            made(3000, Ranks(), max_steps=1336),
            2,
            "3,000 rows / batch 3 = 1,000 micro-steps × 2 epochs × 2 updates; 1,336 optimiser steps (accumulation 3)",
        ),
    ],
)
def test_the_step_arithmetic_is_written_out(epochs, updates, said):
    assert epochs.line("rows", updates) == f"steps     {said}"
    assert updates > 1 or epochs.line("rows") == epochs.line("rows", updates)
