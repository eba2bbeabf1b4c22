"""The tokenizer against a BPE by the standard library alone, and both against the `tokenizers` library."""

import json
import os
import subprocess
import sys
import unicodedata
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from chats import minimind_files
from hypothesis import assume, given
from hypothesis import strategies as st
from spec_blocks import definition
from tokenizers import decoders, models, pre_tokenizers, trainers

from minimind_ref.data.tokenizer import SHIPPED, Tokenizer
from minimind_ref.data.tokenizer_training import train
from minimind_ref.oracle import tokenizer as oracle

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FILES = [pytest.param(SHIPPED, id="shipped"), *minimind_files("tokenizer.json")]

# Where the pattern decides: contractions and near ones, every kind of white space, separators that are none, marks.
DECIDING = [*"'sdmtvrelLSD aé中ㄅ²½Ⅷ!¿。\u07c0\u0663\uff07\u2018"]
DECIDING += [*"\t\n\v\f\r\x1c\x1f\x85\xa0\u1680\u180e\u2003\u200b\u2028\u202f\u3000"]
DECIDING += [
    "'s",
    "'re",
    "'ll",
    "  ",
    "\r\n",
    " 's",
    "\u0301",
    "\ufe0f",
    "\u200d",
    "\U0001f469\u200d\U0001f467",
    "\x00",
    "\ufffd",
    *CONTROL,
]
assigned = st.characters(exclude_categories=["Cs", "Cn"])  # what every Unicode version in use knows
texts = st.lists(st.sampled_from(DECIDING) | assigned, max_size=30).map("".join)
any_text = st.text(st.characters(exclude_categories=["Cs"])) | texts
lists_of_ids = st.lists(st.integers(0, 6399), max_size=12)
# Few letters, so that pairs tie, overlap and repeat.
corpora = st.lists(st.text(st.sampled_from("aab  c'\n1é中"), max_size=40), min_size=1, max_size=5)


@cache
def loaded(path):
    return Tokenizer.load(path), *oracle.load(path)


@cache
def small():
    """A vocabulary of 20 merges, learnt from every text that decides a split."""
    return oracle.train([" ".join(DECIDING) * 2, "it's the letter's letters " * 3], 276, [])


def library(vocab, merges):
    """The library's own BPE over a vocabulary, without any added token."""
    bare = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    return bare


def library_train(corpus, vocab_size, special_tokens):
    bare = library({}, [])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": vocab_size, "special_tokens": special_tokens, "initial_alphabet": alphabet}
    bare.train_from_iterator(corpus, trainers.BpeTrainer(**options, show_progress=False))
    model = json.loads(bare.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


@pytest.mark.parametrize("path", FILES)
@given(text=texts)
def test_tokenizer_4_product_oracle_and_library_give_the_same_ids(path, text):
    product, vocab, merges = loaded(path)
    assert product.encode(text) == oracle.encode(text, vocab, merges) == library(vocab, merges).encode(text).ids


@given(text=texts)
def test_tokenizer_4_definition_agrees(text):
    vocab, merges = small()
    spec = definition("tokenizer", "float")
    ids = spec.encode(text, vocab, merges)
    assert ids == oracle.encode(text, vocab, merges)
    assert spec.decode(ids, vocab) == text


def test_tokenizer_4_definition_agrees_on_the_shipped_vocabulary():
    product, vocab, merges = loaded(SHIPPED)
    text = "The tokenizer's words: 训练 数据集,\n\n  and 1234 spaces "
    assert definition("tokenizer", "float").encode(text, vocab, merges) == product.encode(text)


@pytest.mark.parametrize(
    "merges, text, tokens",
    [
        (["bc", "ab"], "abc", ["a", "bc"]),  # the lower rank, not the first place
        (["ab", "bc"], "abc", ["ab", "c"]),
        (["aa"], "aaa", ["aa", "a"]),  # the leftmost of equal ranks
        (["ab", "cd", "bc"], "abcd", ["ab", "cd"]),
    ],
)
def test_tokenizer_4_rank_then_place(merges, text, tokens):
    names = [*oracle.byte_alphabet(), *merges]
    vocab, pairs = {name: i for i, name in enumerate(names)}, [(left, right) for left, right in merges]
    want = [vocab[token] for token in tokens]
    assert oracle.encode(text, vocab, pairs) == want == library(vocab, pairs).encode(text).ids
    assert definition("tokenizer", "float").encode(text, vocab, pairs) == want


@given(words=st.text(st.sampled_from("etaoinshrldcu  的一是不了"), min_size=20, max_size=60))
def test_tokenizer_4_words_in_which_merges_compete(words):
    product, vocab, merges = loaded(SHIPPED)
    assert product.encode(words) == oracle.encode(words, vocab, merges)


@given(corpus=corpora, text=texts)
def test_tokenizer_4_merges_of_any_training_agree(corpus, text):
    vocab, merges = oracle.train(corpus, 300, [])
    both = [text, *corpus]
    want = [encoding.ids for encoding in library(vocab, merges).encode_batch(both)]
    assert [oracle.encode(entry, vocab, merges) for entry in both] == want


def test_tokenizer_2_classes_of_all_assigned_characters_are_the_librarys():
    members = {"L": [], "N": [], "O": [], "S": []}
    for character in map(chr, range(0x110000)):
        if unicodedata.category(character) not in ("Cs", "Cn"):
            members[oracle.kind(character)].append(character)
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for of_class in members.values():
        assert len(of_class) >= 25
        assert len(splitter.pre_tokenize_str("".join(of_class))) == 1  # one run: no member is of another class
    ends = [of_class[-1] for of_class in members.values()]
    assert len(splitter.pre_tokenize_str("".join(ends))) == 4  # and the four classes are four


@given(text=any_text)
def test_tokenizer_2_pieces_are_the_text(text):
    assert "".join(oracle.pieces(text)) == text
    assert all(oracle.pieces(text))


@given(text=texts)
def test_tokenizer_2_definition_and_library_split_alike(text):
    pieces = list(oracle.pieces(text))
    assert definition("tokenizer", "float").split(text) == pieces
    offsets = [span for _, span in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)]
    assert [text[begin:end] for begin, end in offsets] == pieces


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("a  b", ["a", " ", " b"]),
        ("a \n", ["a", " \n"]),
        ("a \n b", ["a", " \n", " b"]),
        ("a \nb", ["a", " ", "\n", "b"]),
        ("I'LL 's it's", ["I", "'", "LL", " '", "s", " it", "'s"]),
        (" 12½x", [" 12½", "x"]),
        ("!\x1c\u200b!\x85a", ["!\x1c\u200b!", "\x85", "a"]),
    ],
)
def test_tokenizer_2_named_cases(text, pieces):
    assert list(oracle.pieces(text)) == pieces
    assert definition("tokenizer", "float").split(text) == pieces


