"""MiniMind's files and Hugging Face's folders: what is inferred, mapped and refused, and that nothing is lost.

Agreement with others' networks is in tests/test_parity.py; nothing here needs transformers or MiniMind.
"""

import json
import math
import sys

import pytest
import torch
from peers import randomise_, reduced
from safetensors.torch import load_file, save_file
from tolerance import assert_same

from minimind_ref import PRESETS, ModelConfig, Transformer
from minimind_ref.errors import UserError
from minimind_ref.generate.generate import generate
from minimind_ref.interop import load_huggingface, load_minimind, save_huggingface, save_minimind, stop_ids
from minimind_ref.interop.huggingface_config import from_huggingface, to_huggingface
from minimind_ref.interop.minimind import infer_config

REDUCED = {
    "minimind2": reduced("minimind2", num_key_value_heads=4),
    "minimind2-moe": reduced("minimind2-moe", num_experts=5, num_shared_experts=3),
    "minimind-3": reduced("minimind-3", head_dim=10),
    "minimind-3-moe": reduced("minimind-3-moe", head_dim=10, num_experts=3, intermediate_size=40),
    "minimind-3-untied": reduced("minimind-3", tie_word_embeddings=False),
}
EXPORTABLE = sorted(REDUCED.keys() - {"minimind2-moe"})
DENSE = REDUCED["minimind2"]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"


def network(config: ModelConfig, seed: int = 7) -> Transformer:
    model = Transformer(config)
    randomise_(model, seed)
    return model


def weights(config: ModelConfig = DENSE) -> dict[str, torch.Tensor]:
    return dict(network(config).state_dict())


def assert_same_weights(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    assert model.state_dict().keys() == state.keys()
    for name, tensor in model.state_dict().items():
        assert_same(tensor, state[name].to(torch.float32))


def refused(path, *words, **options):
    """Load a file that must be refused: one line, with the file's name and these words in it."""
    with pytest.raises(UserError) as caught:
        load_minimind(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    for word in words:
        assert str(word) in message, message


# MiniMind: what is inferred


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"tiny"}))
def test_every_preset_is_read_off_its_shapes(name):
    assert_read_off(PRESETS[name])


def test_one_expert_is_a_mixture():
    assert_read_off(PRESETS["minimind-3-moe"].replace(num_experts=1))


def assert_read_off(config):
    with torch.device("meta"):
        state = dict(Transformer(config).state_dict())
    del state[HEAD]  # tied
    assert infer_config(state) == config


@pytest.mark.parametrize("name", REDUCED)
def test_other_sizes_are_read_off_their_shapes(name, tmp_path):
    save_minimind(network(REDUCED[name]), tmp_path / "w.pth")
    model = load_minimind(tmp_path / "w.pth")
    assert model.config == REDUCED[name]
    assert_same_weights(model, weights(REDUCED[name]))


def test_what_shapes_cannot_tell_is_minimind2s_unless_given(tmp_path):
    config = reduced("minimind2", num_attention_heads=4, num_key_value_heads=2)
    save_minimind(network(config), tmp_path / "w.pth")
    guess = load_minimind(tmp_path / "w.pth").config
    assert (guess.num_attention_heads, guess.num_key_value_heads, guess.head_dim) == (8, 4, 6)
    assert load_minimind(tmp_path / "w.pth", config).config == config


def test_query_rows_that_eight_heads_do_not_divide(tmp_path):
    config = reduced("minimind2", num_attention_heads=6, num_key_value_heads=3, head_dim=10)
    save_minimind(network(config), tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "model.layers.0.self_attn.q_proj.weight has 60 rows", "8", "config")


