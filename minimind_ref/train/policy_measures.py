"""What GRPO logs beside its loss."""

import math

from torch import Tensor

from minimind_ref.train.distributed import Ranks, gather
from minimind_ref.train.rollout import Scored


class PolicyMeasures:
    """Sums and extremes since they were last taken."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._rollouts: list[tuple[float, ...]] = []
        self._updates: list[tuple[float, ...]] = []

    def add_rollout(self, scored: Scored) -> None:
        """Take the rewards, lengths and ends of sampled answers."""
        rewards = scored.rewards.double()
        equal = (rewards == rewards[:, :1]).all(dim=1)
        lengths, finished = sum(map(len, scored.ids)), sum(scored.finished)
        self._rollouts.append(
            (float(rewards.sum()), lengths, finished, rewards.numel(), float(equal.sum()), float(len(equal)))
        )

    def add_update(self, logp: Tensor, old_logp: Tensor, kl: Tensor, clipped: Tensor) -> None:
        """Take one micro-step's answer tokens: scores now and when they were sampled, divergence, what is clipped."""
        if not len(logp):
            return
        ratio = (logp - old_logp).exp()
        extremes = (ratio.min().item(), ratio.max().item())
        self._updates.append((kl.sum().item(), clipped.sum().item(), len(logp), *extremes))

    def take(self, ranks: Ranks) -> dict[str, float]:
        """Means and extremes over all ranks, from now on counted anew."""
        parts = gather((self._rollouts, self._updates), ranks)
        self._reset()
        rollouts = [row for found, _ in parts for row in found]  # type: ignore[misc]
        updates = [row for _, found in parts for row in found]  # type: ignore[misc]
        values: dict[str, float] = {}
        if rollouts:
            reward, length, finished, answers, equal, groups = map(math.fsum, zip(*rollouts, strict=True))
            values |= {"reward": reward / answers, "answer_length": length / answers, "finished": finished / answers}
            values |= {"equal_groups": equal / groups}
        if updates:
            kl, clipped, tokens, _, _ = map(math.fsum, zip(*updates, strict=True))
            values |= {"kl": kl / tokens, "clipped": clipped / tokens}
            values |= {"ratio_min": min(row[3] for row in updates), "ratio_max": max(row[4] for row in updates)}
        return values
