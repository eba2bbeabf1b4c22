"""SFT's, DPO's and GRPO's updates in NumPy against the torch loop, from stored states; TRAINING-13 to 16."""

from functools import cache

import jaxtyping
import numpy as np
import pytest
import torch
from arrays import draw, draw_integers
from steps import EXPERTS, QK, SHAPE, assert_step_agrees, carrying, make_model, make_run, state_of
from tolerance import assert_within

from minimind_ref import ModelConfig
from minimind_ref.data.batches import Batch
from minimind_ref.loss.dpo import sequence_logp
from minimind_ref.loss.grpo import group_advantages
from minimind_ref.oracle import objectives
from minimind_ref.oracle import training as oracle
from minimind_ref.oracle.bounded import bound_inputs, value
from minimind_ref.train.answers import score
from minimind_ref.train.device import place
from minimind_ref.train.dpo import MEASURES, Preference
from minimind_ref.train.grpo import Reinforcement
from minimind_ref.train.loop import optimisation_step
from minimind_ref.train.pairs import Pairs
from minimind_ref.train.policy_measures import PolicyMeasures
from minimind_ref.train.rollout import Answers
from minimind_ref.train.sft import FineTuning
from minimind_ref.train.stage_settings import DPOSettings, GRPOSettings, SFTSettings

ONE = SHAPE | dict(num_hidden_layers=1)
CONFIGS = {
    "dense": ModelConfig(**ONE, **QK, intermediate_size=7),
    "moe": ModelConfig(**ONE, **QK, **EXPERTS, num_shared_experts=1, num_experts_per_tok=2),
}
SETTINGS = dict(
    learning_rate=2.0**-6,
    total_steps=7,
    warmup_steps=0,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=0.1,
    max_norm=2.5,
)
CLIP = dict(clip_low=0.125, clip_high=0.25, beta=0.5)
STAGES = {  # name -> (objective, options)
    "sft": ("sft", {}),
    "dpo": ("dpo", dict(beta=0.5, label_smoothing=0.125)),
    "dpo_ipo": ("dpo", dict(beta=0.25, form="ipo", reduction="mean")),
    "dpo_hinge": ("dpo", dict(beta=0.25, form="hinge")),
    "grpo": ("grpo", dict(CLIP, temperature=0.75)),
    "grpo_token": ("grpo", dict(CLIP, normalise="token")),
    "grpo_cispo": ("grpo", dict(CLIP, form="cispo", normalise="constant", length=5)),
}
STEPS = 2
LENGTH = 9
MAIN = ("sft", "dpo", "grpo")
VARIANTS = (("dpo_ipo", "dense"), ("dpo_hinge", "moe"), ("grpo_token", "moe"), ("grpo_cispo", "dense"))
WINDOWED = (("sft", "moe"), ("dpo", "dense"), ("grpo", "moe"), ("grpo_token", "dense"))
BARE = {"betas": (0.0, 0.95), "max_norm": float("inf")}
stages = pytest.mark.parametrize("stage", STAGES)
configs = pytest.mark.parametrize("name", CONFIGS)


# --- batches: a prompt is (its seed, its length), an answer likewise; what is learnt is the answers


def rows(texts, prompt_width=0):
    """Rows of (prompt, answer, …) pieces, by turns ignored and learnt, padded right; labels are aligned.

    With `prompt_width` as a rollout has them: each prompt is padded left to that width.
    """
    shape = (len(texts), LENGTH)
    ids, labels, real = np.zeros(shape, int), np.full(shape, -100), np.zeros(shape, int)
    for row, pieces in enumerate(texts):
        tokens = np.concatenate([draw_integers(seed, (n,), 1, 31) for seed, n in pieces])
        learnt = np.concatenate([np.full(n, i % 2) for i, (_, n) in enumerate(pieces)])
        start = max(prompt_width - pieces[0][1], 0)
        stop = start + len(tokens)
        ids[row, start:stop], real[row, start:stop] = tokens, 1
        labels[row, start : stop - 1] = np.where(learnt[1:], tokens[1:], -100)
    return {"input_ids": ids, "labels": labels, "attention_mask": real}


