"""The first stage: next-token prediction on plain text."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minimind_ref.data import baselines
from minimind_ref.data.batches import Batch, batches
from minimind_ref.data.rows import FirstRows, PackedRows, PaddedRows
from minimind_ref.data.token_file import TokenFile, split
from minimind_ref.data.tokenise import tokenise_corpus, tokenise_jsonl
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import UserError
from minimind_ref.generate.generate import generate
from minimind_ref.loss.cross_entropy import cross_entropy
from minimind_ref.model.transformer import Transformer
from minimind_ref.train.device import Placement
from minimind_ref.train.distributed import Ranks, main_first
from minimind_ref.train.evaluation import Evaluation, HeldOut, evaluate, inputs, token_bytes
from minimind_ref.train.loop import Loss
from minimind_ref.train.stage import Epochs
from minimind_ref.train.stage_settings import PretrainSettings


class Pretraining:
    """Data, loss and evaluation of a pretraining run."""

    prefix = "pretrain"
    targets = "tokens"
    curves = (("loss", "held_out_loss", "unigram", "bigram"),)

    def __init__(
        self, settings: PretrainSettings, model: Transformer, tokenizer: Tokenizer, placement: Placement, ranks: Ranks
    ) -> None:
        self.settings, self.config, self.tokenizer = settings, model.config, tokenizer
        self.placement, self.ranks = placement, ranks
        with main_first(ranks):
            tokens = self._tokenise(Path(settings.out_dir) / "cache")
        self.train_tokens, self.held_tokens = split(tokens, settings.held_out)
        if self.train_tokens.num_tokens == self.train_tokens.num_documents:
            raise UserError(f"{settings.data_path}: no text has a second token, so that there is nothing to predict")
        self.skipped: dict[str, int] = tokens.metadata["skipped"]
        self.fingerprint: str = tokens.metadata["fingerprint"]
        make = PackedRows if settings.batching == "pack" else PaddedRows
        self.rows = make(self.train_tokens, settings.max_seq_len, pad_id=tokenizer.pad_id)
        self.epochs = Epochs(len(self.rows), settings, ranks)
        self.held_out = self._held_out(make) if self.held_tokens.num_documents else None

    def _tokenise(self, cache: Path) -> TokenFile:
        s, main = self.settings, self.ranks.main
        if s.data_path is None:
            return tokenise_corpus(self.tokenizer, cache_dir=cache, wrap=s.wrap_text, progress=main)
        return tokenise_jsonl(
            s.data_path,
            self.tokenizer,
            cache_dir=cache,
            wrap=s.wrap_text,
            on_bad_line=s.on_bad_line,
            progress=main,
        )

    def _held_out(self, make: Any) -> HeldOut:
        rows = make(self.held_tokens, self.settings.max_seq_len, pad_id=self.tokenizer.pad_id)
        return HeldOut(
            rows=FirstRows(rows, max(1, self.settings.eval_tokens // self.settings.max_seq_len)),
            batch_size=self.epochs.batch_size,
            bytes_of=token_bytes(self.tokenizer, self.config.vocab_size),
            baselines=baselines.fit(self.train_tokens, self.config.vocab_size),
        )

    @property
    def total_windows(self) -> int:
        """Accumulation windows of the whole run."""
        return self.epochs.total_windows

    def describe(self) -> list[str]:
        """The data and the step arithmetic, for a person."""
        s, train = self.settings, self.train_tokens
        source = s.data_path or "the built-in corpus: docstrings and sources of this Python's standard library"
        bad = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        samples = f"{'packed rows' if s.batching == 'pack' else 'samples'} of {s.max_seq_len} tokens"
        return [
            f"data      {source}" + (f" (left out: {bad})" if bad else ""),
            f"          {train.num_documents:,} documents, {train.num_tokens:,} tokens; "
            f"held out {self.held_tokens.num_documents:,} documents, {self.held_tokens.num_tokens:,} tokens",
            self.epochs.line(samples),
        ]

    def windows(self, start: int) -> Iterator[list[Batch]]:
        """The accumulation windows of all epochs, from number `start` on."""
        return self.epochs.windows(
            start,
            lambda epoch, first: batches(
                self.rows, num_workers=self.settings.num_workers, **self.epochs.options(epoch, first)
            ),
        )

    def loss(self, network: nn.Module, batch: Batch) -> Loss:
        """Cross-entropy summed over the batch's supervised tokens, and the load balance."""
        device = self.placement.device
        output = network(*inputs(batch, device))
        nll = cross_entropy(output.logits, batch.labels.to(device), reduction="sum", implementation="fused")
        return Loss(nll, output.aux_loss)

    def measures(self) -> dict[str, float]:
        """Nothing is logged beside the loss."""
        return {}

    def evaluate(self, network: nn.Module) -> Evaluation | None:
        """Held-out loss beside the baselines; None where nothing is held out."""
        return evaluate(network, self.held_out, self.placement, self.ranks) if self.held_out else None

    def sample(self, model: Transformer, length: int = 80) -> str:
        """A continuation of a held-out document's beginning, sampled with a generator of its own."""
        source = self.held_tokens if self.held_tokens.num_documents else self.train_tokens
        prompt = source.document(0)[:16].tolist()
        room = model.config.max_position_embeddings - len(prompt)
        generator = torch.Generator(self.placement.device).manual_seed(self.settings.seed)
        new = generate(
            model,
            [prompt],
            max_new_tokens=min(length, room),
            stop_ids=[self.tokenizer.end_id, *self.tokenizer.lacking(self.config.vocab_size)],
            temperature=0.8,
            top_p=0.9,
            generator=generator,
        )[0]
        known = [index for index in new if index in self.tokenizer.bytes_of]
        return f"{self.tokenizer.decode(prompt)}▸{self.tokenizer.decode(known)}"

    def state_dict(self) -> dict[str, Any]:
        """Nothing but its data, which the settings name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
