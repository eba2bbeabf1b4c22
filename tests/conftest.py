"""Shapes are checked under test; hypothesis has three profiles: `dev` draws at random, `ci` always draws the same,
`deep` draws many and prints its seed."""

import os
import signal
import sys
from pathlib import Path

import jaxtyping
import pytest

PACKAGE = Path(__file__).parents[1] / "minimind_ref"
CHECKED = ("data", "generate", "loss", "model", "optim", "oracle")
INNER = ("bounded", "precision", "propagation")  # the bound-carrying array calls itself too often to be checked
MODULES = [
    f"minimind_ref.{folder}.{path.stem}"
    for folder in CHECKED
    for path in sorted((PACKAGE / folder).glob("*.py"))
    if not path.stem.startswith((*INNER, "__"))
]
jaxtyping.install_import_hook(MODULES, "beartype.beartype")

import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile("dev", deadline=None, max_examples=20)
settings.register_profile("ci", deadline=None, max_examples=20, derandomize=True)
settings.register_profile(
    "deep", deadline=None, max_examples=1000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))
# A shell's background ignores interrupts, and what the tests start and then interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # threads cost more than they give here, and rounding must not depend on their number


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Plain `pytest` uses up to eight cores where pytest-xdist is installed; named files run in this process."""
    whole = config.args_source == config.ArgsSource.TESTPATHS and not config.getoption("minimind_impl", None)
    whole = whole and not hasattr(config, "workerinput")  # a worker comes by here too, and must not start its own
    if whole and not config.option.usepdb and getattr(config.option, "numprocesses", 0) is None:
        config.option.numprocesses, config.option.maxprocesses = "auto", 8


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Runs draw nothing where matplotlib is installed, which takes longer than they do; test_metrics.py draws."""
    if session := sys.modules.get("minimind_ref.train.session"):
        monkeypatch.setattr(session, "draw_curves", lambda *arguments: None)
