"""Text to token file and back: conservation, reuse, interruption, memory."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from itertools import pairwise

import numpy as np
import pytest
from byte_tokenizer import ByteTokenizer
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from minimind_ref.data import token_writer
from minimind_ref.data.jsonl import DataError
from minimind_ref.data.token_file import TokenFile, split
from minimind_ref.data.token_store import Chunk, write_chunks
from minimind_ref.data.token_writer import write_token_file
from minimind_ref.data.tokenise import tokenise_jsonl
from minimind_ref.data.tokenizer import Tokenizer

TEXTS = ["one", "zwei drei", "四", "", "five " * 9, "6"]


def write_jsonl(folder, texts=TEXTS, name="data.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def token_file(folder, texts=TEXTS, tokenizer=None, **options):
    tokenizer = tokenizer or ByteTokenizer()
    return tokenise_jsonl(write_jsonl(folder, texts), tokenizer, cache_dir=folder / "cache", progress=False, **options)


def read(tokens):
    return [tokens.document(i).tolist() for i in range(tokens.num_documents)]


def cached(folder):
    return sorted(path.name for path in (folder / "cache").iterdir()) if (folder / "cache").exists() else []


# -- conservation --


def test_every_document_comes_back_between_start_and_end(tmp_path):
    tokens = token_file(tmp_path)
    assert read(tokens) == [[1, *(byte + 3 for byte in text.encode()), 2] for text in TEXTS if text]
    assert tokens.num_tokens == sum(map(len, read(tokens)))
    assert tokens.max_id == max(map(max, read(tokens)))
    assert tokens.metadata["skipped"] == {"empty text": 1}
    assert tokens.wrap


def test_without_wrapping_nothing_is_added(tmp_path):
    tokens = token_file(tmp_path, wrap=False)
    assert read(tokens) == [[byte + 3 for byte in text.encode()] for text in TEXTS if text]
    assert not tokens.wrap


def test_all_is_to_be_learnt_where_the_file_does_not_say(tmp_path):
    tokens = token_file(tmp_path)
    assert tokens.supervised(1).tolist() == [True] * len(tokens.document(1))
    assert tokens.supervised_slice(3, 7).tolist() == [True] * 4


def test_a_text_without_a_token_is_no_document(tmp_path):
    class Deaf(ByteTokenizer):
        def encode_batch(self, texts):
            return [
                ids if "o" not in text else [] for text, ids in zip(texts, super().encode_batch(texts), strict=True)
            ]

    assert read(token_file(tmp_path, ["one", "a", "two", "b"], Deaf(), wrap=False)) == [[100], [101]]
    assert read(token_file(tmp_path, ["one"], Deaf(), wrap=True)) == [[1, 2]]


documents = st.lists(st.lists(st.integers(0, 250), min_size=1, max_size=9), min_size=1, max_size=12)


@given(documents, st.sampled_from([0, 0.1, 0.3, 0.5]), st.integers(0, 4), st.data())
def test_views_read_what_lists_would(tmp_path_factory, documents, fraction, most, data):
    class Raw(ByteTokenizer):
        def encode_batch(self, texts):
            return [documents[int(text)] for text in texts]

    texts = map(str, range(len(documents)))
    folder = tmp_path_factory.mktemp("cache")
    whole = write_token_file(texts, Raw(), cache_dir=folder, name="x", wrap=False, settings={})
    train, held_out = split(whole, fraction, most)
    assert sorted(read(train) + read(held_out)) == sorted(documents) == sorted(read(whole))
    for view in (whole, train, held_out, pickle.loads(pickle.dumps(train))):
        stream = [token for document in read(view) for token in document]
        begins = np.cumsum([0, *map(len, read(view))])[:-1].tolist()
        assert view.num_tokens == len(stream)
        start = data.draw(st.integers(0, len(stream)))
        stop = data.draw(st.integers(start, len(stream)))
        assert view.slice(start, stop).tolist() == stream[start:stop]
        assert view.starts(start, stop).tolist() == [begin for begin in begins if start <= begin < stop]


flagged = st.lists(st.lists(st.tuples(st.integers(0, 250), st.booleans()), max_size=9), min_size=1, max_size=12)


@given(flagged, st.sampled_from([0.1, 0.3, 0.5]), st.integers(1, 2), st.data())
def test_chunks_may_be_cut_anywhere_and_flags_stay_with_their_tokens(
    tmp_path_factory, documents, fraction, group, data
):
    assume(any(documents) and sum(map(bool, documents)) % group == 0)
    stream = [pair for document in documents for pair in document]
    ends = np.cumsum([len(document) for document in documents]).tolist()
    cuts = sorted({0, len(stream), *data.draw(st.lists(st.integers(0, len(stream)), max_size=5))})
    chunks = [
        Chunk(
            [token for token, _ in stream[a:b]], [end - a for end in ends if a < end <= b], [f for _, f in stream[a:b]]
        )
        for a, b in pairwise(cuts)
    ]
    settings = dict(cache_dir=tmp_path_factory.mktemp("cache"), name="x", settings={}, supervised=True)
    whole = write_chunks(chunks, ByteTokenizer(), **settings)
    assert not whole.wrap
    documents = [document for document in documents if document]
    for view in (whole, *split(whole, fraction, 9, group=group)):
        found = [list(zip(view.document(i), view.supervised(i), strict=True)) for i in range(view.num_documents)]
        assert all(document in documents for document in found)
        if view is whole:
            assert found == documents
        assert view.num_documents % group == 0
        flags = [is_learnt for document in found for _, is_learnt in document]
        start = data.draw(st.integers(0, len(flags)))
        stop = data.draw(st.integers(start, len(flags)))
        assert view.supervised_slice(start, stop).tolist() == flags[start:stop]


@example(2, 0.5, 1)
@given(st.integers(1, 300), st.sampled_from([0.01, 0.05, 0.3, 0.5]), st.integers(1, 20))
def test_a_split_is_a_partition_in_order_and_spread_evenly(tmp_path_factory, total, fraction, most):
    folder = tmp_path_factory.mktemp("cache")
    settings = dict(cache_dir=folder, name="x", wrap=False, settings={})
    whole = write_token_file(map(chr, range(256, 256 + total)), ByteTokenizer(), **settings)
    train, held_out = map(read, split(whole, fraction, most))
    order = read(whole)
    assert sorted(train + held_out, key=order.index) == order
    assert train == sorted(train, key=order.index)
    assert held_out == sorted(held_out, key=order.index)
    assert len(held_out) <= most
    if total >= 2:
        assert 1 <= len(held_out) <= max(1, total * fraction)
        assert train
        gaps = np.diff([order.index(document) for document in held_out])
        assert len(set(gaps.tolist())) <= 1
    else:
        assert not held_out


def test_a_split_is_the_same_every_time(tmp_path):
    again = [split(token_file(tmp_path), 0.5, 9) for _ in range(2)]
    assert read(again[0][1]) == read(again[1][1]) == read(token_file(tmp_path))[1::2]


@pytest.mark.parametrize("part", [0, 1])
def test_a_part_is_read_and_split_like_a_file(tmp_path, part):
    view = split(token_file(tmp_path, [chr(97 + i) for i in range(26)], wrap=True), 0.3)[part]
    documents, halves = read(view), split(view, 0.3)
    assert [read(half) for half in halves] == [
        [document for i, document in enumerate(documents) if (i % 4 == 3) == is_held] for is_held in (False, True)
    ]
    for half in (view, *halves):
        stream = [token for document in read(half) for token in document]
        assert half.slice(1, len(stream) - 1).tolist() == stream[1:-1]
        assert half.starts(1, len(stream)).tolist() == [i for i, token in enumerate(stream) if token == 1 and i]


@pytest.mark.parametrize(
    ("offset", "dtype"), [(-255, "<u2"), (3, "<u2"), (65280, "<u2"), (65281, "<u4"), (10**6, "<u4")]
)
def test_ids_are_stored_in_two_bytes_where_the_vocabulary_allows(tmp_path, offset, dtype):
    class Full(ByteTokenizer):
        def encode_batch(self, texts):
            return [[self.vocab_size - 1] for _ in texts]

    tokens = token_file(tmp_path, tokenizer=Full(offset), wrap=False)
    assert tokens.metadata["dtype"] == dtype
    assert tokens.max_id == tokens.document(0)[0] == offset + 255


def test_what_lies_outside_is_refused(tmp_path):
    tokens = token_file(tmp_path)
    for number in (-1, tokens.num_documents):
        with pytest.raises(IndexError, match=f"document {number} of 5"):
            tokens.document(number)
    for start, stop in ((-1, 2), (3, 2), (0, tokens.num_tokens + 1)):
        with pytest.raises(IndexError, match=f"tokens {start} to {stop} of"):
            tokens.slice(start, stop)
    with pytest.raises(ValueError, match=r"fraction=0\.5001 must lie between 0 and 0\.5"):
        split(tokens, 0.5001)
    with pytest.raises(ValueError, match="5 documents make no groups of 2"):
        split(tokens, 0.5, group=2)


# -- long texts --


@given(st.text(st.sampled_from("ab \n\t.,'s1\u00e9\u6587\u3000\u2028-"), max_size=60), st.integers(0, 9))
def test_a_cut_changes_no_pre_tokenisation_in_use(text, size):
    qwen = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    by_regex = Sequence([Split(Regex(qwen), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_writer, "PIECE", size)
        parts = list(token_writer.pieces(text))
    assert "".join(part.text for part in parts) == text
    assert [part.opens for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.closes for part in parts] == [False] * (len(parts) - 1) + [True]
    for pre_tokenizer in (ByteLevel(add_prefix_space=False), by_regex):
        words = [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]
        assert [word for part in parts for word, _ in pre_tokenizer.pre_tokenize_str(part.text)] == words


def test_a_long_text_has_the_tokens_of_the_whole(tmp_path, monkeypatch):
    tokenizer = Tokenizer.load()
    text = "It's 2026, isn't it?\n\n\tif x == 3:  # done\n中文的句子。More of it\n" * 40
    monkeypatch.setattr(token_writer, "PIECE", 50)
    monkeypatch.setattr(token_writer, "BATCH_BYTES", 120)  # so that a document spans batches, and batches documents
    assert len(list(token_writer.pieces(text))) > 20
    tokens = token_file(tmp_path, ["before", text, "after", text], tokenizer)
    expected = [tokenizer.encode(t) for t in ("before", text, "after", text)]
    assert read(tokens) == [[tokenizer.start_id, *ids, tokenizer.end_id] for ids in expected]


# -- reuse --


def test_the_same_data_tokenizer_and_settings_are_not_tokenised_again(tmp_path):
    tokenizer = ByteTokenizer()
    first = read(token_file(tmp_path, tokenizer=tokenizer))
    names = cached(tmp_path)
    assert [re.sub(r"[0-9a-f]{12}", "F", name) for name in names] == [
        "data-F.json",
        "data-F.offsets.bin",
        "data-F.tokens.bin",
    ]
    calls = tokenizer.calls
    assert read(token_file(tmp_path, tokenizer=tokenizer)) == first
    assert (tokenizer.calls, cached(tmp_path)) == (calls, names)


@pytest.mark.parametrize(
    "change",
    [
        {"texts": [*TEXTS[:-1], "7"]},  # same size, other content
        {"tokenizer": ByteTokenizer(fingerprint="other")},
        {"wrap": False},
        {"on_bad_line": "skip"},
    ],
)
def test_a_change_of_data_tokenizer_or_setting_is_tokenised_anew(tmp_path, change):
    assert token_file(tmp_path).stem != token_file(tmp_path, **change).stem
    assert len(cached(tmp_path)) == 6


def test_two_keys_are_two_token_files(tmp_path):
    path = tmp_path / "two.jsonl"
    path.write_text('{"text": "a", "body": "b"}\n')
    settings = dict(cache_dir=tmp_path / "no" / "folder", progress=False, wrap=False)
    assert [read(tokenise_jsonl(path, ByteTokenizer(), key=key, **settings)) for key in ("text", "body")] == [
        [[100]],
        [[101]],
    ]


def test_the_name_of_the_file_does_not_decide(tmp_path):
    one, two = (tmp_path / name for name in ("one", "two"))
    one.mkdir()
    two.mkdir()
    paths = [write_jsonl(one, ["a"]), write_jsonl(two, ["b"])]
    files = [tokenise_jsonl(path, ByteTokenizer(), cache_dir=tmp_path, progress=False) for path in paths]
    assert [read(tokens) for tokens in files] == [[[1, 100, 2]], [[1, 101, 2]]]


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content + b"x"])
@pytest.mark.parametrize("suffix", ["tokens.bin", "offsets.bin", "json"])
def test_a_damaged_token_file_is_refused_and_made_anew(tmp_path, suffix, damage):
    stem = token_file(tmp_path).stem
    damaged = stem.with_name(f"{stem.name}.{suffix}")
    damaged.write_bytes(damage(damaged.read_bytes()))
    with pytest.raises(DataError, match=re.escape(str(stem))) as caught:
        TokenFile(stem)
    assert "\n" not in str(caught.value)
    assert len(read(token_file(tmp_path))) == 5


def test_another_format_is_not_read(tmp_path):
    stem = token_file(tmp_path).stem
    metadata = stem.with_name(f"{stem.name}.json")
    metadata.write_text(metadata.read_text().replace('"format": 1', '"format": 0', 1))
    with pytest.raises(DataError, match="format 0 where 1 is read"):
        TokenFile(stem)


def test_progress_is_shown_unless_it_is_turned_off(tmp_path, capsys):
    path = write_jsonl(tmp_path)
    tokenise_jsonl(path, ByteTokenizer(), cache_dir=tmp_path / "quiet", progress=False)
    assert capsys.readouterr().err == ""
    tokenise_jsonl(path, ByteTokenizer(), cache_dir=tmp_path / "loud")
    assert f"tokenise {path}: " in capsys.readouterr().err


# -- interruption --


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), DataError("bad")])
def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, error):
    class Interrupted(ByteTokenizer):
        def encode_batch(self, texts):
            if self.calls == 2:
                raise error
            return super().encode_batch(texts)

    monkeypatch.setattr(token_writer, "BATCH_BYTES", 8)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        token_file(tmp_path, tokenizer=Interrupted())
    assert cached(tmp_path) == []
    assert len(read(token_file(tmp_path))) == 5


def test_an_interruption_is_told_even_where_its_folder_is_gone(tmp_path):
    class Remover(ByteTokenizer):
        def encode_batch(self, texts):
            for work in (tmp_path / "cache").iterdir():
                shutil.rmtree(work)
            raise DataError("bad")

    with pytest.raises(DataError, match="bad"):
        token_file(tmp_path, tokenizer=Remover())


def test_a_bad_line_far_into_the_file_leaves_nothing(tmp_path):
    path = write_jsonl(tmp_path)
    path.write_text(path.read_text() + "nonsense\n")
    with pytest.raises(DataError, match=r"data\.jsonl:7: not JSON"):
        tokenise_jsonl(path, ByteTokenizer(), cache_dir=tmp_path / "cache", progress=False)
    assert cached(tmp_path) == []


@pytest.mark.parametrize("suffix", ["tokens.bin", "offsets.bin", "json"])
def test_an_interruption_between_the_renames_is_made_good(tmp_path, monkeypatch, suffix):
    rename = os.replace

    def stop(source, target):
        if str(target).endswith(suffix):
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", stop)
        token_file(tmp_path)
    assert not any(name.endswith("json") for name in cached(tmp_path))
    assert len(read(token_file(tmp_path))) == 5


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    class Meddler(ByteTokenizer):
        def encode_batch(self, texts):
            os.utime(tmp_path / "data.jsonl", (0, 0))
            return super().encode_batch(texts)

    monkeypatch.setattr(token_writer, "BATCH_BYTES", 8)
    with pytest.raises(DataError, match=r"data\.jsonl: changed while it was read"):
        token_file(tmp_path, tokenizer=Meddler())
    assert cached(tmp_path) == []


CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from byte_tokenizer import ByteTokenizer
from minimind_ref.data import token_writer
from minimind_ref.data.tokenise import tokenise_jsonl
token_writer.BATCH_BYTES = 8

class Slow(ByteTokenizer):
    def encode_batch(self, texts):
        print("busy", flush=True)
        time.sleep({pause})
        return super().encode_batch(texts)

tokens = tokenise_jsonl({path!r}, Slow(), cache_dir={cache!r}, progress=False)
print(tokens.num_documents, tokens.num_tokens)
"""


