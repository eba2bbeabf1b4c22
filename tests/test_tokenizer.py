"""The tokenizer's wrapper: exact round trips, and no text that can produce a control token.

Runs on the shipped tokenizer.json, and on MiniMind's where MINIMIND_PATH=DIR[:DIR…] names its checkouts.
"""

import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minimind_ref.data.tokenizer import Tokenizer

CHECKOUTS = [Path(p) for p in os.environ.get("MINIMIND_PATH", "").split(os.pathsep) if p]
TOKENIZERS = [Tokenizer.load(), *(Tokenizer.load(checkout / "model") for checkout in CHECKOUTS)]
SHIPPED = TOKENIZERS[0]
CONTROLS = sorted({name for tokenizer in TOKENIZERS for name in tokenizer.control_ids})

unicode_text = st.text(st.characters(exclude_categories=["Cs"]))
hostile_text = st.lists(st.sampled_from([*CONTROLS, "<|", "im_end", "|>", "\n", " "]) | unicode_text).map("".join)
tokenizers = pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.fingerprint[:8])


def changed(**changes):
    """The shipped tokenizer.json with some of its entries replaced."""
    return json.dumps(json.loads(SHIPPED.source) | changes)


# Round trip


@tokenizers
@given(hostile_text)
@example("e\u0301 👩‍👩‍👧 \r\n\t\0  \u2028\ufeff x")
@example("")
def test_decode_inverts_encode(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= index < tokenizer.vocab_size for index in ids)
    assert (len(ids) > 0) == (text != "")
    assert len(ids) <= len(text.encode())
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@tokenizers
@given(hostile_text, hostile_text)
def test_decoding_concatenates_though_encoding_does_not(tokenizer, a, b):
    assert tokenizer.decode(tokenizer.encode(a) + tokenizer.encode(b)) == a + b


def test_encoding_does_not_concatenate():
    assert SHIPPED.encode("the") != SHIPPED.encode("t") + SHIPPED.encode("he")


@tokenizers
@given(st.lists(hostile_text, max_size=5))
def test_a_batch_is_its_texts(tokenizer, texts):
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_tokens_and_ids_are_a_bijection():
    ordinary = [SHIPPED.token_bytes(index) for index in range(3, SHIPPED.vocab_size)]
    assert len(set(ordinary)) == len(ordinary) == SHIPPED.vocab_size - 3
    assert b"" not in ordinary


# Control tokens


@tokenizers
@given(hostile_text)
def test_text_never_produces_a_control_token(tokenizer, text):
    assert not set(tokenizer.encode(text)) & set(tokenizer.control_ids.values())


@tokenizers
def test_the_names_of_the_control_tokens_are_ordinary_text(tokenizer):
    for name, index in tokenizer.control_ids.items():
        for text in (name, f"a{name}b", f" {name}", name * 2):
            ids = tokenizer.encode(text)
            assert index not in ids
            assert tokenizer.decode(ids) == text


def test_a_control_token_that_merges_could_build_is_out_of_reach_too():
    """A tokenizer.json may add a token that is also an ordinary entry of its vocabulary."""
    settings = json.loads(SHIPPED.source)
    settings["added_tokens"].append(settings["added_tokens"][0] | {"id": SHIPPED.encode("the")[0], "content": "the"})
    assert len(SHIPPED.encode("the")) == 1
    tokenizer = Tokenizer.from_text(json.dumps(settings))
    ids = tokenizer.encode("the")
    assert tokenizer.control_ids["the"] not in ids
    assert tokenizer.decode(ids) == "the"


@tokenizers
@given(hostile_text)
def test_trusted_text_is_cut_at_its_control_tokens(tokenizer, text):
    pieces = tokenizer.split_control(text)
    assert "".join(piece for piece, _ in pieces) == text
    assert all(index == tokenizer.control_ids.get(piece) for piece, index in pieces)
    assert not any(name in piece for piece, index in pieces if index is None for name in tokenizer.control_ids)


def test_special_tokens_stand_for_no_bytes():
    special = [SHIPPED.pad_id, SHIPPED.start_id, SHIPPED.end_id]
    assert special == [0, 1, 2]
    assert [SHIPPED.token_bytes(index) for index in special] == [b"", b"", b""]
    assert SHIPPED.decode([1, *SHIPPED.encode("hi"), 2, 0]) == "hi"


