"""What fails in which library, in one plain sentence each: reproduced by hand in PEERS.md, "Findings"."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """A cause, what it breaks (clauses by implementation and operation), where it was reported (by implementation)."""

    id: str
    sentence: str
    breaks: dict[tuple[str, str], tuple[str, ...]]
    links: dict[str, str] = field(default_factory=dict)

    def explains(self, implementation: str, operation: str, clause: str) -> bool:
        """Say whether this is why the clause fails."""
        return clause in self.breaks.get((implementation, operation), ())

    def told(self, implementation: str, page: str = "") -> str:
        """Say it in a sentence, with the section of PEERS.md and the report about this implementation."""
        link = self.links.get(implementation, "")
        return f"{self.sentence} ([{self.id}]({page}#{self.id.lower()}))" + (f", {link}" if link else "")


def ids(component: str, *numbers: int) -> tuple[str, ...]:
    """Write clause ids."""
    return tuple(f"{component}-{n}" for n in numbers)


def issue(repository: str, number: int) -> str:
    """Link an issue or a pull request, whichever has the number."""
    return f"[{repository}#{number}](https://github.com/{repository}/issues/{number})"


CLIP = ids("GRAD_CLIP", 1, 2, 3, 7)
SKIPPED = ids("CROSS_ENTROPY", 3)
FINDINGS = (
    Finding(
        "F1", "the norm of bfloat16 gradients is taken in bfloat16",
        {
            ("torch.nn.utils.clip_grad_norm_", "clip_grad_norm"): CLIP,
            ("optax.clip_by_global_norm", "clip_grad_norm"): CLIP,
            ("mlx.optimizers.clip_grad_norm", "clip_grad_norm"): CLIP,
        },
        {
            "torch.nn.utils.clip_grad_norm_": issue("pytorch/pytorch", 194033),
            "optax.clip_by_global_norm": "cf. " + issue("AI-Hypercomputer/maxtext", 5143),
        },
    ),
    Finding(
        "F2", "an ignored row whose logits are infinite or NaN has a gradient of NaN",
        {
            ("torch cross_entropy", "cross_entropy"): SKIPPED,
            ("tinygrad", "cross_entropy"): SKIPPED,
            ("MiniMind-3 training functions", "cross_entropy"): SKIPPED,
        },
        {
            "torch cross_entropy": issue("pytorch/pytorch", 11551),
            "MiniMind-3 training functions": issue("pytorch/pytorch", 11551),
        },
    ),
    Finding(
        "F3", "of narrow logits the loss is rounded to their dtype: widen them first",
        {("torch cross_entropy, narrow logits", "cross_entropy"): ids("CROSS_ENTROPY", 1, 2, 3, *range(5, 13), 15)},
        {"torch cross_entropy, narrow logits": "cf. " + issue("Modalities/modalities", 464)},
    ),
    Finding(
        "F5", "at top_p = 0 the last of equally likely tokens is kept, not the first",
        {("transformers logits processors", "filter_logits"): ids("SAMPLING", 5, 10)},
    ),
    Finding(
        "F6", "in bfloat16 and float16 the rotary table is rounded to the hidden states' dtype",
        {("transformers Llama", "apply_rope"): ids("ROPE", 7, 8, 9, 12, 13, 18)},
        {"transformers Llama": "cf. " + issue("huggingface/transformers", 29285)},
    ),
    Finding(
        "F7", "behind its end the rate rises again",
        {
            ("torch CosineAnnealingLR", "cosine_schedule"): ids("COSINE_SCHEDULE", 4, 8),
            ("transformers get_cosine_with_min_lr_schedule", "cosine_schedule"): ids("COSINE_SCHEDULE", 4, 8),
            ("MiniMind2 training functions", "cosine_schedule"): ids("COSINE_SCHEDULE", 4),
            ("MiniMind-3 training functions", "cosine_schedule"): ids("COSINE_SCHEDULE", 4),
        },
    ),
    Finding(
        "F8", "the warm-up begins at 0: the first update changes nothing",
        {("transformers get_cosine_with_min_lr_schedule", "cosine_schedule"): ids("COSINE_SCHEDULE", 1, 3, 5, 6)},
        {"transformers get_cosine_with_min_lr_schedule": issue("huggingface/transformers", 34754)},
    ),
    Finding(
        "F9", "the bfloat16 gradient of x is the sum of two parts, each already rounded to bfloat16",
        {("flax.linen.RMSNorm", "rms_norm"): ids("RMS_NORM", 9, 10, 12)},
    ),
    Finding(
        "F10", "the mask is a factor: an infinite or NaN log-probability under it makes the loss NaN",
        {("trl GRPOTrainer", "grpo_loss"): ids("GRPO", 12, 13, 14, 18, 19, 20, 21, 22)},
        {"trl GRPOTrainer": "cf. " + issue("NVIDIA-NeMo/RL", 4154)},
    ),
    Finding(
        "M1", "in float16 its mask of −1e9 is −∞: queries of left padding give NaN",
        {("MiniMind-3 attention, float16", "attention"): ids("ATTENTION", 1, 2, 3, 5, 7, 8, 15, 19)},
    ),
    Finding(
        "M2", "nothing supervised is NaN",
        {("MiniMind-3 training functions", "cross_entropy"): ids("CROSS_ENTROPY", 4)},
        {"MiniMind-3 training functions": issue("pytorch/pytorch", 70348)},
    ),
    Finding(
        "M3", "temperature 0 divides by 0",
        {("MiniMind-3 generate", "filter_logits"): ids("SAMPLING", 3, 10)},
    ),
    Finding(
        "M4", "markers in a user's text become control ids, and what follows them is supervised",
        {
            ("MiniMind2 conversations", "sft_mask"): ids("CHAT_TEMPLATE", 8, 9, 10, 11),
            ("MiniMind-3 conversations", "sft_mask"): ids("CHAT_TEMPLATE", 8, 9, 10, 11),
        },
    ),
    Finding(
        "M5", "behind a cache its causal rule is aligned at the start: a piece of several tokens sees too little",
        {("MiniMind2 layers", "attention"): ids("ATTENTION", 1, 2, 3, 6, 7, 8, 13, 14, 15, 16, 20)},
        {"MiniMind2 layers": "cf. " + issue("pytorch/pytorch", 108108)},
    ),
    Finding(
        "M6", "with a float32 table narrow queries become float32",
        {("MiniMind2 layers", "apply_rope"): ids("ROPE", 13)},
    ),
    Finding(
        "M7", "in training experts write into a float16 buffer",
        {
            ("MiniMind2 experts", "moe"): ids("MOE", 1, 2, 3, 4, 5, 9, 11, 16, 19, 24),
            ("MiniMind2 network", "transformer"): ids("TRANSFORMER", 11),
        },
    ),
    Finding(
        "M9", "in training infinite weights of an unchosen expert, times zero, make the first token NaN",
        {("MiniMind-3 experts", "moe"): ids("MOE", 9)},
    ),
    Finding(
        "M8", "DPO averages an answer's log-probabilities where it must add them, and an empty answer is NaN",
        {("MiniMind2 training functions", "sequence_logp"): ids("DPO", 1, 3, 4)},
        {"MiniMind2 training functions": issue("jingyaogong/minimind", 298)},
    ),
    Finding(
        "M10", "a top_k above the vocabulary raises",
        {("MiniMind-3 generate", "filter_logits"): ids("SAMPLING", 4)},
    ),
)  # fmt: skip
