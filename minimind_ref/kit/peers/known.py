"""What fails in which library, in one plain sentence each: reproduced by hand in PEERS.md, "Findings"."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A cause: the implementation and operation that show it, the clauses that it breaks, where it was reported."""

    id: str
    implementation: str
    operation: str
    clauses: tuple[str, ...]
    sentence: str
    link: str = ""

    def explains(self, implementation: str, operation: str, clause: str) -> bool:
        """Say whether this is why the clause fails."""
        return (implementation, operation) == (self.implementation, self.operation) and clause in self.clauses

    def __str__(self) -> str:
        where = f" ([{self.id}](#{self.id.lower()}))"
        return self.sentence + where + (f", {self.link}" if self.link else "")


def ids(component: str, *numbers: int) -> tuple[str, ...]:
    """Write clause ids."""
    return tuple(f"{component}-{n}" for n in numbers)


FINDINGS: tuple[Finding, ...] = ()
