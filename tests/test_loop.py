"""The one optimisation step: what each line changes, and that cutting a window changes nothing."""

import copy
import itertools

import numpy as np
import pytest
import torch
from arrays import draw
from hypothesis import given
from hypothesis import strategies as st
from strategies import cuts
from tolerance import Ulps, assert_same, assert_within

from minimind_ref import ModelConfig, Transformer
from minimind_ref.data.batches import collate
from minimind_ref.data.packing import pack, pad
from minimind_ref.errors import RunError
from minimind_ref.loss.cross_entropy import cross_entropy
from minimind_ref.optim.adamw import AdamW
from minimind_ref.optim.grad_scaler import GradScaler
from minimind_ref.train import loop
from minimind_ref.train.device import place
from minimind_ref.train.distributed import Ranks
from minimind_ref.train.evaluation import inputs
from minimind_ref.train.loop import Loss, Progress, Run, fit, optimisation_step, parameter_groups
from minimind_ref.train.stage_settings import PretrainSettings

SHAPE = dict(
    vocab_size=31,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=7,
)
MOE = dict(use_moe=True, num_experts=3, num_shared_experts=1, moe_intermediate_size=5)
CUT = Ulps(2**16, "float64", "sums of a few hundred products in another order, through two layers and back")


def documents(seed):
    """Documents of unequal length over a small vocabulary."""
    lengths = 2 + np.abs(draw(seed, (11,), structure="uniform") * 9).astype(int)
    return [
        (1 + np.abs(draw(seed + i, (n,), structure="uniform") * 29)).astype(int).tolist() for i, n in enumerate(lengths)
    ]


def rows_of(seed, batching):
    rows = (pack if batching == "pack" else pad)(documents(seed), 7)
    return [type(rows)(*(x[i] for x in rows)) for i in range(len(rows.input_ids))]


def batch_of(rows, batching):
    return collate(rows, packed=batching == "pack", length=7, pad_id=0)


def make_run(config, **settings):
    model = Transformer(config, generator=torch.Generator().manual_seed(3)).double()
    settings = PretrainSettings(**{"learning_rate": 0.1, "grad_clip": 1e9, "accumulation_steps": 16, **settings})
    optimizer = AdamW(parameter_groups(model, "matrices", 0.1), lr=0.1)
    scaler = GradScaler(enabled=False)
    return Run(model, optimizer, scaler, settings, place("cpu", "float32"), Ranks(), total_steps=10)


def loss_of(network, batch):
    output = network(*inputs(batch, torch.device("cpu")))
    return Loss(cross_entropy(output.logits, batch.labels, reduction="sum"), output.aux_loss)


def gradients(config, window, **settings):
    """The gradients that reach the optimiser, and the step's report."""
    run = make_run(config, **settings)
    caught = []
    run.optimizer.step = lambda: caught.extend(p.grad.clone() for p in run.model.parameters())
    report = optimisation_step(run, window, loss_of)
    return caught, report


@given(st.integers(0, 2**20), st.sampled_from(["pack", "pad"]), st.sampled_from([{}, MOE]), st.data())
def test_accumulation_1_any_cut_of_a_window_gives_the_same_gradient(seed, batching, moe, data):
    rows = rows_of(seed, batching)
    pieces = data.draw(cuts(len(rows)))
    config = ModelConfig(**SHAPE, **moe)
    whole, report = gradients(config, [batch_of(rows, batching)])
    parts, report_of_parts = gradients(config, [batch_of(rows[piece], batching) for piece in pieces])
    for one, other in zip(whole, parts, strict=True):
        largest = np.full(one.shape, float(one.abs().max()))
        assert_within(other, one, CUT.of(largest))
    assert report.targets == report_of_parts.targets
    for name in ("loss", "aux_loss"):
        one, other = getattr(report, name), getattr(report_of_parts, name)
        assert_within(np.array(other), np.array(one), CUT.of(np.array(one)))
    assert (report.aux_loss > 0) == bool(moe) and report.aux_loss < 1 < report.loss


def test_accumulation_3_a_mean_of_means_differs_where_counts_differ():
    rows = rows_of(5, "pad")
    window = [batch_of(rows[:2], "pad"), batch_of(rows[2:], "pad")]
    config = ModelConfig(**SHAPE)
    ours, _ = gradients(config, window, accumulation_steps=2)
    theirs, _ = gradients(config, window, accumulation_steps=2, normaliser="mean_of_means")
    assert max((a - b).abs().max() / a.abs().max() for a, b in zip(ours, theirs, strict=True)) > 0.01


