"""How the faces of the tokenizer run a case: a tokenizer there is data, and results are text and lists.

A function `oracle_OP`, `torch_OP` or `definition_OP` runs that face of an operation; a face without one is called as it
is (golden/faces.py).
"""

import hashlib
import json
from types import SimpleNamespace
from typing import Any

from minimind_ref.golden.definitions import ROOT
from minimind_ref.golden.trees import GoldenError

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PLAIN = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
Node = dict[str, Any]


def read(node: Node) -> SimpleNamespace:
    """Read a case's tokenizer: special tokens and merges, whose vocabulary follows (TOKENIZER-9), or a file's."""
    from minimind_ref.oracle.tokenizer import byte_alphabet, load

    if "file" not in node:
        special, merges = node["special_tokens"], [(left, right) for left, right in node["merges"]]
        tokens = [*special, *sorted(byte_alphabet()), *(left + right for left, right in merges)]
        vocab = {token: i for i, token in enumerate(tokens)}
        return SimpleNamespace(vocab=vocab, merges=merges, special=special, source=written(vocab, merges, special))
    data = (ROOT / node["file"]).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != node["sha256"]:
        raise GoldenError(f"{node['file']} has the sha256 {found} but {node['sha256']} is expected")
    vocab, merges = load(ROOT / node["file"])
    special = [token["content"] for token in json.loads(data)["added_tokens"]]
    return SimpleNamespace(vocab=vocab, merges=merges, special=special, source=data.decode())


def written(vocab: dict[str, int], merges: list[tuple[str, str]], special: list[str]) -> str:
    """Write the text of a tokenizer.json."""
    model = {"type": "BPE", "vocab": vocab, "merges": merges}
    added = [PLAIN | {"id": vocab[name], "content": name} for name in special]
    steps = {"normalizer": None, "pre_tokenizer": BYTE_LEVEL, "decoder": BYTE_LEVEL}
    return json.dumps({"version": "1.0", "added_tokens": added, "model": model, **steps})


def ordinary(made: SimpleNamespace) -> dict[str, int]:
    """Leave the special tokens out of a vocabulary, as the specification's block has it."""
    return {token: i for token, i in made.vocab.items() if token not in made.special}


def product(node: Node) -> Any:
    """Build the product's tokenizer from a case's."""
    from minimind_ref.data.tokenizer import Tokenizer

    return Tokenizer.from_text(read(node).source)


def oracle_split(text: str) -> list[str]:
    """Cut text into the pieces that no merge crosses (TOKENIZER-2)."""
    from minimind_ref.oracle.tokenizer import pieces

    return list(pieces(text))


def torch_split(text: str) -> list[str]:
    """Cut text by the library's pre-tokeniser, which the product has."""
    from tokenizers.pre_tokenizers import ByteLevel

    return [text[start:end] for _, (start, end) in ByteLevel(add_prefix_space=False).pre_tokenize_str(text)]


def oracle_encode(text: str, tokenizer: Node) -> list[int]:
    """Encode by the oracle."""
    from minimind_ref.oracle.tokenizer import encode

    made = read(tokenizer)
    return encode(text, made.vocab, made.merges)


def torch_encode(text: str, tokenizer: Node) -> list[int]:
    """Encode by the product."""
    return product(tokenizer).encode(text)


def definition_encode(spec: Any, text: str, tokenizer: Node) -> list[int]:
    """Encode by the definition."""
    made = read(tokenizer)
    return spec.encode(text, ordinary(made), made.merges)


def oracle_decode(ids: list[int], tokenizer: Node) -> str:
    """Decode by the oracle."""
    from minimind_ref.oracle.tokenizer import decode

    made = read(tokenizer)
    return decode(ids, made.vocab, special_tokens=made.special)


def torch_decode(ids: list[int], tokenizer: Node) -> str:
    """Decode by the product."""
    return product(tokenizer).decode(ids)


def definition_decode(spec: Any, ids: list[int], tokenizer: Node) -> str:
    """Decode by the definition."""
    return spec.decode(ids, ordinary(read(tokenizer)))


def oracle_train(texts: list[str], vocab_size: int, special_tokens: list[str]) -> tuple[list[Any], list[str]]:
    """Learn merges by the oracle; give them, and the vocabulary in the order of its ids."""
    from minimind_ref.oracle.tokenizer import train

    vocab, merges = train(texts, vocab_size, special_tokens)
    return [list(pair) for pair in merges], sorted(vocab, key=vocab.__getitem__)


def torch_train(texts: list[str], vocab_size: int, special_tokens: list[str]) -> tuple[list[Any], list[str]]:
    """Learn merges by the product, whose special tokens are given."""
    from minimind_ref.data.tokenizer_training import train

    model = json.loads(train(texts, vocab_size).source)["model"]
    vocab = model["vocab"]
    if sorted(vocab, key=vocab.__getitem__)[: len(special_tokens)] != special_tokens:
        raise GoldenError(f"the product's special tokens are not {special_tokens}")
    return [list(pair) for pair in model["merges"]], sorted(vocab, key=vocab.__getitem__)
