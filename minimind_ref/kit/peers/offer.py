"""What a peer says of a case that asks for more than its library offers: NOT IMPLEMENTED, which is never a pass."""

from typing import Any

from minimind_ref.kit.binding import CannotExpressError


def offered(condition: Any, reason: str) -> None:
    """Leave a case out where the library does not offer what it asks for."""
    if not condition:
        raise CannotExpressError(reason)