def test_a_window_of_one_document_has_its_load_balance_whole():
    run, batch = make_run(ModelConfig(**SHAPE, **MOE)), batch_of(rows_of(5, "pad")[:1], "pad")
    expected = loss_of(run.model, batch).aux.item()
    assert optimisation_step(run, [batch], loss_of).aux_loss == expected > 0


def test_two_ranks_with_the_same_window_take_the_step_of_one(monkeypatch):
    """Each sum over the ranks is then twice what a rank has, and no bit of the rest is another."""
    config, window = ModelConfig(**SHAPE, **MOE), [batch_of(rows_of(5, "pack"), "pack")]
    whole, report = gradients(config, window)
    monkeypatch.setattr(loop, "total", lambda values, ranks, device: [2.0 * v for v in values])
    monkeypatch.setattr(loop, "sum_gradients", lambda model, ranks: [p.grad.mul_(2) for p in model.parameters()])
    parts, of_two = gradients(config, window)
    for one, other in zip(whole, parts, strict=True):
        assert_same(one, other)
    assert of_two == report._replace(targets=2 * report.targets)


def test_accumulation_10_nothing_of_a_window_is_in_the_next():
    config, first, second = ModelConfig(**SHAPE), *([batch_of(rows_of(seed, "pack"), "pack")] for seed in (1, 2))
    run, caught = make_run(config), []
    run.optimizer.step = lambda: caught.append([p.grad.clone() for p in run.model.parameters()])
    for window in (first, second):
        optimisation_step(run, window, loss_of)
    for one, other in zip(caught[1], gradients(config, second)[0], strict=True):
        assert_same(one, other)


