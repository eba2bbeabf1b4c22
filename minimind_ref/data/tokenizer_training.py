"""Train a tokenizer.json: byte-level BPE in MiniMind's settings, from text files, reproducibly.

    python -m minimind_ref.data.tokenizer train --out FILE [--vocab_size 6400] TEXT [TEXT ...]
    python -m minimind_ref.data.tokenizer recipe --out FILE --packages DIR
    python -m minimind_ref.data.tokenizer measure TEXT [TEXT ...] --against FILE [FILE ...]

The second makes the shipped tokenizer.json again (tokenizer_recipe.py), the third compares it with others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from minimind_ref.data.tokenizer import END, PAD, START, Tokenizer
from minimind_ref.data.tokenizer_recipe import SOURCES, recipe_texts
from minimind_ref.flags import Parser

SMALLEST = 256 + 3  # every byte and the three special tokens


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn vocab_size − 259 merges from texts; ids 0, 1, 2 are the special tokens, then the bytes, then the merges.

    GPT-2's pre-tokenisation, no normaliser. The most frequent pair is merged first, ties by the lower ids, so the
    same texts give the same tokenizer, byte for byte. Where no pair is left, the tokenizer is smaller (TOKENIZER-9).
    """
    if vocab_size < SMALLEST:
        raise ValueError(f"vocab_size is {vocab_size}, but the bytes and the special tokens alone need {SMALLEST}")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Tokenizer.from_text(tokenizer.to_str(pretty=False))


def read_texts(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the text of UTF-8 files, whole: runs of spaces and line ends are part of what is learnt."""
    for path in paths:
        try:
            yield path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from None
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None


def bytes_per_token(tokenizer: Tokenizer, text: str) -> float:
    """Return how many bytes of UTF-8 a token stands for: more is fewer tokens."""
    return len(text.encode()) / max(1, len(tokenizer.encode(text)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; bad input is one line on stderr and exit code 2."""
    try:
        options = _parser().parse_args(arguments)
        if options.command == "measure":
            tokenizers_ = [Tokenizer.load(path) for path in (None, *options.against)]
            for path, text in zip(options.text, read_texts(options.text), strict=True):
                print(*[f"{bytes_per_token(tokenizer, text):.3f}" for tokenizer in tokenizers_], path, sep="  ")
            return 0
        texts = read_texts(options.text) if options.command == "train" else recipe_texts(options.packages)
        tokenizer = train(texts, options.vocab_size)
        if tokenizer.vocab_size != options.vocab_size:
            raise ValueError(
                f"the text yields only {tokenizer.vocab_size} of vocab_size = {options.vocab_size} entries"
            )
        tokenizer.save(options.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {tokenizer.vocab_size} entries, sha256 {tokenizer.fingerprint}")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m minimind_ref.data.tokenizer", description="Train a tokenizer.json.")
    commands = parser.add_subparsers(dest="command", required=True)
    own = commands.add_parser("train", help="train on text files")
    own.add_argument("--vocab_size", type=int, default=6400, help="entries in all (default: 6400)")
    recipe = commands.add_parser("recipe", help="train the shipped one again, from the packages of its recipe")
    recipe.add_argument("--packages", type=Path, required=True, metavar="DIR", help="where they are, or are fetched to")
    recipe.set_defaults(vocab_size=SOURCES["vocab_size"])
    for command in (own, recipe):
        command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the tokenizer.json to write")
    measure = commands.add_parser("measure", help="print bytes a token on text files: the shipped one's, then others'")
    measure.add_argument(
        "--against", type=Path, nargs="*", default=[], metavar="FILE", help="other tokenizer.json files"
    )
    for command in (own, measure):
        command.add_argument("text", type=Path, nargs="+", help="UTF-8 text files")
    return parser
