"""`python tests/bound_table.py`: how wide the golden bounds are, and how much of them our torch code needs.

A bound that is vacuous accepts anything, and one that honest results touch will reject another honest result one day.
For each component and precision: the median bound ÷ |value| over all stored numbers, gradients included, and the
largest error ÷ bound of the torch face over all clauses, as the kit finds it.
"""

from collections.abc import Iterator

import numpy as np

from minimind_ref.golden import safetensors
from minimind_ref.golden.folder import Folder
from minimind_ref.golden.kills import stored_numbers
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.judging import verify
from minimind_ref.kit.ours import torch_faces
from minimind_ref.kit.registry import ALL
from minimind_ref.oracle.bounded import PROFILES


def relative_bounds(component: str, profile: str) -> np.ndarray:
    """Give bound ÷ |value| of every stored number that is finite, not 0 and bounded in this precision."""
    folder = Folder()
    beside = folder.file(component).with_suffix(".safetensors")
    tensors = safetensors.read(beside) if beside.exists() else {}
    cases = folder.load(component, complete=True)["cases"]
    parts = [part for case in cases for part in (case, case.get("gradients")) if part]
    found = [pair for part in parts for pair in pairs(part, profile, tensors)]
    values, bounds = (np.concatenate([np.zeros(0), *side]) for side in zip(*found, strict=True)) if found else ([], [])
    kept = np.isfinite(values) & (np.asarray(values) != 0) & (np.asarray(bounds) > 0)
    return np.asarray(bounds)[kept] / np.abs(np.asarray(values)[kept])


def pairs(part: dict, profile: str, tensors: dict) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give values and bounds of one part of a case, flat."""
    for name, limits in part["bound"].get(profile, {}).items():
        node = part.get("rounded", {}).get(profile, {}).get(name) or part["expected"][name]
        value = stored_numbers(node, tensors)
        stored = limits if isinstance(limits, dict) else {"values": limits}
        bound = stored_numbers({"shape": value.shape, "dtype": "float", **stored}, tensors)
        yield value.ravel().astype(np.float64), bound.ravel()


def margins(profile: str) -> dict[str, float]:
    """Give for each component the largest error ÷ bound of its torch face in one precision."""
    impl = Implementation(f"torch in {profile}", arrays="torch", profiles=[profile])
    for name, function in torch_faces.functions.items():
        impl.op(name, function)
    found: dict[str, float] = {}
    components = {entry.name: entry.component for entry in ALL}
    for verdict in verify(impl).verdicts:
        component = components[verdict.operation]
        found[component] = max(found.get(component, 0.0), verdict.margin or 0.0)
    return found


def main() -> None:
    """Print the table."""
    needed = {profile: margins(profile) for profile in PROFILES}
    print("| component |" + "".join(f" {profile} |" for profile in PROFILES))
    print("|---|" + "---|" * len(PROFILES))
    for component in dict.fromkeys(entry.component for entry in ALL):
        cells = []
        for profile in PROFILES:
            sizes = relative_bounds(component, profile)
            cells.append(f"{np.median(sizes):.1e} · {needed[profile].get(component, 0):.2f}" if sizes.size else "–")
        if any(cell != "–" for cell in cells):
            print(f"| {component} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