def test_tokenizer_3_alphabet_is_the_librarys():
    names = oracle.byte_alphabet()
    assert sorted(names) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert definition("tokenizer", "float").byte_names() == names
    product, vocab, _ = loaded(SHIPPED)
    for byte, name in enumerate(names):
        assert product.token_bytes(vocab[name]) == bytes([byte])


@given(
    corpus=corpora,
    vocab_size=st.sampled_from([0, 100, 257, 270, 300]),
    special_tokens=st.sampled_from([[], ["<|x|>", "y"], ["a", "ab", "Ġ", "a"], list(CONTROL)]),
)
def test_tokenizer_9_training_agrees_with_the_library(corpus, vocab_size, special_tokens):
    assert oracle.train(corpus, vocab_size, special_tokens) == library_train(corpus, vocab_size, special_tokens)


@pytest.mark.parametrize("vocab_size", [290, 1000])  # the second is more than the text yields
def test_tokenizer_9_product_trains_as_the_oracle(vocab_size):
    corpus = ["low lower lowest, newer newest; wider widest.\n" * 3, "数据 数据集 数列"]
    vocab, merges = oracle.train(corpus, vocab_size, CONTROL)
    model = json.loads(train(corpus, vocab_size).source)["model"]
    assert model["vocab"] == vocab
    assert [tuple(merge) for merge in model["merges"]] == merges


def test_tokenizer_9_ties_go_to_the_smaller_ids():
    _, merges = oracle.train(["ba ab", "ab ba"], 259, [])
    assert merges[:2] == [("a", "b"), ("b", "a")]
    _, merges = oracle.train(["ac ab"], 257, [])
    assert merges == [("a", "b")]


@pytest.mark.parametrize("path", FILES)
@given(text=any_text)
def test_tokenizer_1_round_trip(path, text):
    product, vocab, merges = loaded(path)
    assert product.decode(product.encode(text)) == text
    assert oracle.decode(oracle.encode(text, vocab, merges), vocab) == text


@pytest.mark.parametrize("path", FILES)
def test_tokenizer_5_ids_are_a_bijection_with_fixed_controls(path):
    product, vocab, merges = loaded(path)
    assert sorted(vocab.values()) == list(range(6400)) == list(range(product.vocab_size))
    assert (product.pad_id, product.start_id, product.end_id) == tuple(vocab[name] for name in CONTROL) == (0, 1, 2)
    ordinary = sorted(set(range(6400)) - set(product.control_ids.values()))
    assert len({product.token_bytes(i) for i in ordinary}) == len(ordinary) == 256 + len(merges)


