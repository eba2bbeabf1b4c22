"""`python -m tests.mutate`: edit the package one place at a time, and list the edits that its tests do not notice.

    python -m tests.mutate                                               everything, for hours
    python -m tests.mutate --paths minimind_ref/loss minimind_ref/optim
    python -m tests.mutate --share 1/20 --seed 3                         a fixed twentieth
    python -m tests.mutate --quick                                       what CI runs

Edits: swapped arithmetic, moved and turned comparisons, and for or, signs and axes, constants times 1 ± 0.001 or plus
1, slices and ranges off by one, min for max, dropped statements, negated conditions, neighbouring arguments swapped
(mutants.py). A mutant is killed when a test of the files that own its module (owners.py) fails, hangs or crashes.

A survivor is either a hole in the tests, or explained in survivors/. The gate is binary: exit code 1 for a survivor
without a reason, and for a reason whose mutant is gone. Verdicts are appended to --results as lines of JSON and are
not asked for twice: a killed mutant stays so while its file does not change, a survivor while its tests do not either.
"""

import argparse
import ast
import hashlib
import json
import os
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import torch

from tests.mutate.judge import Judge, Module, Verdict, forked, judge_loaded, run_judge
from tests.mutate.mutants import Mutant, mutants
from tests.mutate.owners import ROOT, owners

SURVIVORS = Path(__file__).with_name("survivors")
QUICK = [
    f"minimind_ref/{name}.py"
    for name in (
        "loss/dpo",
        "optim/cosine_schedule",
        "optim/grad_clip",
        "model/rms_norm",
        "generate/sampling",
        "data/jsonl",
    )
]
A_DAY = 86_400.0


def main(arguments: list[str] | None = None) -> int:
    """Judge what the arguments select, and print the survivors without a reason and a table."""
    options = parse(arguments)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not outlive a fork
    known = Results(options.results)
    chosen = {path: select(path, options) for path in files(options.paths)}
    groups = defaultdict(list)
    for path, found in chosen.items():
        if pending := [m for m in found if known.verdict(m) is None]:
            groups[owners(path)].append((path, {m.identity for m in pending}))
    for tests, paths in groups.items():
        judge_group(tests, paths, known)
    return summary(chosen, Results(options.results), explained(survivors()))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser("python -m tests.mutate", description=first, epilog=rest)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--paths", nargs="+", default=["minimind_ref"], help="files and folders")
    parser.add_argument("--share", default="1/1", help="a fixed part of the mutants, as 1/20")
    parser.add_argument("--seed", type=int, default=0, help="which part")
    parser.add_argument("--quick", action="store_true", help="a fixed sample for CI")
    default = Path(tempfile.gettempdir()) / "minimind_ref-mutants.jsonl"
    parser.add_argument("--results", type=Path, default=default, help=f"verdicts, kept between runs [{default}]")
    options = parser.parse_args(arguments)
    if options.quick:
        options.paths = QUICK
    return options


def files(paths: list[str]) -> list[str]:
    """Give the Python files under some paths that tests own, named from the root."""
    roots = [ROOT / path for path in paths]
    found = sorted(p for root in roots for p in ([root] if root.is_file() else root.rglob("*.py")))
    return [name for p in found if owners(name := str(p.relative_to(ROOT)))]


def parsed(path: str) -> tuple[ast.Module, list[Mutant]]:
    """Give a file's syntax tree and its mutants."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return tree, mutants(path, tree)


def select(path: str, options: argparse.Namespace) -> list[Mutant]:
    """Give the mutants of a file that belong to the share: by a hash of their text, so that others do not move it."""
    part, whole = map(int, options.share.split("/"))

    def mark(mutant: Mutant) -> int:
        return int.from_bytes(hashlib.sha256(f"{options.seed} {mutant.identity}".encode()).digest()[:8], "big")

    return [m for m in parsed(path)[1] if mark(m) % whole < part]


def judge_group(tests: tuple[str, ...], paths: list[tuple[str, set[str]]], known: "Results") -> None:
    """Judge mutants with the same owners: those in functions' bodies together, then the others one by one."""
    modules = []
    for path, wanted in paths:
        tree, found = parsed(path)
        modules.append(Module(ROOT / path, tree, [m for m in found if m.identity in wanted]))
    names = [str(ROOT / test) for test in tests]
    print(f"{', '.join(path for path, _ in paths)}: {' '.join(tests)}", flush=True)
    with tempfile.TemporaryFile("w+") as orders:
        if forked(lambda: run_judge(names, Judge(modules, known.add, orders)), A_DAY) != 0:
            raise SystemExit(f"{' '.join(tests)}: could not be run, or fail without a mutation")
        orders.seek(0)
        verdicts = Results(known.path)
        for module, order in zip(modules, json.load(orders), strict=True):
            for mutant in module.mutants:
                if verdicts.verdict(mutant) is None:
                    known.add(judge_loaded(mutant, module, names, order))


class Results:
    """Verdicts in a file outside the repository, each with what it holds for."""

    def __init__(self, path: Path):
        self.path, self.prints = path, {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self.records = {record["mutant"]: record for record in map(json.loads, text.splitlines())}

    def fingerprint(self, *names: str) -> str:
        """Hash some files of the repository."""
        if names not in self.prints:
            self.prints[names] = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in names)).hexdigest()[:16]
        return self.prints[names]

    def verdict(self, mutant: Mutant) -> str | None:
        """Give "killed" or "survived" where it still holds."""
        record = self.records.get(mutant.identity)
        if record is None or record["source"] != self.fingerprint(mutant.path):
            return None
        if record["verdict"] == "survived" and record["tests"] != self.fingerprint(*owners(mutant.path)):
            return None
        return record["verdict"]

    def add(self, verdict: Verdict) -> None:
        """Append one, as one line, so that two processes can; "unreached" is not a verdict yet."""
        if verdict.name == "unreached":
            return
        path = verdict.mutant.path
        prints = {"source": self.fingerprint(path), "tests": self.fingerprint(*owners(path))}
        record = {"mutant": verdict.mutant.identity, "verdict": verdict.name, "by": verdict.by, **prints}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def survivors() -> str:
    """Give the survivors of all folders of the package, with their reasons."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(SURVIVORS.glob("*.txt")))


def explained(text: str) -> dict[str, str]:
    """Read survivors/*.txt: a reason on a line of its own, then its mutants, each after four spaces; # is a comment."""
    reasons, reason = {}, ""
    for line in text.splitlines():
        if line.startswith("    "):
            reasons[line.strip()] = reason
        elif line.strip() and not line.startswith("#"):
            reason = line.strip()
    return reasons


def summary(chosen: dict[str, list[Mutant]], known: Results, reasons: dict[str, str]) -> int:
    """Print the survivors without a reason, the reasons without a survivor, and a table; give the exit code."""
    table, bad = defaultdict(Counter), []
    for path, found in chosen.items():
        for mutant in found:
            verdict = known.verdict(mutant) or "not run"
            if verdict == "survived":
                verdict = "explained" if mutant.identity in reasons else "unexplained"
            elif mutant.identity in reasons:
                bad.append(f"{verdict} in spite of its reason  {mutant.identity}")
            table[str(Path(path).parent)][verdict] += 1
            bad += [f"survives  {mutant.identity}"] if verdict == "unexplained" else []
    print(*bad, sep="\n")
    for folder, counts in table.items():
        print(f"{folder}: {counts.total()} mutants: " + ", ".join(f"{n} {v}" for v, n in sorted(counts.items())))
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
