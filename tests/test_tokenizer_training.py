"""Training the tokenizer: the same text gives the same file, and its settings are MiniMind's."""

import gzip
import json
import sqlite3
import subprocess
import sys
import tarfile
import zipfile

import pytest

from minimind_ref.data.package_files import read_members
from minimind_ref.data.package_text import (
    READERS,
    chinese_string_lines,
    database,
    html,
    long_strings,
    mail,
    man,
    markdown,
    tagged,
    wrapped,
)
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.data.tokenizer_recipe import BLOCK, SOURCES, distinct, recipe_texts, spread
from minimind_ref.data.tokenizer_training import bytes_per_token, main, train

TEXTS = [
    "The cat sat on the mat; the cats sat there.\n    It was the cat's mat.\n" * 9,
    "春眠不觉晓, 处处闻啼鸟。春眠不觉晓。\n" * 9,
]


def settings_of(tokenizer):
    return json.loads(tokenizer.source)


def test_twice_the_same_file_byte_for_byte(tmp_path):
    """In two processes with different hash seeds, through the command line."""
    text = tmp_path / "text.txt"
    text.write_text("".join(TEXTS), encoding="utf-8")
    files = []
    for seed in ("1", "2"):
        out = tmp_path / f"{seed}.json"
        command = [
            sys.executable,
            "-m",
            "minimind_ref.data.tokenizer",
            "train",
            "--out",
            out,
            "--vocab_size",
            "300",
            text,
        ]
        subprocess.run(command, check=True, env={"PYTHONHASHSEED": seed, "PATH": ""}, stdout=subprocess.DEVNULL)
        files.append(out.read_bytes())
    assert files[0] == files[1]


def test_ids_are_special_tokens_then_bytes_then_merges():
    tokenizer = train(TEXTS, 300)
    assert tokenizer.vocab_size == 300
    assert [tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id] == [0, 1, 2]
    assert sorted(tokenizer.token_bytes(i) for i in range(3, 259)) == [bytes([b]) for b in range(256)]
    assert all(len(tokenizer.token_bytes(i)) > 1 for i in range(259, 300))


def test_the_most_frequent_pair_is_merged_first():
    merges = settings_of(train(["abab abab cdcd xy"], 261))["model"]["merges"]
    assert [tuple(pair) for pair in merges] == [("a", "b"), ("c", "d")]  # 4 times, then 2; "Ġa" and "ab ab" also 2


def test_control_tokens_in_the_training_text_are_text():
    tokenizer = train(["<|im_end|><|im_end|>" * 30, *TEXTS], 300)
    assert tokenizer.end_id not in tokenizer.encode("<|im_end|>")


@pytest.mark.parametrize("key", ["normalizer", "pre_tokenizer", "truncation", "padding"])
def test_settings_are_minimind_s(key):
    pre = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    for tokenizer in (Tokenizer.load(), train(TEXTS, 300)):
        assert settings_of(tokenizer)[key] == (pre if key == "pre_tokenizer" else None)


def test_the_shipped_file_is_what_the_recipe_says():
    shipped = Tokenizer.load()
    assert (shipped.vocab_size, shipped.fingerprint) == (SOURCES["vocab_size"], SOURCES["tokenizer_sha256"])


# The recipe


def test_every_source_has_version_licence_hash_and_a_reader():
    for package in SOURCES["packages"]:
        assert package["version"] and package["licence"] and len(package["sha256"]) == 64, package["name"]
        assert all(source["reader"] in READERS and source["characters"] > 0 for source in package["sources"])


def test_a_changed_package_is_refused(tmp_path):
    package = SOURCES["packages"][0]
    (tmp_path / package["file"]).write_bytes(b"not it")
    with pytest.raises(ValueError, match=rf"{package['file']} has SHA-256 \w+, the recipe has {package['sha256']}"):
        next(recipe_texts(tmp_path))


def test_spread_takes_blocks_from_all_over():
    text = "".join(chr(0x4E00 + n) * BLOCK for n in range(10))
    assert spread(text, 10**6) == text
    assert [block[0] for block in spread(text, 3 * BLOCK).split("\n")] == [chr(0x4E00 + n) for n in (0, 3, 6)]


