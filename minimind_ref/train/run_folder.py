"""Weights and configuration of a finished run, read back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minimind_ref.config import ModelConfig
from minimind_ref.errors import UserError
from minimind_ref.interop.huggingface import load_huggingface
from minimind_ref.interop.minimind import load_minimind
from minimind_ref.interop.state_dict import load_weights, read_state
from minimind_ref.model.transformer import Transformer

TRAINING_ONLY = {"dropout", "aux_loss_coef", "aux_loss_form", "aux_loss_counts_padding", "initialisation"}
"""Fields of ModelConfig that do not change what given weights compute: a run may take others than its start had."""


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a run folder; UserError where it is not there or not one of ours."""
    path = folder / "config.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["model"] = ModelConfig(**record["model"])
        if Path(record["weights"]).name != record["weights"]:
            raise ValueError(f"weights={record['weights']!r} is not the name of a file beside it")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is {folder} a run folder?") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a run's configuration ({error})") from None
    return record


def find_weights(source: Path) -> Path:
    """The weights' file of a run folder; a file, or Hugging Face's folder, stands for itself."""
    return source / read_config(source)["weights"] if source.is_dir() and _is_run(source) else source


def read_weights(source: Path, config: ModelConfig | None = None) -> tuple[Path, Mapping[str, Any]]:
    """The state dict of a run folder, a .pth file or Hugging Face's folder.

    The network that a run recorded beside them must be `config`, where that is given.
    """
    path = find_weights(source)
    if path.is_dir():
        model, described = read_network(path)
        stored, state = model.config, model.state_dict()
    else:
        described, state = path, read_state(path)
        record = read_config(path.parent) if _is_run(path.parent) else {}
        stored = record["model"] if record.get("weights") == path.name else None
    if config is not None and stored is not None:
        _require_same(config, stored, source)
    return described, state


def read_network(source: Path) -> tuple[Transformer, Path]:
    """The network of a run folder, of a file (beside a run's config.json, or MiniMind's), or of Hugging Face's folder.

    Returns it with the path of its weights (of its config.json for Hugging Face's).
    """
    folder = source if source.is_dir() else source.parent
    try:
        if source.is_dir() and not _is_run(folder):
            return load_huggingface(folder), folder / "config.json"
        if not _is_run(folder):
            return load_minimind(source), source
    except ValueError as error:
        raise UserError(str(error)) from None
    record = read_config(folder)
    path = folder / record["weights"] if source.is_dir() else source
    model = Transformer(record["model"])
    load_weights(model, read_state(path), path)
    return model.eval(), path


def _is_run(folder: Path) -> bool:
    """Whether the folder's config.json is one that a run here wrote, or tried to."""
    try:
        record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError:
        return False
    except ValueError:
        return True  # read_config says what is wrong
    return isinstance(record, dict) and "stage" in record


def _require_same(config: ModelConfig, stored: ModelConfig, source: Path) -> None:
    mine, theirs = config.to_dict(), stored.to_dict()
    for name in mine:
        if mine[name] != theirs[name] and name not in TRAINING_ONLY:
            raise UserError(f"{source}: its network has {name}={theirs[name]}, this run's has {mine[name]}")