def sft_window():
    """Two turns in one row, padding, and a row whose answer was cut off."""
    return [
        rows([[(1, 2), (2, 3), (3, 2), (4, 2)]]),
        rows([[(5, 3), (6, 1)], [(7, 7)], [(8, 2), (9, 4)]]),
    ]


def dpo_window():
    """Three pairs in two micro-batches, both answers of a pair after its prompt, of unequal length."""
    first, second, third = (11, 2), (12, 5), (13, 1)
    return [
        rows([[first, (14, 4)], [first, (15, 1)]]),
        rows([[second, (16, 2)], [second, (17, 4)], [third, (18, 6)], [third, (19, 3)]]),
    ]


def grpo_window():
    """Two prompts with three answers each, cut inside a group."""
    first, second = (21, 2), (22, 4)
    texts = [[first, (23, 5)], [first, (24, 2)], [first, (25, 3)], [second, (26, 1)], [second, (27, 5)]]
    texts.append([second, (28, 3)])
    return [rows(texts[:2], 2), rows(texts[2:], 4)]


WINDOWS = {"sft": sft_window, "dpo": dpo_window, "grpo": grpo_window}
REWARDS = np.array([[0.25, 1.5, -0.5], [2.0, -1.0, 0.5]])


# --- the torch side


@pytest.fixture(autouse=True, scope="module")
def without_type_checks():
    """Each part's own tests check its types; here that would take six times as long as the arithmetic."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def micro_batch(stage, batch):
    """What the stage's loss takes: a batch, pairs with their reference's scores, or answers of a rollout."""
    kind, options = STAGES[stage]
    t, count = {n: torch.tensor(x) for n, x in batch.items()}, objective_of(stage).count(batch)
    rows = (t["input_ids"], t["labels"], None, None, t["attention_mask"], count, len(t["labels"]))
    if kind == "grpo":
        return Answers(**t, num_targets=count)
    if kind == "sft":
        return Batch(*rows)
    mask, reduction = t["labels"] != -100, options.get("reduction", "sum")
    return Pairs(Batch(*rows), sequence_logp(t["reference_logp"], mask, reduction=reduction).view(-1, 2))


def torch_loss(stage):
    """The loss of the stage itself, which is given its settings and no data."""
    kind, options = STAGES[stage]
    flags = {{"form": "loss", "length": "max_new_tokens"}.get(n, n): x for n, x in options.items()}
    classes = {
        "sft": (FineTuning, SFTSettings),
        "dpo": (Preference, DPOSettings),
        "grpo": (Reinforcement, GRPOSettings),
    }
    made = object.__new__(classes[kind][0])
    made.settings, made.placement = classes[kind][1](**flags), place("cpu", "float32")
    made._seen, made._measured = torch.zeros(len(MEASURES) + 1), PolicyMeasures()  # what is logged beside the loss
    return made.loss


def torch_score(model, batch, temperature=1.0):
    """The log-probabilities of the answers' tokens, with what no one may read where there is none."""
    with torch.no_grad():
        inputs = (torch.tensor(batch[n]) for n in ("input_ids", "attention_mask", "labels"))
        logp, _ = score(model, *inputs, temperature)
    return np.where(batch["labels"] == -100, np.nan, logp.numpy())


def reference(name):
    """A network near the policy's start."""
    model = make_model(CONFIGS[name])
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.add_(torch.tensor(draw(700 + i, p.shape, 2.0**-5)))
    return model


@cache
def window_of(stage, name):
    """The stage's window with its constants: the reference's and the old policy's log-probabilities, advantages."""
    kind, options = STAGES[stage]
    window, temperature = WINDOWS[kind](), options.get("temperature", 1.0)
    advantages = group_advantages(torch.tensor(REWARDS)).numpy().reshape(-1)
    start = 0
    for batch in window if kind != "sft" else ():
        batch["reference_logp"] = torch_score(reference(name), batch, temperature)
        if kind == "grpo":
            batch["old_logp"] = torch_score(make_model(CONFIGS[name]), batch, temperature)
            batch["advantages"] = advantages[start : (start := start + len(batch["labels"]))]
    return window


