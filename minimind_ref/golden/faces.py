"""The faces of a component, each run on the inputs of one case: oracle with bounds, definition in decimals, torch."""

import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from minimind_ref.golden import files
from minimind_ref.golden.compositions import composed
from minimind_ref.golden.definitions import floats
from minimind_ref.golden.trees import GoldenError, is_floating, is_tensor, leaves, map_leaves, named, settled, typed

TORCH_FOLDERS = ("model", "loss", "optim", "data", "generate")
ADAPTERS = {  # where faces of one operation differ in their arguments
    "tokenizer": "texts", "chat_template": "chats", "block": "networks", "transformer": "networks"
}  # fmt: skip


def adapter(face: str, component: str, name: str) -> Callable[..., Any] | None:
    """Find how a face is run where it is not simply called, as golden/README.md names inputs and outputs."""
    if component not in ADAPTERS:
        return None
    return getattr(import_module(f"minimind_ref.golden.{ADAPTERS[component]}"), f"{face}_{name}", None)


def oracle(component: str, name: str) -> Callable[..., Any]:
    """Find minimind_ref.oracle.COMPONENT.NAME."""
    if found := adapter("oracle", component, name):
        return found
    try:
        return getattr(import_module(f"minimind_ref.oracle.{component}"), name)
    except (ImportError, AttributeError) as error:
        raise GoldenError(f"the oracle has no {component}.{name}: {error}") from None


def torch_face(component: str, name: str) -> Callable[..., Any] | None:
    """Find the torch face of a function, or None where there is none yet."""
    if found := adapter("torch", component, name):
        return found
    for folder in TORCH_FOLDERS:
        module = f"minimind_ref.{folder}.{component}"
        if find_spec(f"minimind_ref.{folder}") and find_spec(module):
            return getattr(import_module(module), name, None)
    return None


def with_bounds(x: Any, profile: str) -> Any:
    """Round the floating leaves to the profile's storage type and let them carry a bound (of zero)."""
    from minimind_ref.oracle.bounded import bound_inputs

    return map_leaves(lambda leaf: bound_inputs(leaf, profile=profile)[0] if is_floating(leaf) else leaf, x)


def run_oracle(
    component: str, case: dict[str, Any], inputs: dict[str, Any], cotangents: dict[str, Any], profile: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run forward and vjp on bound-carrying inputs: outputs and gradients by name."""
    function, parameters = oracle(component, case["op"]), case["parameters"]
    bounded = with_bounds(typed(function, inputs), profile)
    outputs = named(case["outputs"], function(**bounded, **parameters))
    if not cotangents:
        return outputs, {}
    given = list(with_bounds(cotangents, profile).values())
    vjp = oracle(component, f"{case['op']}_vjp")
    found = vjp(**bounded, **parameters, cotangent=given[0] if len(given) == 1 else tuple(given))
    return outputs, named(gradient_names(case), tuple(g for _, g in leaves(found) if g is not None))


def gradient_names(case: dict[str, Any]) -> list[str]:
    """Name the gradients: those the case says, else one for each floating input in order."""
    return case["gradients"].get("of") or [n for n, node in files.nodes(case["inputs"]) if node.get("dtype") == "float"]


def run_definition(component: str, case: dict[str, Any], inputs: dict[str, Any], specs: Path) -> Any:
    """Run the spec's definition with 50-digit decimals; None where it does not define the operation."""
    defined = composed(component, "decimal", specs)
    if adapted := adapter("definition", component, case["op"]):
        return adapted(defined, **inputs, **case["parameters"])
    function = getattr(defined, case["op"], None)
    if function is None:
        return None
    kinds = {name: p.kind for name, p in inspect.signature(function).parameters.items()}
    keyword = {name: x for name, x in inputs.items() if kinds.get(name) is inspect.Parameter.KEYWORD_ONLY}
    return function(*[x for name, x in inputs.items() if name not in keyword], **keyword, **case["parameters"])


def exact_outputs(component: str, case: dict[str, Any], inputs: dict[str, Any], specs: Path) -> dict[str, Any] | None:
    """Give the definition's outputs, each entry the float64 next to its 50 digits."""
    result = run_definition(component, case, inputs, specs)
    return None if result is None else named(case["outputs"], floats(result))


def run_torch(component: str, case: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Run the torch face and autograd in float64; None where there is no torch face."""
    function = torch_face(component, case["op"])
    if function is None:
        return None
    import torch

    def tensor(leaf: Any) -> Any:
        return torch.tensor(leaf, requires_grad=is_floating(leaf)) if isinstance(leaf, np.ndarray) else leaf

    inputs = map_leaves(tensor, typed(function, files.build(case["inputs"])))
    outputs = named(case["outputs"], function(**inputs, **case["parameters"]))
    gradients: dict[str, Any] = {}
    if "gradients" in case:
        by_name = {n: x for n, x in leaves(inputs) if is_tensor(x)}
        wanted = {n: by_name[n] for n in gradient_names(case)}
        given = {n: torch.tensor(c) for n, c in files.build(case["gradients"]["cotangent"]).items()}
        found = torch.autograd.grad(
            [outputs[n] for n in given], list(wanted.values()), list(given.values()), allow_unused=True
        )
        gradients = {
            n: np.zeros(tuple(x.shape)) if g is None else g.numpy()
            for (n, x), g in zip(wanted.items(), found, strict=True)
        }
    return {n: y.detach().numpy() if is_tensor(y) else settled(y) for n, y in outputs.items()}, gradients
