"""Training the tokenizer: the same text gives the same file, and its settings are MiniMind's."""

import gzip
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
import zipfile

import pytest
import tokenizers

from minimind_ref.data.package_files import read_members
from minimind_ref.data.package_text import (
    READERS,
    chinese_string_lines,
    database,
    long_strings,
    markdown,
    wrapped,
)
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.data.tokenizer_recipe import BLOCK, SOURCES, distinct, recipe_texts, spread
from minimind_ref.data.tokenizer_training import bytes_per_token, main, train

TEXTS = [
    "The cat sat on the mat; the cats sat there.\n    It was the cat's mat.\n" * 9,
    "春眠不觉晓, 处处闻啼鸟。春眠不觉晓。\n" * 9,
]


NINE = "春眠不觉晓处处闻啼"


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
    assert train(TEXTS, 259).vocab_size == 259
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


def test_the_library_decodes_with_the_trained_file():
    """And it is laid out as the shipped one is."""
    tokenizer = train(TEXTS, 300)
    theirs = tokenizers.Tokenizer.from_str(tokenizer.source)
    assert theirs.decode(tokenizer.encode(TEXTS[1])) == TEXTS[1]
    assert tokenizer.source.count("\n") == Tokenizer.load().source.count("\n")


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


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A recipe of one wheel, which holds `files`, and clients of the registries that run a line of shell."""

    def make(line, files=(), sources=(), **changes):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for name, content in files:
                archive.writestr(name, content)
        digest = hashlib.sha256((tmp_path / "x.zip").read_bytes()).hexdigest()
        package = {"registry": "pypi", "name": "x", "version": "1", "file": "x-1.whl", "sha256": digest} | changes
        monkeypatch.setitem(SOURCES, "packages", [{**package, "sources": list(sources)}])
        for client in ("pip", "npm", "apt-get"):
            (tmp_path / client).write_text(f"#!/bin/sh\n{line}\n")
            (tmp_path / client).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "new" / "folder"

    return make


FOUR = "".join(chr(0x4E00 + n) * BLOCK for n in range(4))


def test_each_source_s_share_comes_as_often_as_it_counts(registry):
    files = [("a.txt", FOUR), ("b.md", "b"), ("c.md", "c")]
    text, page = (
        {"members": "*.txt", "reader": "text", "characters": BLOCK, "times": 2},
        {"members": "*.md", "reader": "text", "characters": BLOCK},
    )
    folder = registry("cp ../../x.zip x-1.whl", files, [text, page])
    assert list(recipe_texts(folder)) == [FOUR[:BLOCK], FOUR[:BLOCK], "b\nc"]
    registry("", files, [page | {"members": "*.rst"}])
    with pytest.raises(ValueError, match=r"x-1\.whl holds nothing that matches \*\.rst"):
        next(recipe_texts(folder))


@pytest.mark.parametrize(
    ("name", "file", "command"),
    [
        ("pypi", "x-1.whl", "pip download --quiet --no-deps --dest . x==1"),
        ("pypi", "x-1.tar.gz", "pip download --quiet --no-deps --dest . x==1 --no-binary=x"),
        ("npm", "x-1.tgz", "npm pack --silent x@1"),
        ("debian", "x_1_all.deb", "apt-get download --quiet x=1"),
    ],
)
def test_what_is_not_there_is_asked_of_its_registry_s_client(registry, name, file, command):
    folder = registry("echo hm >&2; echo no ${0##*/} $* >&2; exit 1", registry=name, file=file)
    with pytest.raises(ValueError) as error:
        next(recipe_texts(folder))
    assert str(error.value) == f"cannot fetch {file} ({command}): no {command}"


def test_the_recipe_is_trained_from_its_packages(registry, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(SOURCES, "vocab_size", 300)
    source = {"members": "*", "reader": "text", "characters": 10**6}
    folder = registry("cp ../../x.zip x-1.whl", [("a", "".join(TEXTS))], [source])
    assert main(["recipe", "--packages", str(folder), "--out", str(tmp_path / "out.json")]) == 0
    trained = Tokenizer.load(tmp_path / "out.json")
    assert trained.source == train([distinct("".join(TEXTS))], 300).source
    assert capsys.readouterr().out == f"{tmp_path / 'out.json'}: 300 entries, sha256 {trained.fingerprint}\n"


def test_spread_takes_blocks_from_all_over():
    text = "".join(chr(0x4E00 + n) * BLOCK for n in range(10)) + "x"
    assert spread(text, len(text)) == spread(text, 10**6) == text
    assert spread(text, 3 * BLOCK).split("\n") == [chr(0x4E00 + n) * BLOCK for n in (0, 3, 7)]


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
    deb = b"!<arch>\n"
    for name, content in [(b"debian-binary", b"2.0"), (b"control.tar.xz", b"odd"), (b"data.tar.xz", data)]:
        (tmp_path / "x.deb").write_bytes(deb)
        with pytest.raises(ValueError, match=r"the \.deb has no data\.tar"):
            next(read_members(tmp_path / "x.deb"))
        deb += name.ljust(48) + str(len(content)).encode().ljust(10) + b"`\n" + content + b"\n" * (len(content) % 2)
    (tmp_path / "x.deb").write_bytes(deb + b"_signature".ljust(48) + b"1".ljust(10) + b"`\nx\n")
    assert list(read_members(tmp_path / "x.deb")) == [("x", b"hello")]


@pytest.mark.parametrize(
    ("reader", "content", "prose"),
    [
        ("text", "\x1b[31mred\x1b[0m\r\nblue", "red\nblue"),
        ("text", "a binary\0file", ""),
        ("html", "</p><head><style>no</style>no</head><p>One &amp;\n two </p> <p></p> <br><h1>x", "\nOne & two\n\nx"),
        ("html", "</style>shown", "shown"),
        ("man", ".TH LS 1\nlists \\fIfiles\\fR: \\-a\n'\\\" t\nnow", "lists files: -a\nnow"),
        ("tagged", "２００９年/t  Ａｚ：/x  [中国/ns  政府/n]nt  ，/w", "2009年Az：中国政府，"),
        ("chinese_lines", f"{NINE}\n{NINE[1:]} and more\n{NINE}", NINE),
        ("chinese_cells", f"x\t{NINE[:5]}\n{NINE[:4]}\t{NINE[:5]}\t{NINE}", f"{NINE[:5]}\n{NINE}"),
        ("chinese_strings", json.dumps({"a": [NINE, NINE[1:]], "b": NINE}), NINE),
        ("long_strings", json.dumps(["x" * 80, "y" * 79]), "x" * 80),
        ("mail", json.dumps({"text": "From: a\n\n> quoted\nHello.\nhttp://x"}), "Hello."),
        ("mail", json.dumps({"text": "From: a\n\n<HTML>Hello."}), ""),
        ("mail", json.dumps({"text": "Content-Transfer-Encoding: base64\n\nSGVsbG8="}), ""),
        ("items", "- - 你好\n  - \"How are you?\"\n- 'Well'\nno: item", "你好\nHow are you?\nWell"),
        ("dictionary", "abbey\n     n 1: a  church [syn: {minster}] of {monks}.", "abbey n 1: a church of ."),
        ("docstrings", 'x = 1\nclass A:\n    pass\ndef f():\n    """One.\n\n    Two."""', "One.\n\nTwo."),
    ],
)
def test_readers_keep_prose_only(reader, content, prose):
    assert READERS[reader](content.encode()) == prose


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
    for length in (20, 21):
        assert distinct("\n".join(["x" * length] * 2)).count("x" * length) == (2 if length == 20 else 1)


def test_lines_of_a_paragraph_are_joined_and_others_kept():
    long, short = "a line of more than fifty characters, as in a wrapped file", "of a verse, which is short"
    assert wrapped(f"{long}\n  a word more\n\n{short}\n{short}\n{long}\ngoes on\n\n{long}\n* item".encode()) == (
        f"{long} a word more\n\n{short}\n{short}\n{long} goes on\n\n{long}\n* item"
    )
    assert wrapped(f"{long} \nends where it did".encode()) == f"{long} \nends where it did"


def test_a_database_gives_its_chinese_cells_once(tmp_path):
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("pragma page_size = 512")  # a file that is smaller than a write's buffer
    connection.execute("create table t (id integer, body text)")
    rows = [(1, NINE), (2, "short"), (3, NINE), (4, None), (5, NINE[1:])]
    connection.executemany("insert into t values (?, ?)", rows)
    connection.commit()
    connection.close()
    assert database((tmp_path / "x.db").read_bytes()) == NINE


def test_measure_compares_with_other_tokenizers(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a" * 60, encoding="utf-8")
    train(TEXTS, 260).save(tmp_path / "small.json")
    assert main(["measure", str(tmp_path / "text.txt"), "--against", str(tmp_path / "small.json")]) == 0
    ours, small, _ = capsys.readouterr().out.split()
    assert float(ours) == round(bytes_per_token(Tokenizer.load(), "a" * 60), 3)
    assert small == "1.000"
    assert [bytes_per_token(train(TEXTS, 260), text) for text in ("", "a")] == [0, 1]


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocab_size", "258"], "vocab_size is 258, but the bytes and the special tokens alone need 259"),
        ([], "of vocab_size = 6400 entries"),
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
    [
        ([], "command"),
        (["learn"], "'learn'"),
        (["train"], "--out"),
        (["measure", "--x"], "text"),
        (["recipe", "--out", "x"], "--packages"),
    ],
)
def test_a_wrong_command_is_one_line_too(arguments, named, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