def test_weight_decay_shrinks_matrices_only_and_names_every_parameter_once():
    model = Transformer(ModelConfig(**SHAPE, qk_norm=True, **MOE))
    decayed, kept = parameter_groups(model, "matrices", 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    assert sorted(names) == sorted(id(p) for group in (decayed, kept) for p in group["params"])
    assert kept["weight_decay"] == 0 and all("norm" in names[id(p)] for p in kept["params"])
    assert decayed["weight_decay"] == 0.1 and not any("norm" in names[id(p)] for p in decayed["params"])
    assert len(parameter_groups(model, "all", 0.1)) == 2
    assert {group["weight_decay"] for group in parameter_groups(model, "all", 0.1)} == {0.1}


def test_the_life_of_a_step_only_the_optimiser_changes_parameters(monkeypatch):
    """The order of GRAD_CLIP-8, in the loop itself."""
    run = make_run(ModelConfig(**SHAPE), grad_clip=1e-3)
    run.scaler = GradScaler(init_scale=1024.0)
    seen = []

    def spy(name, owner, method):
        original = getattr(owner, method)

        def wrapped(*args, **kwargs):
            before = snapshot(run.model)
            result = original(*args, **kwargs)
            seen.append((name, before, snapshot(run.model)))
            return result

        monkeypatch.setattr(owner, method, wrapped)

    spy("backward", torch.Tensor, "backward")
    spy("unscale", run.scaler, "unscale_")
    spy("step", run.scaler, "step")
    spy("update", run.scaler, "update")
    spy("zero", run.optimizer, "zero_grad")
    optimisation_step(run, [batch_of(rows_of(1, "pack"), "pack")], loss_of)
    assert [name for name, _, _ in seen] == ["backward", "unscale", "step", "update", "zero"]
    changed = {name: (before[0] != after[0], before[1] != after[1]) for name, before, after in seen}
    assert changed == {
        "backward": (False, True),
        "unscale": (False, True),
        "step": (True, False),
        "update": (False, False),
        "zero": (False, True),
    }
    assert seen[0][1][1] is None and seen[4][2][1] is None  # gradients: none before backward, none at the end
    assert seen[2][1][1] != seen[1][2][1]  # clipping, between unscale and step, changed them


def snapshot(model):
    grads = [p.grad for p in model.parameters()]
    return (
        [p.detach().clone().flatten().tolist() for p in model.parameters()],
        None if grads[0] is None else [g.flatten().tolist() for g in grads],
    )


def test_a_skipped_step_changes_nothing_and_does_not_advance_the_schedule():
    """GRAD_SCALER-8 and COSINE_SCHEDULE-8, in the loop itself."""
    run = make_run(ModelConfig(**SHAPE))
    run.scaler = GradScaler(init_scale=2.0**126)
    window = [batch_of(rows_of(1, "pack"), "pack")]
    before = copy.deepcopy(run.model.state_dict())

    def overflowing(network, batch):
        loss = loss_of(network, batch)
        return Loss(loss.total * 1e300, loss.aux)

    report = optimisation_step(run, window, overflowing)
    assert report.skipped and (run.progress.steps, run.progress.windows, run.progress.skipped) == (0, 1, 1)
    assert run.scaler.get_scale() == 2.0**125 and not run.optimizer.state
    for name, tensor in run.model.state_dict().items():
        assert_same(tensor, before[name])
    assert optimisation_step(run, window, loss_of).learning_rate == report.learning_rate == 0.1


def test_steps_are_taken_in_training_mode_until_they_are_used_up_or_it_is_enough():
    window = [batch_of(rows_of(1, "pack"), "pack")]

    def loss_in_training(network, batch):
        assert network.training
        return loss_of(network, batch)

    for windows, enough, steps in ((2, 99, 2), (99, 3, 3), (99, 99, 10)):
        run = make_run(ModelConfig(**SHAPE))
        run.model.eval()
        fit(run, itertools.repeat(window, windows), loss_in_training, lambda _: run.progress.steps >= enough)  # noqa: B023
        assert run.progress.steps == steps


@pytest.mark.parametrize("bad", [-1, 1.0, True, None])
def test_progress_is_counts(bad):
    with pytest.raises(ValueError, match=f"skipped={bad} must be a count"):
        Progress(steps=3, skipped=bad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_before_the_weights_change(bad):
    run = make_run(ModelConfig(**SHAPE))
    before = copy.deepcopy(run.model.state_dict())
    with pytest.raises(RunError, match=f"the loss is {bad} .*in optimiser step 1"):
        optimisation_step(
            run, [batch_of(rows_of(1, "pack"), "pack")], lambda n, b: Loss(loss_of(n, b).total * bad, torch.zeros(()))
        )
    for name, tensor in run.model.state_dict().items():
        assert_same(tensor, before[name])


def test_a_gradient_that_is_no_number_ends_the_run_before_the_weights_change():
    run = make_run(ModelConfig(**SHAPE))
    before = copy.deepcopy(run.model.state_dict())

    def steep(network, batch):
        loss, aux = loss_of(network, batch)
        return Loss(loss + (0 * loss).sqrt(), aux)  # whose slope at 0 is infinite

    with pytest.raises(RunError, match="the gradient's norm is nan in optimiser step 1; a lower --learning_rate may"):
        optimisation_step(run, [batch_of(rows_of(1, "pack"), "pack")], steep)
    for name, tensor in run.model.state_dict().items():
        assert_same(tensor, before[name])


def test_the_clock_is_optimiser_steps_from_peak_to_floor():
    """COSINE_SCHEDULE-8 and TRAINING-5, in the loop itself: one rate a window, however many micro-batches."""
    run = make_run(ModelConfig(**SHAPE), learning_rate=0.5)
    windows = [[batch_of(rows_of(i, "pack"), "pack")] * (1 + i % 3) for i in range(12)]
    rates = [optimisation_step(run, window, loss_of).learning_rate for window in windows]
    assert rates[0] == 0.5 and rates[10] == rates[11] == 0.05
    assert all(a > b for a, b in itertools.pairwise(rates[:11]))


def test_the_settings_of_the_schedule_reach_every_group():
    run = make_run(ModelConfig(**SHAPE), learning_rate=0.5, schedule="minimind2", warmup_iters=3)
    rates = []
    for i in range(4):
        rates.append(optimisation_step(run, [batch_of(rows_of(i, "pack"), "pack")], loss_of).learning_rate)
        assert [group["lr"] for group in run.optimizer.param_groups] == [rates[-1]] * 2
    assert_within(np.array(rates), np.array([0.125, 0.25, 0.375, 0.55]), np.full(4, 2.0**-52))
    short = make_run(ModelConfig(**SHAPE), learning_rate=0.5, warmup_iters=99)  # of 10 steps: all of them warm up
    assert optimisation_step(short, [batch_of(rows_of(1, "pack"), "pack")], loss_of).learning_rate == 0.5 / 11
