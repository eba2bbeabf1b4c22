"""Direct preference optimisation: what is preferred becomes likelier than the frozen reference has it."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minimind_ref.data.batches import load, shares
from minimind_ref.data.conversations import tokenise_pairs
from minimind_ref.data.token_file import split
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.loss.dpo import dpo_losses, implicit_reward
from minimind_ref.model.transformer import Transformer
from minimind_ref.train.device import Placement
from minimind_ref.train.distributed import Ranks, main_first, total
from minimind_ref.train.loop import Loss
from minimind_ref.train.pairs import PairRows, Pairs, score_pairs, score_reference
from minimind_ref.train.reference import digest, require_no_dropout
from minimind_ref.train.sft import cut_short, left_out, require_data, show_answer
from minimind_ref.train.stage import Epochs
from minimind_ref.train.stage_settings import DPOSettings

MEASURES = ("accuracy", "margin", "preference", "chosen_reward", "rejected_reward")


class HeldOutPairs(NamedTuple):
    """Means over `pairs` held-out pairs: the loss, and what MEASURES names."""

    means: dict[str, float]
    pairs: int

    def values(self) -> dict[str, float]:
        """What metrics.jsonl keeps."""
        return {f"held_out_{name}": value for name, value in self.means.items()} | {"held_out_pairs": self.pairs}

    def lines(self) -> list[str]:
        """What a person reads."""
        m = self.means
        return [
            f"loss {m['loss']:.4f}, implicit accuracy {m['accuracy']:.3f}, mean margin {m['margin']:.3f}, "
            f"raw preference {m['preference']:.3f}, on {self.pairs:,} pairs"
        ]


class Preference:
    """Data, loss and evaluation of direct preference optimisation."""

    prefix = "dpo"
    targets = "pairs"
    curves = (("loss", "held_out_loss"), ("accuracy", "held_out_accuracy"), ("margin", "held_out_margin"))

    def __init__(
        self, settings: DPOSettings, model: Transformer, tokenizer: Tokenizer, placement: Placement, ranks: Ranks
    ) -> None:
        require_no_dropout(model.config, "dpo")
        self.settings, self.tokenizer, self.placement, self.ranks = settings, tokenizer, placement, ranks
        cache = Path(settings.out_dir) / "cache"
        with main_first(ranks):
            tokens = tokenise_pairs(
                require_data(settings.data_path, "dpo"),
                tokenizer,
                cache_dir=cache,
                template=settings.template,
                max_length=settings.max_seq_len,
                on_bad_line=settings.on_bad_line,
                progress=ranks.main,
            )
            parts = [
                PairRows(part, settings.max_seq_len, tokenizer.pad_id)
                for part in split(tokens, settings.held_out, group=2)
            ]
            self.train, self.held = parts
            self.epochs = Epochs(len(self.train), settings, ranks)
            scored = (tokens.metadata["fingerprint"], digest(model), settings.held_out, settings.reduction)
            self.fingerprint = hashlib.sha256(repr(scored).encode()).hexdigest()
            name = f"reference-{self.fingerprint[:12]}-{str(placement.dtype).removeprefix('torch.')}.npy"
            score_reference(model, parts, cache / name, self.epochs.batch_size, placement, settings.reduction)
        self.skipped: dict[str, int] = tokens.metadata["skipped"]
        self.num_cut: int = tokens.metadata["num_cut"]
        self._seen = torch.zeros(len(MEASURES) + 1)

    @property
    def total_windows(self) -> int:
        """Accumulation windows of the whole run."""
        return self.epochs.total_windows

    def describe(self) -> list[str]:
        """The data and the step arithmetic, for a person."""
        return [
            f"data      {self.settings.data_path}{left_out(self.skipped)}",
            f"          {len(self.train):,} pairs; held out {len(self.held):,}; scored under the reference"
            + cut_short(self.num_cut, "answers "),
            self.epochs.line(f"pairs of at most {self.settings.max_seq_len} tokens an answer"),
        ]

    def windows(self, start: int) -> Iterator[list[Pairs]]:
        """The accumulation windows of all epochs, from number `start` on."""

        def stream(epoch: int, first: int) -> Iterator[Pairs]:
            indices = shares(len(self.train), **self.epochs.options(epoch, first))
            return load(self.train, indices, self.train.collate, self.settings.num_workers)

        return self.epochs.windows(start, stream)

    def loss(self, network: nn.Module, pairs: Pairs) -> Loss:
        """The pairs' losses summed, and the load balance; what is logged beside them is kept for `measures`."""
        losses, measures, aux_loss = self._judge(network, pairs)
        self._seen += torch.cat((measures.sum(dim=0), torch.tensor([float(len(losses))])))
        return Loss(losses.sum(), aux_loss)

    def _judge(self, network: nn.Module, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """Each pair's loss (p), its MEASURES (p m) on the CPU, and the load balance."""
        s = self.settings
        answers, aux_loss = score_pairs(network, pairs, self.placement, s.reduction)
        if not pairs.num_targets:
            return answers.sum(dim=1), torch.zeros(0, len(MEASURES)), aux_loss
        chosen, rejected = answers.unbind(dim=1)
        reference = [column.to(answers) for column in pairs.reference.unbind(dim=1)]
        losses = dpo_losses(chosen, rejected, *reference, beta=s.beta, form=s.loss, label_smoothing=s.label_smoothing)
        rewards = [implicit_reward(a, r, beta=s.beta) for a, r in zip((chosen, rejected), reference, strict=True)]
        margin = rewards[0] - rewards[1]
        measures = [margin > 0, margin, chosen.detach() > rejected.detach(), *rewards]
        return losses, torch.stack([m.float() for m in measures], dim=1).cpu(), aux_loss

    def measures(self) -> dict[str, float]:
        """Means over the pairs since the last call: MEASURES."""
        *sums, pairs = total(self._seen.tolist(), self.ranks, self.placement.device)
        self._seen.zero_()
        return {name: value / max(pairs, 1) for name, value in zip(MEASURES, sums, strict=True)}

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> HeldOutPairs | None:
        """The loss and MEASURES of held-out pairs; None where nothing is held out."""
        if not len(self.held):
            return None
        sums = torch.zeros(2 + len(MEASURES))
        options = {**self.epochs.options(0, 0), "shuffle": False}
        for pairs in load(self.held, shares(len(self.held), **options), self.held.collate, 0):
            with self.placement.autocast():
                losses, measures, _ = self._judge(network, pairs)
            sums += torch.cat((torch.tensor([len(losses), losses.sum().item()]), measures.sum(dim=0)))
        count, *values = total(sums.tolist(), self.ranks, self.placement.device)
        names = ("loss", *MEASURES)
        return HeldOutPairs({name: v / count for name, v in zip(names, values, strict=True)}, int(count))

    def sample(self, model: Transformer, length: int = 80) -> str:
        """The first held-out pair's prompt, and the network's answer."""
        tokens = (self.held if len(self.held) else self.train).rows.tokens
        prompt = tokens.document(0)[: tokens.supervised(0).argmax()].tolist()
        return show_answer(model, prompt, self.tokenizer, length)

    def state_dict(self) -> dict[str, Any]:
        """Nothing but its data and its reference, which the settings name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