def test_a_marker_that_is_not_special_shows_in_the_text():
    settings = json.loads(SHIPPED.source)
    marker = settings["added_tokens"][0] | {"id": 6400, "content": "<think>", "special": False}
    tokenizer = Tokenizer.from_text(json.dumps(settings | {"added_tokens": [*settings["added_tokens"], marker]}))
    assert tokenizer.vocab_size == 6401
    assert tokenizer.decode([6400]) == "<think>"
    assert 6400 not in tokenizer.encode("<think>")


def test_padding_truncation_and_dropout_of_the_file_do_not_touch_ids():
    model = json.loads(SHIPPED.source)["model"] | {"dropout": 0.5}
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tokenizer = Tokenizer.from_text(changed(model=model, padding=padding, truncation=truncation))
    text = "several words, nothing dropped"
    assert tokenizer.encode(text) == SHIPPED.encode(text)


# Streaming


@tokenizers
@given(hostile_text)
def test_a_stream_gives_whole_characters_in_order(tokenizer, text):
    pieces = list(tokenizer.decode_stream(iter(tokenizer.encode(text))))
    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)
    assert all(pieces)


@tokenizers
@given(st.data())
def test_a_stream_of_any_ids_equals_decode(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    assert "".join(tokenizer.decode_stream(ids)) == tokenizer.decode(ids)


def test_a_stream_holds_back_half_a_character():
    halves = SHIPPED.encode("𠮷")
    assert len(halves) > 1
    assert list(SHIPPED.decode_stream(halves)) == ["𠮷"]
    assert list(SHIPPED.decode_stream(halves[:-1])) == ["\ufffd"]


# Files


def test_load_finds_file_and_folder_and_save_keeps_every_byte(tmp_path):
    SHIPPED.save(tmp_path / "tokenizer.json")
    for path in (tmp_path, str(tmp_path), tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.fingerprint == SHIPPED.fingerprint
        assert loaded.encode("Hello 世界") == SHIPPED.encode("Hello 世界")
    (tmp_path / "tokenizer.json").write_text(SHIPPED.source + "\n", encoding="utf-8")
    assert Tokenizer.load(tmp_path).fingerprint != SHIPPED.fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read a tokenizer: No such file or directory"),
        (b"{", "not a usable tokenizer.json: Expecting property name"),
        (b"\xff\xfe", "not a usable tokenizer.json: 'utf-8' codec can't decode"),
        (b"[]", "it is JSON but has no model and pre_tokenizer"),
        (b'{"model": {"vocab": {}}}', "it is JSON but has no model and pre_tokenizer"),
        (changed(pre_tokenizer={"type": "Whitespace"}).encode(), "only byte-level BPE is supported"),
        (changed(model={"type": "BPE"}).encode(), "its model has no vocab and merges"),
        (changed(model={"type": "Unigram"}).encode(), "only byte-level BPE is supported"),
        (changed(added_tokens=json.loads(SHIPPED.source)["added_tokens"][:2]).encode(), "<|im_end|> is missing"),
        (changed(model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}).encode(), "out of vocabulary"),
        (changed(model={"type": "BPE", "vocab": {"你": 0}, "merges": []}).encode(), "'你' is not made of byte letters"),
    ],
)
def test_a_file_that_cannot_serve_is_one_line(content, message, tmp_path):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        Tokenizer.load(path)
    line = str(error.value)
    assert line.startswith(f"{path}: ") and message in line and "\n" not in line


@pytest.mark.parametrize("index", [-1, 6400])
def test_an_id_outside_the_vocabulary_is_refused(index):
    for use in (SHIPPED.token_bytes, lambda i: SHIPPED.decode([i]), lambda i: list(SHIPPED.decode_stream([i]))):
        with pytest.raises(ValueError, match=f"id {index} is not in the vocabulary of 6400 tokens"):
            use(index)


def test_a_lone_surrogate_is_refused():
    with pytest.raises(ValueError, match=r"text has a lone surrogate U\+D800 at position 2"):
        SHIPPED.encode("ab\ud800")
