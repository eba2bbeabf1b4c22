"""Clauses of specs/initialisation.md: fixed seeds, and bounds that hold for every distribution of the named kind."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from arrays import draw_integers
from spec_blocks import definition
from tolerance import assert_same, assert_within, ulps
from torch import nn

from minimind_ref.config import PRESETS, ModelConfig
from minimind_ref.model.initialisation import initialise_
from minimind_ref.model.transformer import Transformer
from minimind_ref.oracle.initialisation import initial_distribution

SCHEMES = ("fan_in_uniform", "normal")
schemes = pytest.mark.parametrize("scheme", SCHEMES)
MOE = {"use_moe": True, "num_experts": 5, "moe_intermediate_size": 40}
SHAPE = {
    "vocab_size": 523, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "qk_norm": True,
}  # fmt: skip
# A false alarm in a million, for each parameter: DKW's inequality with Massart's constant, exact for every n.
ALARM = 1e-6


def model(scheme, seed=1, **changes):
    config = ModelConfig(**{**SHAPE, **changes}, initialisation=scheme)
    return Transformer(config, generator=torch.Generator().manual_seed(seed))


def cumulative(kind, x):
    """The distribution function of what a parameter is drawn from."""
    name, size = kind
    if name == "uniform":
        return np.clip((x + size) / (2 * size), 0, 1)
    return np.array([0.5 * math.erfc(-value / size / math.sqrt(2)) for value in x])


def assert_drawn(parameter, kind):
    """The empirical distribution function is within DKW's distance of the named one."""
    x = np.sort(parameter.detach().double().numpy().ravel())
    steps = np.arange(x.size + 1) / x.size
    named = cumulative(kind, x)
    distance = max((steps[1:] - named).max(), (named - steps[:-1]).max())
    assert distance <= math.sqrt(math.log(2 / ALARM) / (2 * x.size)), (kind, distance)


# ---- agreement ----
@schemes
@pytest.mark.parametrize("changes", ({}, MOE, {"tie_word_embeddings": False}))
def test_initialisation_1_to_4_every_parameter_is_drawn_as_the_oracle_says(scheme, changes):
    seen = set()
    for name, parameter in model(scheme, **changes).named_parameters():
        kind = initial_distribution(name, tuple(parameter.shape), scheme=scheme)
        seen.add(kind[0])
        if kind == ("ones",):
            assert "norm" in name
            assert_same(parameter, torch.ones_like(parameter))
            continue
        assert_drawn(parameter, kind)
        if kind[0] == "uniform":
            assert parameter.abs().max() <= np.float32(kind[1])
            assert parameter.abs().max() >= kind[1] * (1 - math.log(1 / ALARM) / parameter.numel())
        else:  # INITIALISATION-3: the tails are not cut
            assert parameter.numel() < 3000 or parameter.abs().max() > 3 * kind[1]
    assert seen == {"ones", "uniform" if scheme == "fan_in_uniform" else "normal"}


def test_initialisation_1_a_normal_parameter_has_that_spread():
    """2^22 entries of a fixed draw: their spread is known to 0.035 %."""
    weight = torch.nn.Linear(2**11, 2**11, bias=False)
    initialise_(weight, scheme="normal", generator=torch.Generator().manual_seed(0))
    assert abs(weight.weight.double().std().item() / 0.02 - 1) < 7e-4


@schemes
@pytest.mark.parametrize("kind", ("float", "decimal"))
@pytest.mark.parametrize("shape", ((17,), (3, 7), (640, 1728)))
def test_initialisation_1_definition_agrees_with_the_oracle(scheme, kind, shape):
    exact = definition("initialisation", kind).initial_distribution("any", list(shape), scheme=scheme)
    found = initial_distribution("any", shape, scheme=scheme)
    assert exact[0] == found[0] and len(exact) == len(found)
    if len(found) == 2:
        assert_within(found[1], float(exact[1]), ulps(1, "float64", reason="a root and a quotient, each half an ulp"))


@pytest.mark.parametrize("preset", PRESETS)
def test_initialisation_2_the_tied_embedding_has_the_heads_bound(preset):
    c = PRESETS[preset]
    kind = initial_distribution("model.embed_tokens.weight", (c.vocab_size, c.hidden_size), scheme=c.initialisation)
    if c.initialisation == "normal":
        assert kind == ("normal", 0.02)
    else:
        assert Fraction(kind[1]).limit_denominator(10**6) ** 2 * c.hidden_size - 1 < Fraction(1, 10**6)
        assert kind == initial_distribution("lm_head.weight", (c.vocab_size, c.hidden_size), scheme=c.initialisation)


# ---- invariants ----
@schemes
def test_initialisation_5_a_generator_decides_everything(scheme):
    first, again, other = model(scheme, 3), model(scheme, 3), model(scheme, 4)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert_same(a, b)
        assert "norm" in name or (a != c).all() or (a != c).double().mean() > 0.99


@schemes
def test_initialisation_5_what_was_there_before_does_not_matter(scheme):
    fresh, used = model(scheme, 3), model(scheme, 4)
    with torch.no_grad():
        for parameter in used.parameters():
            parameter.fill_(math.nan)
    initialise_(used, scheme=scheme, generator=torch.Generator().manual_seed(3))
    for a, b in zip(fresh.parameters(), used.parameters(), strict=True):
        assert_same(a, b)


@schemes
def test_initialisation_5_parameters_are_drawn_apart_and_a_tied_head_stays_tied(scheme):
    drawn = model(scheme, **MOE)
    matrices = [p.detach().flatten() for p in drawn.parameters() if p.ndim == 2]
    for i, a in enumerate(matrices):
        for b in matrices[:i]:
            size = min(a.numel(), b.numel(), 500)
            assert (a[:size] == b[:size]).double().mean() < 0.1
    assert drawn.lm_head.weight is drawn.model.embed_tokens.weight
    loose = model(scheme, tie_word_embeddings=False)
    assert (loose.lm_head.weight != loose.model.embed_tokens.weight).any()


@schemes
def test_initialisation_6_a_fresh_model_knows_nothing(scheme):
    fresh, v = model(scheme).double().eval(), SHAPE["vocab_size"]
    with torch.no_grad():
        logits = fresh(torch.tensor(draw_integers(5, (4, 31), 0, v))).logits
    excess = (logits.logsumexp(dim=-1) - logits.mean(dim=-1)).mean() - math.log(v)  # over uniform targets
    kind, size = initial_distribution("lm_head.weight", (v, SHAPE["hidden_size"]), scheme=scheme)
    variance = size**2 / 3 if kind == "uniform" else size**2
    expected = variance * SHAPE["hidden_size"] / 2
    assert excess > 0  # Jensen
    assert expected / 2 < excess < 2 * expected


# ---- refusals ----
def test_initialisation_7_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"scheme='xavier' must be one of fan_in_uniform, normal"):
        initial_distribution("model.norm.weight", (3,), scheme="xavier")
    with pytest.raises(ValueError, match=r"scheme='xavier' must be one of fan_in_uniform, normal"):
        initialise_(nn.LayerNorm(3, bias=False), scheme="xavier")
    with pytest.raises(ValueError, match=r"odd has 3 axes.*\(2, 3, 5\)"):
        initial_distribution("odd", (2, 3, 5), scheme="normal")
    for scheme in SCHEMES:
        with pytest.raises(ValueError, match=r"3 axes.*\(2, 3, 5\)"):
            initialise_(nn.Conv1d(3, 2, 5, bias=False), scheme=scheme)
