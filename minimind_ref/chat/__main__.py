"""`python -m minimind_ref.chat --from DIR`: talk to a network, in a terminal or through a pipe."""

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from minimind_ref.chat.conversation import Conversation, note
from minimind_ref.chat.options import Options
from minimind_ref.data.chat_template import TEMPLATES
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import UserError, run_command
from minimind_ref.flags import Parser, add_fields, parse
from minimind_ref.train.device import place
from minimind_ref.train.network import check_vocabulary
from minimind_ref.train.run_folder import read_network

DESCRIPTION = """Talk to a network.  Answers go to stdout as they are written, everything else to stderr.

  --prompt TEXT     one answer, then the end; stdin is not read
  ... | chat        the whole of stdin, without the newlines at its end, is one prompt
  in a terminal     a conversation: /reset forgets it, /exit or Ctrl-D leaves; Ctrl-C stops an answer, of which what was
                    written stays in the conversation; at the input line Ctrl-C leaves the second time in a row

The oldest turns are forgotten, with a note, when the conversation no longer leaves room for an answer (max_new_tokens,
at most half of the network's positions); a prompt that does not fit by itself is refused.  An answer ends with the
tokenizer's end or padding token (or one that the tokenizer lacks), at max_new_tokens, or where the positions end."""


def main(argv: Sequence[str]) -> None:
    """Parse the command line, load the network, answer."""
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="replace")  # a network may say what a terminal's encoding lacks
    parser = Parser(prog="python -m minimind_ref.chat", description=DESCRIPTION)
    parser.add_argument(
        "--from", dest="source", type=Path, required=True, help="run folder, MiniMind .pth, or Hugging Face folder"
    )
    parser.add_argument("--prompt", help="one question; none: stdin's, or a conversation in a terminal")
    add_fields(parser, Options, {}, "answers")
    given = parse(parser, argv)
    source, question = given.pop("source"), given.pop("prompt")
    options = Options(**given)
    if question is None and not (sys.stdin and sys.stdin.isatty()):
        question = _piped()
    if question == "":
        raise UserError("the prompt is empty: nothing to answer")
    conversation = load(source, options, introduce=question is None)
    if question is None:
        converse(conversation)
    else:
        speak(conversation, question)


def load(source: Path, options: Options, *, introduce: bool) -> Conversation:
    """Read the network, and beside it its tokenizer and, of a run, the template that it was trained with."""
    placement = place(options.device, options.dtype)
    model, path = read_network(source)
    try:
        tokenizer = Tokenizer.load(options.tokenizer or path.with_name("tokenizer.json"))
    except ValueError as error:
        raise UserError(f"{error}" + ("" if options.tokenizer else "; --tokenizer names another")) from None
    check_vocabulary(tokenizer, model.config)
    record = path.with_name("config.json")
    run = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    template = options.template or run.get("settings", {}).get("template") or TEMPLATES[0]
    if introduce:
        note(f"weights   {path}\ndevice    {placement.reason}\ntemplate  {template}")
    if (run.get("stage"), run.get("weights")) == ("pretrain", path.name):
        note("these weights are of a pretraining run: they continue text and have not learnt to answer")
    return Conversation(model.to(placement.device, placement.dtype), tokenizer, template, options)


def converse(conversation: Conversation) -> None:
    """Read questions from the terminal and answer them, until Ctrl-D, /exit, or Ctrl-C twice at the input line."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (input() edits lines with it)
    leaving = False
    while True:
        try:
            line = _read_line().strip()
        except EOFError:
            return note("")
        except KeyboardInterrupt:
            if leaving:
                return note("")
            leaving = True
            note("\nCtrl-C once more, or Ctrl-D, leaves")
            continue
        except UnicodeDecodeError:
            note("error: that line is not UTF-8")
            continue
        leaving = False
        if line == "/exit":
            return
        if line == "/reset":
            conversation.turns = []
        elif line:
            _respond(conversation, line)


def _respond(conversation: Conversation, question: str) -> None:
    try:
        speak(conversation, question)
    except KeyboardInterrupt:
        note("stopped")
    except UserError as error:
        note(f"error: {error}")


def speak(conversation: Conversation, question: str) -> None:
    """Write one answer to stdout, and what there is to say about it to stderr."""
    prepared = conversation.prepare(question)
    try:
        cut = conversation.answer(*prepared, lambda piece: print(piece, end="", flush=True))
    finally:
        print(flush=True)
    if cut:
        note(cut)


def _read_line() -> str:
    if sys.stdout.isatty():
        return input("> ")
    print("> ", end="", file=sys.stderr, flush=True)  # stdout is for answers
    return input()


def _piped() -> str:
    if sys.stdin is None:
        raise UserError("stdin is closed: give --prompt")
    try:
        return sys.stdin.buffer.read().decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"stdin is not UTF-8: byte {error.object[error.start]:#04x} at {error.start}") from None


if __name__ == "__main__":
    sys.exit(run_command(main))
