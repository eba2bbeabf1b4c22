"""`python -m minimind_ref.golden.trajectories`: write the unrecorded cases of golden/training.json and their states.

A case is one step from a stored state of the oracle's own run, so that an implementation is checked without compounding
error.  Recording is regen's.
"""

from typing import Any

import numpy as np

from minimind_ref.config import ModelConfig
from minimind_ref.golden import files, safetensors
from minimind_ref.golden.folder import Folder
from minimind_ref.golden.generator import draw_integers
from minimind_ref.oracle.training import TrainingState, initial_training_state, training_step
from minimind_ref.oracle.transformer import parameter_shapes

SHAPE: dict[str, Any] = dict(
    vocab_size=23, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
)
CONFIGS = {
    "dense": ModelConfig(**SHAPE, intermediate_size=5, qk_norm=True, norm_cast="after", rms_norm_eps=1e-6),
    "moe": ModelConfig(
        **SHAPE, use_moe=True, num_experts=3, num_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=3
    ),
}
RECORDED = (0, 1, 10, 49)
SETTINGS: dict[str, Any] = dict(
    learning_rate=2.0**-7,
    total_steps=50,
    warmup_steps=3,
    betas=[0.9, 0.95],
    eps=1e-8,
    weight_decay=0.1,
    max_norm=3.5,
)
PARTS = ("parameters", "means", "squares")
WHY = {
    0: "The first step: averages of zero, so every weight moves by about the rate, whatever its gradient's size.",
    1: "The second step: corrections 1 - beta^2 and a rate still in warm-up.",
    10: "A step under way, clipped: averages with a history, the rate on the cosine.",
    49: "The last step: the rate close to its floor, which only total_steps itself would give.",
}
CLAUSES = ["TRAINING-1", "TRAINING-2", "TRAINING-3", "TRAINING-4", "TRAINING-5", "TRAINING-6", "TRAINING-7"]


def start(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Give the first weights as recipes: embedding of unit size, narrow projections, norm weights around 1."""
    nodes = {}
    for i, (name, shape) in enumerate(parameter_shapes(config.to_dict()).items()):
        recipe: dict[str, Any] = {"structure": "normal", "seed": 500 + i}
        if len(shape) == 1:
            recipe = {"structure": "offset", "seed": 500 + i, "scale": 0.25}
        elif name != "model.embed_tokens.weight":
            recipe["scale"] = 0.0625
        nodes[name] = {"shape": list(shape), "dtype": "float", "recipe": recipe}
    return nodes


def window(step: int) -> list[dict[str, np.ndarray]]:
    """Give two micro-batches: a packed row of two documents that ends in padding, and three padded rows."""
    ids = draw_integers(8000 + step, (7,), 1, 23)
    first = 2 + step % 3  # tokens of the first document
    segments = np.array([0] * first + [1] * (6 - first) + [-1])
    follows = (segments[1:] == segments[:-1]) & (segments[1:] >= 0)
    labels = np.append(np.where(follows, ids[1:], -100), -100)
    positions = np.array([*range(first), *range(6 - first), 0])
    packed = {"input_ids": ids, "labels": labels, "segment_ids": segments, "position_ids": positions}
    ids = draw_integers(9000 + step, (3, 5), 1, 23)
    real = np.arange(5) < np.array([[5], [2 + step % 2], [3]])
    labels = np.where(np.roll(real, -1, 1) & (np.arange(5) < 4), np.roll(ids, -1, 1), -100)
    padded = {"input_ids": ids, "labels": labels, "attention_mask": real.astype(np.int64)}
    return [{name: array[None] for name, array in packed.items()}, padded]


def cases(name: str) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Run the oracle for 50 steps, and give the cases with the tensors that they refer to."""
    config, found, tensors = CONFIGS[name].to_dict(), [], {}
    weights = start(CONFIGS[name])
    state = initial_training_state(files.build(weights))
    for step in range(RECORDED[-1] + 1):
        if step in RECORDED:
            case_id = f"training/{name}_step_{step}"
            found.append(case(case_id, state, weights if step == 0 else {}, config, tensors))
        state, _ = training_step(state, window(step), config, **SETTINGS)
    return found, tensors


def case(
    case_id: str, state: TrainingState, recipes: dict[str, Any], config: dict[str, Any], tensors: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Write one case; what has no recipe becomes a tensor."""
    stored: dict[str, Any] = {}
    for part in PARTS:
        stored[part] = {}
        for name, array in getattr(state, part).items():
            key = f"{case_id}/inputs/state.{part}.{name}"
            stored[part][name] = {"shape": list(array.shape), "dtype": "float", "tensor": key}
            tensors[key] = array
    if recipes:
        stored["parameters"] = recipes
        for name in recipes:
            del tensors[f"{case_id}/inputs/state.parameters.{name}"]
    ids = [{n: {"shape": list(x.shape), "dtype": "int64", "values": x.ravel().tolist()} for n, x in batch.items()}
           for batch in window(state.step)]  # fmt: skip
    names = [f"{part}.{name}" for part in PARTS for name in state.parameters]
    return {
        "id": case_id,
        "op": "training_step",
        "clauses": CLAUSES,
        "why": WHY[state.step],
        "flags": ["BASIC", "STATE"] if state.step == 0 else ["STATE"],
        "profiles": ["float64"],
        "parameters": {"config": config, **SETTINGS},
        "inputs": {"state": stored | {"step": state.step}, "window": ids},
        "outputs": [*names, "step", "loss", "balance", "norm", "learning_rate", "num_tokens"],
    }


def main() -> None:
    """Write golden/training.json and golden/training.safetensors without results; `regen training` records them."""
    path = Folder().file("training")
    found, tensors = [], {}
    for name in CONFIGS:
        more, arrays = cases(name)
        found, tensors = found + more, tensors | arrays
    path.write_text(files.render({"component": "training", "spec_version": 1, "cases": found}) + "\n", encoding="utf-8")
    safetensors.write(path.with_suffix(".safetensors"), tensors)


if __name__ == "__main__":
    main()
