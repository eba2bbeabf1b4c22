"""Hugging Face's folders, config.json beside model.safetensors: Llama, Qwen3 and Qwen3-MoE, without transformers."""

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minimind_ref.errors import UserError
from minimind_ref.files import write_atomically
from minimind_ref.interop.huggingface_config import from_huggingface, to_huggingface
from minimind_ref.interop.state_dict import HEAD, build, clean, state_of
from minimind_ref.model.transformer import Transformer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_huggingface(folder: str | os.PathLike) -> Transformer:
    """Load a Llama-, Qwen3- or Qwen3MoeForCausalLM, strictly, into a float32 network in evaluation mode.

    Weights are read from model.safetensors or from the files that its index names; experts under a name each or fused.
    Raises ValueError, one line, where a field of config.json has no counterpart here or a tensor does not fit, and
    where the package safetensors (extra `hf`) is missing.

    Differs: their load-balancing loss takes means over all layers at once, ours is per layer, summed.
    """
    folder = Path(folder)
    path = folder / "config.json"
    try:
        config = from_huggingface(_read_json(path))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return build(config, _split_experts(clean(_read_weights(folder), folder)), folder)


def save_huggingface(
    model: Transformer,
    folder: str | os.PathLike,
    dtype: torch.dtype | None = None,
    *,
    bos_token_id: int = 1,
    eos_token_id: int | Sequence[int] = 2,
    pad_token_id: int = 0,
) -> None:
    """Write config.json, generation_config.json and model.safetensors, which transformers loads with from_pretrained.

    MiniMind2's dense networks become Llama, MiniMind-3's Qwen3 and Qwen3-MoE; weights keep their precision unless
    `dtype` is given.  The ids are MiniMind's and make `generate` stop; no tokenizer is written.
    Raises ValueError for what has no counterpart there, such as MiniMind2's experts: nothing is written then.
    """
    safetensors, folder = _safetensors(), Path(folder)
    fields = to_huggingface(model.config)
    state = state_of(model, folder, dtype)
    if model.config.tie_word_embeddings:
        del state[HEAD]
    ids = {"bos_token_id": bos_token_id, "pad_token_id": pad_token_id}
    ids["eos_token_id"] = eos_token_id if isinstance(eos_token_id, int) else list(eos_token_id)  # type: ignore[assignment]
    kind = str(next(iter(state.values())).dtype).removeprefix("torch.")
    content = safetensors.save({name: t.contiguous() for name, t in state.items()}, metadata={"format": "pt"})
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", {**fields, **ids, "torch_dtype": kind})
    _write_json(folder / "generation_config.json", {**ids, "_from_model_config": True})
    write_atomically(folder / WEIGHTS, lambda file: file.write(content))


def stop_ids(folder: str | os.PathLike) -> tuple[int, ...]:
    """Read the ids at which `generate` should stop: generation_config.json's, else config.json's, else none."""
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        if name == "config.json" or path.exists():
            ids = _read_json(path).get("eos_token_id")
            if ids is not None:
                return (ids,) if isinstance(ids, int) else tuple(ids)
    return ()


def _safetensors() -> Any:
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError:
        raise UserError("Hugging Face's files need the package safetensors: pip install 'minimind-ref[hf]'") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not an object but a {type(content).__name__}")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder, from one file or from those of the index."""
    safetensors, state = _safetensors(), {}
    names = [WEIGHTS]
    if not (folder / WEIGHTS).exists() and (folder / INDEX).exists():
        names = sorted(set(_read_json(folder / INDEX).get("weight_map", {}).values()))
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{folder / INDEX}: {name!r} is not the name of a file beside it")
        try:
            state |= safetensors.load_file(folder / name)
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be read ({error.strerror or error})") from None
        except Exception as error:  # safetensors raises its own class, which is no ValueError
            raise UserError(f"{folder / name}: truncated, or not a safetensors file ({error})") from None
    return state


def _split_experts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give fused experts, gate_up_proj (e 2f d) and down_proj (e d f), a name each."""
    split = {}
    for name, tensor in state.items():
        head, _, part = name.removesuffix(".weight").rpartition(".")
        if not head.endswith(".mlp.experts") or tensor.ndim != 3:
            split[name] = tensor
            continue
        for expert, matrix in enumerate(tensor):
            pieces = matrix.chunk(2) if part == "gate_up_proj" else (matrix,)
            for piece, own in zip(pieces, ("gate_proj", "up_proj") if len(pieces) == 2 else (part,), strict=True):
                split[f"{head}.{expert}.{own}.weight"] = piece
    return split
