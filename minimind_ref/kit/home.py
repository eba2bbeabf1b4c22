"""Where the golden vectors and the specifications are: in the checkout, or where `pip install` put them."""

import sys
from functools import cache
from pathlib import Path

from minimind_ref.errors import UserError
from minimind_ref.golden import definitions

PACKAGES = Path(__file__).parents[2]  # the checkout, or site-packages
SHARED = Path("share") / "minimind_ref"


@cache
def find() -> Path:
    """Give the folder that has golden/ and specs/: pyproject.toml installs them under share/ of the environment."""
    prefixes = dict.fromkeys([Path(sys.prefix), PACKAGES, *PACKAGES.parents])
    places = [definitions.ROOT, *(prefix / SHARED for prefix in prefixes)]
    for place in places:
        if (place / "golden" / "manifest.json").exists() and (place / "specs").is_dir():
            return place
    raise UserError(
        f"golden/ and specs/ are neither in {definitions.ROOT} nor in {Path(sys.prefix) / SHARED}: "
        "install from a checkout, with pip install . or pip install -e ."
    )


def specs() -> Path:
    """Say where the specifications are."""
    return find() / "specs"


def golden() -> Path:
    """Say where the golden vectors are."""
    return find() / "golden"
