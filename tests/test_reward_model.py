"""A reward model: the decoder's last state of the answer's end token, through one row of weights; saved and loaded."""

import json

import pytest
import torch
from tolerance import assert_same, assert_within, ulps

from minimind_ref.config import ModelConfig
from minimind_ref.data.chat_template import encode_chat
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import UserError
from minimind_ref.interop.minimind import save_minimind
from minimind_ref.model.transformer import Transformer
from minimind_ref.train import reward_model
from minimind_ref.train.checkpoint import save_weights
from minimind_ref.train.reward_loading import load_rewards
from minimind_ref.train.reward_model import RewardModel

TOKENIZER = Tokenizer.load()
CONFIG = ModelConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1)
PADDED = ulps(2**10, "float64", reason="the same sums over masked and unmasked keys, in another order, in two layers")
PROMPTS = [[{"role": "user", "content": text}] for text in ("one", "a longer question", "三")]
ANSWERS = ["yes", "", "a few more words than that"]


@pytest.fixture
def model():
    torch.manual_seed(5)
    return RewardModel(CONFIG, TOKENIZER).double().eval()


def scores(model, **options):
    return torch.tensor(model.reward(PROMPTS, ANSWERS, [None] * 3, **options), dtype=torch.float64)


@pytest.mark.parametrize("template", ["minimind2", "minimind3"])
def test_the_score_is_a_logit_at_the_answers_end_token(model, template):
    """The same decoder under a head of a full vocabulary whose row 7 is the score's weight."""
    network = Transformer(CONFIG.replace(tie_word_embeddings=False)).double().eval()
    network.model = model.model
    network.lm_head.weight.data[7] = model.score.weight.data[0]
    expected = []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        ids = encode_chat(TOKENIZER, [*prompt, {"role": "assistant", "content": answer}], template=template).ids
        end = max(i for i, index in enumerate(ids) if index == TOKENIZER.end_id)
        expected.append(network(torch.tensor([ids[: end + 1]])).logits[0, -1, 7].item())
    assert_within(scores(model, template=template), expected, PADDED)


def test_how_answers_are_batched_changes_nothing(model, monkeypatch):
    together = scores(model)
    monkeypatch.setattr(reward_model, "ROWS", 2)
    assert_within(scores(model), together, PADDED)
    assert model.reward([], [], []) == []


def test_templates_and_answers_make_a_difference(model):
    assert (scores(model) != scores(model, template="minimind3")).all()
    assert len(set(model.reward([PROMPTS[0]] * 3, ANSWERS, [None] * 3))) == 3


@pytest.mark.parametrize("rows", [[[0, 1, 1]], [[1, 1, 1], [0, 0, 0]]])
def test_left_padding_is_refused(model, rows):
    with pytest.raises(ValueError, match="a row is empty or padded on the left"):
        model(torch.ones(len(rows), 3, dtype=torch.long), torch.tensor(rows))


def test_it_trains_every_weight(model):
    model.train()
    model(torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == set()


def test_dropout_acts_in_training_only(tmp_path):
    torch.manual_seed(8)
    leaky = RewardModel(CONFIG.replace(dropout=0.5), TOKENIZER).eval()
    leaky.save(tmp_path)
    assert_same(scores(RewardModel.load(tmp_path)), scores(leaky))
    leaky.train()
    assert (scores(leaky) != scores(leaky)).all()


@pytest.mark.parametrize("file", ["", "reward_24.pth"])
def test_what_is_saved_is_loaded(model, tmp_path, file):
    folder = tmp_path / "not" / "there"
    with pytest.raises(UserError, match="not/there: there is no such reward model"):
        RewardModel.load(folder)
    model.float().save(folder)
    state = torch.load(folder / "reward_24.pth", weights_only=True)
    assert (
        state["score.weight"].shape == (1, 24)
        and "model.layers.1.mlp.up_proj.weight" in state
        and "lm_head.weight" not in state
    )
    loaded = load_rewards(f"model:{folder / file}=1")(PROMPTS, ANSWERS, [None] * 3)
    assert_same(torch.tensor(loaded), torch.tensor(model.reward(PROMPTS, ANSWERS, [None] * 3)))


def test_a_bare_file_is_read_by_minimind_s_shapes(tmp_path):
    """MiniMind2's eight query heads are what no shape tells."""
    torch.manual_seed(6)
    wide = RewardModel(ModelConfig(hidden_size=32, num_hidden_layers=1), TOKENIZER).eval()
    save_weights(wide, tmp_path / "reward.pth")
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot read a tokenizer"):
        RewardModel.load(tmp_path / "reward.pth")
    TOKENIZER.save(tmp_path / "tokenizer.json")
    assert_same(scores(RewardModel.load(tmp_path / "reward.pth")), scores(wide))


def test_a_config_json_beside_the_weights_is_believed(model, tmp_path):
    model.float().save(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    record["model"]["num_attention_heads"] = 5
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"q_proj.weight has shape \(24, 24\), this network.s has \(40, 24\)"):
        RewardModel.load(tmp_path)


def test_a_policy_is_no_reward_model(model, tmp_path):
    model.float().save(tmp_path)
    save_minimind(Transformer(CONFIG), tmp_path / "reward_24.pth")
    with pytest.raises(UserError, match=r"reward_24\.pth: score\.weight is missing: not a reward model"):
        RewardModel.load(tmp_path)


@pytest.mark.parametrize(("change", "message"), [("drop", "model.norm.weight is missing"), ("add", "extra is not in")])
def test_every_weight_and_no_other(model, tmp_path, change, message):
    model.float().save(tmp_path)
    state = torch.load(tmp_path / "reward_24.pth", weights_only=True)
    if change == "drop":
        del state["model.norm.weight"]
    else:
        state["extra"] = torch.ones(1)
    torch.save(state, tmp_path / "reward_24.pth")
    with pytest.raises(UserError, match=message):
        RewardModel.load(tmp_path)


def test_a_vocabulary_too_small_for_its_tokenizer_is_refused(tmp_path):
    RewardModel(CONFIG.replace(vocab_size=300), TOKENIZER).save(tmp_path)
    with pytest.raises(UserError, match=r"reward_24\.pth: 300 embeddings but its tokenizer has 6400 ids"):
        RewardModel.load(tmp_path)
