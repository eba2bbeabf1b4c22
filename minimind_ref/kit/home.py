"""Where the golden vectors and the specifications are: in the checkout, or in the installed package."""

from pathlib import Path

from minimind_ref.errors import UserError
from minimind_ref.golden import definitions

INSTALLED = Path(__file__).parent / "_data"


def find() -> Path:
    """Give the folder that has golden/ and specs/, or say how to get one."""
    for root in (definitions.ROOT, INSTALLED):
        if (root / "golden" / "manifest.json").exists() and (root / "specs").is_dir():
            return root
    raise UserError(
        f"golden/ and specs/ are neither in {definitions.ROOT} nor in {INSTALLED}: install from a checkout, "
        "with pip install -e . or pip install ."
    )


ROOT = find()
SPECS = ROOT / "specs"
GOLDEN = ROOT / "golden"
