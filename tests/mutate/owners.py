"""Which test files must kill the mutants of which file: `tests/test_NAME.py` for NAME.py, and these."""

from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOUNDED = ["bounds", "bounded", "bounded_array", "tolerance"]
ELSEWHERE = ("kit/", "golden/", "data/tasks/")  # their files share names with components, whose tests are not theirs
PEERS_ELSEWHERE = ("equinox", "flax", "jax", "minimind", "minimind_*", "mlx", "optax", "tinygrad", "trl")
OWNERS = {
    "checks": ["checks", "attention", "moe", "rope", "cross_entropy", "dpo"],
    "errors": ["commands"],
    "files": ["commands"],
    "flags": ["commands"],
    "evaluate": ["evaluate", "commands"],
    "inspect": ["commands"],
    "progress": ["commands"],
    "loss/grpo_terms": ["grpo"],
    "loss/tokens": ["dpo", "grpo"],
    "model/attention": ["attention", "block"],
    "optim/adamw": ["adamw", "adamw_shell"],
    "oracle/adamw": ["adamw", "adamw_shell"],
    "generate/generate": ["generate"],
    "generate/steps": ["generate", "sampling"],
    "oracle/bounded": BOUNDED,
    "oracle/bounded_array": BOUNDED,
    "oracle/bounded_*": BOUNDED,
    "oracle/precision": BOUNDED,
    "oracle/propagation": BOUNDED,
    "oracle/checks": ["checks", "rms_norm", "swiglu", "attention", "cross_entropy", "dpo", "sampling", "packing"],
    "oracle/block": ["block", "transformer"],
    "oracle/objectives": ["post_training"],
    "data/byte_level": ["tokenizer", "tokenizer_files", "tokenizer_training"],
    "data/chat_encoding": ["conversations"],
    "data/chat_records": ["conversations"],
    "data/chatml": ["chat_template", "conversations"],
    "data/html_text": ["corpus", "tokenizer_training"],
    "data/package_*": ["tokenizer_training"],
    "data/messages": ["messages", "chat_template"],
    "data/packing_checks": ["packing", "batches", "conversations"],
    "data/rows": ["batches", "conversations", "evaluation"],
    "data/source": ["token_file", "conversations"],
    "data/tasks/__main__": ["tasks", "commands"],
    "data/tasks/*": ["tasks"],
    "data/token_layout": ["token_file", "conversations"],
    "data/token_*": ["token_file"],
    "data/tokenise": ["token_file", "corpus"],
    "data/tokenizer": ["tokenizer", "tokenizer_files", "commands"],
    "data/tokenizer_recipe": ["tokenizer_training"],
    "data/tokenizer_training": ["tokenizer_training"],
    "train/answers": ["reinforcement", "rollouts"],
    "train/dpo": ["chat_stages", "preference"],
    "train/grpo": ["post_training", "chat_stages", "reinforcement", "rollouts"],
    "train/loop": ["loop", "training"],
    "train/pairs": ["preference", "reinforcement"],
    "train/pipeline": ["train_all"],
    "train/policy_measures": ["rollouts"],
    "train/recipes": ["settings"],
    "train/report": ["pipeline"],
    "train/reward_loading": ["rewards", "reward_model"],
    "train/reference": ["reference"],
    "train/rollout": ["reinforcement", "rollouts"],
    "train/sft": ["post_training", "chat_stages", "fine_tuning"],
    "train/stage_settings": ["settings"],
    "train/task_*": ["task_scores", "pipeline"],
    "train/__main__": ["train_command", "commands"],
    "train/*": ["pretrain", "stages", "train", "failures"],
    "chat/__main__": ["chat", "commands"],
    "chat/*": ["chat"],
    "interop/*": ["interop"],
    "golden/generator": ["generator"],
    "golden/definitions": ["spec_blocks", "specs", "golden"],
    "golden/kills": ["golden", "mutants"],
    "golden/__main__": ["golden", "commands"],
    "golden/*": ["golden"],
    "kit/mutants/*": [],  # wrong already; test_mutants.py says of each that it is rejected
    "kit/generators/*": ["kit_questions"],
    "kit/laws/*": ["kit_questions"],
    "kit/registry": ["registry"],
    "kit/our_step": ["ours", "kit_questions"],
    "kit/ours": ["ours"],
    # the adapters of libraries that the tests' environment has not: .ci/peers installs them and judges each as a whole
    **{f"kit/peers/{name}": [] for name in PEERS_ELSEWHERE},
    "kit/peers/torch": ["peers_table", "honest"],
    "kit/peers/transformers": ["peers_table", "honest"],
    "kit/peers/*": ["peers_table"],
    "kit/behaviours": ["kit_choices"],
    "kit/__main__": ["kit_asking", "commands"],
    "kit/arrays": ["kit_asking"],
    "kit/binding": ["kit_asking"],
    "kit/guard": ["kit_asking"],
    "kit/implementation": ["kit_asking"],
    "kit/outcome": ["kit_asking"],
    "kit/plugin": ["kit_asking"],
    "kit/properties": ["kit_asking"],
    "kit/protocol": ["kit_asking"],
    "kit/runner": ["kit_asking"],
    "kit/suspects": ["kit_asking"],
    "kit/tensors": ["kit_asking"],
    "kit/trees": ["kit_asking"],
    "kit/compare": ["kit_parts"],
    "kit/findings": ["kit_parts"],
    "kit/report": ["kit_parts"],
    "kit/text": ["kit_parts"],
    "kit/verdicts": ["kit_parts"],
    "kit/examine": ["kit_parts"],
    "kit/judging": ["kit_parts"],
    "kit/coarse": ["kit_parts"],
    "kit/*": ["kit_inside"],
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