@pytest.mark.parametrize("which", ["q", "k"])
def test_rows_that_the_width_of_a_head_does_not_divide(which, tmp_path):
    name = f"model.layers.0.self_attn.{which}_proj.weight"
    torch.save({**weights(REDUCED["minimind-3"]), name: torch.ones(47, 48)}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", f"{name} has 47 rows, no multiple of 10 entries of a head")


# MiniMind: what is accepted


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", REDUCED)
def test_every_precision_becomes_float32_in_evaluation_mode(name, dtype, tmp_path):
    state = {key: tensor.to(dtype) for key, tensor in weights(REDUCED[name]).items()}
    torch.save(state, tmp_path / "w.pth")
    before = torch.get_rng_state()
    model = load_minimind(tmp_path / "w.pth")
    assert_same(torch.get_rng_state(), before)
    assert_same_weights(model, state)
    assert not model.training
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert tied == REDUCED[name].tie_word_embeddings


def test_the_default_dtype_does_not_matter(tmp_path):
    save_minimind(network(DENSE), tmp_path / "w.pth")
    torch.set_default_dtype(torch.float64)
    try:
        assert {p.dtype for p in load_minimind(tmp_path / "w.pth").parameters()} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_wrappers_prefixes_are_stripped(prefix, tmp_path):
    torch.save({prefix + name: tensor for name, tensor in weights().items()}, tmp_path / "w.pth")
    assert_same_weights(load_minimind(tmp_path / "w.pth"), weights())


@pytest.mark.parametrize("absent", [HEAD, EMBEDDING])
def test_a_tied_matrix_needs_one_name_only(absent, tmp_path):
    state = weights()
    del state[absent]
    torch.save(state, tmp_path / "w.pth")
    assert_same_weights(load_minimind(tmp_path / "w.pth", DENSE), weights())


def test_a_resume_file_holds_the_weights_under_model(tmp_path):
    torch.save({"model": weights(), "optimizer": {"state": {}}, "epoch": 1, "step": 3}, tmp_path / "w.pth")
    assert_same_weights(load_minimind(tmp_path / "w.pth"), weights())


# MiniMind: what is refused


@pytest.mark.parametrize("name", [QUERY, "model.norm.weight", "model.layers.0.mlp.up_proj.weight", EMBEDDING])
def test_a_missing_tensor_is_named(name, tmp_path):
    state = weights()
    del state[name]
    state.pop(HEAD)
    torch.save(state, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", f"{name} is missing")


def test_an_extra_tensor_is_named(tmp_path):
    torch.save({**weights(), "model.layers.1.mlp.bias": torch.ones(3)}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "model.layers.1.mlp.bias is not in this network")


def test_a_wrong_shape_is_named_with_both(tmp_path):
    torch.save({**weights(), QUERY: torch.ones(47, 48)}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", QUERY, (47, 48), (48, 48))
    torch.save({**weights(), QUERY: torch.ones(1, 48)}, tmp_path / "w.pth")  # would broadcast
    refused(tmp_path / "w.pth", QUERY, (1, 48), (48, 48))


def test_a_given_configuration_is_held_to(tmp_path):
    torch.save(weights(), tmp_path / "w.pth")
    refused(tmp_path / "w.pth", EMBEDDING, (61, 48), (67, 48), config=DENSE.replace(vocab_size=67))
    refused(tmp_path / "w.pth", "q_norm.weight is missing", config=DENSE.replace(qk_norm=True))


def test_a_head_that_only_seems_tied(tmp_path):
    state = weights()
    state[HEAD] = state[HEAD].clone()
    state[HEAD][3, 5] += 1
    torch.save(state, tmp_path / "w.pth")
    assert not load_minimind(tmp_path / "w.pth").config.tie_word_embeddings
    refused(tmp_path / "w.pth", HEAD, EMBEDDING, config=DENSE)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    refused(path, "no such file")
    path.write_bytes(b"PK\x03\x04 half a file")
    refused(path, "truncated")
    torch.save([torch.ones(3)], path)
    refused(path, "list")
    torch.save({**weights(), QUERY: torch.ones(48, 48, dtype=torch.int8)}, path)
    refused(path, QUERY, "torch.int8")
    torch.save({**weights(), "epoch": 3}, path)
    refused(path, "epoch", "int")
    torch.save({**weights(), f"module.{QUERY}": weights()[QUERY]}, path)
    refused(path, QUERY, "twice")
    torch.save({"tok_embeddings.weight": torch.ones(61, 48)}, path)
    refused(path, f"{EMBEDDING} is missing")
    for shape in ((61, 48, 1), (0, 48)):
        torch.save({**weights(), EMBEDDING: torch.ones(shape)}, path)
        refused(path, f"{EMBEDDING} has shape {shape} but must have 2 axes, none empty")
    refused(tmp_path, "cannot be read (Is a directory)")


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"model.norm.weight": torch.nn.Linear(2, 3)}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "not a checkpoint")


# MiniMind: what is written


@pytest.mark.parametrize("given", [None, torch.float16])
@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16])
def test_precision_is_kept_unless_asked(own, given, tmp_path):
    model = network(DENSE).to(own)
    save_minimind(model, tmp_path / "w.pth", **({} if given is None else {"dtype": given}))
    state = torch.load(tmp_path / "w.pth", weights_only=True)
    assert type(state) is dict and state.keys() == weights().keys()
    for name, tensor in model.state_dict().items():
        assert_same(state[name], tensor.to(given or own))
    assert state[HEAD].data_ptr() == state[EMBEDDING].data_ptr()


