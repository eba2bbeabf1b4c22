"""The configuration: exact parameter counts, what follows from what, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimind_ref import PRESETS, ModelConfig, Transformer, count_parameters
from minimind_ref.flags import Parser, add_fields, parse

EXACT = {  # SYSTEM: parameters, and those active per token
    "tiny": (1_606_784, 1_606_784),
    "minimind2-small": (25_829_888, 25_829_888),
    "minimind2": (104_030_976, 104_030_976),
    "minimind2-moe": (145_029_760, 91_945_600),
    "minimind-3": (63_912_192, 63_912_192),
    "minimind-3-moe": (198_416_640, 63_936_768),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_exactly_the_published_counts(name):
    assert count_parameters(PRESETS[name]) == EXACT[name]


@st.composite
def configurations(draw):
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    use_moe = draw(st.booleans())
    num_experts = draw(st.integers(2, 4))
    return ModelConfig(
        vocab_size=draw(st.sampled_from([11, 17])),
        num_attention_heads=kv_heads * draw(st.integers(1, 3)),
        num_key_value_heads=kv_heads,
        hidden_size=draw(st.sampled_from([12, 36])),
        head_dim=draw(st.sampled_from([2, 6])),
        num_hidden_layers=draw(st.integers(1, 3)),
        intermediate_size=draw(st.sampled_from([5, 7])),
        moe_intermediate_size=draw(st.sampled_from([None, 3])),
        qk_norm=draw(st.booleans()),
        use_moe=use_moe,
        num_experts=num_experts,
        num_shared_experts=draw(st.integers(0, 2)),
        num_experts_per_tok=draw(st.integers(1, num_experts)),
        tie_word_embeddings=draw(st.booleans()),
    )


@given(configurations())
def test_the_formula_counts_what_the_network_has(config):
    model = Transformer(config)
    total = sum(p.numel() for p in model.parameters())
    idle = (
        sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
        * (config.num_experts - config.num_experts_per_tok)
        // config.num_experts
    )
    assert count_parameters(config) == (total, total - idle)


def test_what_is_not_given_follows_from_the_rest():
    config = ModelConfig(hidden_size=768, num_attention_heads=6, num_key_value_heads=None)
    assert (config.head_dim, config.num_key_value_heads, config.intermediate_size) == (128, 6, 2048)
    assert config.moe_intermediate_size == 2048
    assert PRESETS["minimind-3"].intermediate_size == 2432


@pytest.mark.parametrize("name", ["num_key_value_heads", "head_dim", "intermediate_size", "moe_intermediate_size"])
def test_a_flag_may_leave_to_the_rest_what_follows_from_it(name):
    add_fields(parser := Parser(), ModelConfig, {}, "model")
    assert parse(parser, [f"--{name}", "none"]) == {name: None}


def test_replace_derives_anew_but_keeps_what_was_given():
    config = ModelConfig(hidden_size=512, intermediate_size=100).replace(hidden_size=256)
    assert (config.head_dim, config.intermediate_size) == (32, 100)
    assert PRESETS["minimind-3"].replace(hidden_size=512).intermediate_size == 1664  # 64 · ⌈π · 512 / 64⌉


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_key_value_heads": 3}, ["num_key_value_heads=3", "num_attention_heads=8"]),
        ({"num_attention_heads": 7, "num_key_value_heads": 1}, ["num_attention_heads=7", "hidden_size=512"]),
        ({"head_dim": 5}, ["head_dim=5", "even"]),
        ({"use_moe": True, "num_experts_per_tok": 5}, ["num_experts_per_tok=5", "num_experts=4"]),
        ({"rope_scaling": "yarn"}, ["'yarn'", "mapping"]),
        ({"rope_scaling": {"type": "yarn", "factor": "4"}}, ["factor='4'", "number"]),
        ({"rope_scaling": {"type": "yarn"}}, ["'yarn'", "needs a factor"]),
        ({"rope_theta": 1.0, "rope_scaling": {"type": "yarn", "factor": 4}}, ["rope_theta=1.0", "'factor': 4"]),
        ({"rope_scaling": {"type": "yarn", "factor": 0.5}}, ["factor=0.5", "at least 1"]),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, ["'linear'", "yarn"]),
        ({"rope_scaling": {"type": "yarn", "faktor": 2.0}}, ["'faktor'", "factor"]),
        ({"rope_scaling": {"type": "yarn", "beta_fast": 1, "beta_slow": 2}}, ["beta_fast=1", "beta_slow=2"]),
        ({"rope_scaling": {"type": "yarn", "factor": float("inf")}}, ["factor=inf", "finite"]),
        ({"rope_scaling": {"type": "yarn", "factor": 4, "beta_slow": 0}}, ["beta_slow=0", "above 0"]),
        ({"hidden_size": 0}, ["hidden_size=0", "at least 1"]),
        ({"vocab_size": 2**31}, ["vocab_size=2147483648", "below 2**31"]),
        ({"hidden_size": 512.0}, ["hidden_size=512.0", "integer"]),
        ({"num_hidden_layers": True}, ["num_hidden_layers=True", "integer"]),
        ({"num_shared_experts": -1}, ["num_shared_experts=-1", "at least 0"]),
        ({"dropout": 1.0}, ["dropout=1.0", "below 1"]),
        ({"rms_norm_eps": 0.0}, ["rms_norm_eps=0.0", "above 0"]),
        ({"rope_theta": float("inf")}, ["rope_theta=inf", "finite"]),
        ({"aux_loss_form": "mean"}, ["'mean'", "sequence"]),
        ({"qk_norm": 1}, ["qk_norm=1", "True or False"]),
        ({"rope_theta": "1e6"}, ["rope_theta='1e6'", "number"]),
    ],
)
def test_an_impossible_network_is_refused_with_both_values(fields, named):
    with pytest.raises(ValueError) as refusal:
        ModelConfig(**fields)
    for text in named:
        assert text in str(refusal.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 1.5, "rope_scaling": {"type": "yarn", "factor": 1}},
        {"rope_scaling": {"type": "yarn", "factor": 4, "attention_factor": -0.5}},
        {"rope_scaling": {"type": "yarn", "factor": 4, "attention_factor": None}},
    ],
    ids=str,
)
def test_a_rotary_scaling_at_the_edge_of_what_has_a_meaning_is_taken(fields):
    assert ModelConfig(**fields).rope_scaling == fields["rope_scaling"]


def test_a_configuration_survives_json():
    for config in (*PRESETS.values(), ModelConfig(num_attention_heads=4)):
        assert ModelConfig(**config.to_dict()) == config


FAMILY_2 = dict(
    num_key_value_heads=2, rms_norm_eps=1e-5, norm_cast="before", qk_norm=False, initialisation="fan_in_uniform"
)
FAMILY_3 = dict(num_key_value_heads=4, rms_norm_eps=1e-6, norm_cast="after", qk_norm=True, initialisation="normal")
EXPERTS_2 = dict(num_shared_experts=1, num_experts_per_tok=2, aux_loss_form="sequence", aux_loss_coef=0.1)
EXPERTS_3 = dict(num_shared_experts=0, num_experts_per_tok=1, aux_loss_form="slots", aux_loss_coef=5e-4)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "tiny"])
def test_what_no_parameter_count_tells_is_as_published(name):
    """The rest of the table in which each generation of MiniMind is described."""
    third = name.startswith("minimind-3")
    expected = {**(FAMILY_3 if third else FAMILY_2), **(EXPERTS_3 if third else EXPERTS_2)}
    expected |= dict(num_attention_heads=8, num_experts=4, norm_topk_prob=True, rope_scaling=None, dropout=0.0)
    expected |= dict(rope_theta=1e6, max_position_embeddings=32768, tie_word_embeddings=True, use_moe="moe" in name)
    assert {field: getattr(PRESETS[name], field) for field in expected} == expected


def test_transformer_9_padding_does_not_count_in_the_load_balance_unless_asked():
    assert not any(config.aux_loss_counts_padding for config in PRESETS.values())


def test_betas_are_compared_with_the_defaults_of_those_not_given():
    ModelConfig(rope_scaling={"type": "yarn", "factor": 4, "beta_fast": 1})
    ModelConfig(rope_scaling={"type": "yarn", "factor": 4, "beta_slow": 32})
    for betas in ({"beta_fast": 0.9}, {"beta_slow": 33}):
        with pytest.raises(ValueError, match=r"beta_fast=.* beta_slow="):
            ModelConfig(rope_scaling={"type": "yarn", "factor": 4, **betas})
