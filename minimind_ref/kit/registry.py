"""The operations that the kit judges, one entry each: see `python -m minimind_ref.kit ops`.

Longer than the house's 150 lines: it is one table.
"""

from difflib import get_close_matches

from minimind_ref.errors import UserError
from minimind_ref.kit.operation import LEVELS, Operation


def _ids(prefix: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"{prefix}-{n}" for n in numbers)


ALL_OUTPUTS = ("*",)
POLICY, REFERENCE = ("policy_chosen", "policy_rejected"), ("reference_chosen", "reference_rejected")
CONSTANTS = ("old_logp", "reference_logp", "advantages")
ALL = (
    Operation(
        "rms_norm", "rms_norm", "rms_norm", "Forward", backward=_ids("RMS_NORM", 10, 11, 12),
        of_input={"RMS_NORM-9": ("x",), "RMS_NORM-10": ("x",), "RMS_NORM-11": ("weight",), "RMS_NORM-12": ("x",)},
        both=_ids("RMS_NORM", 9), dtype="RMS_NORM-16", narrow=_ids("RMS_NORM", 13, 14, 16), choices=("cast",),
    ),
    Operation("rope_frequencies", "rope", "rope_frequencies", "Forward"),
    Operation("yarn_attention_factor", "rope", "yarn_attention_factor", "Forward"),
    Operation("rope_table", "rope", "rope_table", "Forward", dtype="ROPE-4", wide=("cos", "sin")),
    Operation(
        "apply_rope", "rope", "apply_rope", "Forward", of_input={"ROPE-11": ("x",), "ROPE-12": ("cos", "sin")},
        backward=_ids("ROPE", 11, 12), dtype="ROPE-13",
        narrow=_ids("ROPE", 13), wide=("cos", "sin"),
    ),
    Operation(
        "attention", "attention", "attention", "Forward", backward=_ids("ATTENTION", 15),
        both=_ids("ATTENTION", 5, 6, 9, 14), dtype="ATTENTION-16", narrow=_ids("ATTENTION", 16),
    ),
    Operation(
        "swiglu", "swiglu", "swiglu", "Forward", backward=_ids("SWIGLU", 9), both=_ids("SWIGLU", 8), dtype="SWIGLU-10",
        narrow=_ids("SWIGLU", 10),
    ),
    Operation("route", "moe", "route", "Forward", backward=_ids("MOE", 7, 19)),
    Operation(
        "aux_loss", "moe", "aux_loss", "Forward", backward=_ids("MOE", 15), both=_ids("MOE", 13, 14), choices=("form",),
        wide=("scores", "aux"),
    ),
    Operation(
        "moe", "moe", "moe", "Forward", backward=_ids("MOE", 19), both=_ids("MOE", 9, 17), dtype="MOE-21",
        choices=("form",),
        needs=("route", "aux_loss", "swiglu"),
    ),
    Operation(
        "block", "block", "block", "Forward", backward=_ids("BLOCK", 13), pure="BLOCK-8", choices=("form",),
        needs=("rms_norm", "apply_rope", "attention", "swiglu", "moe"),
    ),
    Operation(
        "transformer", "transformer", "transformer", "Forward", backward=_ids("TRANSFORMER", 11),
        both=_ids("TRANSFORMER", 2),
        needs=("rms_norm", "rope_frequencies", "rope_table", "apply_rope", "attention", "swiglu", "moe", "block"),
    ),
    Operation(
        "transformer.loss", "transformer", "loss_and_gradients", "Forward",
        both=_ids("TRANSFORMER", 6, 12), needs=("transformer", "cross_entropy"),
    ),
    Operation(
        "cross_entropy", "cross_entropy", "cross_entropy", "Forward", backward=_ids("CROSS_ENTROPY", 8),
        both=_ids("CROSS_ENTROPY", 3, 4, 6, 11), dtype="CROSS_ENTROPY-12", narrow=_ids("CROSS_ENTROPY", 12),
        wide=("loss",),
    ),
    Operation(
        "token_logp", "cross_entropy", "token_logp", "Forward", backward=_ids("CROSS_ENTROPY", 13),
        dtype="CROSS_ENTROPY-12", narrow=_ids("CROSS_ENTROPY", 12), wide=("logp",),
    ),
    Operation(
        "adamw.step", "adamw", "adamw_update", "Optimiser", dtype="ADAMW-11", narrow=_ids("ADAMW", 11),
        pure="ADAMW-13", wide=("mean", "square"),
    ),
    Operation("cosine_schedule", "cosine_schedule", "cosine_schedule", "Optimiser", choices=("form",)),
    Operation(
        "clip_grad_norm", "grad_clip", "clip_grad_norm", "Optimiser", dtype="GRAD_CLIP-7",
        narrow=_ids("GRAD_CLIP", 7), wide=("norm",),
    ),
    Operation("grad_scaler", "grad_scaler", "update", "Optimiser"),
    Operation("grad_scaler.unscale", "grad_scaler", "unscale", "Optimiser", wide=("gradients",)),
    Operation("micro_batch_weights", "accumulation", "micro_batch_weights", "Optimiser", choices=("form",)),
    Operation("windows", "accumulation", "windows", "Optimiser"),
    Operation(
        "training.step", "training", "training_step", "Optimiser", pure="TRAINING-10",
        needs=("transformer", "cross_entropy", "adamw.step", "clip_grad_norm", "cosine_schedule"),
    ),
    Operation(
        "sequence_logp", "dpo", "sequence_logp", "Alignment", both=_ids("DPO", 1, 2, 3, 4), dtype="DPO-18",
        narrow=_ids("DPO", 18), wide=ALL_OUTPUTS, choices=("reduction",),
    ),
    Operation(
        "dpo_loss", "dpo", "dpo_loss", "Alignment", backward=_ids("DPO", 11, 12), both=_ids("DPO", 16), dtype="DPO-18",
        of_input={"DPO-11": REFERENCE, "DPO-12": POLICY, "DPO-16": POLICY},
        narrow=_ids("DPO", 18), wide=ALL_OUTPUTS, choices=("form", "label_smoothing"), needs=("sequence_logp",),
    ),
    Operation(
        "group_advantages", "grpo", "group_advantages", "Alignment", dtype="GRPO-28", narrow=_ids("GRPO", 28),
        wide=ALL_OUTPUTS, choices=("ddof", "scale"),
    ),
    Operation(
        "kl_k3", "grpo", "kl_k3", "Alignment", backward=_ids("GRPO", 9, 17), dtype="GRPO-28",
        of_input={"GRPO-9": ("logp",), "GRPO-17": ("reference_logp",)},
        narrow=_ids("GRPO", 28), wide=ALL_OUTPUTS,
    ),
    Operation(
        "grpo_loss", "grpo", "grpo_loss", "Alignment", backward=_ids("GRPO", 13, 17, 27), both=_ids("GRPO", 15, 16, 19),
        of_input={f"GRPO-{n}": ("logp",) for n in (13, 15, 16, 19, 27)} | {"GRPO-17": CONSTANTS},
        dtype="GRPO-28", narrow=_ids("GRPO", 28), wide=ALL_OUTPUTS, choices=("form", "normalise"), needs=("kl_k3",),
    ),
    Operation("answer_mask", "grpo", "answer_mask", "Alignment"),
    Operation(
        "dpo_losses", "dpo", "dpo_losses", "Alignment", backward=_ids("DPO", 11, 12), both=_ids("DPO", 16),
        of_input={"DPO-11": REFERENCE, "DPO-12": POLICY, "DPO-16": POLICY}, dtype="DPO-18", narrow=_ids("DPO", 18),
        wide=ALL_OUTPUTS, choices=("form", "label_smoothing"), optional=True,
    ),
    Operation(
        "implicit_reward", "dpo", "implicit_reward", "Alignment", dtype="DPO-18", narrow=_ids("DPO", 18),
        wide=ALL_OUTPUTS, optional=True,
    ),
    Operation(
        "grpo_terms", "grpo", "grpo_terms", "Alignment", backward=_ids("GRPO", 13, 17), dtype="GRPO-28",
        of_input={"GRPO-13": ("logp",), "GRPO-17": CONSTANTS}, narrow=_ids("GRPO", 28), wide=ALL_OUTPUTS,
        choices=("form",), optional=True,
    ),
    Operation(
        "grpo_total", "grpo", "grpo_total", "Alignment", backward=_ids("GRPO", 13, 17), dtype="GRPO-28",
        of_input={"GRPO-13": ("logp",), "GRPO-17": CONSTANTS}, narrow=_ids("GRPO", 28), wide=ALL_OUTPUTS,
        choices=("form", "normalise"), optional=True,
    ),
    Operation("is_clipped", "grpo", "is_clipped", "Alignment", choices=("form",), optional=True),
    Operation("filter_logits", "sampling", "filter_logits", "Inference", dtype="SAMPLING-17", pure="SAMPLING-17"),
    Operation(
        "penalise_repetition", "sampling", "penalise_repetition", "Inference", dtype="SAMPLING-17", pure="SAMPLING-17"
    ),
    Operation("choose_token", "sampling", "choose_token", "Inference", pure="SAMPLING-17"),
    Operation("bpe.split", "tokenizer", "split", "Data"),
    Operation("bpe.encode", "tokenizer", "encode", "Data", needs=("bpe.split",)),
    Operation("bpe.decode", "tokenizer", "decode", "Data"),
    Operation("bpe.train", "tokenizer", "train", "Data"),
    Operation("chat_template.render", "chat_template", "render_text", "Data", choices=("template",)),
    Operation("supervised_spans", "chat_template", "supervised_spans", "Data", choices=("template",)),
    Operation("sft_mask", "chat_template", "encode_chat", "Data", choices=("template",)),
    Operation("pack", "packing", "pack", "Data"),
    Operation("pad", "packing", "pad", "Data", choices=("keep_end",)),
)  # fmt: skip
OPERATIONS = {entry.name: entry for entry in ALL}


def operation(name: str) -> Operation:
    """Find an operation by its name."""
    if name not in OPERATIONS:
        near = get_close_matches(name, OPERATIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(OPERATIONS)}"
        raise UserError(f"there is no operation {name!r}; {hint}")
    return OPERATIONS[name]


def selected(names: object) -> list[Operation]:
    """Give the operations of a list of names or of levels, in the registry's order; None gives all."""
    if names is None:
        return list(ALL)
    wanted = [names] if isinstance(names, str) else list(names)  # type: ignore[call-overload]
    for name in wanted:
        if name not in LEVELS:
            operation(name)
    return [entry for entry in ALL if entry.name in wanted or entry.level in wanted]
