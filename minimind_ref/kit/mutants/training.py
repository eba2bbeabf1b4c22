"""Wrong steps of training: right parts with another weight, order or clock.

`stepped` is what comes behind the gradients in a step, with places for what goes wrong there.
"""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.adamw import Moments, adamw_update
from minimind_ref.oracle.cosine_schedule import cosine_schedule
from minimind_ref.oracle.grad_clip import clip_grad_norm
from minimind_ref.oracle.training import Report, TrainingState, training_step, window_gradients


def stepped(
    state, gradients, report, *, learning_rate, total_steps, warmup_steps=0, floor_ratio=0.1, betas=(0.9, 0.999),
    eps=1e-8, weight_decay=0.01, max_norm=1.0, clip=clip_grad_norm, late=0, decays=lambda p: p.ndim > 1, l2=False,
):  # fmt: skip
    """Clip, find the rate, step; `report` is the window's loss, balance and targets."""
    clipped, norm = clip(list(gradients.values()), max_norm)
    clock = {"total_steps": total_steps, "warmup_steps": warmup_steps, "floor_ratio": floor_ratio}
    rate = cosine_schedule(state.step + late, peak=learning_rate, **clock)
    new = TrainingState({}, {}, {}, state.step + 1)
    for name, gradient in zip(gradients, clipped, strict=True):
        parameter, moments = state.parameters[name], Moments(state.means[name], state.squares[name], state.step)
        decay = weight_decay if decays(parameter) else 0.0
        new.parameters[name], (new.means[name], new.squares[name], _) = adamw_update(
            parameter, gradient + decay * parameter * l2, moments, lr=rate, beta1=betas[0], beta2=betas[1], eps=eps,
            weight_decay=decay * (not l2),
        )  # fmt: skip
    loss, balance, targets = report
    return new, Report(loss, balance, norm, rate, targets)


def whole(state, window, config):
    """Give the window's gradients, and its loss, balance and targets."""
    loss, balance, gradients, targets = window_gradients(state.parameters, window, config)
    return gradients, (loss, balance, targets)


def weighted(state, window, config, of_loss, of_balance):
    """Sum the micro-batches' own mean losses and balances, each with its weight."""
    gradients = {name: np.zeros_like(p) for name, p in state.parameters.items()}
    loss = balance = targets = 0
    for batch, a, b in zip(window, of_loss, of_balance, strict=True):
        one_loss, one_balance, both, number = window_gradients(state.parameters, [batch], config)
        without = {**config, "aux_loss_coef": 0.0}
        plain = window_gradients(state.parameters, [batch], without)[2] if config["use_moe"] else both
        gradients = {name: g + a * plain[name] + b * (both[name] - plain[name]) for name, g in gradients.items()}
        loss, balance, targets = loss + a * one_loss, balance + b * one_balance, targets + number
    return gradients, (loss, balance, targets)


def share(numbers):
    """Give each micro-batch's part of the window."""
    return np.array(numbers) / max(sum(numbers), 1)


def targets(window):
    return [int(np.sum(batch["labels"] != -100)) for batch in window]


def documents(window):
    each = [batch.get("segment_ids", np.zeros_like(batch["labels"])) for batch in window]
    return [sum(len(set(row[row >= 0])) for row in segments) for segments in each]


def equal(window):
    return np.full(len(window), 1 / len(window))


@mutant("training.step", "TRAINING-M01", owner="TRAINING-1", summary="every step starts with averages of zero",
        source="a resumed run without the optimiser's state (CKP-6)")  # fmt: skip
def averages_forgotten(state, window, config, **settings):
    zero = {name: np.zeros_like(p) for name, p in state.parameters.items()}
    return training_step(state._replace(means=zero, squares=zero), window, config, **settings)


@mutant("training.step", "TRAINING-M02", owner="TRAINING-1", summary="the count of steps starts at 0 again",
        source="a resumed run without the count: schedule and correction start anew (CKP-1)")  # fmt: skip
def count_forgotten(state, window, config, **settings):
    return training_step(state._replace(step=0), window, config, **settings)


@mutant("training.step", "TRAINING-M03", owner="TRAINING-2", summary="the micro-batches' means are averaged",
        source="transformers PR #34191, torchtune PR #1875, MiniMind #749 (LOS-6)")  # fmt: skip
def mean_of_means(state, window, config, **settings):
    return stepped(state, *weighted(state, window, config, equal(window), share(documents(window))), **settings)


@mutant("training.step", "TRAINING-M04", owner="TRAINING-2", summary="the micro-batches' gradients are not divided",
        source="Megatron-DeepSpeed PR #42 (GRD-6)")  # fmt: skip
