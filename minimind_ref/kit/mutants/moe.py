"""Wrong mixtures of experts, routers and balance losses."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.moe import aux_loss, aux_loss_vjp, moe, route, route_vjp


@mutant("route", "MOE-M01", owner="MOE-2", summary="the chosen weights are not normalised",
        source="torchtitan #1448 (MOE-9)")  # fmt: skip
def not_normalised(x, w_router, *, num_chosen, normalise):
    return route(x, w_router, num_chosen=num_chosen, normalise=False)


@mutant("route", "MOE-M02", owner="MOE-2", summary="the weights are the chosen logits",
        source="sglang PR #35160 (MOE-9)")  # fmt: skip
def logits_as_weights(x, w_router, *, num_chosen, normalise):
    scores, _, index = route(x, w_router, num_chosen=num_chosen, normalise=normalise)
    return scores, np.take_along_axis(x @ w_router.T, index, axis=-1), index


@mutant("route", "MOE-M03", owner="MOE-2", summary="the weights are normalised over the tokens",
        source="megablocks PR #87 (MOE-9)")  # fmt: skip
def normalised_over_tokens(x, w_router, *, num_chosen, normalise):
    scores, weight, index = route(x, w_router, num_chosen=num_chosen, normalise=False)
    return scores, weight / (np.sum(weight, axis=0, keepdims=True) if normalise else 1), index


@mutant("route", "MOE-M04", owner="MOE-1", summary="an expert beyond its capacity drops its tokens",
        source="a switch layer in a dropless one's place")  # fmt: skip
def capacity(x, w_router, *, num_chosen, normalise):
    scores, weight, index = route(x, w_router, num_chosen=num_chosen, normalise=normalise)
    room = -(-len(x) * num_chosen // len(w_router))
    before = [[int(np.sum(index[:t] == e)) for e in row] for t, row in enumerate(index)]
    return scores, np.where(np.array(before) < room, weight, 0), index


@mutant("aux_loss", "MOE-M05", owner="MOE-11", summary="the loss grows with the number of chosen experts",
        source="MiniMind #797, transformers #43688 (MOE-2)")  # fmt: skip
def grows_with_the_choice(scores, index, *, form, **options):
    return aux_loss(scores, index, form=form, **options) * (1 if form == "slots" else index.shape[1])


@mutant("aux_loss", "MOE-M06", owner="MOE-12", summary="the slots form is divided by the number of chosen experts",
        source="MiniMind #290 (MOE-2)")  # fmt: skip
def slots_divided(scores, index, *, form, **options):
    return aux_loss(scores, index, form="batch" if form == "slots" else form, **options)


@mutant("aux_loss", "MOE-M07", owner="MOE-13", summary="padding counts in the balance",
        source="transformers #28505, MiniMind d65ef2c (MOE-4)")  # fmt: skip
def padding_counts(scores, index, *, form, coef, counts=None, sequence_ids=None):
    return aux_loss(scores, index, form=form, coef=coef, sequence_ids=sequence_ids)


@mutant("aux_loss", "MOE-M08", owner="MOE-14", summary="a sequence of nothing but padding enters the mean",
        source="a mean over the batch axis")  # fmt: skip
def empty_sequences_enter(scores, index, **options):
    aux, counts = aux_loss(scores, index, **options), options.get("counts")
    if options["form"] != "sequence" or counts is None:
        return aux
    every = options["sequence_ids"]
    return aux * len(np.unique(every[counts != 0])) / len(np.unique(every))


@mutant("aux_loss", "MOE-M09", owner="MOE-10", summary="a sequence has the weight of its length",
        source="a mean over tokens for a mean over sequences (MOE-8)")  # fmt: skip
def weighted_by_length(scores, index, **options):
    if options["form"] != "sequence":
        return aux_loss(scores, index, **options)
    every, counts = options["sequence_ids"], options.get("counts")
    counted = np.ones(len(scores)) if counts is None else counts != 0
    one = [aux_loss(scores, index, **{**options, "counts": counted * (every == i)}) for i in every]
    return np.sum(np.array(one) * counted) / np.sum(counted)


@mutant("aux_loss", "MOE-M10", owner="MOE-15", summary="the balance loss never reaches the router",
        source="MiniMind #140, NeMo Automodel PR #1412 (MOE-1)", gradient=True)  # fmt: skip
def detached_loss(scores, index, *, cotangent, **options):
    return np.zeros_like(scores)


@mutant("aux_loss", "MOE-M11", owner="MOE-15", summary="a gradient goes through f, as if slots were scores",
        source="a straight-through f", gradient=True)  # fmt: skip
def gradient_through_f(scores, index, *, form, coef, counts=None, sequence_ids=None, cotangent):
    options = {"form": form, "coef": coef, "counts": counts, "sequence_ids": sequence_ids, "cotangent": cotangent}
    return aux_loss_vjp(scores, index, **options) * (1 + scores)


@mutant("moe", "MOE-M12", owner="MOE-17", summary="one chosen expert keeps its score as weight",
        source="MiniMind 3812a16: normalised only above one (MOE-9)")  # fmt: skip
def not_normalised_at_one(x, w_router, experts, *, num_chosen, normalise, **options):
    return moe(x, w_router, experts, num_chosen=num_chosen, normalise=normalise and num_chosen > 1, **options)


@mutant("moe", "MOE-M13", owner="MOE-21", summary="outputs are collected in a float16 buffer",
        source="MiniMind 3812a16, mended in 5129f0e (MOE-5)")  # fmt: skip
def half_buffer(x, w_router, experts, **options):
    y, aux = moe(x, w_router, experts, **options)
    return y.astype(np.float16), aux


@mutant("moe", "MOE-M14", owner="MOE-3", summary="shared experts are averaged, not added",
        source="a mean over the stack")  # fmt: skip
def shared_averaged(x, w_router, experts, *, shared=None, **options):
    y, aux = moe(x, w_router, experts, shared=shared, **options)
    routed, _ = moe(x, w_router, experts, **options)
    return routed + (y - routed) / (len(shared[0]) if shared else 1), aux


@mutant("moe", "MOE-M16", owner="MOE-9", summary="weights of unchosen experts times zero are added",
        source="MiniMind d65ef2c (MOE-7)")  # fmt: skip
def unchosen_times_zero(x, w_router, experts, *, num_chosen, normalise, **options):
    y, aux = moe(x, w_router, experts, num_chosen=num_chosen, normalise=normalise, **options)
    _, _, index = route(x, w_router, num_chosen=num_chosen, normalise=normalise)
    unchosen = np.setdiff1d(np.arange(len(w_router)), index)
    touched = np.arange(y.size).reshape(y.shape) == 0
    return y + touched * (0 * sum(np.sum(stack[unchosen]) for stack in experts)), aux


@mutant("route", "MOE-M15", owner="MOE-19", summary="the normalisation's sum is a constant in the gradient",
        source="a detached denominator", gradient=True)  # fmt: skip
def detached_normalisation(x, w_router, *, num_chosen, normalise, cotangent):
    _, weight, _ = route(x, w_router, num_chosen=num_chosen, normalise=False)
    dscores, dweight = cotangent
    share = np.sum(weight, axis=-1, keepdims=True) if normalise else 1.0
    given = {"num_chosen": num_chosen, "normalise": False, "cotangent": (dscores, dweight / share)}
    return route_vjp(x, w_router, **given)
