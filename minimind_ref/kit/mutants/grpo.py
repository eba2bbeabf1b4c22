"""Wrong advantages, estimates of the KL divergence, policy losses and masks of answers."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.grpo import (
    answer_mask,
    group_advantages,
    grpo_loss,
    grpo_loss_vjp,
    grpo_terms,
    grpo_total,
    is_clipped,
    kl_k3,
)  # fmt: skip


def of_terms(each, logp, old_logp, reference_logp, advantages, mask, *, beta, normalise="sequence", length=None):
    """Give the loss whose tokens have −each(ratio, advantage, logp) + beta·k3."""
    mask = np.asarray(mask).astype(bool)
    ratio = np.exp(np.where(mask, logp - old_logp, 0.0))
    terms = -each(ratio, advantages[:, None], np.where(mask, logp, 0.0))
    if beta:
        terms = terms + beta * kl_k3(np.where(mask, logp, 0.0), np.where(mask, reference_logp, 0.0))
    terms, marked = np.where(mask, terms, 0.0), mask.sum(axis=1)
    divisor = {"sequence": np.maximum(marked, 1) * len(mask), "token": np.full(len(mask), max(marked.sum(), 1))}
    divisor["constant"] = np.full(len(mask), (length or 1) * len(mask))
    return np.sum(terms / divisor[normalise][:, None])


@mutant("group_advantages", "GRPO-M01", owner="GRPO-1", summary="rewards are measured from the whole batch",
        source="MiniMind 7d877db to 101d7df, grpo-flat #2 (RL-2)")  # fmt: skip
def of_the_whole_batch(rewards, *, eps=1e-4, ddof=0, scale=True):
    return group_advantages(rewards.reshape(1, -1), eps=eps, ddof=ddof, scale=scale).reshape(rewards.shape)


@mutant("group_advantages", "GRPO-M02", owner="GRPO-1",
        summary="groups mix the prompts: tiled answers, rewards in blocks",
        source="MiniMind 101d7df to 773e451, R1-V #67, VLM-R1 #129 (RL-1)")  # fmt: skip
def groups_mixed(rewards, **options):
    p, r = rewards.shape
    return group_advantages(rewards.T.reshape(p, r), **options).reshape(r, p).T


@mutant("group_advantages", "GRPO-M03", owner="GRPO-2", summary="the spread is the sample's where the group's is asked",
        source="TRL's default in MiniMind-3's place, 6361510 (RL-3)")  # fmt: skip
def always_unbiased(rewards, *, ddof=0, **options):
    return group_advantages(rewards, ddof=1, **options)


@mutant("group_advantages", "GRPO-M04", owner="GRPO-4", summary="equal rewards whose mean is rounded are not 0",
        source="the textbook formula at a small eps (RL-3)")  # fmt: skip
def equal_rewards_are_noise(rewards, *, eps=1e-4, ddof=0, scale=True):
    centred = rewards - np.mean(rewards, axis=1, keepdims=True)
    return centred / (np.std(rewards, axis=1, ddof=ddof, keepdims=True) + eps) if scale else centred


@mutant("kl_k3", "GRPO-M05", owner="GRPO-8", summary="policy and reference are exchanged",
        source="NeMo-RL PR #2506, open-instruct #534 (RL-5)")  # fmt: skip
def k3_exchanged(logp, reference_logp):
    return kl_k3(reference_logp, logp)


@mutant("grpo_loss", "GRPO-M06", owner="GRPO-12", summary="the policy is paid for leaving the reference",
        source="ToolRL #52 (RL-5)")  # fmt: skip
def kl_with_the_wrong_sign(logp, old_logp, reference_logp, advantages, mask, *, beta, **options):
    given = (logp, old_logp, reference_logp, advantages, mask)
    return 2 * grpo_loss(*given, beta=0.0, **options) - grpo_loss(*given, beta=beta, **options)


@mutant("grpo_loss", "GRPO-M07", owner="GRPO-12", summary="the larger of the clipped and the plain gain is taken",
        source="max for min (RL-16)")  # fmt: skip
def maximum_for_minimum(
    logp, old_logp, reference_logp, advantages, mask, *, clip_low, clip_high, form="clip", **options
):
    given = (logp, old_logp, reference_logp, advantages, mask)
    if options.pop("form", "clip") != "clip":
        return grpo_loss(*given, clip_low=clip_low, clip_high=clip_high, form="cispo", **options)
    return of_terms(lambda r, a, _: np.maximum(r * a, np.clip(r, 1 - clip_low, 1 + clip_high) * a), *given, **options)


@mutant("grpo_loss", "GRPO-M08", owner="GRPO-14", summary="the ratio is clipped by the lower edge's width above too",
        source="one eps for both edges (RL-16)")  # fmt: skip
def one_width_for_both_edges(logp, old_logp, reference_logp, advantages, mask, *, clip_low, clip_high, **options):
    given = (logp, old_logp, reference_logp, advantages, mask)
    return grpo_loss(*given, clip_low=clip_low, clip_high=clip_low, **options)


@mutant("grpo_loss", "GRPO-M09", owner="GRPO-20", summary="all tokens of the call weigh alike, not all answers",
        source="TRL PR #3256, #3138, verl #742 (RL-13)")  # fmt: skip
def tokens_for_sequences(logp, old_logp, reference_logp, advantages, mask, *, normalise="sequence", **options):
    given = (logp, old_logp, reference_logp, advantages, mask)
    return grpo_loss(*given, normalise="token" if normalise == "sequence" else normalise, **options)


@mutant("grpo_loss", "GRPO-M10", owner="GRPO-16", source="MiniMind #750, mended in 6361510, trl #2953 (RL-7)",
        gradient=True, summary="the policy's term has no gradient, as with old log-probabilities")  # fmt: skip
def no_gradient_through_the_ratio(logp, old_logp, reference_logp, advantages, mask, *, beta, cotangent, **options):
    given = (logp, old_logp, reference_logp, advantages, mask)
    whole = grpo_loss_vjp(*given, beta=beta, cotangent=cotangent, **options)
    policy = grpo_loss_vjp(*given, beta=0.0, cotangent=cotangent, **options)
    return tuple(a - b for a, b in zip(whole, policy, strict=True))


@mutant("grpo_loss", "GRPO-M11", owner="GRPO-15", summary="CISPO lacks the factor of the log-probability",
        source="open-instruct PR #1269 (RL-17)")  # fmt: skip
def cispo_without_logp(
    logp, old_logp, reference_logp, advantages, mask, *, clip_low, clip_high, form="clip", **options
):
    given = (logp, old_logp, reference_logp, advantages, mask)
    if options.pop("form", "clip") == "clip":
        return grpo_loss(*given, clip_low=clip_low, clip_high=clip_high, **options)
    return of_terms(lambda r, a, _: np.minimum(r, 1 + clip_high) * a, *given, **options)


@mutant("is_clipped", "GRPO-M12", owner="GRPO-25", summary="only what is cut above counts", source="trl #3032 (RL-16)")
def clipped_above_only(logp, old_logp, advantages, mask, *, clip_low, **options):
    given = (logp, old_logp, advantages, mask)
    return is_clipped(*given, clip_low=1.0, **options)


@mutant("answer_mask", "GRPO-M13", owner="GRPO-26", summary="padding after an answer that never ended is trained on",
        source="verl #3805, MiniMind 773e451, MemGen PR #33 (RL-8)")  # fmt: skip
def padding_trained_on(ids, end_ids, *, lengths=None):
    return answer_mask(ids, end_ids)


@mutant("answer_mask", "GRPO-M14", owner="GRPO-26", summary="an answer's end token is not trained on",
        source="trl #1623, MiniMind 9c98cab (TOK-3, RL-19)")  # fmt: skip
def end_not_trained_on(ids, end_ids, **options):
    return answer_mask(ids, end_ids, **options) & ~np.isin(ids, list(end_ids))


@mutant("grpo_terms", "GRPO-M15", owner="GRPO-12", summary="the whole loss is negated",
        source="flash-linear-attention #1073 (RL-6)")  # fmt: skip
def negated(logp, old_logp, reference_logp, advantages, mask, **options):
    given = (logp, old_logp, reference_logp, advantages, mask)
    return -grpo_terms(*given, **options)


@mutant("grpo_total", "GRPO-M16", owner="GRPO-24", summary="the total is divided already",
        source="TRL PR #6024, #6369: a normaliser from another window than the sum (RL-12)")  # fmt: skip
def divided_already(logp, old_logp, reference_logp, advantages, mask, **options):
    given = (logp, old_logp, reference_logp, advantages, mask)
    return grpo_loss(*given, **options)


@mutant("grpo_loss", "GRPO-M17", owner="GRPO-21", summary="a call without a marked token is 0/0",
        source="a mean of nothing (LOS-3)")  # fmt: skip
def nothing_is_nan(logp, old_logp, reference_logp, advantages, mask, *, normalise="sequence", **options):
    given = (logp, old_logp, reference_logp, advantages, mask)
    count = np.float64(np.sum(mask)) if normalise == "token" else len(mask)
    return grpo_total(*given, normalise=normalise, **options) / count


@mutant("is_clipped", "GRPO-M18", owner="GRPO-25", summary="a ratio at the edge itself counts as clipped",
        source=">= for >")  # fmt: skip
def clipped_at_the_edge(logp, old_logp, advantages, mask, *, clip_low, clip_high, form="clip"):
    low, high = (np.nextafter(1 + edge, away) - 1 for edge, away in ((-clip_low, 2), (clip_high, 0)))
    ratio = np.exp(np.where(mask, logp - old_logp, 0.0))
    above, below = ratio > 1 + high, (ratio < 1 + low) & (form == "clip")
    if form == "clip":
        above, below = above & (advantages[:, None] > 0), below & (advantages[:, None] < 0)
    return (above | below) & np.asarray(mask).astype(bool)


@mutant("is_clipped", "GRPO-M19", owner="GRPO-25", summary="CISPO is said to be clipped as the other form is",
        source="one measure for all losses (RL-16)")  # fmt: skip
def form_ignored(logp, old_logp, advantages, mask, *, form="clip", **options):
    return is_clipped(logp, old_logp, advantages, mask, **options)


@mutant("grpo_loss", "GRPO-M20", owner="GRPO-13", summary="a negative advantage is bounded above by a ratio of 3",
        source="verl's clip_ratio_c, the dual clip of arXiv:1912.09729")  # fmt: skip
def dual_clip(logp, old_logp, reference_logp, advantages, mask, *, form="clip", **options):
    negative = (np.asarray(advantages) < 0)[:, None] & (form == "clip")
    near = np.where(negative & (logp - old_logp > np.log(3.0)), logp - np.log(3.0), old_logp)
    return grpo_loss(logp, near, reference_logp, advantages, mask, form=form, **options)
