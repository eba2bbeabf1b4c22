"""A golden folder on disk: its files, their schema, the manifest that pins them, and what must hold among the cases."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimind_ref.golden import files, safetensors
from minimind_ref.golden.definitions import ROOT, clauses
from minimind_ref.golden.record import COMPUTED

NOT_VECTORS = ("manifest", "schema")
GENERATOR = "splitmix64-counter-1"


class BadFileError(ValueError):
    """A golden file that cannot be read: the message has the file and the line or the place in it."""


@dataclass(frozen=True)
class Folder:
    """The folders golden/ and specs/ below one root."""

    root: Path = ROOT

    @property
    def golden(self) -> Path:
        """Say where the vectors are."""
        return self.root / "golden"

    @property
    def specs(self) -> Path:
        """Say where the specs are."""
        return self.root / "specs"

    def file(self, name: str) -> Path:
        """Say where a component's vectors are."""
        return self.golden / f"{name}.json"

    def names(self) -> list[str]:
        """List the components with a file or with an entry in the manifest: a file that is gone is not overlooked."""
        found = {path.stem for path in self.golden.glob("*.json")} - set(NOT_VECTORS)
        return sorted(found | set(self.manifest()["files"]))

    def manifest(self) -> dict[str, Any]:
        """Read the manifest; a folder without one has an empty one."""
        path = self.file("manifest")
        return read_json(path) if path.exists() else {"format": 1, "generator": GENERATOR, "files": {}}

    def load(self, name: str, *, complete: bool) -> dict[str, Any]:
        """Read and validate a component's file; `complete` asks for the computed parts too."""
        path = self.file(name)
        if not path.exists():
            raise BadFileError(f"golden/{name}.json is missing")
        document = read_json(path)
        for error in schema_errors(document, complete=complete):
            raise BadFileError(f"golden/{name}.json: {error}")
        beside = path.with_suffix(".safetensors")
        if '"tensor": ' in path.read_text(encoding="utf-8") and not beside.exists():
            raise BadFileError(f"golden/{beside.name} is missing")
        for problem in self.problems(name, document):
            raise BadFileError(f"golden/{name}.json: {problem}")
        tensors = safetensors.read(beside) if beside.exists() else {}
        try:
            cases = [case | {"inputs": files.attach(case["inputs"], tensors)} for case in document["cases"]]
        except KeyError as error:
            raise BadFileError(f"golden/{beside.name}: it has no tensor {error}") from None
        return document | {"cases": cases}

    def problems(self, name: str, document: dict[str, Any]) -> list[str]:
        """List what a schema cannot say: names, permanent ids, clauses that exist, seeds used once in a case."""
        found = (
            [] if document["component"] == name else [f"component is {document['component']!r} but must be {name!r}"]
        )
        known = {clause.id for clause in clauses(name, self.specs)} if (self.specs / f"{name}.md").exists() else set()
        ids = Counter(case["id"] for case in document["cases"])
        found += [f"id {i} is used {n} times" for i, n in ids.items() if n > 1]
        found += [f"id {i} must begin with {name}/" for i in ids if not i.startswith(f"{name}/")]
        for case in document["cases"]:
            found += [f"{case['id']}: specs/{name}.md has no clause {c}" for c in case["clauses"] if c not in known]
            asked = [case["inputs"], case.get("gradients", {}).get("cotangent")]
            seeds = Counter(node["recipe"]["seed"] for _, node in files.nodes(asked) if "recipe" in node)
            found += [f"{case['id']}: seed {seed} is used {n} times" for seed, n in seeds.items() if n > 1]
        return found

    def hashes(self, name: str) -> dict[str, str]:
        """Hash a component's files."""
        paths = [self.file(name), self.file(name).with_suffix(".safetensors")]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.exists()}


def read_json(path: Path) -> Any:
    """Read a JSON file, or say in which line it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadFileError(f"{path.parent.name}/{path.name}:{error.lineno}: {error.msg}") from None


def schema_errors(document: Any, *, complete: bool) -> list[str]:
    """Validate against golden/schema.json; before the first `regen` the computed parts may be missing."""
    from jsonschema import Draft202012Validator

    found = []
    for error in Draft202012Validator(read_json(ROOT / "golden" / "schema.json")).iter_errors(document):
        absent = error.validator == "required"
        missing = [key for key in error.validator_value if key not in error.instance] if absent else []
        if complete or not missing or not set(missing) <= set(COMPUTED):
            found.append(f"{error.json_path}: {error.message}")
    return sorted(found)
