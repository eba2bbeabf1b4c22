"""The two ways a command ends badly.  Anything else that is raised is a bug and keeps its traceback."""

import os
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
        sys.stdout.flush()  # here, where a reader who has left is noticed in one line
        return 0
    except UserError as error:
        code, text = 2, str(error)
    except RunError as error:
        code, text = 1, str(error)
    except KeyboardInterrupt:
        code, text = 130, "interrupted"
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes there at exit
        code, text = 1, "nobody reads stdout any more"
    except OSError as error:  # a full disk, a folder where a file should be
        if error.strerror is None:
            raise
        code, text = 1, f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return code
