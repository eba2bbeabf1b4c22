"""JSON Lines as a stream: what is read, what is refused and with which words."""

import gzip
import json
import os
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimind_ref.data.jsonl import EMPTY, DataError, read_jsonl, read_records, text_of

GOOD = b'{"text": "good"}\n'
BAD = {
    "not JSON": b'{"text": "cut',
    "not a JSON object": b'["text"]',
    'no "text"': b'{"Text": "x"}',
    '"text" is not a string': b'{"text": 7}',
    "not UTF-8": b'{"text": "caf\xe9"}',
    '"text" has an unpaired surrogate': b'{"text": "ab\\ud83dc"}',
}


def write(tmp_path, content):
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    return path


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]))), escaped=st.booleans(), end=st.booleans())
def test_every_text_comes_back_in_order(tmp_path_factory, texts, escaped, end):
    lines = "\n".join(json.dumps({"n": 1, "text": text}, ensure_ascii=escaped) for text in [*texts, "last"])
    path = write(tmp_path_factory.mktemp("jsonl"), lines.encode() + b"\n" * end)
    skipped = Counter()
    assert list(read_jsonl(path, skipped=skipped)) == [text for text in [*texts, "last"] if text]
    assert skipped[EMPTY] == texts.count("")


def test_a_byte_order_mark_blank_lines_and_crlf_do_not_matter(tmp_path):
    path = write(tmp_path, b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n\t\n{"text": "b"}\r\n\n')
    assert list(read_jsonl(path)) == ["a", "b"]


def test_a_byte_order_mark_is_tolerated_at_the_start_only(tmp_path):
    with pytest.raises(DataError, match=r"file\.jsonl:2: not JSON"):
        list(read_jsonl(write(tmp_path, GOOD + b"\xef\xbb\xbf" + GOOD)))


def test_only_a_newline_ends_a_line(tmp_path):
    text = "one\u2028two\u0085three\x0bfour"
    path = write(tmp_path, json.dumps({"text": text}, ensure_ascii=False).encode())
    assert list(read_jsonl(path)) == [text]


def test_a_surrogate_pair_is_one_character(tmp_path):
    assert list(read_jsonl(write(tmp_path, b'{"text": "\\ud83d\\ude00"}'))) == ["\U0001f600"]


def test_another_key_can_hold_the_text(tmp_path):
    path = write(tmp_path, b'{"text": 1, "body": "here"}\n')
    assert list(read_jsonl(path, key="body")) == ["here"]


def test_the_bytes_that_are_told_add_up_to_the_file(tmp_path):
    content = b"\n" + GOOD * 3 + b'{"text": ""}\n{"text": "no newline"}'
    told = []
    list(read_jsonl(write(tmp_path, content), on_bytes=told.append))
    assert sum(told) == len(content)
    assert len(told) == 6


def test_a_record_is_yielded_before_the_next_line_is_looked_at(tmp_path):
    records = read_jsonl(write(tmp_path, GOOD + b"nonsense\n"))
    assert next(records) == "good"
    with pytest.raises(DataError):
        next(records)


@pytest.mark.parametrize("reason", BAD)
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_bad_line_is_named_with_file_and_number(tmp_path, reason, end):
    path = write(tmp_path, GOOD + b"\n" + BAD[reason] + end)
    with pytest.raises(DataError, match=f"^{re.escape(f'{path}:3: {reason}')}") as caught:
        list(read_jsonl(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_line_can_be_skipped_and_is_counted(tmp_path, reason):
    path = write(tmp_path, (BAD[reason] + b"\n") * 2 + GOOD + BAD[reason])
    skipped = Counter()
    assert list(read_jsonl(path, on_bad_line="skip", skipped=skipped)) == ["good"]
    assert skipped == {reason: 3}


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (BAD["not UTF-8"], "byte 0xe9 at 13"),
        ('{"text": "x"}'.encode("utf-16"), "UTF-16, it seems"),
        ('{"text": "x"}'.encode("utf-16-le"), "not UTF-8: UTF-16 or UTF-32, it seems"),
        ('{"text": "x"}'.encode("utf-16-be"), "not UTF-8: UTF-16 or UTF-32, it seems"),
        ('{"text": "x"}'.encode("utf-32-be"), "not UTF-8: UTF-16 or UTF-32, it seems"),
        (b'{"\0": "x"}', "not JSON: Invalid control character"),
        (gzip.compress(b'{"text": "x"}', mtime=0), "not UTF-8: compressed, it seems"),
        (BAD['"text" is not a string'], ": int"),
        (BAD["not a JSON object"], ": list"),
        (BAD['"text" has an unpaired surrogate'], r"\\ud83d at character 2"),
        (b"[" * 100_000, "not JSON: "),
        (b'{"text": ' + b"9" * 5000 + b"}", "not JSON: "),
    ],
)
def test_a_message_says_what_exactly_is_wrong(tmp_path, line, detail):
    with pytest.raises(DataError, match=detail) as caught:
        list(read_jsonl(write(tmp_path, line)))
    assert "\n" not in str(caught.value)


def test_an_overlong_line_is_refused_and_never_held_whole(tmp_path):
    path = write(tmp_path, b'{"text": "' + b"x" * 1000 + b'"}\n' + GOOD)
    with pytest.raises(DataError, match=r":1: line too long: more than 16 bytes"):
        list(read_records(path, text_of, max_line_bytes=16))
    skipped = Counter()
    kept = list(read_records(path, text_of, max_line_bytes=16, on_bad_line="skip", skipped=skipped))
    assert kept == ["good"]  # 16 bytes and a newline: just short enough, and found again behind the long line
    assert skipped == {"line too long": 1}
    assert list(read_records(write(tmp_path, GOOD[:-1]), text_of, max_line_bytes=16)) == ["good"]  # 16 and no newline
    with pytest.raises(DataError, match=":1: line too long"):
        list(read_records(write(tmp_path, b" " + GOOD), text_of, max_line_bytes=16))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", r"no usable record \(only blank lines\)"),
        (b'{"text": ""}\n' * 3, r"no usable record \(3 times empty text\)"),
    ],
)
def test_a_file_without_a_usable_record_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=f"file.jsonl: {message}$"):
        list(read_jsonl(write(tmp_path, content)))


def test_a_file_of_bad_lines_is_refused_in_skip_mode_too(tmp_path):
    with pytest.raises(DataError, match=r"no usable record \(2 times not JSON, 1 times no \"text\"\)"):
        list(read_jsonl(write(tmp_path, b"x\ny\n{}\n"), on_bad_line="skip"))


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nothing_here: no such file$"):
        list(read_jsonl(tmp_path / "nothing_here"))
    with pytest.raises(DataError, match=r"inside: cannot be read \(Not a directory\)$"):
        list(read_jsonl(write(tmp_path, GOOD) / "inside"))
    with pytest.raises(DataError, match="is a directory"):
        list(read_jsonl(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: is not a regular file"):
        list(read_jsonl(tmp_path / "pipe"))


def test_an_unknown_way_with_bad_lines_is_refused(tmp_path):
    with pytest.raises(ValueError, match="on_bad_line='ignore' must be one of error, skip"):
        list(read_jsonl(write(tmp_path, GOOD), on_bad_line="ignore"))