def objective_of(stage):
    kind, options = STAGES[stage]
    return {
        "sft": lambda: objectives.SUPERVISED,
        "dpo": lambda: objectives.dpo_objective(**options),
        "grpo": lambda: objectives.grpo_objective(**options),
    }[kind]()


@cache
def recorded(stage, name, **changes):
    """The torch run: two updates on the same window, the state around each, and their reports."""
    run = make_run(CONFIGS[name], SETTINGS | changes, accumulation_steps=2)
    window = [micro_batch(stage, batch) for batch in window_of(stage, name)]
    states, reports = [state_of(run)], []
    for _ in range(STEPS):
        reports.append(optimisation_step(run, window, torch_loss(stage)))
        states.append(state_of(run))
    return states, reports


def oracle_step(stage, name, state, window=None, **changes):
    window = window_of(stage, name) if window is None else window
    options = SETTINGS | {"objective": objective_of(stage)} | changes
    return oracle.training_step(state, window, CONFIGS[name].to_dict(), **options)


@cache
def mapped(stage, name, step):
    return oracle_step(stage, name, carrying(recorded(stage, name)[0][step]))


# --- agreement


@pytest.mark.parametrize(
    "stage, name, step",
    [(stage, name, step) for stage in MAIN for name in CONFIGS for step in range(STEPS)] + [(*v, 1) for v in VARIANTS],
)
def test_training_13_14_15_a_step_from_a_stored_state_is_within_its_bound(stage, name, step):
    """Loss, load balance, gradient norm, both averages of every parameter and every new weight."""
    states, reports = recorded(stage, name)
    assert_step_agrees(states[step], states[step + 1], reports[step], *mapped(stage, name, step))


@cache
def bare_gradients(stage, name):
    """The whole window's loss, load balance, gradients and number of targets at the second update, with bounds."""
    states, _ = recorded(stage, name, **BARE)
    arguments = (carrying(states[1]).parameters, window_of(stage, name), CONFIGS[name].to_dict())
    return oracle.window_gradients(*arguments, objective=objective_of(stage))


@pytest.mark.parametrize("stage, name", WINDOWED)
def test_training_13_14_15_every_gradient_is_within_its_bound(stage, name):
    """With beta1 = 0 and no clipping the loop's average is the gradient: the second update's, ratios away from 1."""
    states, _ = recorded(stage, name, **BARE)
    for parameter, expected in bare_gradients(stage, name)[2].items():
        assert np.any(value(expected))
        assert_within(states[2].means[parameter], expected)


@configs
@pytest.mark.parametrize("temperature", (1.0, 0.75))
def test_training_16_scores_are_within_their_bound(name, temperature):
    """The reference's forward pass, padding and all; 0 where there is no target."""
    network = reference(name)
    weights = {n: bound_inputs(p.detach().numpy(), profile="float64")[0] for n, p in network.named_parameters()}
    for batch in grpo_window():
        expected = objectives.score(weights, batch, CONFIGS[name].to_dict(), temperature=temperature)
        assert_within(np.nan_to_num(torch_score(network, batch, temperature)), expected)


# --- invariants


def clipped(name, step):
    """Of a stored state: which tokens' ratios are beyond an edge that counts, above it and below it."""
    weights, low, high = recorded("grpo", name)[0][step].parameters, 0, 0
    for batch in window_of("grpo", name):
        logp = objectives.score(weights, batch, CONFIGS[name].to_dict(), temperature=0.75)
        ratio = np.where(batch["labels"] == -100, 1.0, np.exp(logp - batch["old_logp"]))
        positive = batch["advantages"][:, None] > 0
        low += np.sum(~positive & (ratio < 1 - CLIP["clip_low"]))
        high += np.sum(positive & (ratio > 1 + CLIP["clip_high"]))
    return low, high


@configs
def test_training_15_the_ratio_is_one_in_the_first_update_and_beyond_both_edges_in_the_second(name):
    assert clipped(name, 0) == (0, 0)
    low, high = clipped(name, 1)
    assert low >= 5 and high >= 2


