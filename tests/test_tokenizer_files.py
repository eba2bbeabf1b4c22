"""Files that are not MiniMind's or ours: what a tokenizer.json may hold without changing ids, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimind_ref.data.byte_level import BYTE_OF
from minimind_ref.data.tokenizer import END, PAD, START, Tokenizer

SHIPPED = Tokenizer.load()
NAMES = sorted(SHIPPED.control_ids)
hostile_text = st.lists(
    st.sampled_from([*NAMES, "<|", "im_end", "|>"]) | st.text(st.characters(exclude_categories=["Cs"]))
)


def changed(**changes):
    """The shipped tokenizer.json with some of its entries replaced."""
    return json.dumps(json.loads(SHIPPED.source) | changes)


def test_a_control_token_that_merges_could_build_is_out_of_reach_too():
    """A tokenizer.json may add a token that is also an ordinary entry of its vocabulary, and look whole words up."""
    settings = json.loads(SHIPPED.source)
    settings["added_tokens"].append(settings["added_tokens"][0] | {"id": SHIPPED.encode("the")[0], "content": "the"})
    assert len(SHIPPED.encode("the")) == 1
    for ignore_merges in (False, True):
        settings["model"]["ignore_merges"] = ignore_merges
        tokenizer = Tokenizer.from_text(json.dumps(settings))
        ids = tokenizer.encode("the")
        assert tokenizer.control_ids["the"] not in ids
        assert tokenizer.decode(ids) == "the"


@given(hostile_text)
def test_trusted_text_is_cut_at_its_control_tokens(parts):
    tokenizer, text = SHIPPED, "".join(parts)
    pieces = tokenizer.split_control(text)
    assert "".join(piece for piece, _ in pieces) == text
    assert all(index == tokenizer.control_ids.get(piece) for piece, index in pieces)
    assert not any(name in piece for piece, index in pieces if index is None for name in tokenizer.control_ids)


def test_the_longer_of_two_control_tokens_is_taken():
    settings = json.loads(SHIPPED.source)
    first = settings["added_tokens"][0]
    for index, name in ((6400, "<a>"), (6401, "<a><b>")):
        settings["added_tokens"].append(first | {"id": index, "content": name})
    tokenizer = Tokenizer.from_text(json.dumps(settings))
    assert tokenizer.split_control("x<a><b><a>") == [("x", None), ("<a><b>", 6401), ("<a>", 6400)]


def test_a_marker_that_is_not_special_shows_in_the_text():
    settings = json.loads(SHIPPED.source)
    marker = settings["added_tokens"][0] | {"id": 6400, "content": "<think>", "special": False}
    tokenizer = Tokenizer.from_text(json.dumps(settings | {"added_tokens": [*settings["added_tokens"], marker]}))
    assert tokenizer.vocab_size == 6401
    assert tokenizer.lacking(6403) == [6401, 6402]
    assert tokenizer.decode([6400]) == "<think>"
    assert 6400 not in tokenizer.encode("<think>")


def test_padding_truncation_dropout_and_template_of_the_file_do_not_touch_ids():
    model = json.loads(SHIPPED.source)["model"] | {"dropout": 0.5}
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    start = {"SpecialToken": {"id": START, "type_id": 0}}
    processor = {"type": "TemplateProcessing", "single": [start, {"Sequence": {"id": "A", "type_id": 0}}], "pair": []}
    processor |= {"special_tokens": {START: {"id": START, "ids": [1], "tokens": [START]}}}
    settings = changed(model=model, padding=padding, truncation=truncation, post_processor=processor)
    tokenizer = Tokenizer.from_text(settings)
    text = "several words, nothing dropped"
    assert tokenizer.encode(text) == SHIPPED.encode(text)


def test_load_finds_file_and_folder_and_save_keeps_every_byte(tmp_path):
    SHIPPED.save(tmp_path / "tokenizer.json")
    for path in (tmp_path, str(tmp_path), tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.fingerprint == SHIPPED.fingerprint
        assert [loaded.pad_id, loaded.start_id, loaded.end_id] == [
            loaded.control_ids[name] for name in (PAD, START, END)
        ]
        assert loaded.encode("Hello 世界") == SHIPPED.encode("Hello 世界")
    (tmp_path / "tokenizer.json").write_text(SHIPPED.source + "\n", encoding="utf-8")
    assert Tokenizer.load(tmp_path).fingerprint != SHIPPED.fingerprint


MODEL = json.loads(SHIPPED.source)["model"]
TOKEN = {"content": "<x>", "id": 7, "special": True}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read a tokenizer: No such file or directory"),
        (b"{", "not a usable tokenizer.json: Expecting property name"),
        (b"\xff\xfe", "not a usable tokenizer.json: 'utf-8' codec can't decode"),
        (b"[]", "it is JSON but has no model and pre_tokenizer"),
        (b'{"model": {"vocab": {}}}', "it is JSON but has no model and pre_tokenizer"),
        (changed(pre_tokenizer=5).encode(), "it is JSON but has no model and pre_tokenizer"),
        (changed(added_tokens=5).encode(), "its added_tokens are no list"),
        (changed(added_tokens=[None]).encode(), "its added_tokens are no list"),
        (changed(added_tokens=[{"content": "<x>", "id": "7", "special": True}]).encode(), "its added_tokens are no"),
        (changed(model={"type": "BPE", "vocab": {"a": "x"}, "merges": []}).encode(), "the entry 'a' has the id 'x'"),
        (changed(model={"type": "BPE", "vocab": {"a": 2**31}, "merges": []}).encode(), "has the id 2147483648"),
        (changed(added_tokens=[TOKEN, TOKEN | {"special": 1}]).encode(), "its added_tokens are no list"),
        (changed(model={**MODEL, "merges": [None]}).encode(), "its model has no vocab and merges"),
        (changed(model={**MODEL, "merges": [["a", 3]]}).encode(), "its model has no vocab and merges"),
        (changed(model={**MODEL, "continuing_subword_prefix": "##"}).encode(), "continuing_subword_prefix='##' is not"),
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


def test_every_byte_has_one_letter():
    assert sorted(BYTE_OF.values()) == list(range(256)) and all(letter.isprintable() for letter in BYTE_OF)