def test_wrapped_networks_are_written_without_prefix(tmp_path):
    wrapper = torch.nn.Module()
    wrapper.module = network(DENSE)
    save_minimind(wrapper, tmp_path / "w.pth")
    assert torch.load(tmp_path / "w.pth", weights_only=True).keys() == weights().keys()


def test_a_weight_beyond_half_precision_is_refused_and_the_old_file_stays(tmp_path):
    model = network(DENSE)
    save_minimind(model, tmp_path / "w.pth")
    model.model.norm.weight.data[3] = 70000
    with pytest.raises(ValueError, match=r"model\.norm\.weight holds 70000, beyond torch\.float16"):
        save_minimind(model, tmp_path / "w.pth", torch.float16)
    assert_same_weights(load_minimind(tmp_path / "w.pth"), weights())


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    save_minimind(network(DENSE), tmp_path / "w.pth")

    def half_written(state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        save_minimind(network(DENSE, seed=8), tmp_path / "w.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]
    assert_same_weights(load_minimind(tmp_path / "w.pth"), weights())


# Hugging Face: both ways


@pytest.mark.parametrize("name", EXPORTABLE)
def test_a_folder_gives_back_what_was_written_without_transformers(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    config = REDUCED[name]
    folder = tmp_path / "new" / "folder"
    save_huggingface(network(config), folder)
    before = torch.get_rng_state()
    model = load_huggingface(folder)
    assert_same(torch.get_rng_state(), before)
    assert model.config == config.replace(norm_cast="before")
    assert_same_weights(model, weights(config))
    assert not model.training


def test_the_folder_is_what_transformers_expects(tmp_path):
    save_huggingface(network(REDUCED["minimind-3-moe"]), tmp_path, torch.bfloat16)
    fields = json.loads((tmp_path / "config.json").read_text())
    expected = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "torch_dtype": "bfloat16"}
    expected |= {"num_experts": 3, "head_dim": 10, "rope_theta": 1e6, "rms_norm_eps": 1e-6}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    assert {name: fields[name] for name in expected | ids} == expected | ids
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation == {**ids, "_from_model_config": True}
    state = load_file(tmp_path / "model.safetensors")
    assert HEAD not in state and state[EMBEDDING].dtype == torch.bfloat16
    assert state["model.layers.1.mlp.experts.2.down_proj.weight"].shape == (48, 40)
    assert b'"format":"pt"' in (tmp_path / "model.safetensors").read_bytes()[:20000]


def test_tok_6_the_end_token_survives_and_generation_stops(tmp_path):
    model = network(DENSE).eval()
    free = generate(model, [[5, 3]], max_new_tokens=6, temperature=0.0)[0]
    end = free[1]
    assert end != free[0] and len(free) == 6
    save_huggingface(model, tmp_path, eos_token_id=[59, end])
    assert stop_ids(tmp_path) == (59, end)
    loaded = load_huggingface(tmp_path)
    assert generate(loaded, [[5, 3]], max_new_tokens=6, temperature=0.0, stop_ids=stop_ids(tmp_path))[0] == free[:2]


def test_tok_6_where_the_end_token_is_looked_for(tmp_path):
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    assert stop_ids(tmp_path) == (7,)
    (tmp_path / "generation_config.json").write_text('{"bos_token_id": 1}')
    assert stop_ids(tmp_path) == (7,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    assert stop_ids(tmp_path) == (2, 0)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text('{"eos_token_id": null}')
    assert stop_ids(tmp_path) == ()


def test_shards_of_an_index(tmp_path):
    save_huggingface(network(DENSE), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    parts = {"a.safetensors": dict(list(state.items())[:7]), "b.safetensors": dict(list(state.items())[7:])}
    for name, part in parts.items():
        save_file(part, tmp_path / name)
    index = {"weight_map": {tensor: name for name, part in parts.items() for tensor in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same_weights(load_huggingface(tmp_path), weights())
    index["weight_map"][EMBEDDING] = "../a.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"'\.\./a\.safetensors' is not the name of a file"):
        load_huggingface(tmp_path)


def test_fused_experts(tmp_path):
    config = REDUCED["minimind-3-moe"]
    save_huggingface(network(config), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for layer in range(2):
        name = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            torch.stack([state.pop(f"{name}.{e}.{part}_proj.weight") for e in range(3)])
            for part in ("gate", "up", "down")
        )
        state |= {f"{name}.gate_up_proj": torch.cat((gate, up), dim=1), f"{name}.down_proj": down}
    save_file(state, tmp_path / "model.safetensors")
    assert_same_weights(load_huggingface(tmp_path), weights(config))


# Hugging Face: fields

LLAMA = {"model_type": "llama", "vocab_size": 61, "hidden_size": 48, "num_hidden_layers": 2}
LLAMA |= {"num_attention_heads": 6, "intermediate_size": 88, "max_position_embeddings": 640}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 160}


def test_absent_fields_have_transformers_values():
    fields = {k: v for k, v in LLAMA.items() if k != "max_position_embeddings"}
    config = from_huggingface(fields)
    got = (config.num_key_value_heads, config.head_dim, config.rms_norm_eps, config.rope_theta)
    assert got == (6, 8, 1e-6, 10000.0)
    assert (config.max_position_embeddings, config.tie_word_embeddings, config.norm_cast) == (2048, False, "before")
    assert from_huggingface({**LLAMA, "model_type": "qwen3"}).head_dim == 128
    for kind in ("qwen3", "qwen3_moe"):
        config = from_huggingface({**fields, "model_type": kind})
        assert config.max_position_embeddings == 32768
    assert (config.num_experts, config.num_experts_per_tok, config.aux_loss_coef) == (128, 8, 0.001)
    moe = from_huggingface({**LLAMA, "model_type": "qwen3_moe", "num_local_experts": 5, "num_experts_per_tok": 3})
    assert (moe.num_experts, moe.num_experts_per_tok, moe.norm_topk_prob, moe.head_dim) == (5, 3, False, 8)
    assert moe.qk_norm and moe.use_moe and moe.num_shared_experts == 0 and moe.moe_intermediate_size == 768


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 5e5, "rope_scaling": YARN},
        {"rope_theta": 5e5, "rope_scaling": {**YARN, "rope_type": None, "type": "yarn"}},
        {"rope_parameters": {**YARN, "rope_theta": 5e5}},
        {"rope_theta": 1e4, "rope_parameters": {**YARN, "rope_theta": 5e5, "beta_fast": None, "truncate": True}},
        {"rope_theta": 5e5, "rope_scaling": {**YARN, "factor": None}},
        {"rope_theta": 5e5, "rope_scaling": YARN, "partial_rotary_factor": 1.0},
    ],
)
def test_every_form_of_the_rotary_settings(fields):
    config = from_huggingface({**LLAMA, **fields})
    expected = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 160}
    assert config.rope_theta == 5e5
    assert config.rope_scaling == {**expected, "beta_fast": 32.0, "beta_slow": 1.0}


@pytest.mark.parametrize(
    "change",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"attention_dropout": 0.125},
        {"use_sliding_window": True},
        {"mlp_only_layers": [1]},
        {"decoder_sparse_step": 2},
        {"quantization_config": {"bits": 4}},
        {"model_type": "mistral"},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"partial_rotary_factor": 0.5},
        {"rope_scaling": {"rope_type": "llama3"}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "dynamic"}},
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        {"rope_scaling": {**YARN, "truncate": False}},
        {"rope_scaling": {**YARN, "mscale": 0.75}},
        {"rope_scaling": "yarn"},
        {"num_key_value_heads": 4},
    ],
    ids=str,
)
def test_a_field_without_counterpart_is_named_with_its_value(change, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, **change}))
    with pytest.raises(UserError) as caught:
        load_huggingface(tmp_path)
    (name, value), message = next(iter(change.items())), str(caught.value)
    while isinstance(value, dict) and name in ("rope_scaling", "rope_parameters"):
        name, value = list(value.items())[-1] if "mscale" in value or "truncate" in value else next(iter(value.items()))
        name = "rope_type" if name == "type" else name
    assert str(tmp_path / "config.json") in message and "\n" not in message
    assert name in message and str(value[-1] if isinstance(value, list) else value) in message, message


