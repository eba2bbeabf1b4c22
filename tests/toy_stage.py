"""A stage without data, for tests of what happens around any stage: its loss pulls every weight towards 0."""

from typing import NamedTuple

import torch

from minimind_ref import ModelConfig, Transformer
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.optim.adamw import AdamW
from minimind_ref.optim.grad_scaler import GradScaler
from minimind_ref.train.device import place
from minimind_ref.train.distributed import Ranks
from minimind_ref.train.loop import Loss, Run, parameter_groups
from minimind_ref.train.session import Session
from minimind_ref.train.stage_settings import PretrainSettings

CONFIG = ModelConfig(
    vocab_size=31, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
    intermediate_size=7,
)  # fmt: skip
ALONE = Ranks()


class Batch(NamedTuple):
    num_targets: int
    num_documents: int = 1


class Found:
    """What an evaluation found, in two lines."""

    def values(self):
        return {"held_out_loss": 0.5}

    def lines(self):
        return ["loss 0.5", "and a second line"]


class ToyStage:
    """Six windows of one micro-batch, of one target in the first to six in the last."""

    prefix, targets, curves, fingerprint, total_windows = "toy", "pears", (("loss",),), "toy data", 6

    def __init__(self, *parts):
        self.parts, self.found, self.state = parts, Found(), {"drawn": 3}
        self.tokenizer = Tokenizer.load()

    def describe(self):
        return ["data      none"]

    def windows(self, start):
        return iter([[Batch(n + 1)] for n in range(start, self.total_windows)])

    def loss(self, network, batch):
        return Loss(batch.num_targets * sum(p.square().sum() for p in network.parameters()), torch.tensor(0.25))

    def measures(self):
        return {"measured": 7.0}

    def evaluate(self, network):
        return self.found

    def sample(self, model):
        return "one\ntwo"

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def toy_run(folder, config=CONFIG, *, dtype="float32", ranks=ALONE, total_steps=6, scale=None, **settings):
    """A run of the toy stage, no step done."""
    model = Transformer(config, generator=torch.Generator().manual_seed(3))
    optimizer = AdamW(parameter_groups(model, "matrices", 0.1), lr=0.1)
    scaler = GradScaler(enabled=False) if scale is None else GradScaler(init_scale=scale)
    given = {"learning_rate": 2.0**-6, "batch_size": 1, "accumulation_steps": 1, **settings}
    settings = PretrainSettings(out_dir=str(folder), **given)
    return Run(model, optimizer, scaler, settings, place("cpu", dtype), ranks, total_steps)


def toy_session(folder, config=CONFIG, **options):
    """Its session, under the name of pretraining, whose settings it has."""
    return Session("pretrain", config, toy_run(folder, config, **options), ToyStage())
