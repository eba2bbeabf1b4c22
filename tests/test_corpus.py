"""The built-in corpus: the same real text every time, nothing twice, nothing imported."""

import sysconfig
from itertools import islice

import pytest
from byte_tokenizer import ByteTokenizer

from minimind_ref.data import corpus
from minimind_ref.data.jsonl import DataError
from minimind_ref.data.tokenise import tokenise_corpus

MODULE = '''\
"""The module's summary.

    An indented line.
And one that is not.
"""
import os

raise SystemExit("imported!")

# A comment before the class.
class Box:
    """A box."""

    size = 3  # a comment beside

    def open(self):
        """
            Open the box.

        Nothing falls out.
        """

    def close(self)\\
:       "Close the box."
limit = 7

async def later(x):
    r"""Wait \\d."""
    return "not a docstring"

last = 1
'''
PROSE = [
    "The module's summary.\n\n    An indented line.\nAnd one that is not.",
    "A box.",
    "    Open the box.\n\nNothing falls out.",
    "Close the box.",
    "Wait \\d.",
]
PIECES = [
    """\
import os

raise SystemExit("imported!")

# A comment before the class.
class Box:

    size = 3  # a comment beside

    def open(self):
        ...

    def close(self)\\
:       "Close the box.\"""",
    """\
limit = 7

async def later(x):
    return "not a docstring\"""",
    "last = 1",
]


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library of the test's own: call it with path=content."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))

    def write(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def test_documents_are_docstrings_and_the_sources_without_them(library):
    library({"box.py": MODULE})
    assert list(corpus.documents()) == PROSE + PIECES
    assert list(corpus.documents(sources=False)) == PROSE


def test_no_text_comes_twice(library):
    library({"a.py": MODULE, "b/c.py": MODULE, "d.py": '"""A box."""\nx = 1', "e.py": "y = 1"})
    assert list(corpus.documents()) == [*PROSE, *PIECES, "x = 1", "y = 1"]


def test_files_come_in_the_order_of_their_paths_and_without_what_is_no_library(library):
    wanted = ["a/z.py", "a_b.py", "b.py", "json/__init__.py", "json/tool.py"]
    unwanted = ["site-packages/x.py", "test/x.py", "a/tests/x.py", "encodings/x.py", "_sysconfigdata_x.py"]
    library({name: f'"""{name}"""' for name in [*reversed(wanted), *unwanted, "config-3.11/x.py", "a.txt"]})
    assert list(corpus.documents()) == wanted


def test_a_file_that_does_not_parse_is_passed_over(library):
    library(
        {
            "a.py": "def broken(:",
            "b.py": b'"""caf\xe9"""',
            "c.py": b"# coding: nonsense\n'''doc'''",
            "d.py": '"""null \0"""',
            "e.py": '"""half \\ud800 a pair"""',
            "f.py": b'# coding: latin-1\n"""caf\xe9"""\n',
        }
    )
    assert list(corpus.documents(sources=False)) == ["café"]


def test_an_invalid_escape_is_no_warning(library):
    library({"a.py": '"""A \\d."""'})
    assert list(corpus.documents()) == ["A \\d."]


def test_the_language_reference_is_prose(library):
    topic = 'The "assert" statement\n' + "*" * 200
    library({"pydoc_data/topics.py": f"topics = {{'assert': {topic!r}, 'short': 'x'}}"})
    assert list(corpus.documents(sources=False)) == list(corpus.documents()) == [topic]


@pytest.mark.parametrize("change", [{"a.py": "x = 2"}, {"b.py": ""}, {"a.py": "", "ax = 1.py": ""}])
def test_the_fingerprint_changes_with_any_file(library, change):
    library({"a.py": "x = 1"})
    before = corpus.fingerprint()
    assert before == corpus.fingerprint()
    library(change)
    assert before != corpus.fingerprint()


def test_the_fingerprint_tells_one_file_from_two(library, tmp_path):
    library({"a.py": "x = 1", "b.py": "y"})
    before = corpus.fingerprint()
    (tmp_path / "b.py").unlink()
    library({"a.py": "x = 1b.py \ny"})
    assert before != corpus.fingerprint()


@pytest.mark.parametrize(
    ("options", "texts", "wraps"),
    [({}, PROSE + PIECES, True), ({"sources": False, "wrap": False, "progress": False}, PROSE, False)],
)
def test_its_token_file_holds_the_documents(library, tmp_path, capsys, options, texts, wraps):
    library({"box.py": MODULE})
    tokens = tokenise_corpus(ByteTokenizer(), cache_dir=tmp_path / "cache", **options)
    ids = [[byte + 3 for byte in text.encode()] for text in texts]
    found = [tokens.document(i).tolist() for i in range(tokens.num_documents)]
    assert found == [[1, *text, 2] if wraps else text for text in ids]
    assert ("tokenise the built-in corpus: " in capsys.readouterr().err) == options.get("progress", True)
    again = tokenise_corpus(ByteTokenizer(), cache_dir=tmp_path / "cache")
    assert (again.stem == tokens.stem) == (options == {})


def test_an_installation_without_sources_is_told_so(library):
    library({"a.pyc": b""})
    with pytest.raises(DataError, match="has no sources of its standard library"):
        list(corpus.documents())


def test_this_python_has_enough_text_and_the_same_every_time():
    """8 MB are more than 1.75 million tokens up to 4.5 bytes a token (the shipped tokenizer: about 3)."""
    documents = list(corpus.documents())
    assert len(set(documents)) == len(documents) > 9_000
    assert all(documents)
    assert sum(len(text.encode()) for text in documents) > 8_000_000
    assert list(islice(corpus.documents(), 1000)) == documents[:1000]