def test_a_required_field_is_missed(tmp_path):
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in LLAMA.items() if k != name}))
        with pytest.raises(UserError, match=f"{name} is missing"):
            load_huggingface(tmp_path)


def test_broken_folders_are_refused_in_one_line(tmp_path):
    def expect(words):
        with pytest.raises(UserError, match=words):
            load_huggingface(tmp_path)

    expect(r"config\.json: cannot be read")
    (tmp_path / "config.json").write_text("{")
    expect(r"config\.json: not JSON")
    (tmp_path / "config.json").write_text("[]")
    expect(r"config\.json: not an object but a list")
    save_huggingface(network(DENSE), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    expect(r"model\.safetensors: truncated, or not a safetensors file")
    (tmp_path / "model.safetensors").unlink()
    expect(r"model\.safetensors: cannot be read \(No such file")
    state = weights()
    del state[HEAD], state[QUERY]
    save_file(state, tmp_path / "model.safetensors")
    expect(f"{QUERY} is missing")
    save_file({**state, QUERY: torch.ones(2, 24, 48)}, tmp_path / "model.safetensors")  # no fused experts
    expect(rf"{QUERY} has shape \(2, 24, 48\)")


def test_a_missing_safetensors_names_the_extra(tmp_path, monkeypatch):
    save_huggingface(network(DENSE), tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for call in (lambda: load_huggingface(tmp_path), lambda: save_huggingface(network(DENSE), tmp_path / "new")):
        with pytest.raises(UserError, match=r"minimind-ref\[hf\]"):
            call()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (REDUCED["minimind2-moe"], "MiniMind2's experts"),
        (REDUCED["minimind2-moe"].replace(qk_norm=True), "num_shared_experts=3"),
        (DENSE.replace(dropout=0.25), "dropout=0.25"),
        (DENSE.replace(rope_scaling={"type": "yarn-minimind2"}), "yarn-minimind2"),
        (
            reduced(
                "minimind-3",
                head_dim=64,
                rope_theta=1e4,
                max_position_embeddings=262144,
                rope_scaling={"type": "yarn-minimind3", "original_max_position_embeddings": 131072},
            ),
            "yarn-minimind3",
        ),
    ],
)
def test_what_hugging_face_cannot_represent_is_not_written(config, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        save_huggingface(network(config), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("length", [32768, 2048])
def test_minimind3s_yarn_is_published_where_it_rotates_the_same(length, tmp_path):
    config = reduced("minimind-3", head_dim=96, rope_scaling={"type": "yarn-minimind3"}, max_position_embeddings=length)
    save_huggingface(network(config), tmp_path)
    model, ids = load_huggingface(tmp_path), torch.arange(1900, 1930)[None]
    assert (model.config.rope_scaling is None) == (length == 2048)
    for ours, theirs in zip(network(config).rope_tables(ids, 0, ids), model.rope_tables(ids, 0, ids), strict=True):
        assert_same(theirs, ours)
    plain = Transformer(config.replace(rope_scaling=None)).rope_tables(ids, 0, ids)
    assert torch.equal(plain[0], model.rope_tables(ids, 0, ids)[0]) == (length == 2048)


def test_published_yarn_goes_out_and_comes_back():
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 160, "beta_fast": 16.0}
    fields = to_huggingface(DENSE.replace(rope_scaling=scaling))
    assert fields["rope_scaling"]["attention_factor"] == 0.1 * math.log(4.0) + 1
    back = from_huggingface(fields).rope_scaling
    assert back == {**scaling, "beta_slow": 1.0, "attention_factor": fields["rope_scaling"]["attention_factor"]}
