"""The conformance kit: judges anybody's implementation, clause by clause, and says which known bug it looks like.

    from minimind_ref.kit import check
    print(check("rms_norm", my_rms_norm, arrays="torch"))

Source: specs/ says what must hold, golden/ has the recorded cases; README.md beside this file shows how to begin.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minimind_ref.kit.implementation import Implementation
    from minimind_ref.kit.judging import check, verify
    from minimind_ref.kit.report import Report, Verdict

__all__ = ["Implementation", "Report", "Verdict", "check", "verify"]
PLACES = {"Implementation": "implementation", "Report": "report", "Verdict": "report"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: pytest loads the plugin in every run, which must cost nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES.get(name, 'judging')}"), name)
