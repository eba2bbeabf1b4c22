"""How computed values become part of a golden file: what stays, what changes and by how much."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from minimind_ref.golden import files
from minimind_ref.golden.agreement import close
from minimind_ref.golden.compute import Computed

COMPUTED = ("computed_by", "expected", "rounded", "bound")
BOUND_MAY_MOVE = 0.01  # relative: bounds depend on the last bits of libm only


class Recorder:
    """Merges one file's computed values into its cases, keeping what is stored where `keep` allows and it is right."""

    def __init__(self, file: Path, *, keep: bool) -> None:
        self.file, self.keep, self.largest = file, keep, files.LARGEST_IN_JSON
        self.tensors: dict[str, np.ndarray] = {}  # of the safetensors file
        self.changes: list[str] = []

    def case(self, case: dict[str, Any], outputs: Computed, gradients: Computed) -> dict[str, Any]:
        """Give the case with its computed parts, in the format's order of keys."""
        before = len(self.changes)
        each = [y for part in (outputs, gradients) for y in part.expected.get("float64", {}).values()]
        size = sum(y.size for y in each if hasattr(y, "dtype"))
        self.largest = files.LARGEST_IN_JSON if size <= files.LARGEST_CASE_IN_JSON else 1
        for _, node in files.nodes(case["inputs"]):
            if "tensor" in node:
                self.tensors[node["tensor"]] = files.from_recipe(node)
        authored = {key: x for key, x in case.items() if key not in (*COMPUTED, "gradients")}
        authored["inputs"] = files.with_values(case["inputs"])
        merged = authored | self.part(case["id"], case, outputs)
        if "gradients" in case:
            asked = {key: x for key, x in case["gradients"].items() if key in ("cotangent", "of", "detached")}
            asked["cotangent"] = files.with_values(asked["cotangent"])
            found = self.part(f"{case['id']}/gradients", case["gradients"], gradients)
            merged["gradients"] = asked | {key: x for key, x in found.items() if key != "computed_by"}
        if "expected" not in case:
            self.changes[before:] = [f"{case['id']} is new"]
        return merged

    def part(self, where: str, stored: dict[str, Any], computed: Computed) -> dict[str, Any]:
        """Merge outputs or gradients."""
        before = len(self.changes)
        old = {"float64": stored.get("expected", {}), **stored.get("rounded", {})}
        merged = {
            profile: {
                n: self.tensor(
                    f"{where}/{profile}/{n}", old.get(profile, {}).get(n), y, computed.tolerance[profile].get(n)
                )
                for n, y in results.items()
            }
            for profile, results in computed.expected.items()
        }
        self.gone(where, old, merged)
        fresh = not self.keep or len(self.changes) > before or "computed_by" not in stored
        part = {"computed_by": computed.by if fresh else stored["computed_by"], "expected": merged.pop("float64")}
        if merged:
            part["rounded"] = merged
        old_bound = stored.get("bound", {})
        part["bound"] = {
            p: {n: self.bound(f"{where}/bound/{p}/{n}", old_bound.get(p, {}).get(n), b) for n, b in each.items()}
            for p, each in computed.bound.items()
        }
        self.gone(f"{where}/bound", old_bound, part["bound"])
        return part

    def gone(self, where: str, old: dict[str, Any], new: dict[str, Any]) -> None:
        """Report what is stored and no longer computed."""
        for profile, each in old.items():
            self.changes += [f"{where}/{profile}/{n} is gone" for n in each if n not in new.get(profile, {})]

    def tensor(self, key: str, old: dict[str, Any] | None, new: Any, tolerance: np.ndarray | None) -> dict[str, Any]:
        """Keep a stored tensor that is right within the tolerance, else spell out the new one."""
        if tolerance is None and not isinstance(new, np.ndarray | np.generic | int):
            if old != {"json": new}:
                self.changes.append(f"{key} is {new!r}")
            return {"json": new}
        array = np.asarray(new)
        if old is not None:
            before = files.read_tensor(old, self.file)
            same = before.shape == array.shape and bool(
                np.array_equal(before, array) if tolerance is None else close(before, array, tolerance).all()
            )
            if same and self.keep:
                array = before
            elif not same:
                self.changes.append(f"{key} moves {distance(before, array)}")
        else:
            self.changes.append(f"{key} is new")
        dtype = {"f": "float", "i": "int64", "u": "int64", "b": "bool"}[array.dtype.kind]
        return {"shape": list(array.shape), "dtype": dtype, **self.entries(key, array.astype(files.DTYPES[dtype]))}

    def bound(self, key: str, old: Any, new: np.ndarray) -> Any:
        """Keep a stored bound within 1 % of the new one."""
        array = np.array([files.round_up(b) for b in np.ravel(new).tolist()], np.float64).reshape(np.shape(new))
        if old is not None:
            before = files.read_bound(old, array.shape, self.file)
            if before.shape == array.shape and (np.abs(before - array) <= BOUND_MAY_MOVE * array).all():
                array = before
            else:
                self.changes.append(f"{key} {factor(before, array)}")
        else:
            self.changes.append(f"{key} is new")
        entries = self.entries(key, array)
        return entries.get("values", entries)

    def entries(self, key: str, array: np.ndarray) -> dict[str, Any]:
        """Spell a tensor out, or put a large one into the safetensors file."""
        if array.size <= self.largest:
            return {"values": files.spell(array)}
        self.tensors[key] = array
        return {"tensor": key}


def distance(old: np.ndarray, new: np.ndarray) -> str:
    """Say how far two arrays are apart, in units of the last place."""
    if old.shape != new.shape:
        return f"from shape {list(old.shape)} to {list(new.shape)}"
    with np.errstate(invalid="ignore"):
        ulps = np.abs(new.astype(np.float64) - old) / np.spacing(np.abs(old.astype(np.float64)))
    return f"by {np.nanmax(ulps):.3g} ulp" if np.isfinite(ulps).any() else "between a number and a non-number"


def factor(old: np.ndarray, new: np.ndarray) -> str:
    """Say by what factors bounds change."""
    if old.shape != new.shape:
        return f"has {new.size} entries instead of {old.size}"
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(old == new, 1.0, new / old)
    return f"is {ratios.min():.3g} to {ratios.max():.3g} times what it was"


def digest(case: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    """Hash what a case expects, bit for bit, wherever it is stored."""
    asked = [
        case["expected"],
        case.get("rounded"),
        *(case.get("gradients", {}).get(k) for k in ("expected", "rounded")),
    ]
    sha = hashlib.sha256()
    for name, node in files.nodes(asked):
        sha.update(f"{name}:{node.get('shape')}:{node.get('json')!r}".encode())
        if "tensor" in node:
            sha.update(tensors[node["tensor"]].tobytes())
        elif "values" in node:
            sha.update(files.read_numbers(node["values"], node["shape"], node["dtype"]).tobytes())
    return sha.hexdigest()[:16]
