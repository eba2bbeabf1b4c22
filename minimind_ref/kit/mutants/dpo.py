"""Wrong preference losses and wrong log-probabilities of answers."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.dpo import dpo_loss, dpo_loss_vjp, dpo_losses, implicit_reward, sequence_logp


@mutant("sequence_logp", "DPO-M01", owner="DPO-2", summary="the mean divides by the padded length",
        source="MiniMind #298, #279, mended in 278ec76 (DPO-1)")  # fmt: skip
def mean_over_the_padded_length(logp, mask, *, reduction="sum"):
    return sequence_logp(logp, mask) / (logp.shape[1] if reduction == "mean" else 1)


@mutant("sequence_logp", "DPO-M02", owner="DPO-1", summary="answers are averaged where they must be added",
        source="MiniMind #298, #659, mended in 101d7df (DPO-2)")  # fmt: skip
def always_the_mean(logp, mask, *, reduction="sum"):
    return sequence_logp(logp, mask, reduction="mean")


@mutant("sequence_logp", "DPO-M03", owner="DPO-3", summary="what is not marked is multiplied by 0, NaN included",
        source="a mask as a factor")  # fmt: skip
def masked_by_a_product(logp, mask, *, reduction="sum"):
    total = np.sum(logp * mask, axis=1)
    return total / np.maximum(np.sum(mask, axis=1), 1) if reduction == "mean" else total


@mutant("sequence_logp", "DPO-M04", owner="DPO-3", summary="the mean of an answer without a token is 0/0",
        source="a mean of nothing (LOS-3)")  # fmt: skip
def empty_answer_is_nan(logp, mask, *, reduction="sum"):
    total = sequence_logp(logp, mask)
    return total / np.sum(mask, axis=1) if reduction == "mean" else total


@mutant("dpo_loss", "DPO-M05", owner="DPO-5", summary="chosen and rejected are exchanged", source="an exchanged sign")
def exchanged(policy_chosen, policy_rejected, reference_chosen, reference_rejected, **options):
    return dpo_loss(policy_rejected, policy_chosen, reference_rejected, reference_chosen, **options)


@mutant("dpo_loss", "DPO-M06", owner="DPO-10", summary="the reference is left out",
        source="a reference-free loss under the same name")  # fmt: skip
def reference_free(policy_chosen, policy_rejected, reference_chosen, reference_rejected, **options):
    return dpo_loss(policy_chosen, policy_rejected, 0 * reference_chosen, 0 * reference_rejected, **options)


@mutant("dpo_loss", "DPO-M07", owner="DPO-7", summary="ipo aims at 1/beta, not at 1/(2·beta)",
        source="a regression target without its half (DPO-2)")  # fmt: skip
def target_twice_as_far(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, form="sigmoid", **options
):
    logps = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return dpo_loss(*logps, beta=beta / 2 if options.get("form") == "ipo" else beta, **options)


@mutant("dpo_losses", "DPO-M08", owner="DPO-16", summary="a sigmoid is taken before its logarithm",
        source="log(sigmoid(x)) for logsigmoid(x)")  # fmt: skip
def logarithm_of_a_sigmoid(policy_chosen, policy_rejected, reference_chosen, reference_rejected, *, beta, **options):
    logps = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    smoothing = options.get("label_smoothing", 0.0)
    if options.get("form", "sigmoid") != "sigmoid":
        return dpo_losses(*logps, beta=beta, **options)
    margin = beta * (logps[0] - logps[2] - logps[1] + logps[3])
    right, wrong = (-np.log(1 / (1 + np.exp(-x))) for x in (margin, -margin))
    return right if not smoothing else (1 - smoothing) * right + smoothing * wrong


@mutant("dpo_loss", "DPO-M09", owner="DPO-5", summary="label smoothing trusts the wrong order",
        source="an exchange of eps and 1 - eps")  # fmt: skip
def smoothing_upside_down(policy_chosen, policy_rejected, reference_chosen, reference_rejected, *, beta, **options):
    logps = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    right = dpo_loss(*logps, beta=beta, **options)
    return exchanged(*logps, beta=beta, **options) if options.get("label_smoothing") else right


@mutant("dpo_loss", "DPO-M10", owner="DPO-6", summary="the hinge does not scale its margin by beta",
        source="a beta that only the sigmoid has")  # fmt: skip
def hinge_without_beta(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, form="sigmoid", **options
):
    logps = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return dpo_loss(*logps, beta=1.0 if options.get("form") == "hinge" else beta, **options)


@mutant("dpo_loss", "DPO-M11", owner="DPO-8", summary="the loss is the sum over the pairs",
        source="transformers #35856, LlamaFactory #5747 (DPO-6)")  # fmt: skip
def summed(policy_chosen, policy_rejected, reference_chosen, reference_rejected, **options):
    logps = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return dpo_loss(*logps, **options) * len(logps[0])


@mutant("dpo_loss", "DPO-M12", owner="DPO-11", summary="the reference has a gradient",
        source="trl #2042: a reference model that is trained along (DPO-4)", gradient=True)  # fmt: skip
def reference_trained(policy_chosen, policy_rejected, reference_chosen, reference_rejected, *, cotangent, **options):
    logps = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    chosen, rejected, _, _ = dpo_loss_vjp(*logps, cotangent=cotangent, **options)
    return chosen, rejected, -chosen, -rejected


@mutant("dpo_loss", "DPO-M13", owner="DPO-12", summary="the gradient is that of the sum over the pairs",
        source="LlamaFactory #5747 (DPO-6)", gradient=True)  # fmt: skip
def gradient_of_the_sum(policy_chosen, policy_rejected, reference_chosen, reference_rejected, *, cotangent, **options):
    logps = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return dpo_loss_vjp(*logps, cotangent=cotangent * len(logps[0]), **options)


@mutant("implicit_reward", "DPO-M14", owner="DPO-17", summary="rewards are not in units of beta",
        source="a log-ratio logged as a reward")  # fmt: skip
def reward_without_beta(policy, reference, *, beta):
    return implicit_reward(policy, reference, beta=1.0)


@mutant("dpo_losses", "DPO-M15", owner="DPO-8", summary="each pair has the loss of all pairs",
        source="a mean that comes too early")  # fmt: skip
def averaged_too_early(policy_chosen, policy_rejected, reference_chosen, reference_rejected, **options):
    logps = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    losses = dpo_losses(*logps, **options)
    return np.full_like(losses, np.mean(losses))


@mutant("sequence_logp", "DPO-M16", owner="DPO-3", summary="all from the first to the last marked position is added",
        source="a start and a length in the mask's place (SFT-5)")  # fmt: skip
def from_first_to_last(logp, mask, *, reduction="sum"):
    begun, on = np.cumsum(mask, axis=1) > 0, np.cumsum(mask[:, ::-1], axis=1)[:, ::-1] > 0
    return sequence_logp(logp, begun & on, reduction=reduction)
