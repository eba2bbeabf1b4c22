"""Wrong byte-level BPEs: splitting, encoding, decoding and training."""

import unicodedata
from collections import Counter
from itertools import pairwise

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.tokenizer import byte_alphabet, decode, encode, pieces, train


def joined(symbols, pair):
    """Join every occurrence of a pair, from the left."""
    made = []
    for symbol in symbols:
        if made and (made[-1], symbol) == pair:
            made[-1] += symbol
        else:
            made.append(symbol)
    return made


def merged(text, merges, choose):
    """Join pairs of the bytes' names as long as `choose` finds one among (rank, place)."""
    names, rank = byte_alphabet(), {pair: number for number, pair in enumerate(merges)}
    symbols = [names[byte] for byte in text.encode("utf-8")]
    while found := [(rank[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in rank]:
        _, at = choose(found)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return symbols


@mutant("bpe.encode", "TOKENIZER-M01", owner="TOKENIZER-1", summary="a begin token is put before every text",
        source="OpenRLHF #393, sglang PR #888 (TOK-1)")  # fmt: skip
def begin_token(text, vocab, merges):
    return [1, *encode(text, vocab, merges)]


@mutant("bpe.encode", "TOKENIZER-M02", owner="TOKENIZER-4", source="WordPiece's rule in BPE's place",
        summary="the longest known beginning is taken, whatever the ranks")  # fmt: skip
def longest_match(text, vocab, merges):
    names, ids = byte_alphabet(), []
    for piece in pieces(text):
        rest = "".join(names[byte] for byte in piece.encode("utf-8"))
        while rest:
            size = next(n for n in range(len(rest), 0, -1) if rest[:n] in vocab)
            ids.append(vocab[rest[:size]])
            rest = rest[size:]
    return ids


@mutant("bpe.encode", "TOKENIZER-M03", owner="TOKENIZER-4", summary="of equal ranks the rightmost pair is joined",
        source="a search from the end")  # fmt: skip
def rightmost(text, vocab, merges):
    ids = []
    for piece in pieces(text):
        ids += [vocab[s] for s in merged(piece, merges, lambda found: min(found, key=lambda f: (f[0], -f[1])))]
    return ids


@mutant("bpe.encode", "TOKENIZER-M04", owner="TOKENIZER-2", summary="text is not split before it is merged",
        source="a byte-level BPE without its pre-tokeniser")  # fmt: skip
def not_split(text, vocab, merges):
    return [vocab[symbol] for symbol in merged(text, merges, min)]


@mutant("bpe.encode", "TOKENIZER-M05", owner="TOKENIZER-2", summary="a space is put before the text",
        source="add_prefix_space, which ByteLevel has as its default")  # fmt: skip
def prefix_space(text, vocab, merges):
    return encode(text if text.startswith(" ") or not text else f" {text}", vocab, merges)


@mutant("bpe.encode", "TOKENIZER-M06", owner="TOKENIZER-1", summary="text is composed (NFC) first",
        source="a normaliser taken over from another tokenizer")  # fmt: skip
def composed_first(text, vocab, merges):
    return encode(unicodedata.normalize("NFC", text), vocab, merges)


@mutant("bpe.encode", "TOKENIZER-M07", owner="TOKENIZER-7", summary="control names in a text become control ids",
        source="MiniMind d65ef2c (TOK-8)")  # fmt: skip
def control_names_read(text, vocab, merges):
    for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        before, found, after = text.partition(name)
        if found:
            middle = [vocab[name]]
            return control_names_read(before, vocab, merges) + middle + control_names_read(after, vocab, merges)
    return encode(text, vocab, merges)


@mutant("bpe.decode", "TOKENIZER-M08", owner="TOKENIZER-6", summary="each id is decoded by itself",
        source="a stream that prints token by token")  # fmt: skip
def decoded_one_by_one(ids, vocab, *, special_tokens=()):
    return "".join(decode([i], vocab, special_tokens=special_tokens) for i in ids)


@mutant("bpe.decode", "TOKENIZER-M09", owner="TOKENIZER-6", summary="control tokens are written out",
        source="skip_special_tokens=False taken for the default")  # fmt: skip
def control_tokens_shown(ids, vocab, *, special_tokens=()):
    name = {i: token for token, i in vocab.items() if token in special_tokens}
    return "".join(name.get(i) or decode([i], vocab) for i in ids)


@mutant("bpe.decode", "TOKENIZER-M10", owner="TOKENIZER-6", summary="broken bytes are dropped, not shown as U+FFFD",
        source="errors=\"ignore\"")  # fmt: skip
def broken_bytes_dropped(ids, vocab, *, special_tokens=()):
    byte_of = {name: byte for byte, name in enumerate(byte_alphabet())}
    token_of = {i: "" if token in special_tokens else token for token, i in vocab.items()}
    return bytes(byte_of[name] for i in ids for name in token_of[i]).decode("utf-8", errors="ignore")


@mutant("bpe.split", "TOKENIZER-M11", owner="TOKENIZER-2", summary="contractions are split in upper case too",
        source="GPT-4's pattern in GPT-2's place")  # fmt: skip
def contractions_in_any_case(text):
    lower = list(pieces(text.lower() if len(text.lower()) == len(text) else text))
    ends = [sum(map(len, lower[: n + 1])) for n in range(len(lower))]
    return [text[end - len(piece) : end] for piece, end in zip(lower, ends, strict=True)]


@mutant("bpe.split", "TOKENIZER-M12", owner="TOKENIZER-2", source="Python's isspace in the pattern's place",
        summary="U+001C to U+001F are white space, as str.isspace says")  # fmt: skip
def python_spaces(text):
    stood = list(pieces(text.translate({code: " " for code in range(0x1C, 0x20)})))
    ends = [sum(map(len, stood[: n + 1])) for n in range(len(stood))]
    return [text[end - len(piece) : end] for piece, end in zip(stood, ends, strict=True)]


@mutant("bpe.train", "TOKENIZER-M13", owner="TOKENIZER-9", summary="of equally frequent pairs the first seen is merged",
        source="Counter.most_common")  # fmt: skip
def first_seen(texts, vocab_size, special_tokens):
    names = byte_alphabet()
    vocab = {token: i for i, token in enumerate([*special_tokens, *sorted(names)])}
    words = [[names[byte] for byte in piece.encode("utf-8")] for text in texts for piece in pieces(text)]
    merges = []
    while len(vocab) < vocab_size and (counts := Counter(pair for word in words for pair in pairwise(word))):
        best = counts.most_common(1)[0][0]
        merges.append(best)
        vocab.setdefault("".join(best), len(vocab))
        words = [joined(word, best) for word in words]
    return vocab, merges


@mutant("bpe.train", "TOKENIZER-M14", owner="TOKENIZER-9", summary="each distinct piece counts once",
        source="a set of words for a table of counts")  # fmt: skip
def pieces_counted_once(texts, vocab_size, special_tokens):
    once = dict.fromkeys(piece for text in texts for piece in pieces(text))
    return train(list(once), vocab_size, special_tokens)


@mutant("bpe.train", "TOKENIZER-M15", owner="TOKENIZER-9", summary="the bytes' ids follow the bytes, not their names",
        source="GPT-2's table in the tokenizers library's place")  # fmt: skip
def bytes_in_their_own_order(texts, vocab_size, special_tokens):
    vocab, merges = train(texts, vocab_size, special_tokens)
    order = {name: len(special_tokens) + byte for byte, name in enumerate(byte_alphabet())}
    return {token: order.get(token, i) for token, i in vocab.items()}, merges


@mutant("bpe.split", "TOKENIZER-M16", owner="TOKENIZER-2", summary="digits are cut into groups of three",
        source="GPT-4's pattern in GPT-2's place")  # fmt: skip
def digits_by_three(text):
    cut = []
    for piece in pieces(text):
        space = piece[: piece.strip().isnumeric() and piece.startswith(" ")]
        digits = piece[len(space) :]
        groups = [digits[i : i + 3] for i in range(0, len(digits), 3)] if digits.isnumeric() else [digits]
        cut += [space + groups[0], *groups[1:]]
    return cut


@mutant("bpe.decode", "TOKENIZER-M17", owner="TOKENIZER-6", summary="a control token ends a character",
        source="a text cut at its control tokens, each part decoded by itself")  # fmt: skip
def parts_between_control_tokens(ids, vocab, *, special_tokens=()):
    parts = [[]]
    for i in ids:
        if i in (vocab.get(name) for name in special_tokens):
            parts.append([])
        else:
            parts[-1].append(i)
    return "".join(decode(part, vocab) for part in parts)


@mutant("bpe.train", "TOKENIZER-M18", owner="TOKENIZER-9", summary="texts are not split before pairs are counted",
        source="a byte-level BPE without its pre-tokeniser")  # fmt: skip
def trained_on_whole_texts(texts, vocab_size, special_tokens):
    names = byte_alphabet()
    vocab = {token: i for i, token in enumerate([*special_tokens, *sorted(names)])}
    words, merges = [[names[byte] for byte in text.encode("utf-8")] for text in texts], []
    while len(vocab) < vocab_size and (counts := Counter(pair for word in words for pair in pairwise(word))):
        best = min(counts, key=lambda pair: (-counts[pair], vocab[pair[0]], vocab[pair[1]]))
        merges.append(best)
        vocab.setdefault("".join(best), len(vocab))
        words = [joined(word, best) for word in words]
    return vocab, merges
