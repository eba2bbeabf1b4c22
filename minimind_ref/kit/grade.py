"""`kit grade DIR`: judges answers that were written elsewhere, at another time; `kit cases DIR` writes the questions.

DIR/kit.json                        {"name": "…", "profiles": ["float32"], "gradients": true, "choices": {}}
DIR/<operation>/<case>.<profile>.json          the question, and beside it .safetensors with its tensors
DIR/<operation>/<case>.<profile>.answer.json   the answer, as protocol.py has it, and .answer.safetensors
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minimind_ref.errors import UserError
from minimind_ref.kit import protocol, vectors
from minimind_ref.kit.binding import NotPutError
from minimind_ref.kit.case import Case
from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.judging import verify
from minimind_ref.kit.operation import Operation
from minimind_ref.kit.outcome import Outcome
from minimind_ref.kit.registry import selected
from minimind_ref.kit.report import Report


def stem(folder: Path, case: Case, profile: str) -> Path:
    """Say where a case's question is, without the ending."""
    name = case.id.removeprefix(f"{case.operation.name}/").replace("/", "_")
    return folder / case.operation.name / f"{name}.{profile}"


class FilesRunner:
    """Reads answers from a folder; what was not asked then cannot be asked now."""

    live = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str) -> bool:
        """Say whether there is an answer for the operation."""
        return any((self.folder / name).glob("*.answer.json"))

    def ask(self, case: Case, profile: str, *, gradient: bool) -> Outcome:
        """Read one answer; one that is not there is not implemented."""
        path = stem(self.folder, case, profile)
        answer = path.with_name(f"{path.name}.answer.json")
        if not answer.exists():
            return Outcome(problem="cannot", text=f"there is no {answer.relative_to(self.folder)}")
        try:
            found = protocol.parsed(answer.read_text(encoding="utf-8"), 0)
            return protocol.outcome(found, case, profile, path.with_name(f"{path.name}.answer.safetensors"))
        except (ValueError, OSError) as error:
            return Outcome(problem="type", text=f"{answer.relative_to(self.folder)}: {error}")

    def answer(self, operation: Operation, arguments: dict[str, Any], profile: str) -> Any:
        """Laws need an implementation that can be asked."""
        raise NotPutError("laws are not put to files")


def settings(folder: Path) -> dict[str, Any]:
    """Read what the folder says of itself."""
    path = folder / "kit.json"
    if not path.exists():
        raise UserError(f"{path} is not there: `kit cases DIR` writes the questions and it")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold an object")
    return found


def grade(folder: Path, ops: Sequence[str] | None = None) -> Report:
    """Judge a folder of answers."""
    told, runner = settings(folder), FilesRunner(folder)
    made = Implementation(
        str(told.get("name", folder.name)), profiles=told.get("profiles") or ["float64"], choices=told.get("choices")
    )
    made.origin = f"grade {folder}"
    wanted = ops or [entry.name for entry in selected(None) if runner.has(entry.name)]
    if not wanted:
        raise UserError(f"{folder} has no answers")
    return verify(made, wanted, runner=runner)


def write_cases(folder: Path, ops: Sequence[str] | None, profiles: Sequence[str]) -> int:
    """Write the recorded cases as questions, and kit.json; give their number."""
    count = 0
    for operation in selected(ops):
        for case in vectors.recorded(operation):
            for profile in ("float64",) if case.exact else profiles:
                if profile in case.profiles:
                    path = stem(folder, case, profile)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    asked = protocol.question(case, profile, 0, path.parent, gradient=True)
                    Path(asked.pop("tensors")).replace(path.with_name(f"{path.name}.safetensors"))
                    asked.pop("answer")
                    text = json.dumps(asked, ensure_ascii=False) + "\n"
                    path.with_name(f"{path.name}.json").write_text(text, encoding="utf-8")
                    count += 1
    told = {"name": folder.name, "profiles": list(profiles), "choices": {}}
    (folder / "kit.json").write_text(json.dumps(told) + "\n", encoding="utf-8")
    return count
