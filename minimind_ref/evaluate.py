"""`python -m minimind_ref.evaluate --from DIR --data_path FILE`: held-out loss of any weights on any text."""

import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from minimind_ref.data import baselines
from minimind_ref.data.rows import FirstRows, PackedRows
from minimind_ref.data.token_file import TokenFile, split
from minimind_ref.data.tokenise import tokenise_corpus, tokenise_jsonl
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import UserError, run_command
from minimind_ref.flags import Parser
from minimind_ref.model.transformer import Transformer
from minimind_ref.train.device import Placement, place
from minimind_ref.train.distributed import Ranks
from minimind_ref.train.evaluation import Evaluation, HeldOut, combine, evaluate, token_bytes
from minimind_ref.train.network import check_length, check_vocabulary
from minimind_ref.train.run_folder import read_network
from minimind_ref.train.stage_settings import PretrainSettings

DESCRIPTION = """Loss, perplexity and bits a byte of any weights on a JSONL file of {"text": …} lines.

The baselines are a unigram and a bigram that saw the other half of the same file: each half is judged by what the
other half taught.  The network is judged on both halves."""


def main(argv: Sequence[str]) -> None:
    """Parse the command line, evaluate, print."""
    parser = Parser(prog="python -m minimind_ref.evaluate", description=DESCRIPTION)
    parser.add_argument(
        "--from", dest="source", type=Path, required=True, help="run folder, MiniMind .pth, or Hugging Face folder"
    )
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json; none: the one beside the weights")
    parser.add_argument("--data_path", help="JSONL file; none: the built-in corpus' held-out part")
    parser.add_argument("--max_seq_len", type=int, default=512, help="tokens in a row [512]")
    parser.add_argument("--batch_size", type=int, default=16, help="rows at once [16]")
    parser.add_argument("--max_tokens", type=int, default=2**20, help="tokens that are read at most [1048576]")
    parser.add_argument("--on_bad_line", choices=("error", "skip"), default="error", help="as in training [error]")
    parser.add_argument("--device", default="auto", help="as in training [auto]")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=dtypes, default="float32", help="precision of the forward pass [float32]")
    options = parser.parse_args(argv)
    for name in ("max_seq_len", "batch_size", "max_tokens"):
        if getattr(options, name) < (2 if name == "max_seq_len" else 1):
            raise UserError(f"--{name} {getattr(options, name)} is too small")
    model, path = read_network(options.source)
    check_length(options.max_seq_len, model.config)
    placement = place(options.device, options.dtype)
    model.to(placement.device)
    print(f"weights   {path}")
    print(f"device    {placement.reason}")
    with tempfile.TemporaryDirectory() as cache:
        try:
            tokenizer = Tokenizer.load(options.tokenizer or path.with_name("tokenizer.json"))
            check_vocabulary(tokenizer, model.config)
            tokens = _tokens(options, tokenizer, cache)
        except ValueError as error:
            raise UserError(str(error)) from None
        loss, baseline_losses = _evaluate(model, tokens, tokenizer, placement, options)
    print(f"held out  {loss}")
    print(f"          {baseline_losses}")


def _tokens(options: Namespace, tokenizer: Tokenizer, cache: str) -> TokenFile:
    if options.data_path is None:
        return split(tokenise_corpus(tokenizer, cache_dir=cache, progress=False), PretrainSettings.held_out)[1]
    return tokenise_jsonl(options.data_path, tokenizer, cache_dir=cache, on_bad_line=options.on_bad_line)


def _evaluate(
    model: Transformer, tokens: TokenFile, tokenizer: Tokenizer, placement: Placement, options: Namespace
) -> list[str]:
    """Judge each half of the documents beside baselines that saw the other half; the lines to print."""
    halves = split(tokens, 0.5, tokens.num_documents)
    if not halves[1].num_documents:
        raise UserError(f"{options.data_path}: holds one document; the baselines need a second to learn from")
    sizes = token_bytes(tokenizer, model.config.vocab_size)
    found: list[Evaluation] = []
    for half, other in (halves, halves[::-1]):
        rows = PackedRows(half, options.max_seq_len, pad_id=tokenizer.pad_id)
        first = FirstRows(rows, max(1, options.max_tokens // 2 // options.max_seq_len))
        fitted = baselines.fit(other, model.config.vocab_size)
        part = evaluate(model, HeldOut(first, options.batch_size, sizes, fitted), placement, Ranks())
        assert part is not None  # every text has a second token: its end
        found.append(part)
    return combine(found).lines()


if __name__ == "__main__":
    sys.exit(run_command(main))