def start_child(tmp_path, pause):
    tests = os.path.dirname(__file__)
    path, cache = str(tmp_path / "data.jsonl"), str(tmp_path / "cache")
    code = textwrap.dedent(CHILD).format(tests=tests, path=path, cache=cache, pause=pause)
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(tests)}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


def test_a_killed_process_leaves_nothing_to_be_taken_for_a_token_file(tmp_path):
    write_jsonl(tmp_path)
    with start_child(tmp_path, pause=60) as child:
        assert child.stdout.readline() == "busy\n"
        child.send_signal(signal.SIGKILL)
    assert [name[0] for name in cached(tmp_path)] == ["."]
    assert len(read(token_file(tmp_path))) == 5
    (left,) = (tmp_path / "cache").glob(".*")  # too young to be told from a process that is still at work
    no_folder = left.with_name(f"{left.name}.txt")  # which cannot be removed as one
    no_folder.touch()
    for old in (left, no_folder):
        os.utime(old, (time.time() - 2 * 86400,) * 2)
    for file in (tmp_path / "cache").glob("data*"):
        file.unlink()
    token_file(tmp_path)
    assert not left.exists()


def test_processes_that_race_end_with_the_same_whole_file(tmp_path):
    write_jsonl(tmp_path)
    children = [start_child(tmp_path, pause=0.05) for _ in range(2)]
    outputs = [child.communicate(timeout=60)[0].splitlines()[-1] for child in children]
    tokens = token_file(tmp_path)
    assert outputs == [f"{tokens.num_documents} {tokens.num_tokens}"] * 2
    assert len(cached(tmp_path)) == 3


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cache: cannot be written"):
        token_file(tmp_path)


