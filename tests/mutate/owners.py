"""Which test files must kill the mutants of which file: `tests/test_NAME.py` for NAME.py, and these."""

from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOUNDED = ["bounded", "bounded_array", "tolerance"]
ELSEWHERE = ("kit/", "golden/")  # their files share names with components, whose tests are not theirs
OWNERS = {
    "checks": ["attention", "moe", "rope", "cross_entropy", "dpo"],
    "errors": ["failures", "train"],
    "evaluate": ["evaluation", "failures"],
    "files": ["failures", "train"],
    "flags": ["failures", "train"],
    "inspect": ["train", "failures"],
    "progress": ["token_file", "train"],
    "loss/grpo_terms": ["grpo"],
    "loss/tokens": ["dpo", "grpo"],
    "model/attention": ["attention", "block"],
    "optim/adamw": ["adamw", "adamw_shell"],
    "oracle/adamw": ["adamw", "adamw_shell"],
    "generate/generate": ["generate"],
    "generate/steps": ["generate", "sampling"],
    "oracle/bounded*": BOUNDED,
    "oracle/precision": BOUNDED,
    "oracle/propagation": BOUNDED,
    "oracle/checks": ["swiglu", "attention", "cross_entropy", "dpo", "sampling", "packing"],
    "oracle/objectives": ["post_training"],
    "data/byte_level": ["tokenizer", "tokenizer_files", "tokenizer_training"],
    "data/chat_encoding": ["conversations"],
    "data/chat_records": ["conversations"],
    "data/chatml": ["chat_template", "conversations"],
    "data/html_text": ["corpus", "tokenizer_training"],
    "data/package_*": ["tokenizer_training"],
    "data/packing_checks": ["packing", "batches", "conversations"],
    "data/rows": ["batches", "conversations", "evaluation"],
    "data/source": ["token_file", "conversations"],
    "data/tasks/*": ["tasks"],
    "data/token_*": ["token_file"],
    "data/tokenise": ["token_file"],
    "data/tokenizer": ["tokenizer", "tokenizer_files"],
    "data/tokenizer_recipe": ["tokenizer_training"],
    "data/tokenizer_training": ["tokenizer_training"],
    "train/answers": ["reinforcement", "rollouts"],
    "train/checkpoint": ["pretrain", "train", "stages"],
    "train/dpo": ["post_training", "preference", "reinforcement", "stages"],
    "train/grpo": ["post_training", "reinforcement", "rollouts", "stages"],
    "train/loop": ["loop", "training"],
    "train/pairs": ["preference", "reinforcement"],
    "train/pipeline": ["pipeline"],
    "train/policy_measures": ["rollouts"],
    "train/recipes": ["settings"],
    "train/report": ["pipeline"],
    "train/reward_loading": ["rewards", "reward_model"],
    "train/reference": ["reference", "reinforcement"],
    "train/rollout": ["reinforcement", "rollouts"],
    "train/sft": ["post_training", "fine_tuning", "stages"],
    "train/stage_settings": ["settings"],
    "train/task_*": ["task_scores", "pipeline"],
    "train/*": ["pretrain", "stages", "train", "failures"],
    "chat/*": ["chat"],
    "interop/*": ["interop"],
    "golden/generator": ["generator"],
    "golden/*": ["golden"],
    "kit/mutants/*": [],  # wrong already; test_mutants.py says of each that it is rejected
    "kit/peers/*": ["peers_table", "honest"],
    "kit/*": ["kit", "kit_verdicts", "kit_choices", "kit_command", "mutants"],
}


def owners(path: str) -> tuple[str, ...]:
    """Give the test files of a file of the package, its own first; both are named from the repository's root."""
    stem = path.removeprefix("minimind_ref/").removesuffix(".py")
    name = stem.rpartition("/")[2]
    if name == "__init__":
        return ()
    component = not stem.startswith(ELSEWHERE) and (ROOT / f"tests/test_{name}.py").exists()
    own = [f"tests/test_{name}.py"] if component else []
    for pattern, tests in OWNERS.items():
        if pattern == stem or (not own and fnmatch(stem, pattern)):
            return tuple(f"tests/test_{test}.py" for test in tests)
    return tuple(own)