@configs
def test_training_15_on_policy_and_without_kl_the_loss_is_the_negative_mean_advantage(name):
    bare = objectives.grpo_objective(**CLIP | {"beta": 0.0}, temperature=0.75)
    window = [batch | {"advantages": np.abs(batch["advantages"])} for batch in window_of("grpo", name)]
    _, report = oracle_step("grpo", name, carrying(recorded("grpo", name)[0][0]), window, objective=bare)
    mean = np.mean(np.concatenate([batch["advantages"] for batch in window]))
    assert_within(np.array(mean), -report.loss)


@configs
@pytest.mark.parametrize("sign", (1, -1))
def test_training_15_a_step_against_the_gradient_makes_a_better_answer_likelier_and_a_worse_one_less(name, sign):
    (batch, *_), config = window_of("grpo", name), CONFIGS[name].to_dict()
    alone = {n: x[:1] for n, x in batch.items()} | {"advantages": np.array([0.5 * sign])}
    objective = objectives.grpo_objective(**CLIP | {"beta": 0.0}, temperature=0.75)
    weights = recorded("grpo", name)[0][0].parameters
    *_, gradients, _ = oracle.window_gradients(weights, [alone], config | {"aux_loss_coef": 0.0}, objective=objective)
    moved = {n: p - 2.0**-10 * gradients[n] for n, p in weights.items()}
    before, after = (np.sum(objectives.score(w, alone, config, temperature=0.75)) for w in (weights, moved))
    assert (after - before) * sign > 2.0**-10


@configs
def test_training_14_where_policy_and_reference_are_one_the_loss_is_log_2(name):
    state, config = recorded("dpo", name)[0][0], CONFIGS[name].to_dict()
    window = [b | {"reference_logp": objectives.score(state.parameters, b, config)} for b in dpo_window()]
    _, report = oracle_step("dpo", name, state, window, objective=objectives.dpo_objective(beta=0.5))
    assert float(report.loss) == np.log(2.0) and report.num_tokens == 3


@stages
def test_training_14_15_nothing_is_learnt_where_there_is_no_target(stage):
    """The gradient of the logits is exactly 0 at prompts and padding, and not at every target."""
    objective, learnt = objective_of(stage), 0
    for i, batch in enumerate(window_of(stage, "dense")):
        gradient = objective.total_vjp(draw(40 + i, (*batch["labels"].shape, 31), 2.0), batch, np.array(0.75))
        moved = np.abs(gradient).sum(axis=-1) > 0
        assert not moved[batch["labels"] == -100].any()
        learnt += moved.sum()
    assert learnt > 0


def split(batch, size):
    """A micro-batch cut into micro-batches of `size` rows."""
    return [{n: x[i : i + size] for n, x in batch.items()} for i in range(0, len(batch["labels"]), size)]


@pytest.mark.parametrize("stage, name", WINDOWED)
def test_training_13_any_cut_of_a_window_gives_the_same_gradients(stage, name):
    """Pairs stay whole; groups, whose advantages are there already, need not.  The bound is for every order of sums."""
    window, config, weights = (
        window_of(stage, name),
        CONFIGS[name].to_dict(),
        recorded(stage, name, **BARE)[0][1].parameters,
    )
    cut = [part for batch in window[::-1] for part in split(batch, 2 if STAGES[stage][0] == "dpo" else 1)]
    assert len(cut) > len(window)
    loss, balance, gradients, count = oracle.window_gradients(weights, cut, config, objective=objective_of(stage))
    whole = bare_gradients(stage, name)
    assert count == whole[3]
    for one, other in ((loss, whole[0]), (balance, whole[1])):
        assert_within(np.asarray(one), other)
    for parameter, expected in whole[2].items():
        assert_within(gradients[parameter], expected)


def test_training_14_refuses_half_a_pair():
    (batch, *_) = window_of("dpo", "dense")
    half = {n: x[:1] for n, x in batch.items()}
    with pytest.raises(ValueError, match=r"labels has 1 rows but pairs"):
        oracle_step("dpo", "dense", recorded("dpo", "dense")[0][0], [half])
