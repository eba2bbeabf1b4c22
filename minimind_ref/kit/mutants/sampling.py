"""Wrong filters, penalties and choices of tokens."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.sampling import choose_token, filter_logits, penalise_repetition


def masses(logits):
    """Give each row's probabilities."""
    e = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def nucleus(logits, kept):
    """Drop by a rule on (mass ahead, own mass), largest first."""
    order = np.argsort(-logits, axis=-1, kind="stable")
    mass = np.take_along_axis(masses(logits), order, axis=-1)
    keep = np.zeros(logits.shape, bool)
    np.put_along_axis(keep, order, kept(np.cumsum(mass, axis=-1) - mass, mass), axis=-1)
    return np.where(keep, logits, -np.inf)


def last_filters(logits, *, top_p, min_p):
    """Apply top-p and min-p, which come after the others."""
    return filter_logits(logits, top_p=top_p, min_p=min_p)


@mutant("penalise_repetition", "SAMPLING-M01", owner="SAMPLING-12", summary="negative logits are divided too",
        source="transformers #2302, MiniMind dddedc6 (GEN-1)")  # fmt: skip
def negative_logits_divided(logits, ids, penalty, *, mask=None):
    sizes = np.where(np.isinf(logits), 0, np.abs(logits))
    return np.where(np.isinf(logits), logits, penalise_repetition(sizes, ids, penalty, mask=mask) * np.sign(logits))


@mutant("penalise_repetition", "SAMPLING-M02", owner="SAMPLING-13",
        summary="a token is penalised as often as it was seen", source="a loop over the history")  # fmt: skip
def penalised_each_time(logits, ids, penalty, *, mask=None):
    for column in range(ids.shape[1]):
        seen = None if mask is None else mask[:, column : column + 1]
        logits = penalise_repetition(logits, ids[:, column : column + 1], penalty, mask=seen)
    return logits


@mutant("penalise_repetition", "SAMPLING-M03", owner="SAMPLING-14", summary="padding is penalised as id 0",
        source="transformers and MiniMind d65ef2c: the mask is not looked at")  # fmt: skip
def padding_penalised(logits, ids, penalty, *, mask=None):
    return penalise_repetition(logits, np.where(ids < logits.shape[1], np.maximum(ids, 0), 0), penalty)


@mutant("filter_logits", "SAMPLING-M04", owner="SAMPLING-4", summary="top-k keeps one more",
        source="mesh-transformer-jax #164 (GEN-3)")  # fmt: skip
def one_more(logits, *, top_k=0, **options):
    return filter_logits(logits, top_k=top_k + 1 if top_k else 0, **options)


@mutant("filter_logits", "SAMPLING-M05", owner="SAMPLING-4", source="the first k of a sorted list",
        summary="of tokens that tie with the k-th, top-k drops some")  # fmt: skip
