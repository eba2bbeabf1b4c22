"""Which known bug a failing implementation looks like: the mutant whose answers to the failing cases are its answers."""

from minimind_ref.kit.findings import Finding
from minimind_ref.kit.operation import Operation


def name(operation: Operation, found: list[Finding], session: object) -> str:
    """Name the known bug, or nothing."""
    return ""
