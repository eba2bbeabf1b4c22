"""The two ways a command ends badly.  Anything else that is raised is a bug and keeps its traceback."""

import sys
from collections.abc import Callable, Sequence


class UserError(ValueError):
    """Bad input: one line that says what is wrong and where; exit code 2."""


class RunError(RuntimeError):
    """A run that could not go on, such as a loss that is no number; exit code 1."""


def run_command(command: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a command line and turn its errors into one line on stderr and an exit code."""
    try:
        command(sys.argv[1:] if argv is None else argv)
        return 0
    except UserError as error:
        code, text = 2, str(error)
    except RunError as error:
        code, text = 1, str(error)
    except KeyboardInterrupt:
        code, text = 130, "interrupted"
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return code
