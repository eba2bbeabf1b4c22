"""The frozen copy that preference optimisation and reinforcement learning compare the policy with."""

import copy

from minimind_ref.model.transformer import Transformer


def frozen_copy(model: Transformer) -> Transformer:
    """A copy that no optimiser can change: no gradients, evaluation mode, storage of its own."""
    return copy.deepcopy(model).eval().requires_grad_(False)
