"""What a finished run is read back from: its folder, a file of it, MiniMind's file, Hugging Face's folder."""

import json

import pytest
import torch
from chat_runs import SHAPE, write_network
from tolerance import assert_same

from minimind_ref import ModelConfig, Transformer
from minimind_ref.errors import UserError
from minimind_ref.interop.huggingface import save_huggingface
from minimind_ref.interop.minimind import save_minimind
from minimind_ref.train.run_folder import TRAINING_ONLY, find_weights, read_config, read_network, read_weights

CONFIG = ModelConfig(**SHAPE)


@pytest.fixture
def folder(tmp_path):
    return write_network(tmp_path / "run")


def rewrite(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")


def test_a_run_is_its_folder_or_the_file_in_it(folder):
    weights = folder / "pretrain_16.pth"
    stored = torch.load(weights, weights_only=True)
    for source in (folder, weights):
        model, path = read_network(source)
        assert path == find_weights(source) == weights and model.config == CONFIG and not model.training
        described, state = read_weights(source, CONFIG)
        assert described == weights
        for name, tensor in model.state_dict().items():
            assert_same(tensor, stored[name])
            assert_same(state[name], stored[name])


def test_minimind_s_file_and_hugging_face_s_folder_stand_for_themselves(tmp_path):
    config = ModelConfig(hidden_size=32, num_hidden_layers=1)  # with the head counts that MiniMind's shapes mean
    model = Transformer(config).eval()
    save_minimind(model, tmp_path / "x.pth")
    save_huggingface(model, tmp_path / "hf")
    for source, described in ((tmp_path / "x.pth", tmp_path / "x.pth"), (tmp_path / "hf", tmp_path / "hf/config.json")):
        found, path = read_network(source)
        assert path == described and find_weights(source) == source and not found.training
        again, state = read_weights(source, config)
        assert again == described
        for name, tensor in model.state_dict().items():
            assert_same(found.state_dict()[name], tensor)
            assert_same(state[name], tensor)


def test_a_network_may_differ_from_the_recorded_one_only_in_what_acts_in_training(folder):
    others = dict(dropout=0.5, aux_loss_coef=0.5, aux_loss_form="slots", aux_loss_counts_padding=True)
    others |= {"initialisation": "normal"}
    assert others.keys() == TRAINING_ONLY
    read_weights(folder, CONFIG.replace(**others))
    read_weights(folder)
    for source in (folder, folder / "pretrain_16.pth"):
        with pytest.raises(UserError, match=r"its network has rms_norm_eps=1e-05, this run.s has 0\.001"):
            read_weights(source, CONFIG.replace(rms_norm_eps=1e-3))
    (folder / "other.pth").write_bytes((folder / "pretrain_16.pth").read_bytes())
    read_weights(folder / "other.pth", CONFIG.replace(rms_norm_eps=1e-3))  # nothing says what it is


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(weights=5), "config.json: not a run's configuration"),
        (dict(weights="../x.pth"), "weights='../x.pth' is not the name of a file beside it"),
        (dict(model={"hidden_size": 5, "num_attention_heads": 3}), "config.json: not a run's configuration"),
        (dict(model={"width": 5}), "config.json: not a run's configuration"),
    ],
)
def test_a_configuration_that_is_none_is_named(folder, change, message):
    rewrite(folder, **change)
    with pytest.raises(UserError, match=message):
        read_config(folder)


def test_a_folder_that_is_no_run_is_named(tmp_path, folder):
    with pytest.raises(UserError, match=r"config.json: cannot be read .No such file.*; is .*nowhere a run folder\?"):
        read_config(tmp_path / "nowhere")
    (folder / "config.json").write_text("{", encoding="utf-8")
    for read in (read_config, find_weights, read_network):
        with pytest.raises(UserError, match=r"config.json: not a run's configuration"):
            read(folder)
    with pytest.raises(UserError, match=r"pretrain_16.pth|config.json"):
        read_network(folder / "pretrain_16.pth")
    for text in ("[]", "{}"):
        (folder / "config.json").write_text(text, encoding="utf-8")
        assert find_weights(folder) == folder
        with pytest.raises(UserError, match=r"config\.json"):
            read_network(folder)


def test_a_file_that_is_no_network_is_named(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth"):
        read_network(tmp_path / "x.pth")
