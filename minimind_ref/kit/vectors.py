"""The golden vectors as cases, in each operation's convention."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from minimind_ref.golden import files, safetensors
from minimind_ref.golden.folder import read_json
from minimind_ref.kit import adaptations, home
from minimind_ref.kit.case import ORDER, Answers, Case, Expected, Results
from minimind_ref.kit.operation import Operation


@cache
def document(component: str) -> dict[str, Any]:
    """Read golden/<component>.json, stored inputs attached; a component without a file has no cases."""
    path = file(component)
    if not path.exists():
        return {"cases": []}
    beside = path.with_suffix(".safetensors")
    tensors = safetensors.read(beside) if beside.exists() else {}
    found = read_json(path)
    return found | {"cases": [case | {"inputs": files.attach(case["inputs"], tensors)} for case in found["cases"]]}


def file(component: str) -> Path:
    """Say where a component's vectors are."""
    return home.golden() / f"{component}.json"


@cache
def recorded(operation: Operation) -> tuple[Case, ...]:
    """Give the recorded cases of an operation."""
    wanted = [case for case in document(operation.component)["cases"] if case["op"] == operation.golden]
    return tuple(read(operation, case) for case in wanted)


def result_names(operation: Operation) -> tuple[str, ...]:
    """Name the results of an operation, in order."""
    return tuple(dict.fromkeys(name.partition(".")[0] for name in recorded(operation)[0].outputs))


def read(operation: Operation, node: dict[str, Any]) -> Case:
    """Build one case."""
    built = node | {"inputs": files.build(node["inputs"])}
    if "gradients" in node:
        built["cotangent"] = files.build(node["gradients"]["cotangent"])
    built = adaptations.adapt(operation.name, built)
    exact = built.get("fixed")

    @cache
    def answer(profile: str) -> Answers:
        if exact is not None:
            return {name: Expected(*pair) for name, pair in exact.items()}, {}
        parts = (results(node, profile, operation.component), gradients(node, profile, operation.component))
        return {name: parts[0][name] for name in built["outputs"]}, parts[1]

    return Case(
        id=node["id"], operation=operation, clauses=tuple(node["clauses"]), why=node["why"],
        inputs=built["inputs"], parameters=built["parameters"], outputs=tuple(built["outputs"]), answer=answer,
        profiles=tuple(built.get("profiles", ORDER)),
        cotangent=built.get("cotangent", {}), of=tuple(node.get("gradients", {}).get("expected", ())),
        flags=tuple(node["flags"]), link=node.get("link", ""),
    )  # fmt: skip


def results(part: dict[str, Any], profile: str, component: str) -> Results:
    """Read the expected values of a profile with their bounds."""
    path, found = file(component), {}
    for name, node in (part["expected"] | part.get("rounded", {}).get(profile, {})).items():
        if "json" in node:
            found[name] = Expected(node["json"])
            continue
        stored, each = files.read_tensor(node, path), part["bound"].get(profile, {}).get(name)
        bound = None if each is None else np.asarray(files.read_bound(each, stored.shape, path))
        found[name] = Expected(stored, bound)
    return found


def gradients(node: dict[str, Any], profile: str, component: str) -> Results:
    """Read the expected gradients."""
    return results(node["gradients"], profile, component) if "gradients" in node else {}
