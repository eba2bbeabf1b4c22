"""MiniMind itself: a checkout given by path is imported, and what of it can be called is put under the kit.

Nothing of MiniMind is in this repository.  `implementations(path)` takes either generation: MiniMind2 (Oct 2025) or
MiniMind-3 (Aug 2026).  Their modules are run as they are; where one holds more than an operation, the parts around it
are replaced by the identity (projections, a network in front of a head) or a function that it calls is watched.
Training loops are no functions: what stands inline in them is NOT IMPLEMENTED.
"""

from pathlib import Path
from typing import Any

from minimind_ref.errors import UserError
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.peers.minimind_checkout import Checkout
from minimind_ref.kit.peers.minimind_layers import Layers
from minimind_ref.kit.peers.minimind_losses import Losses
from minimind_ref.kit.peers.minimind_network import Network
from minimind_ref.kit.peers.minimind_text import Text

LOW = ("float32", "bfloat16", "float16")
CAST = {2: "before", 3: "after"}


def implementations(path: str | Path) -> list[Implementation]:
    """Give a checkout's implementations, by part; its float32 islands allow no float64."""
    checkout = Checkout(Path(path))
    name, own = f"MiniMind{'2' if checkout.generation == 2 else '-3'}", checkout.generation
    template = {f"{op}.template": f"minimind{own}" for op in ("chat_template.render", "sft_mask")}
    made = [
        entered(f"{name} layers", Layers(checkout), LOW, {"rms_norm.cast": CAST[own]}),
        entered(f"{name} network", Network(checkout), LOW[:1], {}),
        entered(f"{name} training functions", Losses(checkout), LOW[:1], {}),
        entered(f"{name} generate", checkout.generation == 3 and Losses(checkout).sampler(), LOW[:1], {}),
        entered(f"{name} conversations", Text(checkout), ("float64",), template),
    ]
    return [implementation for implementation in made if implementation.functions]


def entered(name: str, part: Any, profiles: tuple[str, ...], choices: dict[str, Any]) -> Implementation:
    """Enter a part's functions, which it gives by operation."""
    implementation = Implementation(name, arrays="torch", profiles=profiles, choices=choices)
    for operation, function in (part.operations() if part else {}).items():
        implementation.op(operation, function)
    return implementation


def read(path: str | Path) -> list[Implementation]:
    """Give a checkout's implementations, or say in one line why there are none."""
    try:
        return implementations(path)
    except ImportError as error:
        raise UserError(f"{path}: importing it needs {error.name or error}") from None
