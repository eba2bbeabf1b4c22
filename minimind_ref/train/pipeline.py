"""`train all`: every stage in a row on the built-in tasks, each judged on held-out questions, and a report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minimind_ref.data.tasks import MARK, write
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.files import write_atomically
from minimind_ref.model.transformer import Transformer
from minimind_ref.train.checkpoint import prepare_folder, read_resume
from minimind_ref.train.device import Placement, place
from minimind_ref.train.network import initial_weights
from minimind_ref.train.recipes import layer
from minimind_ref.train.report import write_report
from minimind_ref.train.run import run_stage
from minimind_ref.train.run_folder import read_network
from minimind_ref.train.stage_settings import STEPS, AllSettings, Step
from minimind_ref.train.task_preferences import preferences
from minimind_ref.train.task_scores import answers, as_json, exact_match, mean, read_questions, right_probabilities

HABIT = 0.8
"""Share of the answers in the habit's training data that end in a spurious mark."""
LEARNT = 0.5
"""A task counts as learnt where so large a share of the validation questions is answered exactly after fine-tuning."""
SAMPLES = 4
"""Sampled answers to each question."""
TRANSCRIPTS = 3


def run_all(settings: AllSettings, given: Mapping[str, Any], of_step: Mapping[str, Mapping[str, Any]]) -> Path:
    """Run every step, or with `resume` those that have no results yet; judge each; write report.md, return its path.

    `given` are the flags for all steps (network, device, …), `of_step` those of single ones.
    """
    folder = Path(settings.out_dir)
    prepare_folder(folder)
    write(folder / "data", seed=settings.seed)
    write(folder / "habit", seed=settings.seed, habit=HABIT)
    results = Results(folder / "results.json", keep=settings.resume)
    for name, step in STEPS.items():
        print(f"\n== {name}: {step.purpose}", flush=True)
        if name in results.steps:
            print(f"finished  already: {folder / name}")
            continue
        _run(name, step, folder, settings, {**given, **of_step.get(name, {})})
        results.add(name, judge(name, folder, settings))
    return write_report(folder, results.steps)


def _run(name: str, step: Step, folder: Path, settings: AllSettings, given: Mapping[str, Any]) -> None:
    out = folder / name
    shared = ("seed", "device", "dtype", "template")
    flags: dict[str, Any] = {"out_dir": str(out), **{key: getattr(settings, key) for key in shared}, **given}
    if step.data is not None:
        flags.setdefault("data_path", str(folder / step.data))
    initial = None
    if step.start is not None:
        flags["init_from"] = initial_weights(str(folder / step.start))
        initial = read_network(folder / step.start)[0].config
    config, resolved = layer(step.stage, flags, initial, recipe=name)
    file = out / f"{step.stage}_resume.pt"
    content = read_resume(file, step.stage) if settings.resume and file.exists() else None
    run_stage(step.stage, config, resolved, content)


def judge(name: str, folder: Path, settings: AllSettings) -> dict[str, Any]:
    """Exact match, greedy and sampled, per task, transcripts, and for the preference step the pairs."""
    placement = place(settings.device, settings.dtype)
    model, path = read_network(folder / name)
    model.to(placement.device)
    tokenizer = Tokenizer.load(path.with_name("tokenizer.json"))
    found = _exact(model, tokenizer, folder, settings, placement)
    if name == "sft":
        found["learnt"] = _learnt(model, tokenizer, folder, settings, placement)
    if STEPS[name].stage == "dpo":
        found["pairs"] = preferences(folder / "dpo", folder / "sft", folder / "data/dpo_held_out.jsonl", placement)
    return found


def _exact(
    model: Transformer, tokenizer: Tokenizer, folder: Path, settings: AllSettings, placement: Placement
) -> dict[str, Any]:
    questions = read_questions(folder / "data/sft_held_out.jsonl", settings.questions)

    def texts(temperature: float, seed: int) -> list[str]:
        template = settings.template
        return answers(model, tokenizer, questions, placement, temperature=temperature, seed=seed, template=template)

    greedy = texts(0.0, 0)
    sampled = [exact_match(questions, texts(1.0, settings.seed + i)) for i in range(SAMPLES)]
    scores = {"greedy": exact_match(questions, greedy), "sampled": mean(sampled)}
    scores["unmarked"] = exact_match(questions, [text.strip().removesuffix(MARK) for text in greedy])
    for kind in ("greedy", "sampled"):
        print(f"held out  exact match, {kind}: {scores[kind]['all']} %")
    likely = right_probabilities(model, tokenizer, questions, placement, template=settings.template)
    shown = [[q.prompt, q.answer, text] for q, text in zip(questions, greedy, strict=True)][:TRANSCRIPTS]
    return {**{kind: as_json(shares) for kind, shares in scores.items()}, "likely": likely, "transcripts": shown}


def _learnt(
    model: Transformer, tokenizer: Tokenizer, folder: Path, settings: AllSettings, placement: Placement
) -> list[str]:
    questions = read_questions(folder / "data/sft_validation.jsonl", settings.questions)
    found = answers(model, tokenizer, questions, placement, temperature=0.0, seed=0, template=settings.template)
    shares = exact_match(questions, found)
    return [task for task, share in shares.items() if task != "all" and share.value >= LEARNT]


class Results:
    """What the steps were judged to be, kept in a file so that a continuation need not judge again."""

    def __init__(self, path: Path, *, keep: bool) -> None:
        self.path = path
        self.steps: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if keep and path.exists() else {}

    def add(self, name: str, found: Mapping[str, Any]) -> None:
        """Keep the results of a step that has come to its end."""
        self.steps[name] = found
        text = json.dumps(self.steps, ensure_ascii=False, indent=1)
        write_atomically(self.path, lambda file: file.write(text.encode()))
