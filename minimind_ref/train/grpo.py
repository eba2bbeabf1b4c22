"""Group-relative policy optimisation: answers are sampled, judged, and made likelier or less likely by comparison."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from minimind_ref.data.batches import load, shares
from minimind_ref.data.conversations import Prompt, read_prompts
from minimind_ref.data.token_file import held_out
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import UserError
from minimind_ref.loss.grpo import grpo_total, is_clipped, kl_k3
from minimind_ref.model.transformer import Transformer
from minimind_ref.train.answers import score
from minimind_ref.train.device import Placement
from minimind_ref.train.distributed import Ranks, total
from minimind_ref.train.loop import Loss
from minimind_ref.train.policy_measures import PolicyMeasures
from minimind_ref.train.reference import digest, frozen_copy, require_no_dropout
from minimind_ref.train.reward_loading import load_rewards
from minimind_ref.train.rollout import Answers, Sampler, no_answers, roll_out
from minimind_ref.train.sft import left_out, require_data, show_answer
from minimind_ref.train.stage import Epochs
from minimind_ref.train.stage_settings import GRPOSettings


class HeldOutReward(NamedTuple):
    """Means over greedy answers to `prompts` held-out prompts."""

    reward: float
    length: float
    finished: float
    prompts: int

    def values(self) -> dict[str, float]:
        """What metrics.jsonl keeps."""
        return {f"held_out_{name}": value for name, value in self._asdict().items()}

    def lines(self) -> list[str]:
        """What a person reads."""
        return [
            f"reward {self.reward:.4f}, {self.length:.1f} tokens an answer, {self.finished:.0%} ended by themselves, "
            f"greedy answers to {self.prompts:,} prompts"
        ]


class Reinforcement:
    """Prompts, rollouts, loss and evaluation of group-relative policy optimisation."""

    prefix = "grpo"
    targets = "answers"
    curves = (
        ("reward", "held_out_reward"),
        ("kl",),
        ("ratio_min", "ratio_max"),
        ("clipped",),
        ("answer_length", "held_out_length"),
    )

    def __init__(
        self, settings: GRPOSettings, model: Transformer, tokenizer: Tokenizer, placement: Placement, ranks: Ranks
    ) -> None:
        require_no_dropout(model.config, "grpo")
        self._check_room(settings, model)
        self.settings, self.tokenizer, self.placement, self.ranks = settings, tokenizer, placement, ranks
        rewards = load_rewards(settings.reward, template=settings.template, device=placement.device)
        self.sampler = Sampler(tokenizer, rewards, settings.max_new_tokens)
        self.skipped: dict[str, int] = {}
        prompts = read_prompts(
            require_data(settings.data_path, "grpo"),
            tokenizer,
            template=settings.template,
            max_length=settings.max_seq_len,
            on_bad_line=settings.on_bad_line,
            skipped=self.skipped,
        )
        held = set(held_out(len(prompts), settings.held_out).tolist())
        self.prompts = [prompt for i, prompt in enumerate(prompts) if i not in held]
        self.held = [prompt for i, prompt in enumerate(prompts) if i in held]
        self.policy, self.reference = model, frozen_copy(model)
        data = [(prompt.ids, prompt.reference) for prompt in prompts]
        self.fingerprint = hashlib.sha256(repr((data, digest(model), settings.held_out)).encode()).hexdigest()
        self.epochs = Epochs(len(self.prompts), settings, ranks)
        self._rollouts: list[Answers] = []  # those on which updates are still to come
        self._measured = PolicyMeasures()

    @staticmethod
    def _check_room(settings: GRPOSettings, model: Transformer) -> None:
        limit = model.config.max_position_embeddings
        if settings.max_seq_len + settings.max_new_tokens > limit:
            raise UserError(
                f"--max_seq_len {settings.max_seq_len} for a prompt and --max_new_tokens {settings.max_new_tokens} are "
                f"more than the network's max_position_embeddings={limit}"
            )

    @property
    def total_windows(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs.total_windows * self.settings.num_updates

    def describe(self) -> list[str]:
        """The data and the step arithmetic, for a person."""
        s = self.settings
        return [
            f"data      {s.data_path}{left_out(self.skipped)}",
            f"          {len(self.prompts):,} prompts; held out {len(self.held):,}",
            f"rollouts  {s.num_generations} answers a prompt of at most {s.max_new_tokens} tokens, reward {s.reward}",
            self.epochs.line(f"prompts of at most {s.max_seq_len} tokens", s.num_updates),
        ]

    def windows(self, start: int) -> Iterator[list[Answers]]:
        """Windows of answers of the policy as it then is, each `num_updates` times, from window `start` on."""
        updates = self.settings.num_updates
        first, done = divmod(start, updates)
        for number, prompts in enumerate(self._prompt_windows(first), first):
            taken = done if number == first else 0
            if not taken:
                self._begin(number, prompts)
            for update in range(taken, updates):
                window = self._rollouts
                if update + 1 == updates:
                    self._rollouts = []
                yield window

    def _prompt_windows(self, start: int) -> Iterator[list[list[Prompt]]]:
        def stream(epoch: int, first: int) -> Iterator[list[Prompt]]:
            indices = shares(len(self.prompts), **self.epochs.options(epoch, first))
            return load(self.prompts, indices, list, self.settings.num_workers)

        return self.epochs.windows(start, stream)

    def _begin(self, number: int, window: list[list[Prompt]]) -> None:
        """Sample and judge the answers of one window of prompts."""
        s = self.settings
        if s.refresh_reference and number and number % s.refresh_reference == 0:
            self.reference.load_state_dict(self.policy.state_dict())
        self._rollouts = []
        for micro_step, prompts in enumerate(window):
            seeds = np.random.SeedSequence([s.seed, number, micro_step, self.ranks.rank]).generate_state(1, np.uint64)
            generator = torch.Generator(self.placement.device).manual_seed(int(seeds[0]))
            if not prompts:
                self._rollouts.append(no_answers(self.tokenizer.pad_id, self.placement.device))
                continue
            answers, scored = roll_out(self.policy, self.reference, prompts, self.sampler, s, self.placement, generator)
            self._rollouts.append(answers)
            self._measured.add_rollout(scored)

    def loss(self, network: nn.Module, answers: Answers) -> Loss:
        """The policy's loss summed over what `normalise` counts, and the load balance."""
        s = self.settings
        logp, aux_loss = score(network, answers.input_ids, answers.attention_mask, answers.labels, s.temperature)
        old, reference, mask = answers.old_logp, answers.reference_logp, answers.mask
        clip: dict[str, Any] = dict(clip_low=s.clip_low, clip_high=s.clip_high, form=s.loss)
        loss = grpo_total(
            logp,
            old,
            reference,
            answers.advantages,
            mask,
            beta=s.beta,
            normalise=s.normalise,
            length=s.max_new_tokens,
            **clip,
        )
        clipped = is_clipped(logp, old, answers.advantages, mask, **clip)
        self._measured.add_update(logp.detach()[mask], old[mask], kl_k3(logp.detach(), reference)[mask], clipped[mask])
        return Loss(loss, aux_loss)

    def measures(self) -> dict[str, float]:
        """Since the last call: rewards, lengths, divergence, the range of the ratio, the share that was clipped."""
        return self._measured.take(self.ranks)

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> HeldOutReward | None:
        """The rewards of greedy answers to held-out prompts; None where nothing is held out."""
        ranks, s = self.ranks, self.settings
        chosen = self.held[: s.eval_prompts]
        if not chosen:
            return None
        sums = np.zeros(4)
        for indices in shares(len(chosen), **{**self.epochs.options(0, 0), "shuffle": False}):
            if indices:
                with self.placement.autocast():
                    found = self.sampler(self.policy, [chosen[i] for i in indices], num_samples=1, temperature=0.0)
                lengths = sum(map(len, found.ids))
                sums += (found.rewards.sum().item(), lengths, sum(found.finished), len(indices))
        reward, length, finished, count = total(sums.tolist(), ranks, self.placement.device)
        return HeldOutReward(reward / count, length / count, finished / count, int(count))

    def sample(self, model: Transformer, length: int = 80) -> str:
        """The first held-out prompt, and the policy's greedy answer."""
        return show_answer(model, (self.held or self.prompts)[0].ids, self.tokenizer, length)

    def state_dict(self) -> dict[str, Any]:
        """The answers whose updates are not all taken, and the reference where it is not the initial policy."""
        rollouts = [answers._asdict() for answers in self._rollouts]
        reference = self.reference.state_dict() if self.settings.refresh_reference else None
        return {"rollouts": rollouts, "reference": reference}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self._rollouts = [_on(self.placement.device, answers) for answers in state["rollouts"]]
        if state["reference"] is not None:
            self.reference.load_state_dict(state["reference"])


def _on(device: torch.device, answers: Mapping[str, Any]) -> Answers:
    moved: dict[str, Any] = {key: x.to(device) if isinstance(x, Tensor) else x for key, x in answers.items()}
    return Answers(**moved)
