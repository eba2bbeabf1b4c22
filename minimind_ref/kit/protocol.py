"""What goes over the line between the kit and a program: cases as JSON with tensors in files, and answers back.

The kit writes one JSON object a line, the program answers with one line:

    {"hello": 1}
    {"name": "mine", "ops": ["rms_norm"], "profiles": ["float32"], "gradients": true, "choices": {}}

    {"id": 1, "op": "rms_norm", "profile": "float32", "inputs": {"x": {"tensor": "inputs.x"}, …},
     "parameters": {"eps": 1e-06}, "outputs": ["y"], "cotangent": {"y": {"tensor": "cotangent.y"}},
     "gradients": ["x", "weight"], "tensors": "/…/1.safetensors", "answer": "/…/1.answer.safetensors"}
    {"id": 1, "outputs": {"y": {"tensor": "y"}}, "gradients": {"x": {"tensor": "dx"}, "weight": {"tensor": "dw"}}}

A tensor of an answer is {"tensor": name} in the file `answer`, or {"shape": […], "dtype": …, "values": […]} itself,
in which "NaN", "Infinity" and "-Infinity" are numbers too; anything else is data.
{"id": 1, "error": "…"} says that it failed, {"id": 1, "cannot": "mask"} that it has no such argument.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from minimind_ref.kit import tensors, trees
from minimind_ref.kit.case import Case
from minimind_ref.kit.outcome import Outcome, Result

NARROW = ("bfloat16", "float16")
SPELT = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}


class NonsenseError(ValueError):
    """An answer that does not follow the protocol."""


def question(case: Case, profile: str, number: int, folder: Path, *, gradient: bool) -> dict[str, Any]:
    """Write a case's tensors into a file, and give the object for the line."""
    inputs, cotangent = case.stored(profile)
    stored: dict[str, tuple[np.ndarray, str]] = {}

    def out(name: str, x: Any) -> Any:
        if not isinstance(x, np.ndarray | np.generic):
            return vars(x) if hasattr(x, "control_ids") else x
        wide = profile in NARROW and case.operation.stays_wide(name.partition(".")[2], output=False)
        array = np.asarray(x)
        stored[name] = (array, str(array.dtype) if array.dtype.kind != "f" else "float32" if wide else profile)
        return {"tensor": name}

    asked = {
        "id": number,
        "op": case.operation.name,
        "profile": profile,
        "inputs": {name: trees.map_named(out, x, f"inputs.{name}") for name, x in inputs.items()},
        "parameters": case.parameters,
        "outputs": list(case.outputs),
    }
    if gradient and cotangent:
        asked["cotangent"] = {n: out(f"cotangent.{n}", c) for n, c in cotangent.items()}
        asked["gradients"] = list(case.answer(profile)[1])
    tensors.write(folder / f"{number}.safetensors", stored)
    return asked | {"tensors": str(folder / f"{number}.safetensors"), "answer": str(answer_file(folder, number))}


def answer_file(folder: Path, number: int) -> Path:
    """Say where the tensors of an answer are."""
    return folder / f"{number}.answer.safetensors"


def parsed(line: str, number: int) -> dict[str, Any]:
    """Read an answer's line."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise NonsenseError(f"answered no JSON: {line.strip()[:120]!r}") from None
    if not isinstance(found, dict) or (number and found.get("id") != number):
        raise NonsenseError(f"answered {line.strip()[:120]!r}, which is no object with id {number}")
    return found


def greeting(line: str) -> dict[str, Any]:
    """Read what a program says of itself."""
    found = parsed(line, 0)
    for key, kind, lacking in (("ops", list, None), ("profiles", list, []), ("choices", dict, {})):
        given = found.get(key) if found.get(key) is not None else lacking
        if not isinstance(given, kind):
            raise NonsenseError(f"answered {line.strip()[:120]!r}, which has no {kind.__name__} of {key}")
    return found


def outcome(found: dict[str, Any], case: Case, profile: str, file: Path) -> Outcome:
    """Turn an answer into an outcome."""
    if "error" in found:
        return Outcome(problem="raised", text=f"answered the error {str(found['error'])[:300]!r}")
    if "cannot" in found:
        return Outcome(problem="cannot", text=f"it takes no argument {found['cannot']!r}")
    kept = tensors.read(file) if file.exists() else {}
    outputs = results(found.get("outputs"), case.outputs, kept, "outputs")
    wanted = tuple(case.answer(profile)[1])
    if "gradients" not in found or not wanted:
        return Outcome(outputs)
    return Outcome(outputs, results(found["gradients"], wanted, kept, "gradients"))


def results(found: Any, names: tuple[str, ...], kept: dict[str, Any], what: str) -> dict[str, Result]:
    """Read the results by name."""
    if not isinstance(found, dict) or set(names) - set(found):
        lacking = sorted(set(names) - set(found if isinstance(found, dict) else ()))
        raise NonsenseError(f"its {what} lack {', '.join(lacking[:5])}")
    return {name: one(found[name], kept) for name in names}


def one(node: Any, kept: dict[str, Any]) -> Result:
    """Read one result."""
    if isinstance(node, dict) and "tensor" in node:
        if node["tensor"] not in kept:
            raise NonsenseError(f"the answer's file has no tensor {node['tensor']!r}")
        return Result(*kept[node["tensor"]])
    if isinstance(node, dict) and {"shape", "values"} <= set(node):
        values = [SPELT.get(x, x) if isinstance(x, str) else x for x in node["values"]]
        if None in values:
            raise NonsenseError(f"a tensor's values have null, which is no number; {', '.join(SPELT)} are, as strings")
        try:
            array = np.array(values).reshape(node["shape"])
        except (ValueError, TypeError) as error:
            raise NonsenseError(f"a tensor's values cannot be read: {error}") from None
        dtype = node.get("dtype", str(array.dtype))
        return Result(array.astype(np.float64) if "float" in str(dtype) else array, dtype)
    return Result(np.asarray(node)) if isinstance(node, bool | int | float) else Result(node)
