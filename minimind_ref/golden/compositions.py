"""The definitions of specs/block.md and specs/transformer.md, which call those of their parts."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from minimind_ref.golden.definitions import DECIMAL, FLOAT, SPECS, definition, functions, prepared, source

PARTS: dict[str, tuple[str, ...]] = {"block": ("rms_norm", "rope", "attention", "swiglu", "moe")}
PARTS["transformer"] = (*PARTS["block"], "block", "cross_entropy")


@cache
def composed(name: str, kind: str, folder: Path = SPECS) -> SimpleNamespace:
    """Execute the definition of specs/NAME.md among those of its parts; a spec without parts stands alone."""
    if name not in PARTS:
        return definition(name, kind, folder)
    injected = DECIMAL if kind == "decimal" else FLOAT
    space: dict[str, Any] = dict(injected)
    for part in PARTS[name]:
        inner: dict[str, Any] = dict(space if part in PARTS else injected)
        exec(compile(source(part, folder), f"specs/{part}.md", "exec"), inner)
        space |= {n: f for n, f in functions(inner, injected) if n not in space}
    exec(compile(source(name, folder), f"specs/{name}.md", "exec"), space)
    if name == "transformer":
        space["loss_and_gradients"] = _loss(space)
    return SimpleNamespace(**{n: prepared(f, kind) for n, f in functions(space, injected)})


def _loss(space: dict[str, Any]) -> Any:
    """Give TRANSFORMER-12's loss as the specification's prose composes it."""

    def loss_and_gradients(parameters, input_ids, labels, config, *, normaliser=None, aux_weight=1, **inputs):  # type: ignore[no-untyped-def]
        logits, aux, _ = space["transformer"](parameters, input_ids, config, **inputs)
        if normaliser is None:
            normaliser = max(sum(label != -100 for row in labels for label in row), 1)
        return space["cross_entropy"](logits, labels, reduction="sum") / normaliser + aux_weight * aux

    return loss_and_gradients
