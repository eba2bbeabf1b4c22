"""Small files of conversations, pairs and prompts, and small networks to start from, for tests of the stages."""

import json

import torch
from arrays import draw, draw_integers
from runs import train

from minimind_ref import ModelConfig, Transformer
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.train import run as run_module
from minimind_ref.train.checkpoint import save_weights, write_json
from minimind_ref.train.device import place
from minimind_ref.train.distributed import Ranks
from minimind_ref.train.recipes import layer

SHAPE = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
CPU = ["--device", "cpu", "--dtype", "float32", "--num_workers", "0", "--log_interval", "1", "--held_out", "0.1"]
WORDS = ["red", "blue", "green", "one", "two", "seven", "cat", "dog", "house", "river"]


def words(seed, n):
    """`n` words, the same every time."""
    return " ".join(WORDS[i] for i in draw_integers(seed, (n,), 0, len(WORDS)))


def write_records(path, records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def turns(*texts):
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 4, texts, strict=False)]


def write_conversations(path, number=23):
    """Conversations of unequal length, some of two exchanges, some with a system message."""
    records = []
    for i in range(number):
        messages = turns(words(i, 2 + i % 5), words(100 + i, 1 + i % 4))
        messages += turns(words(200 + i, 3), words(300 + i, 2)) if i % 3 == 0 else []
        messages = [{"role": "system", "content": words(400 + i, 2)}, *messages] if i % 4 == 1 else messages
        records.append({"conversations": messages})
    return write_records(path, records)


def write_pairs(path, number=23):
    """Pairs whose two answers have unequal lengths."""
    return write_records(
        path,
        [
            {
                "chosen": turns(words(i, 2 + i % 3), words(100 + i, 1 + i % 4)),
                "rejected": turns(words(i, 2 + i % 3), words(500 + i, 2 + i % 3)),
            }
            for i in range(number)
        ],
    )


def write_network(folder, dtype=torch.float32, scale=0.5, **changes):
    """A run folder with a network of random weights whose answers are not all alike, and its tokenizer."""
    config = ModelConfig(**{**SHAPE, **changes})
    model = Transformer(config, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        for i, p in enumerate(p for p in model.parameters() if p.ndim > 1):
            p.copy_(torch.tensor(draw(50 + i, tuple(p.shape), scale)))
    folder.mkdir(exist_ok=True)
    save_weights(model, folder / "pretrain_16.pth")
    record = {"stage": "pretrain", "weights": "pretrain_16.pth", "model": config.to_dict(), "settings": {}}
    write_json(folder / "config.json", record)
    Tokenizer.load().save(folder / "tokenizer.json")
    return folder


def session(stage, ranks=None, resume=None, dtype="float32", **given):
    """A stage's session as the command line makes it, without starting it."""
    given = {"device": "cpu", "dtype": dtype, "num_workers": 0, "held_out": 0.1, **given}
    given = {key: str(value) if key in ("data_path", "out_dir") else value for key, value in given.items()}
    source = given["init_from"]
    from minimind_ref.train.network import initial_config, initial_weights

    given["init_from"] = initial_weights(str(source))
    config, settings = layer(stage, given, initial_config(str(source)))
    return run_module.session(stage, config, settings, place("cpu", dtype), ranks or Ranks(), resume)


FILES = {"sft": write_conversations, "dpo": write_pairs, "grpo": write_conversations}
FLAGS = {
    "sft": ["--max_seq_len", 48, "--batch_size", 3, "--accumulation_steps", 2, "--learning_rate", 0.01],
    "dpo": ["--max_seq_len", 48, "--batch_size", 3, "--accumulation_steps", 2, "--learning_rate", 0.01],
    "grpo": [
        *("--max_seq_len", 64, "--batch_size", 2, "--accumulation_steps", 2, "--learning_rate", 0.01),
        *("--num_generations", 3, "--num_updates", 2, "--max_new_tokens", 5, "--reward", "length=1,repetition=-0.7"),
    ],
}
NAMES = {"sft": "full_sft_16.pth", "dpo": "dpo_16.pth", "grpo": "grpo_16.pth"}


def run(stage, folder, *flags, source=None):
    """A small run of a stage through the command line, in folder/NAME as the flags say; its exit code."""
    data = folder / f"{stage}.jsonl"
    if not data.exists():
        FILES[stage](data)
    start = source or folder / "start"
    if not start.exists():
        write_network(start)
    return train(stage, "--init_from", start, "--data_path", data, *CPU, *FLAGS[stage], *flags)
