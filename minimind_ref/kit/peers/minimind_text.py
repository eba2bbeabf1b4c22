"""MiniMind's conversations: its tokenizer's chat template, and what its SFTDataset supervises."""

import importlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from minimind_ref.golden.texts import written
from minimind_ref.kit.peers.minimind_checkout import Checkout
from minimind_ref.kit.peers.offer import offered

transformers: Any = importlib.import_module("transformers")  # a checker without it would take the file beside this one
THINKING = {2: "enable_thinking", 3: "open_thinking"}


class Text:
    """The conversations of one checkout."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout, self.generation = checkout, checkout.generation
        self.data = checkout.module("dataset.lm_dataset")

    def operations(self) -> dict[str, Callable[..., Any]]:
        """Name the functions."""
        return {"chat_template.render": self.render, "sft_mask": self.sft_mask}

    @cached_property
    def tokenizer(self) -> Any:
        """Load its own tokenizer."""
        return transformers.AutoTokenizer.from_pretrained(str(self.checkout.path / "model"))

    def render(
        self, messages: Any, *, template: str, add_generation_prompt: bool = False, tools: Any = None,
        thinking: bool | None = None,
    ) -> str:  # fmt: skip
        """apply_chat_template."""
        more = {} if thinking is None else {THINKING[self.generation]: thinking}
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, tools=tools, **more
        )

    def sft_mask(self, messages: Any, tokenizer: Any, *, template: str) -> Any:
        """SFTDataset without a file: its prompt, its tokens, its mask; the case's vocabulary under its template."""
        control = dict(tokenizer.control_ids)
        offered({"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= set(control), "its three markers are needed")
        source = written(dict(tokenizer.vocab), [tuple(pair) for pair in tokenizer.merges], list(control))
        own = transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(source), bos_token="<|im_start|>", eos_token="<|im_end|>",
            pad_token="<|endoftext|>", chat_template=self.tokenizer.chat_template,
        )  # fmt: skip
        data = object.__new__(self.data.SFTDataset)
        data.tokenizer, data.max_length = own, 10**6
        newline = "\n" if self.generation == 3 else ""
        data.bos_id = own(f"<|im_start|>assistant{newline}", add_special_tokens=False).input_ids
        data.eos_id = own(f"<|im_end|>{newline}", add_special_tokens=False).input_ids
        third = self.generation == 3
        prompt = data.create_chat_prompt(messages) if third else data._create_chat_prompt(messages)
        ids = list(own(prompt).input_ids)
        if third:
            return ids, [label != -100 for label in data.generate_labels(ids)]
        return ids, [bool(mark) for mark in data._generate_loss_mask(ids)]
