"""Dynamic loss scaling for float16.  Spec: specs/grad_scaler.md."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

SMALLEST = torch.finfo(torch.float32).tiny  # of the scales, the last whose reciprocal float32 holds (GRAD_SCALER-6)


def _float32(number: float) -> float:
    """The nearest float32 number, as the gradients meet it; infinite where it is too large."""
    return float(torch.tensor(number, dtype=torch.float32))


def _check(init_scale: float, growth_factor: float, backoff_factor: float, growth_interval: int) -> None:
    if not 0 < _float32(init_scale) < math.inf:
        raise ValueError(f"init_scale={init_scale} must be above 0 and finite in float32")
    if not 1 < growth_factor < math.inf:
        raise ValueError(f"growth_factor={growth_factor} must be above 1 and finite")
    if not 0 < backoff_factor < 1:
        raise ValueError(f"backoff_factor={backoff_factor} must lie between 0 and 1")
    if growth_interval < 1:
        raise ValueError(f"growth_interval={growth_interval} must be at least 1")


class GradScaler:
    """Multiply the loss so that small gradients survive float16; skip a step whose gradients overflowed.

    The scale shrinks by `backoff_factor` after an overflow and grows by `growth_factor` after `growth_interval`
    clean steps in a row (GRAD_SCALER-4, -5).  Disabled, every method passes its argument through.

    Source: Micikevicius et al. 2017, arXiv:1710.03740, sec. 3.2; the interface is torch.amp.GradScaler's.
    """

    def __init__(
        self,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        _check(init_scale, growth_factor, backoff_factor, growth_interval)
        self._scale, self._good_steps = _float32(init_scale), 0
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval, self._enabled = growth_interval, enabled
        # From unscale_ to update; by the optimisers themselves, since another may get a forgotten one's id.
        self._overflow: dict[Optimizer, bool] = {}
        self._stepped: set[Optimizer] = set()

    def get_scale(self) -> float:
        return self._scale if self._enabled else 1.0

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to call backward on, float32 or wider: 2¹⁶ is infinite in float16 (GRAD_SCALER-1)."""
        wide = torch.promote_types(loss.dtype, torch.float32)
        return loss.to(wide) * self._scale if self._enabled else loss

    @torch.no_grad()
    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the optimiser's gradients by the scale, once per update; remember whether any is not finite."""
        if not self._enabled:
            return
        if optimizer in self._stepped:
            raise RuntimeError("unscale_() is being called after step()")
        if optimizer in self._overflow:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update()")
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if any(grad.dtype == torch.float16 for grad in grads):
            raise ValueError("a gradient is float16: unscaled in place it would underflow; keep float32 parameters")
        for grad in grads:
            grad.mul_(1 / self._scale)
        self._overflow[optimizer] = not all(bool(grad.isfinite().all()) for grad in grads)

    def step(self, optimizer: Optimizer) -> Any:
        """`optimizer.step()` on unscaled gradients, or nothing where they overflowed (GRAD_SCALER-3)."""
        if not self._enabled:
            return optimizer.step()
        if optimizer in self._stepped:
            raise RuntimeError("step() has already been called since the last update()")
        if optimizer not in self._overflow:
            self.unscale_(optimizer)
        self._stepped.add(optimizer)
        return None if self._overflow[optimizer] else optimizer.step()

    def found_overflow(self, optimizer: Optimizer) -> bool:
        """Whether the gradients that `unscale_` saw since the last update were not all finite."""
        return self._overflow.get(optimizer, False)

    def update(self) -> None:
        """Adapt the scale to what the steps since the last update saw."""
        if not self._enabled:
            return
        if not self._overflow:
            raise RuntimeError("update() needs a step() or unscale_() before it")
        if any(self._overflow.values()):
            lower = _float32(self._scale * self._backoff_factor)
            self._scale, self._good_steps = lower if lower >= SMALLEST else self._scale, 0
        else:
            self._good_steps += 1
            if self._good_steps == self._growth_interval:
                grown = _float32(self._scale * self._growth_factor)
                self._scale, self._good_steps = grown if math.isfinite(grown) else self._scale, 0
        self._overflow, self._stepped = {}, set()

    def state_dict(self) -> dict[str, Any]:
        """Torch's keys; empty where scaling is disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._good_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken; ValueError where a key or a number cannot be one of its."""
        if not self._enabled:
            return
        if not state:
            raise ValueError("the state of a disabled scaler cannot be loaded into an enabled one")
        if wrong := sorted(self.state_dict().keys() ^ state.keys()):
            raise ValueError(f"{wrong[0]!r} is {'unknown' if wrong[0] in state else 'missing'} in the scaler's state")
        settings = (state["growth_factor"], state["backoff_factor"], state["growth_interval"])
        _check(state["scale"], *settings)
        if not 0 <= state["_growth_tracker"] < state["growth_interval"]:
            steps = f"_growth_tracker={state['_growth_tracker']}"
            raise ValueError(f"{steps} must lie below growth_interval={state['growth_interval']}")
        self._scale, self._good_steps = float(state["scale"]), int(state["_growth_tracker"])
        self._growth_factor, self._backoff_factor, self._growth_interval = settings
