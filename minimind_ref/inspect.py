"""`python -m minimind_ref.inspect FILE|DIR`: what a checkpoint holds."""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from minimind_ref.config import ModelConfig, count_parameters
from minimind_ref.errors import UserError, run_command
from minimind_ref.flags import Parser
from minimind_ref.train.checkpoint import CONTENT, read_file
from minimind_ref.train.run_folder import read_config

COMPONENTS = (  # the first pattern that a key matches names its component
    ("embedding and tied head", r"embed_tokens"),
    ("head", r"lm_head"),
    ("attention", r"self_attn"),
    ("router", r"mlp\.gate\.weight"),
    ("shared experts", r"shared_experts"),
    ("experts", r"mlp\.experts"),
    ("feed-forward", r"mlp"),
    ("norms", r"norm"),
)


def main(argv: Sequence[str]) -> None:
    """Print the contents of every file that is named, or of a folder's checkpoints."""
    parser = Parser(prog="python -m minimind_ref.inspect", description="What a checkpoint or a run folder holds.")
    parser.add_argument("path", type=Path, help="a .pth or .pt file, or a run folder")
    path = parser.parse_args(argv).path
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    files = sorted(f for f in path.iterdir() if f.suffix in (".pth", ".pt")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: holds no .pth or .pt file")
    if path.is_dir() and (path / "config.json").exists():
        record = read_config(path)
        print(f"{path}: {record['stage']} run, {_numbers(record['model'])}")
    for file in files:
        try:
            print("\n".join(describe(file, read_file(file))))
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{file}: a resume file whose parts are not those of this format ({error!r})") from None


def describe(path: Path, content: Mapping[str, Any]) -> list[str]:
    """The lines for one file: weights alone, or a resume file with its progress and optimiser."""
    lines = [f"{path} ({path.stat().st_size:,} bytes)"]
    state = content
    if content.keys() >= CONTENT:
        done = content["progress"]
        lines.append(f"  resume file, format {content['format']}: {content['stage']} run after {done['steps']:,} steps")
        lines.append(f"  {_numbers(ModelConfig(**content['config']))}")
        moments = content["optimizer"]["state"].values()
        lines.append(f"  optimiser: {len(moments)} tensors with moments, scaler: {content['scaler'] or 'not used'}")
        state = content["model"]
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    return lines + _tensors(tensors) + [f"  not a tensor: {name}" for name in state if str(name) not in tensors]


def _tensors(tensors: Mapping[str, Tensor]) -> list[str]:
    """Keys, shapes, dtypes, non-finite values; parameters by component, shared storage counted once."""
    lines, counts, seen = [], Counter[str](), set()
    for name, tensor in tensors.items():
        tensor = tensor.to_dense() if tensor.is_sparse else tensor
        wrong = int((~tensor.isfinite()).sum())
        shared = tensor.data_ptr() in seen and tensor.numel() > 0
        note = ("  shares storage with a tensor above" if shared else "") + (f"  {wrong:,} NOT FINITE" if wrong else "")
        lines.append(f"  {name:58} {tuple(tensor.shape)!s:16} {str(tensor.dtype).removeprefix('torch.')}{note}")
        if not shared:
            seen.add(tensor.data_ptr())
            component = next((label for label, pattern in COMPONENTS if re.search(pattern, name)), "other")
            counts[component] += tensor.numel()
    total = sum(counts.values())
    lines.append(f"  {total:,} parameters: " + ", ".join(f"{label} {n:,}" for label, n in counts.most_common()))
    return lines


def _numbers(config: ModelConfig) -> str:
    total, active = count_parameters(config)
    return (
        f"{config.num_hidden_layers} layers, {config.hidden_size} wide, {config.num_attention_heads} query and "
        f"{config.num_key_value_heads} kv heads, {total:,} parameters ({active:,} active per token)"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
