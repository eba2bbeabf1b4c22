"""Clauses that no question to one function can show, each with the reason; they count, and are NOT RUN."""

from collections.abc import Sequence

from minimind_ref.kit.operation import Operation

REFUSAL = "which bad input is refused, and how, is asked where it is claimed (refusals=True)"
REFUSALS = frozenset(
    [
        "RMS_NORM-17", "ROPE-22", "ROPE-23", "ATTENTION-18", "SWIGLU-12", "MOE-22", "BLOCK-15", "TRANSFORMER-17",
        "CROSS_ENTROPY-14", "ADAMW-17", "GRAD_CLIP-10", "COSINE_SCHEDULE-10", "GRAD_SCALER-10", "ACCUMULATION-9",
        "TRAINING-12", "SAMPLING-18", "TOKENIZER-13", "CHAT_TEMPLATE-14", "PACKING-12",
    ]
)  # fmt: skip
REASONS: dict[str, str] = {
    **dict.fromkeys(REFUSALS, REFUSAL),
}  # fmt: skip


def reason(operation: Operation, clause: str, profiles: Sequence[str]) -> str:
    """Say why a clause was not run."""
    if clause in REASONS:
        return REASONS[clause]
    if clause in operation.narrow and not {"bfloat16", "float16"} & set(profiles):
        return "only bfloat16 and float16 show it, and neither is claimed"
    return f"no case shows it in {', '.join(profiles)}"