# -- memory --


MEMORY = """
import resource, sys
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.data.tokenise import tokenise_jsonl
from minimind_ref.data.rows import PackedRows
from minimind_ref.data.batches import batches
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
tokenizer = Tokenizer.load()
tokenizer.encode("warm")
before = peak()
tokens = tokenise_jsonl({path!r}, tokenizer, cache_dir={cache!r}, progress=False)
for batch in batches(PackedRows(tokens, 512), batch_size=16, seed=0, epoch=0):
    pass
print(peak() - before, tokens.num_tokens)
"""


@pytest.mark.slow
@pytest.mark.parametrize("lines", [24_000, 2], ids=["many", "few and long"])
def test_memory_does_not_grow_with_the_file(tmp_path, lines):
    """24 MB of text take less than 400 MB: what is encoded at once, and not what the file or a line holds."""
    path = tmp_path / "data.jsonl"
    words = np.random.default_rng(0).integers(97, 123, size=(5000, 6), dtype=np.uint8)
    text = " ".join(bytes(word).decode() for word in words)
    per_line = 24_000_000 // lines
    with open(path, "w") as file:
        for _ in range(lines):
            file.write(json.dumps({"text": (text * (1 + per_line // len(text)))[:per_line]}) + "\n")
    code = MEMORY.format(path=str(path), cache=str(tmp_path / "cache"))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=True)
    grown, num_tokens = map(int, run.stdout.split())
    assert num_tokens > 4_000_000
    assert grown < 400 * 2**20
