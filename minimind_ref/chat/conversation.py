"""What was said so far, and the next answer."""

import sys
from collections.abc import Callable, Iterator

import torch

from minimind_ref.chat.options import Options
from minimind_ref.data.chat_template import encode_chat
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import RunError, UserError
from minimind_ref.generate.generate import stream
from minimind_ref.model.transformer import Transformer

Turns = list[dict[str, str]]


class Conversation:
    """A network and what was said so far.  Every answer reads the history anew: no cache is kept between turns."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, template: str, options: Options) -> None:
        if options.thinking and template != "minimind3":
            raise UserError(f"--thinking needs --template minimind3; {template} has no place for thoughts")
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.rendering = {"template": template, "thinking": options.thinking if template == "minimind3" else None}
        self.system = [] if options.system is None else [{"role": "system", "content": options.system}]
        self.turns: Turns = []
        self.limit: int = model.config.max_position_embeddings
        self.stop_ids = {*tokenizer.stop_ids, *tokenizer.lacking(model.config.vocab_size)}
        self.generator = torch.Generator(next(model.parameters()).device)
        self.generator.seed() if options.seed is None else self.generator.manual_seed(options.seed)

    def prepare(self, question: str) -> tuple[Turns, list[int]]:
        """Forget the oldest questions and answers until an answer has room; the turns that stay, and their ids."""
        reserve = min(self.options.max_new_tokens, self.limit // 2)
        turns: Turns = [*self.turns, {"role": "user", "content": question}]
        prompt, asked = self._encode(turns), len(turns) // 2
        while len(prompt) + reserve > self.limit + 1 and len(turns) > 1:
            turns = turns[2:]
            prompt = self._encode(turns)
        if len(prompt) > self.limit:
            raise UserError(f"the prompt takes {len(prompt)} tokens but the network has {self.limit} positions")
        if forgotten := asked - len(turns) // 2:
            note(f"the conversation is too long: its oldest {forgotten} of {asked} questions and answers are forgotten")
        return turns, prompt

    def answer(self, turns: Turns, prompt: list[int], write: Callable[[str], None]) -> str | None:
        """Write the answer piece by piece; return why it was cut, if it was.

        What was written joins the history, also where Ctrl-C ends it.
        """
        room = min(self.options.max_new_tokens, self.limit + 1 - len(prompt))  # the last token is never an input
        ids: list[int] = []
        written: list[str] = []
        try:
            for piece in self.tokenizer.decode_stream(self._new_ids(prompt, room, ids)):
                write(piece)
                written.append(piece)
        finally:
            self.turns = [*turns, self._reply("".join(written))]
        if ids[-1] in self.stop_ids:
            return None
        if room == self.options.max_new_tokens:
            return f"the answer is cut at --max_new_tokens {room}"
        return f"the answer is cut: {len(prompt)} tokens before it and {room} of it fill the network's positions"

    def _new_ids(self, prompt: list[int], room: int, ids: list[int]) -> Iterator[int]:
        """Generate, and keep in `ids`, what the network chooses; a stop is kept too, but it is no text."""
        chosen = stream(
            self.model,
            [prompt],
            max_new_tokens=room,
            stop_ids=sorted(self.stop_ids),
            generator=self.generator,
            **self.options.sampling,
        )
        try:
            for (index,) in chosen:
                assert index is not None  # the only row goes on until it ends
                ids.append(index)
                if index not in self.stop_ids:
                    yield index
        except ValueError as error:
            raise RunError(f"the network cannot go on: {error}") from None

    def _encode(self, turns: Turns) -> list[int]:
        messages = [*self.system, *turns]
        try:
            return encode_chat(self.tokenizer, messages, add_generation_prompt=True, **self.rendering).ids
        except ValueError as error:
            raise UserError(str(error)) from None

    def _reply(self, text: str) -> dict[str, str]:
        if self.options.thinking and "</think>" not in text:  # it ended in thought
            return {"role": "assistant", "content": "", "reasoning_content": text}
        return {"role": "assistant", "content": text}


def note(text: str) -> None:
    """Write what is not an answer."""
    print(text, file=sys.stderr, flush=True)
