"""State dicts: read from a file, checked name by name and shape by shape, never loaded in part."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minimind_ref.config import ModelConfig
from minimind_ref.errors import UserError
from minimind_ref.model.transformer import Transformer

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""


def read_file(path: Path) -> dict[str, Any]:
    """Read a dict that torch.save wrote, tensors and plain values only."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile):
        raise UserError(f"{path}: truncated, or not a checkpoint of tensors and plain values") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint: it holds a {type(content).__name__}")
    return content


def read_state(path: Path) -> dict[str, Any]:
    """Read a state dict, also out of a resume file, where it lies under `model`."""
    content = read_file(path)
    return content["model"] if isinstance(content.get("model"), dict) else content


def load_weights(model: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Copy a state dict into the network: every key, no other, every shape the same; UserError naming the first."""
    own = model.state_dict()
    for name in own:
        if name not in state:
            raise UserError(f"{path}: {name} is missing ({len(own)} tensors expected, {len(state)} found)")
    for name, tensor in state.items():
        if name not in own:
            raise UserError(f"{path}: {name} is not in this network")
        if not isinstance(tensor, Tensor) or tensor.shape != own[name].shape:
            shape = tuple(getattr(tensor, "shape", ()))
            raise UserError(f"{path}: {name} has shape {shape}, this network's has {tuple(own[name].shape)}")
    model.load_state_dict(state)


def clean(state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Take the wrappers' prefixes off every name; UserError where two names become one, or a value is no weight."""
    cleaned = {}
    for name, tensor in state.items():
        bare = str(name)
        while bare.startswith(PREFIXES):
            bare = bare.split(".", 1)[1]
        if bare in cleaned:
            raise UserError(f"{path}: {bare} is there twice, with a prefix and without")
        if not isinstance(tensor, Tensor):
            raise UserError(f"{path}: {bare} is a {type(tensor).__name__}, not a tensor")
        if not tensor.is_floating_point():
            raise UserError(f"{path}: {bare} has dtype {tensor.dtype}, which holds no floating-point numbers")
        cleaned[bare] = tensor
    return cleaned


def build(config: ModelConfig, state: Mapping[str, Tensor], path: Path) -> Transformer:
    """Make the network of `config` with exactly these weights, in float32 and evaluation mode.

    Where the head is tied either of its two names is enough, and both must hold the same.  torch's global
    generator is left as it was.
    """
    if config.tie_word_embeddings:
        state = _tie(state, path)
    with torch.random.fork_rng(devices=[]):
        model = Transformer(config).to(torch.float32)
    load_weights(model, state, path)
    return model.eval()


def same_head(state: Mapping[str, Tensor]) -> bool:
    """Whether head and embedding are one matrix: one of them is absent, or they hold the same numbers."""
    head, embedding = state.get(HEAD), state.get(EMBEDDING)
    return head is None or embedding is None or (head.shape == embedding.shape and torch.equal(head, embedding))


def _tie(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    if not same_head(state):
        raise UserError(f"{path}: {HEAD} differs from {EMBEDDING}, which the configuration ties it to")
    present = {name: state[name] for name in (HEAD, EMBEDDING) if name in state}
    return {**state, **{name: tensor for tensor in present.values() for name in (HEAD, EMBEDDING)}}


def state_of(model: nn.Module, path: Path, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Give a network's weights on the CPU, in `dtype` or as they are; ValueError where one leaves `dtype`'s range."""
    state = {name: tensor.detach().cpu() for name, tensor in clean(model.state_dict(), path).items()}
    shared: dict[int, Tensor] = {}  # so that tied tensors stay one in the file
    for name, tensor in state.items():
        cast = tensor if dtype is None else tensor.to(dtype)
        if not torch.equal(cast.isfinite(), tensor.isfinite()):
            raise UserError(f"{path}: {name} holds {float(tensor.abs().max()):.6g}, beyond {dtype}")
        state[name] = shared.setdefault(tensor.data_ptr(), cast)
    return state
