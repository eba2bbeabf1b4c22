"""The report of `train all`: what each step did on questions that no step was trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from minimind_ref.files import write_atomically
from minimind_ref.train.metrics import read_metrics
from minimind_ref.train.stage_settings import STEPS
from minimind_ref.train.task_scores import Share, paired_change

ROWS = 8
"""Rows of a table over time."""
POLICY_COLUMNS = ("reward", "held_out_reward", "kl", "ratio_min", "ratio_max", "clipped", "answer_length")


def write_report(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write FOLDER/report.md from the steps' results and measurements; returns its path."""
    parts = [
        "# What each stage did",
        "Every figure is on held-out questions, which no step was trained on and no choice was made by. Shares are in "
        "per cent, with Wilson's 95 % interval.",
        *_exact(results),
        *_preference(results),
        *_policy(folder, "grpo", "Reinforcement on the plain tasks"),
        *_policy(folder, "unlearn", "Reinforcement against a habit"),
        "## Which gain is which",
        *_words(results),
        "## Transcripts",
        *_transcripts(results),
    ]
    path = folder / "report.md"
    write_atomically(path, lambda file: file.write(("\n\n".join(parts) + "\n").encode()))
    return path


def share(results: Mapping[str, Any], step: str, kind: str, task: str = "all") -> Share:
    """A step's exact match: `kind` greedy, sampled, or unmarked (greedy, a spurious mark at the end forgiven)."""
    return Share(*results[step][kind][task])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _exact(results: Mapping[str, Any]) -> list[str]:
    tasks = [task for task in results["pretrain"]["greedy"] if task != "all"] + ["all"]
    parts = ["## Exact match"]
    for kind, what in (
        ("greedy", "Greedy answers."),
        ("sampled", "Answers sampled at temperature 1, the mean of four a question; the interval is that of one."),
    ):
        rows = [[task, *(str(share(results, step, kind, task)) for step in STEPS)] for task in tasks]
        parts += [what, _table(["task", *STEPS], rows)]
    chances = [f"{100 * fmean(results[step]['likely']):.2f}" for step in STEPS]
    parts += [
        "How probable the right answer is, in the mean over the questions: what sampled answers score on average, "
        "without the chance of the draw.",
        _table(["", *STEPS], [["all", *chances]]),
    ]
    starts = [f"{name} ({step.stage} from {step.start}): {step.purpose}" for name, step in STEPS.items() if step.start]
    return [*parts, "The steps: " + "; ".join([f"pretrain: {STEPS['pretrain'].purpose}", *starts]) + "."]


def _preference(results: Mapping[str, Any]) -> list[str]:
    learnt = results["sft"]["learnt"]
    pairs = results["dpo"]["pairs"]
    rows = []
    for task, found in pairs.items():
        counts = [str(Share(found[key], found["total"])) for key in ("before", "after", "implicit")]
        rows.append([task, "yes" if task in learnt else "no", *counts, f"{found['margin']:.2f}"])
    head = ["task", "learnt", "raw preference before", "after", "implicit accuracy", "mean margin"]
    return [
        "## Preference",
        "On held-out pairs: how often the right answer has the higher log-probability before and after, how often its "
        "margin over the reference is positive (0 before, since policy and reference are then the same), and that "
        "margin. Learnt: at least half of the validation questions right after fine-tuning.",
        _table(head, rows),
        f"Over the learnt tasks, implicit accuracy {implicit_accuracy(results)}.",
    ]


def implicit_accuracy(results: Mapping[str, Any]) -> Share:
    """The share of the learnt tasks' held-out pairs whose margin over the reference is positive."""
    pairs = [found for task, found in results["dpo"]["pairs"].items() if task in results["sft"]["learnt"]]
    return Share(sum(found["implicit"] for found in pairs), sum(found["total"] for found in pairs))


def _policy(folder: Path, step: str, title: str) -> list[str]:
    by_step: dict[int, dict[str, Any]] = {}
    for record in read_metrics(folder / step, "grpo"):
        by_step.setdefault(record["step"], {}).update(record)
    stride = max(1, -(-len(by_step) // ROWS))
    chosen = list(by_step.values())[::-1][::stride][::-1]
    rows = [[str(r["step"]), *(f"{r[key]:.4f}" if key in r else "" for key in POLICY_COLUMNS)] for r in chosen]
    curves = folder / step / "curves.png"
    return [
        f"## {title}",
        "Means since the line before; the ratio's range is over all answer tokens.",
        _table(["step", *(key.replace("_", " ") for key in POLICY_COLUMNS)], rows),
        *([f"![curves]({step}/curves.png)"] if curves.exists() else []),
    ]


def _words(results: Mapping[str, Any]) -> list[str]:
    def change(kind: str, before: str, after: str) -> str:
        old, new = share(results, before, kind), share(results, after, kind)
        (low, high), (lower, higher) = old.interval, new.interval
        verb = "rose" if lower > high else "fell" if higher < low else "stayed within its intervals"
        return f"{verb}, from {100 * old.value:.1f} % to {100 * new.value:.1f} %"

    tasks = [task for task in results["sft"]["greedy"] if task != "all"]
    learnt = results["sft"]["learnt"]
    mean, low, high = paired_change(results["sft"]["likely"], results["grpo"]["likely"])
    missed = [task for task in tasks if task not in learnt]
    return [
        f"- Fine-tuning taught {', '.join(learnt) or 'nothing'}" + (f", not {', '.join(missed)}" if missed else "")
        + f". Greedy exact match {change('greedy', 'pretrain', 'sft')}.",
        f"- After preference, implicit accuracy on the learnt tasks is {implicit_accuracy(results)} %, and greedy "
        f"exact match {change('greedy', 'sft', 'dpo')}: right answers became likelier than slips, no task was learnt.",
        f"- With reinforcement on the plain tasks, greedy exact match {change('greedy', 'sft', 'grpo')}; the right "
        f"answer's probability, which is the mean sampled reward, changed by {100 * mean:+.2f} points "
        f"[{100 * low:.2f}, {100 * high:.2f}], paired over the questions. It can only make likelier what is sampled "
        "already.",
        f"- With reinforcement against the habit, greedy exact match {change('greedy', 'habit', 'unlearn')}. The mark "
        f"forgiven, the network with the habit had {100 * share(results, 'habit', 'unmarked').value:.1f} % right "
        "before: it learnt what is rewarded, not the tasks.",
    ]  # fmt: skip


def _transcripts(results: Mapping[str, Any]) -> list[str]:
    parts = []
    for step in STEPS:
        lines = []
        for prompt, right, text in results[step]["transcripts"]:
            flat = text.replace("\n", " ⏎ ")
            lines.append(f"- {prompt}  \n  right: `{right}`; answer: `{flat}`")
        parts += [f"### {step}", "\n".join(lines)]
    return parts
