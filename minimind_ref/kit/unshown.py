"""Clauses that no question to one function can show, each with the reason; they count, and are NOT RUN."""

from collections.abc import Sequence

from minimind_ref.kit.operation import Operation

REFUSALS = frozenset(
    [
        "RMS_NORM-17", "ROPE-22", "ROPE-23", "ATTENTION-18", "SWIGLU-12", "MOE-22", "BLOCK-15", "TRANSFORMER-17",
        "CROSS_ENTROPY-14", "ADAMW-17", "GRAD_CLIP-10", "COSINE_SCHEDULE-10", "GRAD_SCALER-10", "ACCUMULATION-9",
        "TRAINING-12", "SAMPLING-18", "TOKENIZER-13", "CHAT_TEMPLATE-14", "PACKING-12",
        "DPO-19", "GRPO-29", "PACKING-16", "TRAINING-11",
    ]
)  # fmt: skip
OBJECTIVES = "training.step is asked for the supervised objective only"
SHELL = "it is about the object around the function, which no operation asks for"
CALLER = "it is about what the caller does with the function"
COMPARED = "it says how another implementation differs; the clauses beside it are judged"
REASONS: dict[str, str] = {
    **dict.fromkeys(REFUSALS, "which bad input is refused is not asked"),
    "ROPE-22": "whether an unknown scaling is refused is asked where it is claimed (refusals=True)",
    **dict.fromkeys(
        ["ATTENTION-17", "ADAMW-14", "ADAMW-15", "ADAMW-16", "ADAMW-18", "ADAMW-19", "GRAD_SCALER-1", "GRAD_SCALER-7",
         "GRAD_SCALER-8", "GRAD_SCALER-9", "GRAD_SCALER-11", "GRAD_SCALER-12", "TOKENIZER-11", "TOKENIZER-12"],
        SHELL,
    ),
    **dict.fromkeys(
        ["ROPE-21", "SWIGLU-11", "GRAD_CLIP-8", "ACCUMULATION-8", "ACCUMULATION-10", "PACKING-8"], CALLER
    ),
    **dict.fromkeys(["TRANSFORMER-19", "PACKING-13"], COMPARED),
    "GRPO-7": "no gradient is asked of advantages",
    "GRPO-10": "it is a law of averages over a policy's own tokens",
    "ROPE-5": "only a device without float64 shows it",
    "MOE-6": "which of equal scores comes first is not asked: torch.topk promises no order",
    "BLOCK-9": "the values of the recorded cases imply it",
    "BLOCK-10": "the values of the recorded cases imply it",
    "BLOCK-11": "the values of the recorded cases imply it",
    "GRAD_CLIP-9": "the values of the recorded cases imply it",
    "TRANSFORMER-15": "the values of the recorded cases imply it",
    "TRANSFORMER-16": "the values of the recorded cases imply it",
    "TRANSFORMER-20": "the gradients of the recorded cases imply it",
    "TRANSFORMER-21": "it is about the cost of logits that nobody asks for, not about their values",
    "TRAINING-9": "it takes two runs of 50 steps: tests/test_parity.py",
    **dict.fromkeys(["TRAINING-13", "TRAINING-14", "TRAINING-15", "TRAINING-16"], OBJECTIVES),
    "CHAT_TEMPLATE-12": "it needs MiniMind's own tokenizer file, which is not shipped",
    "CHAT_TEMPLATE-15": "it is about what a data set may leave out, before this function is called",
}  # fmt: skip


def reason(operation: Operation, clause: str, profiles: Sequence[str]) -> str:
    """Say why a clause was not run."""
    if clause in REASONS:
        return REASONS[clause]
    if clause in operation.narrow and not {"bfloat16", "float16"} & set(profiles):
        return "only bfloat16 and float16 show it, and neither is claimed"
    return f"no case shows it in {', '.join(profiles)}"
