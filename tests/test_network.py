"""The network and the tokenizer that a run starts with: whose they are, and what does not fit is refused."""

import pytest
import torch
from chat_runs import SHAPE, write_network
from tolerance import assert_same

from minimind_ref import ModelConfig
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import UserError
from minimind_ref.train.network import (
    build,
    check_length,
    check_vocabulary,
    initial_config,
    initial_weights,
    load_tokenizer,
)
from minimind_ref.train.stage_settings import SFTSettings

CONFIG = ModelConfig(**SHAPE, max_position_embeddings=40)


def test_without_weights_to_start_from_the_network_is_drawn_from_the_seed():
    first, again, other = (build(CONFIG, SFTSettings(seed=seed)).lm_head.weight for seed in (1, 1, 2))
    assert_same(first, again)
    assert not torch.equal(first, other)


def test_a_run_starts_from_the_weights_that_are_named_strictly(tmp_path):
    start = write_network(tmp_path / "start", max_position_embeddings=40)
    assert initial_config(str(start)) == CONFIG
    assert initial_weights(str(start)) == str(start / "pretrain_16.pth")
    stored = torch.load(start / "pretrain_16.pth", weights_only=True)
    for source in (start, start / "pretrain_16.pth"):
        for name, tensor in build(CONFIG, SFTSettings(init_from=str(source))).state_dict().items():
            assert_same(tensor, stored[name])
    torch.save({**stored, "model.extra": torch.zeros(1)}, start / "pretrain_16.pth")
    with pytest.raises(UserError, match=r"pretrain_16\.pth: model\.extra is not in this network"):
        build(CONFIG, SFTSettings(init_from=str(start)))


def test_rows_may_be_as_long_as_the_rotary_table_and_a_vocabulary_as_large_as_the_embedding():
    tokenizer = Tokenizer.load()
    check_length(40, CONFIG)
    with pytest.raises(UserError, match="--max_seq_len 41 is more than the network's max_position_embeddings=40"):
        check_length(41, CONFIG)
    check_vocabulary(tokenizer, CONFIG.replace(vocab_size=tokenizer.vocab_size))
    with pytest.raises(UserError, match="more than the network's vocab_size=6399"):
        check_vocabulary(tokenizer, CONFIG.replace(vocab_size=tokenizer.vocab_size - 1))


def test_the_tokenizer_is_the_one_asked_for_else_the_one_beside_the_weights_else_the_shipped(tmp_path):
    start, shipped = write_network(tmp_path / "start"), Tokenizer.load().source
    other = shipped.replace('"version"', '\n"version"', 1)  # another file, the same tokens
    (start / "tokenizer.json").write_text(other, encoding="utf-8")
    (tmp_path / "named.json").write_text(shipped + " ", encoding="utf-8")

    def source_of(**given):
        return load_tokenizer(SFTSettings(**given), CONFIG).source

    for weights in (start, start / "pretrain_16.pth"):
        assert source_of(init_from=str(weights)) == other
        assert source_of(init_from=str(weights), tokenizer=str(tmp_path / "named.json")) == shipped + " "
    assert source_of(tokenizer=str(tmp_path / "named.json")) == shipped + " "
    (start / "tokenizer.json").unlink()
    assert source_of(init_from=str(start)) == source_of() == shipped
    with pytest.raises(UserError, match="more than the network's vocab_size=99"):
        load_tokenizer(SFTSettings(), CONFIG.replace(vocab_size=99))
