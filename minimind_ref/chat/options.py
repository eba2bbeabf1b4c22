"""The flags of the chat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minimind_ref.config import flag
from minimind_ref.data.chat_template import TEMPLATES
from minimind_ref.errors import UserError
from minimind_ref.generate.steps import Choice


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to answer: every field is a flag."""

    tokenizer: str | None = flag(None, "a tokenizer.json or its folder; none: the one beside the weights")
    template: str | None = flag(None, "none: the one the run was trained with, else minimind2", options=TEMPLATES)
    system: str | None = flag(None, "system message; none: the template's own, if it has one")
    thinking: bool = flag(False, "let the network think first, aloud (minimind3 only)")
    temperature: float = flag(0.8, "divides the logits; 0: always the likeliest token")
    top_k: int = flag(0, "sample among so many likeliest tokens; 0: among all")
    top_p: float = flag(0.9, "sample among the likeliest tokens that have this share of the probability")
    min_p: float = flag(0.0, "sample among tokens at least this share as likely as the likeliest")
    repetition_penalty: float = flag(1.0, "above 1: tokens already seen become less likely")
    max_new_tokens: int = flag(512, "longest answer, in tokens")
    seed: int | None = flag(None, "of the sampling; none: other answers each time")
    device: str = flag("auto", "cuda, cuda:1, mps, cpu; auto: the first of them that is there")
    dtype: str = flag("float32", "of the weights too", options=("auto", "float32", "bfloat16", "float16"))

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"--max_new_tokens {self.max_new_tokens} must be at least 1")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed} must be at least 0 and below 2**63")
        try:
            Choice(generator=None, **self.sampling).check()
        except ValueError as error:
            raise UserError(f"--{error}") from None

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings of the choice of a token, by the names that `stream` has for them."""
        return {name: getattr(self, name) for name in SAMPLING}


SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