def ties_cut(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    if not 0 < top_k < logits.shape[1] or temperature == 0:
        return filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    place = np.argsort(np.argsort(-logits, axis=-1, kind="stable"), axis=-1)
    return last_filters(np.where(place < top_k, logits / temperature, -np.inf), top_p=top_p, min_p=min_p)


@mutant("filter_logits", "SAMPLING-M06", owner="SAMPLING-3", summary="temperature 0 divides by 0",
        source="MiniMind d65ef2c, slime PR #2197 (GEN-4)")  # fmt: skip
def divided_by_zero(logits, *, temperature=1.0, **options):
    return logits / np.float64(0) if temperature == 0 else filter_logits(logits, temperature=temperature, **options)


@mutant("filter_logits", "SAMPLING-M07", owner="SAMPLING-5", summary="top_p = 0 keeps nothing",
        source="google simply PR #42 (GEN-4)")  # fmt: skip
def empty_nucleus(logits, *, top_p=1.0, **options):
    return np.full_like(logits, -np.inf) if top_p == 0 else filter_logits(logits, top_p=top_p, **options)


@mutant("filter_logits", "SAMPLING-M08", owner="SAMPLING-5", summary="the token that crosses p is dropped",
        source="mass with the token in mass ahead's place")  # fmt: skip
def crossing_token_dropped(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    logits = filter_logits(logits, temperature=temperature, top_k=top_k)
    if temperature and top_p < 1:
        logits = nucleus(logits, lambda ahead, own: (ahead + own <= top_p) | (ahead == 0))
    return last_filters(logits, top_p=1.0, min_p=min_p if temperature else 0.0)


@mutant("filter_logits", "SAMPLING-M09", owner="SAMPLING-7", summary="top-p comes before top-k",
        source="an exchanged order")  # fmt: skip
def p_before_k(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    if temperature == 0:
        return filter_logits(logits, temperature=0.0)
    return filter_logits(filter_logits(logits, temperature=temperature, top_p=top_p), top_k=top_k, min_p=min_p)


@mutant("filter_logits", "SAMPLING-M10", owner="SAMPLING-7", summary="the temperature comes last",
        source="an exchanged order")  # fmt: skip
def temperature_last(logits, *, temperature=1.0, **options):
    return filter_logits(filter_logits(logits, **options) if temperature else logits, temperature=temperature)


@mutant("filter_logits", "SAMPLING-M11", owner="SAMPLING-6", source="a threshold on the softmax itself",
        summary="min_p is a probability, not a share of the largest")  # fmt: skip
def absolute_min_p(logits, *, temperature=1.0, min_p=0.0, **options):
    logits = filter_logits(logits, temperature=temperature, **options)
    largest = logits == np.max(logits, axis=-1, keepdims=True)
    return np.where((masses(logits) >= min_p) | largest, logits, -np.inf) if temperature else logits


@mutant("filter_logits", "SAMPLING-M12", owner="SAMPLING-7", summary="min-p comes before top-p",
        source="an exchanged order")  # fmt: skip
def min_p_before_p(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    if temperature == 0:
        return filter_logits(logits, temperature=0.0)
    return filter_logits(filter_logits(logits, temperature=temperature, top_k=top_k, min_p=min_p), top_p=top_p)


@mutant("filter_logits", "SAMPLING-M13", owner="SAMPLING-5", source="a filter that is not switched off at 1",
        summary="top_p = 1 drops the tail that rounding leaves no mass")  # fmt: skip
def tail_dropped_at_one(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    logits = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    if temperature and top_p == 1:
        logits = nucleus(logits, lambda ahead, own: ahead < 1)
    return last_filters(logits, top_p=1.0, min_p=min_p if temperature else 0.0)


@mutant("choose_token", "SAMPLING-M14", owner="SAMPLING-16", source="a search for the first mass that is not below it",
        summary="a token of mass 0 is chosen where the number is 0")  # fmt: skip
def massless_token_chosen(logits, uniform):
    total = np.cumsum(masses(logits), axis=-1)
    return np.argmax(total >= uniform[:, None], axis=-1)


@mutant("choose_token", "SAMPLING-M15", owner="SAMPLING-16", summary="the first row's choice is copied to all rows",
        source="nanochat's tests/test_engine.py (GEN-5)")  # fmt: skip
def copied_choice(logits, uniform):
    return np.repeat(choose_token(logits[:1], uniform[:1]), len(logits))


@mutant("filter_logits", "SAMPLING-M16", owner="SAMPLING-6", summary="min_p = 1 drops what ties with the largest",
        source="> for >=: an arg-max at the end of the range")  # fmt: skip
def min_p_drops_ties(logits, *, temperature=1.0, min_p=0.0, **options):
    if min_p == 1 and temperature:
        return filter_logits(filter_logits(logits, temperature=temperature, **options), top_p=0.0)
    return filter_logits(logits, temperature=temperature, min_p=min_p, **options)
