"""MiniMind itself: a checkout given by path is imported, and what of it can be called is put under the kit.

Nothing of MiniMind is in this repository.  `implementations(path)` takes either generation: MiniMind2 (Oct 2025) or
MiniMind-3 (Aug 2026).  Their modules are run as they are; where one holds more than an operation, the parts around it
are replaced by the identity (projections, a network in front of a head) or a function that it calls is watched.
Training loops are no functions: what stands inline in them is NOT IMPLEMENTED.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.peers.minimind_checkout import Checkout
from minimind_ref.kit.peers.minimind_layers import Experts, Half, Layers
from minimind_ref.kit.peers.minimind_losses import Losses, Sampler
from minimind_ref.kit.peers.minimind_network import Network
from minimind_ref.kit.peers.minimind_text import Text

LOW = ("float32", "bfloat16", "float16")
TITLES = {2: "MiniMind2", 3: "MiniMind-3"}
CAST = {2: "before", 3: "after"}
SCHEDULE: dict[int, dict[str, Any]] = {2: {"cosine_schedule.form": "minimind2"}, 3: {}}


def implementations(path: str | Path) -> dict[str, Implementation | str]:
    """Give a checkout's implementations by name; a part that cannot be imported has the reason in its place."""
    checkout = Checkout(Path(path))
    own = checkout.generation
    template = {f"{op}.template": f"minimind{own}" for op in ("chat_template.render", "sft_mask")}
    parts: dict[str, tuple[Callable[[], Any], tuple[str, ...], dict[str, Any]]] = {
        "layers": (lambda: Layers(checkout), LOW, {"rms_norm.cast": CAST[own], "attention.nothing_visible": "other"}),
        "attention, float16": (lambda: Half(checkout), ("float16",), {}),
        "experts": (lambda: Experts(checkout), LOW[:1], {}),
        "network": (lambda: Network(checkout), LOW[:1], {}),
        "training functions": (lambda: Losses(checkout), LOW[:1], SCHEDULE[own]),
        "generate": (lambda: Sampler(checkout), LOW[:1], {}),
        "conversations": (lambda: Text(checkout), ("float64",), template),
    }
    if own == 2:  # its mask is float32, and so is what it is added to
        del parts["attention, float16"]
    made = {}
    for name, (build, profiles, choices) in parts.items():
        full = f"{TITLES[own]} {name}"
        try:
            functions = build().operations()
        except ImportError as error:
            made[full] = f"not imported: it needs {error.name or error}"
            continue
        if functions:
            made[full] = Implementation(full, arrays="torch", profiles=profiles, choices=choices)
            for operation, function in functions.items():
                made[full].op(operation, function)
    return made
