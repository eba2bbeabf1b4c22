"""What flags mean before anything runs: defaults, recipes, MiniMind's choices, and what is refused with one line."""

import math
from dataclasses import fields
from typing import get_type_hints

import pytest
import torch
from chat_runs import SHAPE

from minimind_ref import PRESETS, ModelConfig
from minimind_ref.errors import UserError
from minimind_ref.train.recipes import COMPAT, TINY, Family, layer
from minimind_ref.train.settings import Settings
from minimind_ref.train.stage_settings import (
    STAGES,
    STEPS,
    AllSettings,
    DPOSettings,
    GRPOSettings,
    PretrainSettings,
    SFTSettings,
)

LARGEST = torch.finfo(torch.float32).max
BEYOND = math.nextafter(LARGEST, math.inf)
INITIAL = ModelConfig(**SHAPE)


@pytest.mark.parametrize("kind", [Family, Settings, *STAGES.values(), AllSettings])
def test_every_flag_has_a_default_of_its_kind_and_a_help_text(kind):
    hints = get_type_hints(kind)
    for f in fields(kind):
        assert f.default is None or isinstance(f.default, hints[f.name]), f.name
        assert f.default is None or f.default in f.metadata.get("options", [f.default])
        assert isinstance(f.metadata["help"], str) and isinstance(f.metadata["group"], str)
    assert kind()


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("pretrain", dict(epochs=1, learning_rate=5e-4, accumulation_steps=8, max_seq_len=512)),
        ("sft", dict(epochs=2, learning_rate=5e-7, accumulation_steps=1, max_seq_len=512)),
        ("dpo", dict(epochs=2, learning_rate=1e-8, accumulation_steps=1, max_seq_len=1024, batch_size=4, beta=0.1)),
        ("grpo", dict(epochs=1, learning_rate=3e-7, accumulation_steps=1, max_seq_len=768, batch_size=2, beta=0.1)),
        ("grpo", dict(max_new_tokens=1024, num_generations=8, clip_low=0.2, clip_high=0.2, loss="clip")),
        ("grpo", dict(reward="exact_match")),
        *((stage, dict(grad_clip=1.0, warmup_iters=0, num_workers=1, log_interval=100)) for stage in STAGES),
        *((stage, dict(save_interval=100, use_wandb=False, out_dir="out", device="auto")) for stage in STAGES),
        *((stage, dict(dtype="auto", ddp=False, local_rank=-1, weight_decay=0.01)) for stage in STAGES),
        *((stage, dict(beta1=0.9, beta2=0.999, max_steps=None, shuffle=True)) for stage in STAGES),
    ],
)
def test_the_defaults_are_those_of_minimind_s_trainers(stage, expected):
    found = vars(STAGES[stage]())
    assert {name: found[name] for name in expected} == expected


def test_what_no_flag_asks_for_is_off():
    """Or changes nothing: a temperature of 1, no smoothing, each answer learnt from once, the reference kept."""
    assert {stage().data_path for stage in STAGES.values()} == {None}
    assert Settings().resume is AllSettings().resume is False
    assert DPOSettings().label_smoothing == GRPOSettings().refresh_reference == 0
    assert GRPOSettings().temperature == GRPOSettings().num_updates == 1
    assert PretrainSettings().wrap_text and GRPOSettings().scale_rewards


def test_all_stages_in_a_row_take_the_defaults_that_each_of_them_has():
    shared = vars(AllSettings()).items() - {("questions", AllSettings().questions)}
    assert all(vars(stage()).items() >= shared for stage in (SFTSettings, DPOSettings, GRPOSettings))


def test_a_stage_says_of_a_flag_what_it_means_there_and_else_what_it_means_everywhere():
    texts = {kind: {f.name: f.metadata["help"] for f in fields(kind)} for kind in (Settings, SFTSettings, DPOSettings)}
    assert texts[SFTSettings]["epochs"] == texts[Settings]["epochs"]
    assert texts[DPOSettings]["batch_size"] == "pairs a micro-step and process"


AT_LEAST = {
    2: "max_seq_len num_generations",
    1: "epochs max_steps batch_size accumulation_steps log_interval save_interval max_new_tokens num_updates questions",
    0: "held_out num_workers learning_rate warmup_iters weight_decay seed eval_interval eval_tokens eval_prompts "
    "clip_low clip_high label_smoothing refresh_reference",
}


