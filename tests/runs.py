"""Small real training runs for tests: a corpus on disk and the command line, in this process or in another."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

from minimind_ref.errors import run_command
from minimind_ref.train.__main__ import main

ROOT = Path(__file__).parents[1]
SMALL = [
    *("--hidden_size", "16", "--num_hidden_layers", "2", "--num_attention_heads", "2", "--num_key_value_heads", "1"),
    *("--max_seq_len", "24", "--batch_size", "3", "--accumulation_steps", "2", "--learning_rate", "0.01"),
    *("--num_workers", "0", "--device", "cpu", "--dtype", "float32", "--held_out", "0.1", "--log_interval", "1"),
]
SENTENCE = "the cat sat on a mat while seven dogs ran around one quiet house and nobody said anything at all"
WORDS = SENTENCE.split()


def write_corpus(path, documents=23):
    """A JSONL file of unequal documents, the same every time."""
    texts = [
        " ".join(WORDS[(7 * i + j * (1 + i % 5)) % len(WORDS)] for j in range(3 + 5 * i % 29)) for i in range(documents)
    ]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def train(*flags):
    """The command line's exit code, run in this process."""
    return run_command(main, [str(flag) for flag in flags])


def train_elsewhere(*flags, module=("-m", "minimind_ref.train")):
    """The command line in a process of its own, to its end."""
    process = start_elsewhere(*flags, module=module)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start_elsewhere(*flags, module=("-m", "minimind_ref.train")):
    """The command line in a process of its own, just started."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *module, *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run_module(name):
    """Run a module's file as `python -m` does: runpy cannot, where pytest's own loader finds an installed plugin."""
    loader = SourceFileLoader(name, importlib.util.find_spec(name).origin)
    exec(loader.get_code(name), {"__name__": "__main__", "__file__": loader.path})
