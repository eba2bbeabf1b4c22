"""`python -m minimind_ref.evaluate`: what it judges, beside which baselines, and what it refuses."""

import json
import math
import re

import numpy as np
import pytest
import torch
from runs import write_corpus
from tolerance import assert_within

from minimind_ref import ModelConfig, Transformer, evaluate
from minimind_ref.data.token_file import split
from minimind_ref.data.tokenise import tokenise_jsonl
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import run_command
from minimind_ref.loss.cross_entropy import cross_entropy
from minimind_ref.train.checkpoint import save_weights, write_json
from minimind_ref.train.stage_settings import PretrainSettings

TOKENIZER = Tokenizer.load()
CONFIG = ModelConfig(hidden_size=16, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1)
MODEL = Transformer(CONFIG, generator=torch.Generator().manual_seed(1)).eval()


def write_run(folder, model=MODEL):
    folder.mkdir()
    save_weights(model, folder / "weights.pth")
    record = {"stage": "pretrain", "weights": "weights.pth", "model": model.config.to_dict()}
    write_json(folder / "config.json", record)
    TOKENIZER.save(folder / "tokenizer.json")
    return folder


def write_texts(path, *texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus.jsonl")


def command(*flags):
    return run_command(evaluate.main, ["--device", "cpu", *map(str, flags)])


def printed(capsys, *flags):
    assert command(*flags) == 0
    return capsys.readouterr().out


def numbers(text):
    """Losses of the model, the unigram and the bigram, and the number of tokens that they are of."""
    found = re.search(r"loss ([\d.]+) .*\n +unigram ([\d.]+) .*bigram ([\d.]+) .* ([\d,]+) tokens", text).groups()
    return *map(float, found[:3]), int(found[3].replace(",", ""))


def test_every_token_but_each_text_s_first_is_judged(run, corpus, tmp_path, capsys):
    text = printed(capsys, "--from", run, "--data_path", corpus)
    assert text.startswith(f"weights   {run / 'weights.pth'}\ndevice    ")
    assert re.search(r"\nheld out  loss .*\n {10}unigram .*\n$", text)
    nll, count = 0.0, 0
    for line in corpus.read_text().splitlines():
        ids = torch.tensor([[TOKENIZER.start_id, *TOKENIZER.encode(json.loads(line)["text"]), TOKENIZER.end_id]])
        with torch.no_grad():
            nll += float(cross_entropy(MODEL(ids[:, :-1]).logits[0], ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    loss, *_, tokens = numbers(text)
    assert tokens == count
    assert_within(np.array(loss), np.array(nll / count), np.array(1e-4))  # four places are printed
    for flags in (["--batch_size", 1], ["--max_seq_len", 2048], ["--tokenizer", run / "tokenizer.json"]):
        same = numbers(printed(capsys, "--from", run, "--data_path", corpus, *flags))
        assert_within(np.array(same[:3]), np.array(numbers(text)[:3]), np.full(3, 1e-4))
        assert same[3] == tokens
    assert numbers(printed(capsys, "--from", run, "--data_path", corpus, "--max_seq_len", 2))[3] == tokens
    assert "bfloat16" in printed(capsys, "--from", run, "--data_path", corpus, "--dtype", "bfloat16")


def test_each_half_is_judged_by_what_the_other_half_taught(run, tmp_path, capsys):
    alike = write_texts(tmp_path / "alike.jsonl", *["the cat sat " * 20] * 4)
    apart = write_texts(tmp_path / "apart.jsonl", *["the cat sat " * 20, "你好世界" * 20] * 2)
    known, unknown = (numbers(printed(capsys, "--from", run, "--data_path", path)) for path in (alike, apart))
    chance = math.log(CONFIG.vocab_size)
    assert max(known[1:3]) < chance < min(unknown[1:3])


def test_of_a_long_file_the_first_rows_of_each_half_are_read(run, corpus, capsys):
    def judged(*flags):
        flags = ("--from", run, "--data_path", corpus, "--max_seq_len", 24, *flags)
        return numbers(printed(capsys, *flags))[3]

    assert judged("--max_tokens", 1) == judged("--max_tokens", 95) < judged("--max_tokens", 96) <= 96
    assert judged("--max_tokens", 2**20) == judged()


def test_without_a_file_it_is_the_built_in_corpus_held_out_part(run, tmp_path, monkeypatch, capsys):
    path = write_corpus(tmp_path / "many.jsonl", 400)
    monkeypatch.setattr(evaluate, "tokenise_corpus", lambda *given, **named: tokenise_jsonl(path, *given, **named))
    part = split(tokenise_jsonl(path, TOKENIZER, cache_dir=tmp_path, progress=False), PretrainSettings.held_out)[1]
    expected = sum(len(part.document(number)) - 1 for number in range(part.num_documents))
    assert command("--from", run) == 0
    out, err = capsys.readouterr()
    assert 1 < part.num_documents < 10 and numbers(out)[3] == expected and err == ""


@pytest.mark.parametrize(
    ("texts", "flags", "message"),
    [
        (["a b", "c d"], ["--max_seq_len", 1], "--max_seq_len 1 is too small"),
        (["a b", "c d"], ["--batch_size", 0], "--batch_size 0 is too small"),
        (["a b", "c d"], ["--max_tokens", 0], "--max_tokens 0 is too small"),
        (["a b", "c d"], ["--max_seq_len", 32769], "--max_seq_len 32769 is more than"),
        (["a b", "c d"], ["--dtype", "int8"], "--dtype"),
        (["a b", "c d"], ["--tokenizer", "nowhere"], "nowhere: cannot read"),
        (["a b"], [], "corpus.jsonl: holds one document; the baselines need a second"),
        (["a b", 5, "c d"], [], 'corpus.jsonl:2: "text" is not a string'),
    ],
    ids=str,
)
def test_bad_input_is_one_line(run, tmp_path, capsys, texts, flags, message):
    path = write_texts(tmp_path / "corpus.jsonl", *texts)
    assert command("--from", run, "--data_path", path, *flags) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and message in error


def test_bad_lines_can_be_skipped(run, tmp_path, capsys):
    path = write_texts(tmp_path / "corpus.jsonl", "a b", 5, "c d")
    assert "held out" in printed(capsys, "--from", run, "--data_path", path, "--on_bad_line", "skip")


def test_weights_are_asked_for_and_must_have_the_tokenizer_s_vocabulary(tmp_path, corpus, capsys):
    assert command("--data_path", corpus) == 2
    assert "required: --from" in capsys.readouterr().err
    small = write_run(tmp_path / "small", Transformer(CONFIG.replace(vocab_size=50)))
    assert command("--from", small, "--data_path", corpus) == 2
    assert "vocab_size=50" in capsys.readouterr().err


def test_what_is_not_given_is_what_the_help_says(run, corpus, monkeypatch, capsys):
    taken = []
    monkeypatch.setattr(evaluate, "_evaluate", lambda *arguments: taken.append(vars(arguments[-1])) or ["", ""])
    printed(capsys, "--from", run, "--data_path", corpus)
    with pytest.raises(SystemExit):
        command("--help")
    text = " ".join(capsys.readouterr().out.split())
    for name in ("max_seq_len", "batch_size", "max_tokens", "on_bad_line", "dtype"):
        assert re.search(rf"--{name} \S+ [^\[]*\[{taken[0][name]}\]", text.partition("options:")[2])
