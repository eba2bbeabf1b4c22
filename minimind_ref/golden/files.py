"""Golden files as data: numbers and their spelling, tensors, inputs from recipes, the layout of the JSON text."""

import json
import textwrap
from collections.abc import Iterator
from decimal import ROUND_CEILING, Context, Decimal
from pathlib import Path
from typing import Any

import numpy as np

from minimind_ref.golden import safetensors
from minimind_ref.golden.generator import draw, draw_integers

WIDTH = 120
LARGEST_IN_JSON = 512  # entries; what is larger goes to golden/NAME.safetensors
LARGEST_CASE_IN_JSON = 2048  # entries of all results; of a larger case only the numbers without axes stay in the JSON
LARGEST_STORED_INPUT = 64  # entries; what is larger is given by its recipe alone
DTYPES = {"float": np.float64, "int64": np.int64, "bool": np.bool_}
SPELT = ("NaN", "Infinity", "-Infinity")  # in JSON, which has no numbers for them; NumPy reads them


def spell(array: np.ndarray) -> list:
    """Spell out an array, row-major: shortest round-trip decimals, and NaN and infinities as strings."""
    names = {np.inf: "Infinity", -np.inf: "-Infinity"}
    return [names.get(x, x) if x == x else "NaN" for x in np.ravel(array).tolist()]


def read_numbers(values: list, shape: list, dtype: str) -> np.ndarray:
    """Read a row-major list back into an array of the dtype "float", "int64" or "bool"."""
    if len(values) != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"values has {len(values)} entries but shape is {shape}")
    return np.array(values, DTYPES[dtype]).reshape(shape)


def round_up(bound: float) -> float:
    """Round a bound up to four significant digits: more would only make files long and platforms differ."""
    return float(Context(prec=4, rounding=ROUND_CEILING).create_decimal(Decimal(bound)))


def from_recipe(node: dict) -> np.ndarray:
    """Build an input tensor: the generator's draw, or the given values, then `set`'s entries or whole rows."""
    shape, dtype, recipe = node["shape"], node["dtype"], node.get("recipe")
    if recipe is None:
        array = read_numbers(node["values"], shape, dtype)
    elif recipe["structure"] == "integers":
        array = draw_integers(recipe["seed"], shape, recipe["low"], recipe["high"]).astype(DTYPES[dtype])
    else:
        array = draw(recipe["seed"], shape, recipe.get("scale", 1.0), recipe["structure"])
    for index, value in node.get("set", []):
        array[tuple(index)] = value
    return array


def build(node: Any) -> Any:
    """Build what an input's node describes: a tensor, a tuple of nodes (a list), an object of nodes, plain data."""
    if isinstance(node, list):
        return tuple(build(entry) for entry in node)
    if isinstance(node, dict) and "json" in node:
        return node["json"]
    if isinstance(node, dict):
        return from_recipe(node) if "shape" in node else {key: build(entry) for key, entry in node.items()}
    return node


def attach(node: Any, tensors: dict[str, np.ndarray]) -> Any:
    """Give every input that is stored as a tensor of the safetensors file its values."""
    if isinstance(node, list):
        return [attach(entry, tensors) for entry in node]
    if not isinstance(node, dict) or "json" in node:
        return node
    if "shape" not in node:
        return {key: attach(entry, tensors) for key, entry in node.items()}
    return node | {"values": tensors[node["tensor"]].ravel()} if "tensor" in node else node


def nodes(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Walk over the tensors of an inputs or results object with their names: "x", "experts.0", "moments.mean"."""
    if isinstance(node, dict) and ("shape" in node or "json" in node):
        yield name, node
    elif isinstance(node, dict | list):
        for key, entry in node.items() if isinstance(node, dict) else enumerate(node):
            yield from nodes(entry, f"{name}.{key}" if name else str(key))


def with_values(node: Any) -> Any:
    """Store the numbers beside the recipe of every small input, so that a reader can check its generator.

    What `attach` added is taken off again.
    """
    if isinstance(node, list):
        return [with_values(entry) for entry in node]
    if not isinstance(node, dict) or "json" in node:
        return node
    if "shape" not in node:
        return {key: with_values(entry) for key, entry in node.items()}
    if "tensor" in node:
        return {key: entry for key, entry in node.items() if key != "values"}
    small = "recipe" in node and int(np.prod(node["shape"])) <= LARGEST_STORED_INPUT
    return node | {"values": spell(from_recipe(node))} if small else node


def read_tensor(node: dict, file: Path) -> np.ndarray:
    """Read a stored tensor, from the JSON itself or from the safetensors file beside it."""
    if "tensor" in node:
        return safetensors.read(file.with_suffix(".safetensors"))[node["tensor"]]
    return read_numbers(node["values"], node["shape"], node["dtype"])


def read_bound(stored: Any, shape: tuple, file: Path) -> np.ndarray:
    """Read a stored bound, a list or the name of a safetensors tensor; one of another size comes back flat."""
    if isinstance(stored, dict):
        return safetensors.read(file.with_suffix(".safetensors"))[stored["tensor"]]
    flat = np.array(stored, np.float64)
    return flat.reshape(shape) if flat.size == int(np.prod(shape, dtype=np.int64)) else flat


def render(x: Any, indent: int = 0) -> str:
    """Lay JSON out for review: what fits on a line is on a line, rows of numbers are filled to 120 columns."""
    line = json.dumps(x, ensure_ascii=False, allow_nan=False)
    if not isinstance(x, dict | list) or not x or (indent and len(line) + indent <= WIDTH - 20):
        return line
    pad, end = " " * (indent + 2), " " * indent
    if isinstance(x, dict):
        rows = [f"{pad}{json.dumps(key)}: {render(entry, indent + 2)}" for key, entry in x.items()]
        return "{\n" + ",\n".join(rows) + f"\n{end}}}"
    if any(isinstance(entry, dict | list) or (isinstance(entry, str) and entry not in SPELT) for entry in x):
        return "[\n" + ",\n".join(pad + render(entry, indent + 2) for entry in x) + f"\n{end}]"
    return "[\n" + textwrap.fill(line[1:-1], WIDTH, initial_indent=pad, subsequent_indent=pad) + f"\n{end}]"
