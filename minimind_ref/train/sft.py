"""Fine-tuning on conversations: the loss is on what the assistant says, and on where it ends."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from minimind_ref.data.batches import Batch, batches, trimmed
from minimind_ref.data.conversations import tokenise_conversations
from minimind_ref.data.packing import IGNORE
from minimind_ref.data.rows import FirstRows, SupervisedRows
from minimind_ref.data.token_file import TokenFile, split
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import UserError
from minimind_ref.loss.cross_entropy import cross_entropy
from minimind_ref.model.transformer import Transformer
from minimind_ref.train.answers import answer
from minimind_ref.train.device import Placement
from minimind_ref.train.distributed import Ranks, main_first, total
from minimind_ref.train.evaluation import perplexity
from minimind_ref.train.loop import Loss
from minimind_ref.train.stage import Epochs
from minimind_ref.train.stage_settings import SFTSettings


class HeldOutLoss(NamedTuple):
    """Loss in nats a token over the `tokens` that held-out answers hold."""

    loss: float
    tokens: int

    def values(self) -> dict[str, float]:
        """What metrics.jsonl keeps."""
        found = {"loss": self.loss, "perplexity": perplexity(self.loss), "tokens": self.tokens}
        return {f"held_out_{name}": value for name, value in found.items()}

    def lines(self) -> list[str]:
        """What a person reads."""
        return [
            f"loss {self.loss:.4f} nats/token, perplexity {perplexity(self.loss):.2f}, "
            f"on {self.tokens:,} tokens of answers"
        ]


class FineTuning:
    """Data, loss and evaluation of supervised fine-tuning."""

    prefix = "full_sft"
    targets = "tokens"
    curves = (("loss", "held_out_loss"),)

    def __init__(
        self, settings: SFTSettings, model: Transformer, tokenizer: Tokenizer, placement: Placement, ranks: Ranks
    ) -> None:
        self.settings, self.tokenizer, self.placement, self.ranks = settings, tokenizer, placement, ranks
        with main_first(ranks):
            tokens = tokenise_conversations(
                require_data(settings.data_path, "sft"),
                tokenizer,
                cache_dir=Path(settings.out_dir) / "cache",
                template=settings.template,
                max_length=settings.max_seq_len,
                on_bad_line=settings.on_bad_line,
                progress=ranks.main,
            )
        self.train_tokens, self.held_tokens = split(tokens, settings.held_out)
        self.skipped: dict[str, int] = tokens.metadata["skipped"]
        self.num_cut: int = tokens.metadata["num_cut"]
        self.fingerprint: str = tokens.metadata["fingerprint"]
        self.rows = self._rows(self.train_tokens)
        self.epochs = Epochs(len(self.rows), settings, ranks)

    def _rows(self, tokens: TokenFile) -> SupervisedRows:
        return SupervisedRows(tokens, self.settings.max_seq_len, pad_id=self.tokenizer.pad_id)

    @property
    def total_windows(self) -> int:
        """Accumulation windows of the whole run."""
        return self.epochs.total_windows

    def describe(self) -> list[str]:
        """The data and the step arithmetic, for a person."""
        train, held = self.train_tokens, self.held_tokens
        return [
            f"data      {self.settings.data_path}{left_out(self.skipped)}",
            f"          {train.num_documents:,} conversations, {train.num_tokens:,} tokens; "
            f"held out {held.num_documents:,} conversations{cut_short(self.num_cut)}",
            self.epochs.line(f"conversations of at most {self.settings.max_seq_len} tokens"),
        ]

    def windows(self, start: int) -> Iterator[list[Batch]]:
        """The accumulation windows of all epochs, from number `start` on."""
        workers = self.settings.num_workers
        return self.epochs.windows(
            start, lambda epoch, first: batches(self.rows, num_workers=workers, **self.epochs.options(epoch, first))
        )

    def loss(self, network: nn.Module, batch: Batch) -> Loss:
        """Cross-entropy summed over the answers' tokens, and the load balance."""
        batch = trimmed(batch)
        device = self.placement.device
        labels = batch.labels.to(device)
        supervised = labels != IGNORE
        mask = batch.attention_mask.to(device) if batch.attention_mask is not None else None
        output = network(batch.input_ids.to(device), attention_mask=mask, logits_mask=supervised)
        nll = cross_entropy(output.logits, labels[supervised], reduction="sum", implementation="fused")
        return Loss(nll, output.aux_loss)

    def measures(self) -> dict[str, float]:
        """Nothing is logged beside the loss."""
        return {}

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> HeldOutLoss | None:
        """Loss on held-out answers; None where nothing is held out."""
        if not self.held_tokens.num_documents:
            return None
        rows = FirstRows(self._rows(self.held_tokens), max(1, self.settings.eval_tokens // self.settings.max_seq_len))
        ranks, sums = self.ranks, [0.0, 0.0]
        network.eval()
        options = dict(batch_size=self.epochs.batch_size, seed=0, epoch=0, shuffle=False)
        for batch in batches(rows, rank=ranks.rank, world_size=ranks.world_size, **options):  # type: ignore[arg-type]
            with self.placement.autocast():
                sums[0] += self.loss(network, batch).total.item()
            sums[1] += batch.num_targets
        network.train()
        nll, tokens = total(sums, ranks, self.placement.device)
        return HeldOutLoss(nll / tokens, int(tokens))

    def sample(self, model: Transformer, length: int = 80) -> str:
        """The first held-out conversation up to its answer, and the network's own."""
        source = self.held_tokens if self.held_tokens.num_documents else self.train_tokens
        ids = source.document(0).tolist()
        return show_answer(model, ids[: source.supervised(0).argmax()], self.tokenizer, length)

    def state_dict(self) -> dict[str, Any]:
        """Nothing but its data, which the settings name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""


def show_answer(model: Transformer, prompt: list[int], tokenizer: Tokenizer, length: int) -> str:
    """A prompt and the greedy answer to it, for a person."""
    room = model.config.max_position_embeddings - len(prompt)
    (found,) = answer(model, tokenizer, [prompt], max_new_tokens=min(length, room), temperature=0.0)
    return f"{tokenizer.decode(prompt).strip()} ▸{found.text}"


def require_data(path: str | None, stage: str) -> str:
    """The data file of a stage that has no built-in data; UserError where none is given."""
    if path is None:
        raise UserError(f"{stage} needs --data_path; python -m minimind_ref.data.tasks write DIR makes files to try it")
    return path


def left_out(skipped: Mapping[str, int]) -> str:
    """How many records were left out, and why, for a person."""
    counts = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
    return f" (left out: {counts})" if counts else ""


def cut_short(count: int, what: str = "") -> str:
    """How many of what is learnt were longer than the window, for a person."""
    return f"; {count:,} {what}cut at --max_seq_len" if count else ""
