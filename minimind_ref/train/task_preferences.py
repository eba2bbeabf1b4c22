"""How often a network prefers the right one of two answers, beside its reference."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from minimind_ref.data.conversations import tokenise_pairs
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.train.device import Placement
from minimind_ref.train.pairs import PairRows, score_all
from minimind_ref.train.run_folder import read_config, read_network

ROWS = 64


def preferences(policy: Path, reference: Path, file: Path, placement: Placement) -> dict[str, dict[str, Any]]:
    """Per task, of one of the tasks' files of pairs: right and total counts, and the mean margin.

    "implicit": the margin over the reference is positive; "before" and "after": the reference, the policy, gives the
    right answer the higher log-probability.
    """
    settings = read_config(policy)["settings"]
    tokenizer = Tokenizer.load(policy / "tokenizer.json")
    with tempfile.TemporaryDirectory() as cache:
        options: dict[str, Any] = dict(template=settings["template"], max_length=settings["max_seq_len"])
        tokens = tokenise_pairs(file, tokenizer, cache_dir=cache, on_bad_line="error", progress=False, **options)
        pairs = PairRows(tokens, settings["max_seq_len"], tokenizer.pad_id)
        new, old = (
            score_all(read_network(f)[0].to(placement.device), pairs, ROWS, placement, settings["reduction"])
            for f in (policy, reference)
        )
    names = np.array([json.loads(line)["task"] for line in file.read_text(encoding="utf-8").splitlines()])
    margin = settings["beta"] * ((new - old)[:, 0] - (new - old)[:, 1])
    return {
        task: {
            "total": int((names == task).sum()),
            "implicit": int((margin > 0)[names == task].sum()),
            "before": int((old[:, 0] > old[:, 1])[names == task].sum()),
            "after": int((new[:, 0] > new[:, 1])[names == task].sum()),
            "margin": float(margin[names == task].mean()),
        }
        for task in dict.fromkeys(names.tolist())
    }