def sum_of_means(state, window, config, **settings):
    return stepped(state, *weighted(state, window, config, np.ones(len(window)), share(documents(window))), **settings)


@mutant("training.step", "TRAINING-M05", owner="TRAINING-2", summary="aligned labels are shifted once more",
        source="transformers #47394, PR #37830 (LOS-1)")  # fmt: skip
def labels_shifted_again(state, window, config, **settings):
    late = [np.pad(b["labels"][:, 1:], ((0, 0), (0, 1)), constant_values=-100) for b in window]
    moved = [{**batch, "labels": labels} for batch, labels in zip(window, late, strict=True)]
    return training_step(state, moved, config, **settings)


@mutant("training.step", "TRAINING-M06", owner="TRAINING-2", summary="the gradient is the last micro-batch's",
        source="trl #583: zeroed at another cadence than stepped (GRD-4)")  # fmt: skip
def only_the_last(state, window, config, **settings):
    last = np.arange(len(window)) == len(window) - 1
    gradients, _ = weighted(state, window, config, last * share(targets(window)), last * share(documents(window)))
    return stepped(state, gradients, whole(state, window, config)[1], **settings)


@mutant("training.step", "TRAINING-M07", owner="TRAINING-3",
        summary="a balance weighs 1/(number of micro-batches)",
        source="NeMo Automodel PR #3359, Megatron PR #5798 (MOE-8)")  # fmt: skip
def balance_by_micro_batch(state, window, config, **settings):
    return stepped(state, *weighted(state, window, config, share(targets(window)), equal(window)), **settings)


@mutant("training.step", "TRAINING-M08", owner="TRAINING-3", summary="a balance weighs as its targets do",
        source="one weight for both losses")  # fmt: skip
def balance_by_target(state, window, config, **settings):
    weight = share(targets(window))
    return stepped(state, *weighted(state, window, config, weight, weight), **settings)


@mutant("training.step", "TRAINING-M09", owner="TRAINING-4", summary="every parameter is clipped by its own norm",
        source="clip_grad_norm_ in a loop over parameters (GRD-5)")  # fmt: skip
def clipped_apart(state, window, config, **settings):
    def clip(gradients, max_norm):
        return tuple(clip_grad_norm([g], max_norm)[0][0] for g in gradients), clip_grad_norm(gradients, max_norm)[1]

    return stepped(state, *whole(state, window, config), clip=clip, **settings)


@mutant("training.step", "TRAINING-M10", owner="TRAINING-4", summary="nothing is clipped",
        source="a norm that is logged only")  # fmt: skip
def not_clipped(state, window, config, *, max_norm=1.0, **settings):
    return training_step(state, window, config, max_norm=np.inf, **settings)


@mutant("training.step", "TRAINING-M11", owner="TRAINING-5", summary="the schedule is one step ahead",
        source="a schedule that is stepped before the optimiser")  # fmt: skip
def schedule_ahead(state, window, config, **settings):
    return stepped(state, *whole(state, window, config), late=1, **settings)


@mutant("training.step", "TRAINING-M12", owner="TRAINING-5", summary="the schedule counts micro-batches",
        source="MiniMind #231, burn #5695 (LRS-4)")  # fmt: skip
def schedule_of_micro_batches(state, window, config, **settings):
    return stepped(state, *whole(state, window, config), late=state.step * (len(window) - 1), **settings)


@mutant("training.step", "TRAINING-M13", owner="TRAINING-6", summary="norm weights decay too",
        source="transformers PR #35927, Fast-LLM PR #545, MiniMind d65ef2c (OPT-5)")  # fmt: skip
def everything_decays(state, window, config, **settings):
    return stepped(state, *whole(state, window, config), decays=lambda p: True, **settings)


@mutant("training.step", "TRAINING-M14", owner="TRAINING-6", summary="decay is added to the gradient",
        source="nntrainer PR #3565, axlearn PR #218 (OPT-1)")  # fmt: skip
def decay_in_the_gradient(state, window, config, **settings):
    return stepped(state, *whole(state, window, config), l2=True, **settings)


@mutant("training.step", "TRAINING-M15", owner="TRAINING-7", summary="padding is seen, routed and counted",
        source="MiniMind 6361510 (RL-9), transformers #28505 (MOE-4)")  # fmt: skip
def padding_is_real(state, window, config, **settings):
    seen = [{name: x for name, x in batch.items() if name != "attention_mask"} for batch in window]
    return training_step(state, seen, config, **settings)
