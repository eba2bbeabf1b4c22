"""The frozen copy that preference optimisation and reinforcement learning compare the policy with."""

import copy
import hashlib

from torch import nn

from minimind_ref.config import ModelConfig
from minimind_ref.errors import UserError
from minimind_ref.model.transformer import Transformer


def frozen_copy(model: Transformer) -> Transformer:
    """A copy that no optimiser can change: no gradients, evaluation mode, storage of its own."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def digest(model: nn.Module) -> str:
    """SHA-256 of a network's weights, in hexadecimal."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return found.hexdigest()


def require_no_dropout(config: ModelConfig, stage: str) -> None:
    """Refuse a network whose two passes over the same answer would differ."""
    if config.dropout:
        raise UserError(f"--dropout {config.dropout}: {stage} compares two networks, which needs --dropout 0")