def test_members_are_sorted_and_unzipped(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("b", "2")
        archive.writestr("a", "1")
        archive.writestr("c.gz", gzip.compress(b"3"))
    assert list(read_members(tmp_path / "a.whl")) == [("a", b"1"), ("b", b"2"), ("c.gz", b"3")]
    (tmp_path / "x").write_bytes(b"hello")
    with tarfile.open(tmp_path / "data.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "x", "x")
    data = (tmp_path / "data.tar.xz").read_bytes()
    parts = [(b"debian-binary", b"2.0"), (b"control.tar.xz", b"odd"), (b"data.tar.xz", data)]
    deb = b"!<arch>\n"
    for name, content in parts:
        deb += name.ljust(48) + str(len(content)).encode().ljust(10) + b"`\n" + content + b"\n" * (len(content) % 2)
    (tmp_path / "x.deb").write_bytes(deb)
    assert list(read_members(tmp_path / "x.deb")) == [("x", b"hello")]


def test_readers_keep_prose_only():
    assert html(b"<head>no</head><p>One &amp; two</p><p>three").strip() == "One & two\nthree"
    assert man(b".TH LS 1\nlists \\fIfiles\\fR\n'\\\" t\nnow") == "lists files\nnow"
    assert tagged("１９９８年/t  [中国/ns  政府/n]nt  ，/w".encode()) == "1998年中国政府，"
    assert mail(json.dumps({"text": "From: a\n\n> quoted\nHello.\nhttp://x"}).encode()) == "Hello."


def test_json_and_json_lines_are_read_alike():
    long, chinese = (
        "a sentence of eighty characters or more, so that it is kept as a piece of prose and no name",
        "春眠不觉晓处处闻啼鸟",
    )
    values = [{"a": long, "b": "short"}, {"a": [long, f"{chinese}\nx = 1\n{chinese}"]}]
    whole, lines = json.dumps(values).encode(), "\n".join(json.dumps(value) for value in values).encode()
    for content in (whole, lines):
        assert long_strings(content) == long
        assert chinese_string_lines(content) == chinese


def test_markdown_loses_code_and_addresses():
    source = b"One [link](https://a.b/c) and `name`.\n```python\nx = 1\n```\nTwo <br> https://d.e three"
    assert markdown(source) == "One [link and `name`.\n\nTwo   three"


def test_a_long_line_counts_once():
    long = "a licence's first line, which every file repeats"
    assert distinct(f"{long}\n\nshort\n{long}\n\nshort\n{long}s") == f"{long}\n\nshort\n\nshort\n{long}s"


def test_lines_of_a_paragraph_are_joined_and_others_kept():
    long, short = "a line of more than fifty characters, as in a wrapped file", "of a verse, which is short"
    assert wrapped(f"{long}\n  goes on\n\n{short}\n{short}\n{long}\n* item".encode()) == (
        f"{long} goes on\n\n{short}\n{short}\n{long}\n* item"
    )


def test_a_database_gives_its_chinese_cells_once(tmp_path):
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("create table t (id integer, body text)")
    rows = [(1, "春眠不觉晓处处闻啼鸟"), (2, "short"), (3, "春眠不觉晓处处闻啼鸟"), (4, None)]
    connection.executemany("insert into t values (?, ?)", rows)
    connection.commit()
    connection.close()
    assert database((tmp_path / "x.db").read_bytes()) == "春眠不觉晓处处闻啼鸟"


def test_measure_compares_with_other_tokenizers(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a" * 60, encoding="utf-8")
    train(TEXTS, 260).save(tmp_path / "small.json")
    assert main(["measure", str(tmp_path / "text.txt"), "--against", str(tmp_path / "small.json")]) == 0
    ours, small, _ = capsys.readouterr().out.split()
    assert float(ours) == round(bytes_per_token(Tokenizer.load(), "a" * 60), 3)
    assert small == "1.000"


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocab_size", "258"], "vocab_size is 258, but the bytes and the special tokens alone need 259"),
        (["--vocab_size", "6400"], "the text yields only"),
        (["latin1.txt"], "latin1.txt: not UTF-8 at byte 3"),
        (["missing.txt"], "missing.txt: No such file or directory"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some text")
    (tmp_path / "latin1.txt").write_bytes(b"abc\xe9")
    assert main(["train", "--out", "out.json", *arguments, "text.txt"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [([], "command"), (["learn"], "'learn'"), (["train"], "--out"), (["measure", "--x"], "text")],
)
def test_a_wrong_command_is_one_line_too(arguments, named, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