@pytest.mark.parametrize("path", FILES)
@given(ids=lists_of_ids)
def test_tokenizer_6_decoding_any_ids_agrees(path, ids):
    product, vocab, merges = loaded(path)
    special = [name for name, i in product.control_ids.items() if product.token_bytes(i) == b""]
    assert product.decode(ids) == oracle.decode(ids, vocab, special_tokens=special)
    assert oracle.decode(ids, vocab) == library(vocab, merges).decode(ids, skip_special_tokens=False)


def test_tokenizer_6_special_tokens_add_nothing():
    product, *_ = loaded(SHIPPED)
    word = product.encode("maß")
    assert product.decode([1, *word[:-1], 0, word[-1], 2]) == "maß"  # not even inside a character
    assert [product.token_bytes(i) for i in range(3)] == [b""] * 3


@pytest.mark.parametrize("path", FILES)
@given(parts=st.lists(st.sampled_from([*CONTROL, "<|im_end|>\n<|im_start|>assistant\n", "<think>"]) | any_text))
def test_tokenizer_7_no_text_gives_a_control_id(path, parts):
    product, *_ = loaded(path)
    ids = product.encode("".join(parts))
    assert not set(ids) & {0, 1, 2, *product.control_ids.values()}
    assert product.decode(ids) == "".join(parts)


@given(a=any_text, b=any_text)
def test_tokenizer_8_decoding_concatenates(a, b):
    product, *_ = loaded(SHIPPED)
    assert product.decode(product.encode(a) + product.encode(b)) == a + b


def test_tokenizer_8_encoding_does_not_concatenate():
    product, *_ = loaded(SHIPPED)
    assert product.encode("the") != product.encode("t") + product.encode("he")


@given(text=any_text)
def test_tokenizer_10_length(text):
    product, *_ = loaded(SHIPPED)
    size, ids = len(text.encode()), product.encode(text)
    assert len(ids) <= size
    assert (len(ids) == 0) == (size == 0)
    assert sum(len(product.token_bytes(i)) for i in ids) == size


@given(batch=st.lists(any_text, max_size=7))
def test_tokenizer_11_batch_is_the_map(batch):
    product, *_ = loaded(SHIPPED)
    assert product.encode_batch(batch) == [product.encode(text) for text in batch]


def test_tokenizer_11_another_process_gives_the_same_ids():
    product, *_ = loaded(SHIPPED)
    text = "".join(DECIDING)
    code = f"from minimind_ref.data.tokenizer import Tokenizer; print(Tokenizer.load().encode({text!r}))"
    env = {**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert json.loads(out.stdout) == product.encode(text)


@given(ids=lists_of_ids)
def test_tokenizer_12_stream_joins_to_the_whole(ids):
    product, *_ = loaded(SHIPPED)
    assert "".join(product.decode_stream(ids)) == product.decode(ids)
    assert b"".join(map(product.token_bytes, ids)).decode("utf-8", errors="replace") == product.decode(ids)


@given(text=any_text)
def test_tokenizer_12_stream_is_prompt(text):
    product, *_ = loaded(SHIPPED)
    read, written = b"", ""

    def source():
        nonlocal read
        for i in product.encode(text):
            yield i  # asked for only when the text before it is out
            read += product.token_bytes(i)
            so_far.append(read.decode("utf-8", errors="ignore"))

    so_far: list[str] = []
    for increment in product.decode_stream(source()):
        assert all(len(whole) <= len(written) for whole in so_far)
        written += increment
    assert written == text


def test_tokenizer_13_refusals():
    product, vocab, merges = loaded(SHIPPED)
    for i in (-1, 6400):
        with pytest.raises(ValueError, match=rf"{i} .*6400"):
            product.decode([5, i])
        with pytest.raises(ValueError, match=rf"{i} .*6400"):
            product.token_bytes(i)
        with pytest.raises(ValueError, match=rf"ids holds {i} .*6400"):
            oracle.decode([5, i], vocab)
    for encode in (product.encode, lambda text: oracle.encode(text, vocab, merges)):
        for first_and_last in ("\ud800", "\udfff"):
            with pytest.raises(ValueError, match=rf"text .*U\+{ord(first_and_last):X} at .* 2"):
                encode(f"ab{first_and_last}")


@pytest.mark.parametrize("path", FILES)
@given(text=texts)
def test_tokenizer_14_files_ids_are_kept_for_text_without_control_names(path, text):
    product, *_ = loaded(path)
    for name in product.control_ids:
        text = text.replace(name, "")
    assume(not any(name in text for name in product.control_ids))
    assert product.encode(text) == tokenizers.Tokenizer.from_file(str(path)).encode(text).ids


@pytest.mark.parametrize("path", FILES)
def test_tokenizer_14_control_names_are_where_it_differs(path):
    product, *_ = loaded(path)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    for name, i in product.control_ids.items():
        assert theirs.encode(name).ids == [i] != product.encode(name)
