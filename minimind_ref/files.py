"""Files written whole or not at all.  Standard library only."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Give `write` a binary file beside `path`, sync it to disk and only then let it take the name.

    What the system refuses is raised as an OSError that names `path`.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if (refused := _refusal(error)) is not None:
            raise OSError(refused.errno, refused.strerror, str(path)) from None
        raise


def _refusal(error: BaseException | None) -> OSError | None:
    """The system's error behind another: torch.save turns a full disk into a RuntimeError about positions."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        error = error.__context__
    return None
