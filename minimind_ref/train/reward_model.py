"""A reward model: our decoder with one number where the vocabulary was, read at the answer's end token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import minimind_ref
from minimind_ref.config import ModelConfig
from minimind_ref.data.chat_template import encode_chat
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import UserError
from minimind_ref.interop.minimind import infer_config
from minimind_ref.interop.state_dict import clean, load_weights
from minimind_ref.model.transformer import Transformer
from minimind_ref.train.checkpoint import prepare_folder, save_weights, weights_name, write_json
from minimind_ref.train.run_folder import read_config, read_weights

ROWS = 32
"""Answers that are scored at once."""


class RewardModel(nn.Module):
    """The decoder under MiniMind's names (`model.…`) and a scalar head, `score.weight` (1 d)."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        network = Transformer(config)
        network.lm_head = nn.Linear(config.hidden_size, 1, bias=False)
        self.config, self.tokenizer = config, tokenizer
        self.model, self.score = network.model, network.lm_head
        self._network = (network,)  # in a tuple: its parts are registered above, under their names in the file

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Score rows that are padded on the right, at their last real token: (b s), (b s) -> (b)."""
        network = self._network[0].train(self.training)
        if not (attention_mask[:, 0] != 0).all():
            raise ValueError("a row is empty or padded on the left")
        score_bs1 = network(input_ids, attention_mask).logits
        return score_bs1[torch.arange(len(input_ids)), attention_mask.sum(dim=1) - 1, 0]

    @torch.no_grad()
    def reward(
        self,
        prompts: Sequence[Sequence[Any]],
        answers: Sequence[str],
        references: Sequence[str | None],
        *,
        template: str = "minimind2",
    ) -> list[float]:
        """Score each prompt with its answer up to the end token; the references are not looked at."""
        chats = [
            encode_chat(self.tokenizer, [*prompt, {"role": "assistant", "content": answer}], template=template)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        ends = [max(i for i, target in enumerate(chat.supervised) if target) + 1 for chat in chats]
        rows = [torch.tensor(chat.ids[:end]) for chat, end in zip(chats, ends, strict=True)]
        scores: list[float] = []
        for first in range(0, len(rows), ROWS):
            group = rows[first : first + ROWS]
            ids = pad_sequence(group, batch_first=True, padding_value=self.tokenizer.pad_id)
            mask = pad_sequence([torch.ones_like(row) for row in group], batch_first=True)
            scores += self(ids.to(self.score.weight.device), mask.to(self.score.weight.device)).tolist()
        return scores

    def save(self, folder: Path) -> None:
        """Write what `load` reads: weights, configuration, tokenizer."""
        prepare_folder(folder)
        weights = folder / weights_name("reward", self.config)
        self.tokenizer.save(folder / "tokenizer.json")
        versions = {"minimind_ref": minimind_ref.__version__}
        record = {"stage": "reward", "weights": weights.name, "model": self.config.to_dict(), "versions": versions}
        write_json(folder / "config.json", record)
        save_weights(self, weights)

    @classmethod
    def load(cls, source: Path, *, device: str | torch.device = "cpu") -> RewardModel:
        """Read a folder with config.json, or a .pth (its config.json beside it, or read off MiniMind's shapes).

        tokenizer.json lies beside the weights.  Every weight must be there and no other; UserError where not.
        """
        if not source.exists():
            raise UserError(f"{source}: there is no such reward model")
        path, content = read_weights(source)
        state = clean(content, path)
        if "score.weight" not in state:
            raise UserError(f"{path}: score.weight is missing: not a reward model")
        try:
            beside = (path.parent / "config.json").exists()
            config = read_config(path.parent)["model"] if beside else infer_config(state)
            tokenizer = Tokenizer.load(path.with_name("tokenizer.json"))
        except ValueError as error:
            raise UserError(str(error)) from None
        if tokenizer.vocab_size > config.vocab_size:
            raise UserError(f"{path}: {config.vocab_size} embeddings but its tokenizer has {tokenizer.vocab_size} ids")
        model = cls(config, tokenizer)
        load_weights(model, state, path)
        return model.eval().to(device)
