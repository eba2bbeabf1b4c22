"""Cases made on the spot from a seed: inputs for which each term matters, answered by the oracle with its bounds."""

from minimind_ref.kit.case import Case
from minimind_ref.kit.operation import Operation


def cases(operation: Operation, count: int, seed: int) -> list[Case]:
    """Give `count` cases of each generator of an operation, from consecutive seeds."""
    return []
