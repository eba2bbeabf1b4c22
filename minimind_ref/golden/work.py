"""The three commands on one component: check and diff only read, regen writes the vectors and the manifest."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minimind_ref.golden import files, safetensors
from minimind_ref.golden.agreement import within
from minimind_ref.golden.compute import compute
from minimind_ref.golden.folder import Folder
from minimind_ref.golden.kills import kills
from minimind_ref.golden.record import Recorder, digest
from minimind_ref.golden.trees import GoldenError

HEAD = ("id", "op", "clauses", "why", "flags", "link")  # of a case; `kills` follows


@dataclass(frozen=True)
class Result:
    """What a command has to say about one component."""

    summary: str
    lines: list[str] = field(default_factory=list)
    status: int = 0


def check(folder: Folder, name: str) -> Result:
    """Verify one component's vectors: as recorded in the manifest, and as the oracle computes them here."""
    document = folder.load(name, complete=True)
    entry = folder.manifest()["files"].get(name)
    lines = [] if entry else ["the manifest does not list it: run regen"]
    if entry and entry["sha256"] != folder.hashes(name):
        lines.append("the manifest has other hashes: run regen, or undo the edit")
    if entry and entry["spec_version"] != document["spec_version"]:
        lines.append(f"spec_version is {document['spec_version']} but the manifest has {entry['spec_version']}")
    for case in document["cases"]:
        same_inputs(case)
    _, recorder = recompute(folder, document, keep=True, full=False)
    lines = [f"golden check: {name}: {line}" for line in lines + recorder.changes]
    return Result(
        f"{len(lines)} problems" if lines else f"{len(document['cases'])} cases are good", lines, int(bool(lines))
    )


def diff(folder: Folder, name: str) -> Result:
    """Show what regen would change."""
    document = folder.load(name, complete=False)
    merged, recorder = recompute(folder, document, keep=not raised(folder, document), full=True)
    refused = refusals(folder, merged, recorder)
    text = files.render(merged) + "\n" != folder.file(name).read_text(encoding="utf-8")
    changes = recorder.changes or (["the layout or a stored input"] if text else [])
    lines = [f"regen would change: {line}" for line in changes] + [f"regen would refuse: {line}" for line in refused]
    return Result(f"{len(lines)} changes" if lines else "no change", lines, int(bool(lines)))


def regen(folder: Folder, name: str, reason: str) -> Result:
    """Record one component's vectors; nothing is written where faces disagree or a change is refused."""
    document = folder.load(name, complete=False)
    merged, recorder = recompute(folder, document, keep=not raised(folder, document), full=True)
    refused = refusals(folder, merged, recorder)
    if refused:
        raise GoldenError(f"{'; '.join(refused)}: raise spec_version if the spec really changed")
    path, text = folder.file(name), files.render(merged) + "\n"
    manifest = folder.manifest()
    entry = manifest["files"].get(name, {"reasons": []})
    if entry["reasons"] and text == path.read_text(encoding="utf-8") and entry["sha256"] == folder.hashes(name):
        return Result("no change")
    path.write_text(text, encoding="utf-8")
    if recorder.tensors:
        safetensors.write(path.with_suffix(".safetensors"), recorder.tensors)
    else:
        path.with_suffix(".safetensors").unlink(missing_ok=True)
    manifest["files"][name] = {
        "sha256": folder.hashes(name),
        "spec_version": merged["spec_version"],
        "numpy": np.__version__,
        "cases": {case["id"]: digest(case, recorder.tensors) for case in merged["cases"]},
        "reasons": [*entry["reasons"], reason],
    }
    manifest["files"] = dict(sorted(manifest["files"].items()))
    folder.file("manifest").write_text(files.render(manifest) + "\n", encoding="utf-8")
    return Result(f"{len(merged['cases'])} cases recorded", recorder.changes)


def raised(folder: Folder, document: dict[str, Any]) -> bool:
    """Say whether the file's spec_version is above the manifest's."""
    entry = folder.manifest()["files"].get(document["component"])
    return bool(entry) and document["spec_version"] > entry["spec_version"]


def same_inputs(case: dict[str, Any]) -> None:
    """Hold stored input values against the recipe beside them."""
    for name, node in files.nodes([case["inputs"], case.get("gradients", {}).get("cotangent")]):
        if "recipe" in node and "values" in node:
            stored = files.read_numbers(node["values"], node["shape"], node["dtype"])
            within(f"{case['id']}: the recipe's {name}", files.from_recipe(node), stored, np.array(0.0))


def recompute(folder: Folder, document: dict[str, Any], *, keep: bool, full: bool) -> tuple[dict[str, Any], Recorder]:
    """Compute every case and merge it into the document."""
    recorder, cases = Recorder(folder.file(document["component"]), keep=keep), []
    for case in document["cases"]:
        try:
            cases.append(recorder.case(case, *compute(document["component"], case, folder.specs, full=full)))
        except GoldenError as error:
            raise GoldenError(f"{case['id']}: {error}") from None
        except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
            said = str(error).partition("\n")[0]
            raise GoldenError(f"{case['id']}: {case['op']} cannot be run on it: {said}") from error
    if full:
        cases = with_kills(document["component"], cases, recorder)
    return {**document, "cases": cases}, recorder


def with_kills(component: str, cases: list[dict[str, Any]], recorder: Recorder) -> list[dict[str, Any]]:
    """Write into each case which known wrong implementations it detects, in the format's order of keys."""
    found = kills(component, cases, recorder.tensors)
    marked = []
    for case in cases:
        if case.get("kills", []) != found[case["id"]]:
            recorder.changes.append(f"{case['id']} kills {', '.join(found[case['id']]) or 'nothing'}")
        before = {key: x for key, x in case.items() if key in HEAD}
        rest = {key: x for key, x in case.items() if key not in (*HEAD, "kills")}
        marked.append(before | ({"kills": found[case["id"]]} if found[case["id"]] else {}) | rest)
    return marked


def refusals(folder: Folder, merged: dict[str, Any], recorder: Recorder) -> list[str]:
    """List the recorded cases that are gone or expect something else, unless spec_version was raised."""
    entry = folder.manifest()["files"].get(merged["component"])
    if entry is None or raised(folder, merged):
        return []
    now = {case["id"]: digest(case, recorder.tensors) for case in merged["cases"]}
    lost = [f"{i} is gone" for i in entry["cases"] if i not in now]
    return lost + [f"{i} expects something else" for i, d in now.items() if entry["cases"].get(i, d) != d]
