"""One optimisation step by the torch loop and by the oracle: what the tests of training share."""

import numpy as np
import torch
from arrays import draw
from tolerance import assert_within

from minimind_ref import Transformer
from minimind_ref.optim.adamw import AdamW
from minimind_ref.optim.grad_scaler import GradScaler
from minimind_ref.oracle.bounded import bound, bound_inputs, value
from minimind_ref.oracle.training import TrainingState
from minimind_ref.train.device import place
from minimind_ref.train.distributed import Ranks
from minimind_ref.train.loop import Run, parameter_groups
from minimind_ref.train.stage_settings import PretrainSettings

PARTS = ("parameters", "means", "squares")
SHAPE = dict(vocab_size=31, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
QK = dict(qk_norm=True, norm_cast="after", rms_norm_eps=1e-6)
EXPERTS = dict(use_moe=True, num_experts=3, moe_intermediate_size=5)


def make_model(config, seed=900):
    """A float64 network whose weights keep a step's bound small: rows of unit size, narrow projections."""
    model = Transformer(config, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for i, (parameter, p) in enumerate(model.named_parameters()):
            scale = 1.0 if "embed" in parameter else 2.0**-4 if p.ndim > 1 else 2.0**-3
            p.copy_(torch.tensor(draw(seed + i, p.shape, scale) + (p.ndim == 1)))
    return model


def make_run(config, s, *, accumulation_steps):
    """A float64 run with the oracle's settings `s`, no step done."""
    model = make_model(config)
    optimizer = AdamW(parameter_groups(model, "matrices", s["weight_decay"]), betas=s["betas"], eps=s["eps"])
    settings = PretrainSettings(
        learning_rate=s["learning_rate"], grad_clip=s["max_norm"], warmup_iters=s["warmup_steps"],
        accumulation_steps=accumulation_steps,
    )  # fmt: skip
    scaler = GradScaler(enabled=False)
    return Run(model, optimizer, scaler, settings, place("cpu", "float32"), Ranks(), s["total_steps"])


def state_of(run):
    """What the torch run has stored, as the oracle's state."""
    named = dict(run.model.named_parameters())
    parts = {"parameters": {n: p.detach().numpy().copy() for n, p in named.items()}}
    for part, key in (("means", "mean"), ("squares", "square")):
        states = {n: run.optimizer.state.get(p) for n, p in named.items()}
        parts[part] = {n: s[key].numpy().copy() if s else np.zeros(named[n].shape) for n, s in states.items()}
    return TrainingState(**parts, step=run.progress.steps)


def carrying(state):
    """The state with (zero) bounds."""
    parts = {
        part: {n: bound_inputs(x, profile="float64")[0] for n, x in getattr(state, part).items()} for part in PARTS
    }
    return TrainingState(**parts, step=state.step)


def flat(state, part, of=value):
    return np.concatenate([np.ravel(of(x)) for x in getattr(state, part).values()])


def assert_step_agrees(before, after, seen, new, report):
    """Every parameter and average inside its bound, no element undecided, and the bound not vacuous.

    `before`, `after` and the report `seen` are the torch loop's, `new` and `report` the oracle's, with bounds.
    """
    for part in PARTS:
        for parameter, expected in getattr(new, part).items():
            assert_within(getattr(after, part)[parameter], expected)
    start, end = (flat(s, "parameters") for s in (before, new))
    e, moved = flat(new, "parameters", bound), np.abs(end - start)
    decided = moved > 0
    assert np.median(e / np.abs(end)) <= 1e-9 and np.median(e[decided] / moved[decided]) <= 1e-7
    assert_within(np.array(seen.loss), report.loss)
    assert_within(np.array(seen.aux_loss), report.balance)
    assert_within(np.array(seen.grad_norm), report.norm)
    assert_within(np.array(seen.learning_rate), report.learning_rate)
    assert (new.step, report.num_tokens) == (before.step + 1, seen.targets)