@pytest.mark.parametrize(
    ("name", "least"), [(name, least) for least, names in AT_LEAST.items() for name in names.split()]
)
def test_sizes_are_refused_below_the_least_that_has_a_meaning(name, least):
    kinds = [k for k in (*STAGES.values(), AllSettings) if any(f.name == name for f in fields(k))]
    for kind in kinds:
        assert getattr(kind(**{name: least}), name) == least
        with pytest.raises(UserError, match=f"--{name} {least - 1} must be at least {least}"):
            kind(**{name: least - 1})
    assert kinds


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "held_out", "grad_clip", "temperature", "beta"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -0.5])
def test_sizes_are_numbers_and_only_the_clip_may_be_infinite(name, value):
    if (name, value) == ("grad_clip", math.inf):
        assert GRPOSettings(grad_clip=value).grad_clip == value
    else:
        with pytest.raises(UserError, match=f"--{name} {value} must be at least 0 and finite"):
            GRPOSettings(**{name: value})


@pytest.mark.parametrize(
    ("kind", "sound", "bad", "message"),
    [
        (Settings, dict(beta1=0.0, beta2=0.0), dict(beta1=-0.1), "--beta1 -0.1 must lie in [0, 1)"),
        (Settings, dict(beta1=0.99), dict(beta1=1.0), "--beta1 1.0 must lie in [0, 1)"),
        (Settings, dict(beta2=0.99), dict(beta2=1.0), "--beta2 1.0 must lie in [0, 1)"),
        (Settings, dict(grad_clip=1e-9), dict(grad_clip=0), "--grad_clip 0 would clip every gradient to nothing"),
        (Settings, dict(seed=2**63 - 1), dict(seed=2**63), "--seed 9223372036854775808 must be below 2**63"),
        (Settings, dict(held_out=0.5), dict(held_out=0.5001), "--held_out 0.5001 must be at most 0.5"),
        (
            Settings,
            dict(learning_rate=LARGEST, beta1=0.0, weight_decay=0.0),
            dict(learning_rate=BEYOND, beta1=0.0, weight_decay=0.0),
            f"--learning_rate {BEYOND} asks for steps that float32 cannot hold",
        ),
        (
            Settings,
            dict(learning_rate=LARGEST / 2, beta1=0.5, weight_decay=1.0),
            dict(learning_rate=BEYOND / 2, beta1=0.5, weight_decay=1.0),
            f"--learning_rate {BEYOND / 2} asks for steps that float32 cannot hold",
        ),
        (
            Settings,
            dict(learning_rate=2.0, weight_decay=LARGEST / 2),
            dict(learning_rate=2.0, weight_decay=BEYOND / 2),
            f"--weight_decay {BEYOND / 2} asks for steps that float32 cannot hold",
        ),
        (DPOSettings, dict(beta=1e-9), dict(beta=0), "--beta 0 would make every pair's loss a constant"),
        (GRPOSettings, dict(beta=0.0), dict(beta=-1.0), "--beta -1.0 must be at least 0"),
        (
            DPOSettings,
            dict(label_smoothing=0.5),
            dict(label_smoothing=0.5001),
            "--label_smoothing 0.5001 must be at most 0.5",
        ),
        (
            DPOSettings,
            dict(label_smoothing=0.0, loss="ipo"),
            dict(label_smoothing=0.1, loss="ipo"),
            "--label_smoothing 0.1 has a meaning for --loss sigmoid only",
        ),
        (GRPOSettings, dict(temperature=1e-9), dict(temperature=0), "--temperature 0 would make a group of equal"),
        (GRPOSettings, dict(clip_low=1.0), dict(clip_low=1.001), "--clip_low 1.001 must be at most 1: a ratio is"),
        *(
            (kind, {name: "x"}, {name: ""}, f"--{name} is empty: give a {what}")
            for kind, name, what in (
                *((Settings, name, "path") for name in ("data_path", "tokenizer", "out_dir", "init_from")),
                (GRPOSettings, "reward", "reward"),
                (AllSettings, "out_dir", "path"),
            )
        ),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_and_its_neighbour_is_not(kind, sound, bad, message):
    assert vars(kind(**sound)).items() >= sound.items()
    with pytest.raises(UserError) as refused:
        kind(**bad)
    assert str(refused.value).startswith(message)


def test_no_preset_and_no_model_flag_is_tiny_and_a_model_flag_is_minimind2():
    config, settings = layer("pretrain", {})
    assert (config.hidden_size, settings.learning_rate, settings.max_seq_len) == (128, 3e-3, 256)
    config, settings = layer("pretrain", {"num_hidden_layers": 3})
    assert (config.hidden_size, config.num_hidden_layers, settings) == (512, 3, PretrainSettings())
    config, settings = layer("pretrain", {"preset": "minimind-3", "learning_rate": 1e-4})
    assert (config.qk_norm, settings.learning_rate, settings.accumulation_steps) == (True, 1e-4, 8)
    config, settings = layer("pretrain", {"preset": "minimind2-moe", "compat": "minimind2", "seed": 5})
    assert config.aux_loss_counts_padding and settings.normaliser == "mean_of_means" and settings.seed == 5


def test_flags_change_the_network_to_start_from_unless_a_preset_is_named():
    changed = dict(num_hidden_layers=3)
    assert layer("sft", changed, INITIAL)[0] == INITIAL.replace(**changed)
    assert layer("sft", {"preset": "minimind2", **changed}, INITIAL)[0] == PRESETS["minimind2"].replace(**changed)
    assert layer("sft", {}, INITIAL) == (INITIAL, SFTSettings())
    with pytest.raises(UserError, match="impossible network: num_attention_heads=3"):
        layer("pretrain", {"num_attention_heads": 3})


@pytest.mark.parametrize("name", TINY)
def test_tiny_has_a_recipe_for_every_stage_and_for_every_step_of_all(name):
    """A recipe is of its stage's settings, and flags go before it; a network that is not tiny takes none."""
    stage = STEPS[name].stage
    config, settings = layer(stage, {}, PRESETS["tiny"], recipe=name)
    assert config == PRESETS["tiny"] and settings == STAGES[stage](**TINY[name])
    hints = get_type_hints(STAGES[stage])
    assert all(isinstance(value, hints[key]) for key, value in TINY[name].items())
    assert settings.warmup_iters < settings.max_steps and settings.weight_decay < 0.5 < settings.beta2
    assert layer(stage, {"max_steps": 7}, PRESETS["tiny"], recipe=name)[1].max_steps == 7
    assert layer(stage, {}, INITIAL, recipe=name)[1] == STAGES[stage]()
    assert layer(stage, {}, PRESETS["tiny"])[1] == STAGES[stage](**TINY[stage])


def test_compat_takes_the_choices_that_a_stage_has():
    """MiniMind2 neither shuffles nor wraps its texts; both generations pad, and decay all parameters alike."""
    old, new = (layer("pretrain", {"compat": name}, INITIAL)[1] for name in ("minimind2", "minimind3"))
    for settings, shuffle, wrap, schedule, seed in (
        (old, False, False, "minimind2", 1337),
        (new, True, True, "cosine", 42),
    ):
        assert (settings.batching, settings.decay, settings.normaliser) == ("pad", "all", "mean_of_means")
        assert (settings.shuffle, settings.wrap_text, settings.schedule, settings.seed) == (
            shuffle,
            wrap,
            schedule,
            seed,
        )
    assert layer("dpo", {"compat": "minimind2"}, INITIAL)[1].reduction == "mean"
    assert layer("sft", {"compat": "minimind3"}, INITIAL)[1].template == "minimind3"
    assert layer("grpo", {"compat": "minimind2"}, INITIAL)[1].template == "minimind2"
    assert layer("grpo", {"compat": "minimind3"}, INITIAL)[1].loss == "cispo"
    assert layer("dpo", {"compat": "minimind2", "reduction": "sum"}, INITIAL)[1].reduction == "sum"


@pytest.mark.parametrize("generation", COMPAT)
@pytest.mark.parametrize("stage", STAGES)
def test_compat_takes_nothing_that_a_stage_does_not_know(stage, generation):
    settings = layer(stage, {"compat": generation}, INITIAL)[1]
    for f in fields(settings):
        assert getattr(settings, f.name) in f.metadata.get("options", [getattr(settings, f.name)]), f.name


def test_compat_counts_padding_in_the_load_balance_unless_a_flag_says_otherwise():
    for given, expected in (({}, False), ({"compat": "minimind2"}, True)):
        assert layer("sft", given, INITIAL)[0].aux_loss_counts_padding == expected
        assert not layer("sft", {**given, "aux_loss_counts_padding": False}, INITIAL)[0].aux_loss_counts_padding


@pytest.mark.parametrize(
    ("given", "clip_high"),
    [
        ({}, 0.2),
        ({"loss": "cispo"}, 4.0),
        ({"compat": "minimind3"}, 4.0),
        ({"compat": "minimind3", "loss": "clip"}, 0.2),
        ({"loss": "cispo", "clip_high": 0.28}, 0.28),
    ],
)
def test_the_upper_clip_follows_the_loss_unless_it_is_given(given, clip_high):
    assert layer("grpo", given, INITIAL)[1].clip_high == clip_high


def test_every_step_of_all_starts_from_a_step_before_it():
    seen = []
    for name, step in STEPS.items():
        assert step.stage in STAGES and (step.start in seen or step.start is None)
        assert step.data is None or step.data.endswith("_train.jsonl")
        assert (step.stage == "pretrain") == (step.start is None) == (step.data is None)
        seen.append(name)
