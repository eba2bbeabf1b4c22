"""What a peer says of a case that its library does not offer (never a pass), or answers by a choice of its own."""

from typing import Any

from minimind_ref.kit.binding import CannotExpressError, OtherChoiceError


def offered(condition: Any, reason: str) -> None:
    """Leave a case out where the library does not offer what it asks for."""
    if not condition:
        raise CannotExpressError(reason)


def chosen(name: str, asked: Any, options: dict[Any, Any]) -> Any:
    """Give what an asked option is there; of options that it does not have, the first that it has is its choice."""
    if asked not in options:
        raise OtherChoiceError(f"{name}={asked!r}: it takes {name}={next(iter(options))!r}")
    return options[asked]
