"""Adam with decoupled weight decay.  Spec: specs/adamw.md."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from minimind_ref.checks import require_shape


class Moments(NamedTuple):
    """Running means of the gradient and of its square, and the number of updates they have seen."""

    mean: Tensor
    square: Tensor
    step: int


def init_moments(param: Float[Tensor, "*shape"]) -> Moments:
    """Zero moments in param's shape, float32 or wider."""
    zeros = torch.zeros_like(param, dtype=torch.promote_types(param.dtype, torch.float32))
    return Moments(zeros, zeros.clone(), 0)


def adamw_update(
    param: Float[Tensor, "*shape"],
    grad: Float[Tensor, "..."],
    moments: Moments,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> tuple[Float[Tensor, "*shape"], Moments]:
    """Shrink `param` by lr·weight_decay, then step by −lr · m̂ / (√v̂ + eps), the moments unbiased (ADAMW-1).

    Source: Loshchilov and Hutter 2017, arXiv:1711.05101, alg. 2; Kingma and Ba 2014, arXiv:1412.6980, alg. 1.
    Differs: the decay is multiplied by lr, as in torch and optax.
    """
    _check(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
    for name, array in (("grad", grad), ("moments.mean", moments.mean), ("moments.square", moments.square)):
        require_shape(name, array, tuple(param.shape), "the shape of param")
    if moments.step < 0:
        raise ValueError(f"moments.step={moments.step} must be at least 0")
    grad = grad.to(moments.mean.dtype)
    step = moments.step + 1
    mean = beta1 * moments.mean + (1 - beta1) * grad
    square = beta2 * moments.square + (1 - beta2) * grad**2
    unbiased_mean = mean / (1 - beta1**step)
    unbiased_square = square / (1 - beta2**step)
    decayed = param.to(mean.dtype) * (1 - lr * weight_decay)
    new = decayed - lr * unbiased_mean / (unbiased_square.sqrt() + eps)
    return new.to(param.dtype), Moments(mean, square, step)


def _check(*, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float) -> None:
    for name, value in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value} must lie in [0, 1)")
    for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}={value} must be at least 0 and finite")


class AdamW(Optimizer):
    """`adamw_update` for parameter groups, with the state kept here.

    `implementation`: "explicit" is the definition, one tensor at a time; "foreach" updates all tensors of a group
    together and in place, the same to rounding.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        implementation: str = "foreach",
    ) -> None:
        if implementation not in ("explicit", "foreach"):
            raise ValueError(f"implementation={implementation!r} must be 'explicit' or 'foreach'")
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
        self.implementation = implementation

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse bad settings and a repeated parameter here, where every group passes (ADAMW-14, -17)."""
        _settings(self.defaults | param_group)
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        if len({id(p) for p in params}) < len(params):
            raise ValueError(f"a group of {len(params)} parameters mentions one of them more than once")
        super().add_param_group(param_group | {"params": params})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, with the moments as wide: torch casts them to param's dtype.

        Raises ValueError, and loads nothing, where a key is missing or unknown, or a moment has another shape than
        its parameter (ADAMW-19).
        """
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        _check_state(state_dict, dict(zip(saved, params, strict=False)))
        super().load_state_dict(state_dict)
        for key, p in zip(saved, params, strict=True):
            for name in ("mean", "square"):
                if key in state_dict["state"]:
                    self.state[p][name] = state_dict["state"][key][name].to(p.device, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient; returns the closure's value, if there is one."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self.state[p].update(init_moments(p)._asdict())
            (_foreach if self.implementation == "foreach" else _explicit)(params, self.state, _settings(group))
        return value


def _check_state(state_dict: dict[str, Any], params: dict[int, Tensor]) -> None:
    for group in state_dict["param_groups"]:
        if missing := {"lr", "betas", "eps", "weight_decay"} - group.keys():
            raise ValueError(f"a group of the state lacks {sorted(missing)[0]!r}: it has {', '.join(sorted(group))}")
        _settings(group)
    for key, moments in state_dict["state"].items():
        if key not in params:
            raise ValueError(f"the state has moments of parameter {key}; its groups have {len(params)} parameters")
        if moments.keys() != set(Moments._fields):
            raise ValueError(
                f"the moments of parameter {key} are {', '.join(moments)}, not {', '.join(Moments._fields)}"
            )
        if type(moments["step"]) is not int or moments["step"] < 0:
            raise ValueError(f"step of parameter {key} is {moments['step']!r} but must be a count")
        for name in ("mean", "square"):
            require_shape(
                f"{name} of parameter {key}", moments[name], tuple(params[key].shape), "the parameter's shape"
            )


def _settings(group: dict[str, Any]) -> dict[str, float]:
    """A group's numbers under adamw_update's names, checked: a schedule may have changed them."""
    beta1, beta2 = group["betas"]
    settings = dict(lr=group["lr"], beta1=beta1, beta2=beta2, eps=group["eps"], weight_decay=group["weight_decay"])
    _check(**settings)
    return settings


def _explicit(params: list[Tensor], state: Any, settings: dict[str, float]) -> None:
    for p in params:
        assert p.grad is not None
        new, moments = adamw_update(p, p.grad, Moments(**state[p]), **settings)
        p.copy_(new)
        state[p].update(moments._asdict())


def _foreach(params: list[Tensor], state: Any, settings: dict[str, float]) -> None:
    """The same recurrence, in place, over all tensors of one step count and dtype at a time."""
    batches: dict[tuple[int, torch.dtype], list[Tensor]] = {}
    for p in params:
        batches.setdefault((state[p]["step"] + 1, p.dtype), []).append(p)
    lr, beta1, beta2 = settings["lr"], settings["beta1"], settings["beta2"]
    for (step, dtype), batch in batches.items():
        means, squares = ([state[p][key] for p in batch] for key in ("mean", "square"))
        grads = [p.grad.to(mean.dtype) for p, mean in zip(batch, means, strict=True)]  # type: ignore[union-attr]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        denominators = torch._foreach_div(squares, 1 - beta2**step)
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, settings["eps"])
        wide = batch if dtype == means[0].dtype else [p.to(means[0].dtype) for p in batch]
        torch._foreach_mul_(wide, 1 - lr * settings["weight_decay"])
        torch._foreach_addcdiv_(wide, means, denominators, -lr / (1 - beta1**step))
        for p, new in zip(batch, wide, strict=True):
            if p is not new:
                p.copy_(new)
            state[p]["step"] = step
