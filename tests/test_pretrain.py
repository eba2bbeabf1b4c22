"""What a pretraining run is made of: every setting arrives where it acts, and held-out text stays out."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from runs import write_corpus
from tolerance import assert_same

from minimind_ref import ModelConfig, Transformer, evaluate
from minimind_ref.data.baselines import fit
from minimind_ref.data.batches import batches
from minimind_ref.data.tokenise import tokenise_jsonl
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import UserError, run_command
from minimind_ref.interop.minimind import save_minimind
from minimind_ref.train import pretrain as pretrain_module
from minimind_ref.train import run as run_module
from minimind_ref.train.checkpoint import read_resume, save_resume
from minimind_ref.train.device import place
from minimind_ref.train.distributed import Ranks
from minimind_ref.train.loop import Progress
from minimind_ref.train.stage_settings import PretrainSettings

CONFIG = ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
SETTINGS = PretrainSettings(
    max_seq_len=24, batch_size=3, accumulation_steps=2, held_out=0.1, num_workers=0, epochs=3, seed=9
)


@pytest.fixture
def made(tmp_path):
    corpus = write_corpus(tmp_path / "corpus.jsonl")

    def make(config=CONFIG, resume=None, dtype="float32", **changes):
        settings = replace(SETTINGS, out_dir=str(tmp_path), **{"data_path": str(corpus), **changes})
        return run_module.session("pretrain", config, settings, place("cpu", dtype), Ranks(), resume)

    return make


def ids(windows):
    return [batch.input_ids.tolist() for window in windows for batch in window]


def test_every_epoch_has_an_order_of_its_own_from_the_seed(made):
    stage = made().stage
    per_epoch = stage.epochs.windows_per_epoch
    every = list(stage.windows(0))
    assert len(every) == stage.total_windows == 3 * per_epoch
    for epoch in range(3):
        expected = batches(stage.rows, batch_size=3, seed=9, epoch=epoch)
        assert ids(every[epoch * per_epoch : (epoch + 1) * per_epoch]) == [b.input_ids.tolist() for b in expected]
    for start in (1, per_epoch, per_epoch + 1, 3 * per_epoch):
        assert ids(stage.windows(start)) == ids(every[start:])
    in_order = batches(stage.rows, batch_size=3, seed=0, epoch=0, shuffle=False)
    assert ids(made(shuffle=False).stage.windows(0)) == 3 * [batch.input_ids.tolist() for batch in in_order]


@pytest.mark.parametrize("batching", ["pack", "pad"])
def test_held_out_text_is_neither_trained_on_nor_known_to_the_baselines(made, batching):
    stage = made(batching=batching, eval_tokens=10**6).stage
    train, held = stage.train_tokens, stage.held_tokens
    assert (train.num_documents, held.num_documents) == (21, 2)
    for rows, tokens in ((stage.rows, train), (stage.held_out.rows, held)):
        every = [rows[i] for i in range(len(rows))]
        real = np.concatenate([row.input_ids[row.segment_ids >= 0] for row in every])
        documents = [tokens.document(i) for i in range(tokens.num_documents)]
        kept = documents if batching == "pack" else [d if len(d) <= 24 else np.append(d[:23], d[-1]) for d in documents]
        assert_same(real, np.concatenate(kept))
    every = np.arange(CONFIG.vocab_size)
    assert_same(stage.held_out.baselines.unigram_nll(every), fit(train, CONFIG.vocab_size).unigram_nll(every))


def test_an_evaluation_reads_as_many_rows_as_its_tokens_fill_and_at_least_one(made):
    for tokens, rows in ((1, 1), (47, 1), (48, 2)):
        assert len(made(batching="pad", eval_tokens=tokens).stage.held_out.rows) == rows
    session = made(held_out=0.0)
    assert session.stage.evaluate(session.run.model) is None
    assert made().stage.evaluate(session.run.model).tokens > 0


def test_without_a_data_file_the_built_in_corpus_is_read(made, tmp_path, monkeypatch):
    seen = []

    def few(tokenizer, **options):
        seen.append(options)
        return tokenise_jsonl(tmp_path / "corpus.jsonl", tokenizer, on_bad_line="error", **options)

    monkeypatch.setattr(pretrain_module, "tokenise_corpus", few)
    described = made(data_path=None, wrap_text=False).stage.describe()
    assert seen == [{"cache_dir": tmp_path / "cache", "wrap": False, "progress": True}]
    assert described[0].startswith("data      the built-in corpus: ")


@pytest.mark.parametrize(("batching", "what"), [("pack", "packed rows"), ("pad", "samples")])
def test_a_run_says_what_it_reads_and_what_it_leaves_out(made, tmp_path, batching, what):
    corpus = tmp_path / "corpus.jsonl"
    data, counts, steps = made(batching=batching).stage.describe()
    assert data == f"data      {corpus}"
    assert re.fullmatch(r" {10}21 documents, \d+ tokens; held out 2 documents, \d+ tokens", counts)
    assert f" {what} of 24 tokens / batch 3 = " in steps
    corpus.write_text(corpus.read_text() + "{oops\n" * 3 + "5\n")
    bad = made(on_bad_line="skip").stage
    assert bad.describe()[0] == data + " (left out: 3 not JSON, 1 not a JSON object)"


def test_texts_of_one_token_leave_nothing_to_predict(made, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 9)
    with pytest.raises(UserError, match=r"a\.jsonl: no text has a second token, so that there is nothing to predict"):
        made(data_path=str(tmp_path / "a.jsonl"), wrap_text=False)


@pytest.mark.parametrize("held_out", [0.1, 0.0])
def test_a_sample_goes_on_from_the_beginning_of_a_held_out_document_if_there_is_one(made, monkeypatch, held_out):
    """It ends with a token that stands for nothing, if the network chose one, and never leaves the rotary table."""
    session, asked = made(CONFIG.replace(vocab_size=6403, max_position_embeddings=24), held_out=held_out), []
    stage = session.stage
    prompt = (stage.held_tokens if held_out else stage.train_tokens).document(0)[:16].tolist()
    new = stage.tokenizer.encode("and nobody")
    answers = iter([new, [*new, 6402], [*new, stage.tokenizer.end_id], []])

    def generate(model, prompts, *, max_new_tokens, stop_ids, **options):
        asked.append((prompts, max_new_tokens, stop_ids))
        return [next(answers)]

    monkeypatch.setattr(pretrain_module, "generate", generate)
    shown = [stage.sample(session.run.model) for _ in range(3)] + [stage.sample(session.run.model, length=3)]
    assert shown == [f"{stage.tokenizer.decode(prompt)}▸{text}" for text in [*["and nobody"] * 3, ""]]
    room, stops = 24 - len(prompt), [stage.tokenizer.end_id, 6400, 6401, 6402]
    assert asked == [([prompt], length, stops) for length in (room, room, room, 3)]


def test_texts_are_wrapped_unless_asked_otherwise(made):
    for wrap in (True, False):
        stage = made(wrap_text=wrap).stage
        assert (stage.train_tokens.document(0)[0] == stage.tokenizer.start_id) == wrap


def test_a_tokenizer_of_ones_own_is_used(made, tmp_path):
    content = json.loads(Tokenizer.load().source)
    content["model"]["merges"] = []
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tokenizer.json").write_text(json.dumps(content))
    stage = made(tokenizer=str(tmp_path / "own")).stage
    text = json.loads((tmp_path / "corpus.jsonl").read_text().splitlines()[0])["text"]
    assert stage.train_tokens.document(0).tolist() == [1, *stage.tokenizer.encode(text), 2]
    assert len(stage.train_tokens.document(0)) == len(text.encode()) + 2


def test_the_loss_has_the_load_balance_and_the_sum_over_targets(made):
    moe = CONFIG.replace(use_moe=True, num_experts=3, moe_intermediate_size=5)
    session = made(moe)
    batch = next(session.stage.windows(0))[0]
    loss = session.stage.loss(session.run.model, batch)
    assert float(loss.aux.detach()) > 0
    assert 0.5 < float(loss.total.detach()) / batch.num_targets / np.log(CONFIG.vocab_size) < 2


def test_a_resumed_run_goes_on_after_the_windows_consumed_also_where_some_were_skipped(made, tmp_path, monkeypatch):
    session = made()
    session.run.progress = Progress(windows=4, steps=2, skipped=2)
    path = tmp_path / "pretrain_resume.pt"
    save_resume(session.run, path, config=CONFIG, name="pretrain", stage=session.stage)
    again = made(resume=read_resume(path, "pretrain"))
    assert again.run.progress == Progress(4, 2, 2)
    seen = []
    monkeypatch.setattr(again.stage, "windows", lambda start: seen.append(start) or iter(()))
    again.train()
    assert seen == [4]


def test_evaluate_judges_each_half_beside_what_the_other_taught(tmp_path, capsys):
    """Even and odd documents share no word, so that their baselines know nothing; each half's own would know all."""
    texts = ["cat " * 9 if i % 2 else "dog " * 5 for i in range(40)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    save_minimind(Transformer(ModelConfig(hidden_size=16)), tmp_path / "x.pth")
    tokenizer = Tokenizer.load()
    tokenizer.save(tmp_path / "tokenizer.json")
    files = ["--from", str(tmp_path / "x.pth"), "--data_path", str(tmp_path / "x.jsonl"), "--device", "cpu"]
    assert run_command(evaluate.main, files) == 0
    printed = capsys.readouterr().out
    targets = sum(len(tokenizer.encode(text)) + 1 for text in texts)
    assert f"on the same {targets} tokens" in printed
    for name in ("unigram", "bigram"):
        loss = float(re.search(rf"{name} (\S+) ", printed)[1])
        assert loss > 0.5 * np.log(6400)  # the end token and the space are known
