"""MiniMind's training functions: learning rate, log-probabilities, DPO, the loss of its head, and sampling."""

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from minimind_ref.kit.peers.minimind_checkout import Checkout
from minimind_ref.kit.peers.offer import offered


class Losses:
    """The functions of one checkout's trainers; GRPO stands inline in a training loop and is not among them."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout, self.generation = checkout, checkout.generation
        self.dpo = checkout.module("trainer.train_dpo")

    def operations(self) -> dict[str, Callable[..., Any]]:
        """Name the functions."""
        found: dict[str, Callable[..., Any]] = {
            "cosine_schedule": self.cosine_schedule, "token_logp": self.token_logp, "dpo_loss": self.dpo_loss,
            "sequence_logp": self.sequence_logp,
        }  # fmt: skip
        return found | ({"cross_entropy": self.cross_entropy} if self.generation == 3 else {})

    def cosine_schedule(
        self, step: int, *, total_steps: int, peak: float, warmup_steps: int = 0, floor_ratio: float = 0.1
    ) -> float:
        """get_lr, asked for what comes behind the warm-up; it has none of its own."""
        offered(step >= warmup_steps, "it has no warm-up")
        offered(floor_ratio == 0.1, "its floor is a tenth")
        return self.dpo.get_lr(step - warmup_steps, total_steps - warmup_steps, peak)

    def token_logp(self, logits: Any, labels: Any) -> Any:
        """logits_to_log_probs, logits_to_probs in MiniMind2."""
        function = self.dpo.logits_to_log_probs if self.generation == 3 else self.dpo.logits_to_probs
        lead = labels.shape
        return function(logits.reshape(1, -1, logits.shape[-1]), labels.reshape(1, -1)).reshape(lead)

    def dpo_loss(
        self, policy_chosen: Any, policy_rejected: Any, reference_chosen: Any, reference_rejected: Any, *, beta: float
    ) -> Any:
        """dpo_loss on answers of one token."""
        policy = torch.cat((policy_chosen, policy_rejected))[:, None]
        reference = torch.cat((reference_chosen, reference_rejected))[:, None].detach()  # made under no_grad there
        return self.dpo.dpo_loss(reference, policy, torch.ones_like(policy), beta)

    def sequence_logp(self, logp: Any, mask: Any) -> Any:
        """What dpo_loss makes of an answer: its logsigmoid is the identity here, beta −1, all else 0.

        Where a mask is 0 so is the log-probability: a network's is finite, and 0·NaN would hide all else.
        """
        plain = with_names(self.dpo.dpo_loss, F=SimpleNamespace(logsigmoid=lambda x: x))
        logp = torch.where(mask.bool(), logp, 0.0)
        nothing = torch.zeros_like(logp[:1])
        rows = [
            plain(torch.zeros(2, logp.shape[1]), torch.cat((row[None], nothing)), torch.stack((seen, seen)), -1.0)
            for row, seen in zip(logp, mask, strict=True)
        ]
        return torch.stack(rows)

    def cross_entropy(self, logits: Any, labels: Any, *, ignore_index: int = -100, reduction: str = "mean") -> Any:
        """The loss of MiniMindForCausalLM.forward behind a network that gives these logits; it shifts by one."""
        offered(ignore_index == -100 and reduction == "mean", "ignore_index is -100 and the reduction the mean")
        rows, names = logits.reshape(1, -1, logits.shape[-1]), labels.reshape(1, -1)
        hidden = torch.cat((rows, torch.zeros_like(rows[:, :1])), dim=1)
        shifted = torch.cat((torch.full((1, 1), -100), names), dim=1)
        own = SimpleNamespace(model=lambda *_, **__: (hidden, None, None), lm_head=lambda x: x)
        return self.checkout.model.MiniMindForCausalLM.forward(own, shifted, labels=shifted).loss


class Watched(ModuleType):
    """The module torch, whose softmax is watched and whose multinomial takes the first token."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.seen: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def softmax(self, x: Any, dim: int) -> Any:
        """Keep what the softmax is taken of."""
        self.seen.append(x.clone())
        return torch.softmax(x, dim=dim)

    def multinomial(self, p: Any, num_samples: int) -> Any:
        """Take the first token: only the distribution is asked for."""
        return torch.zeros(len(p), num_samples, dtype=torch.long)


class Sampler:
    """What MiniMind-3's `generate` makes of logits before it draws."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout

    def operations(self) -> dict[str, Callable[..., Any]]:
        """Name the functions; MiniMind2 leaves sampling to transformers."""
        if self.checkout.generation == 2:
            return {}
        return {"filter_logits": self.filter_logits, "penalise_repetition": self.penalise_repetition}

    def filter_logits(self, logits: Any, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Any:
        """generate, one token long."""
        ids = torch.zeros(len(logits), 1, dtype=torch.long)
        return self.drawn_from(logits, ids, temperature=temperature, top_k=top_k, top_p=top_p)

    def penalise_repetition(self, logits: Any, ids: Any, penalty: float) -> Any:
        """generate behind this prompt."""
        return self.drawn_from(logits, ids, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=penalty)

    def drawn_from(self, logits: Any, ids: Any, **options: Any) -> Any:
        """Give the logits whose softmax the next token is drawn from."""
        watched = Watched()
        step = SimpleNamespace(logits=logits[:, None], past_key_values=None)
        own = SimpleNamespace(forward=lambda *_, **__: step)
        generate = with_names(self.checkout.model.MiniMindForCausalLM.generate.__wrapped__, torch=watched)
        generate(own, ids, max_new_tokens=1, use_cache=False, eos_token_id=None, **options)
        return watched.seen[-1]


def with_names(function: Callable[..., Any], **names: Any) -> Callable[..., Any]:
    """Give a function that finds other things under some of its global names."""
    made = type(function)(function.__code__, function.__globals__ | names, function.__name__, function.__defaults__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made
