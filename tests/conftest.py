"""Hypothesis profiles: `dev` draws at random, `ci` always draws the same, `deep` draws many and prints its seed."""

import os

import torch
from hypothesis import HealthCheck, settings

settings.register_profile("dev", deadline=None, max_examples=20)
settings.register_profile("ci", deadline=None, max_examples=20, derandomize=True)
settings.register_profile(
    "deep", deadline=None, max_examples=1000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))
torch.set_num_threads(
    1
)  # small tensors: threads cost more than they give, and rounding must not depend on their number
