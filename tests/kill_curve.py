"""`python tests/kill_curve.py`: how many known wrong implementations survive wider bounds.

If bounds × 100 rejected as many, the bounds were not what worked. A mutant runs in float64 on the inputs as the profile
stores them (a narrow one in the profile's own type, where NumPy has it); text and integers, which have no bound, are
left out. Counted are mutants, and verdicts: mutants times cases.
"""

from collections import Counter

from minimind_ref.golden import kills, safetensors
from minimind_ref.golden.folder import Folder
from minimind_ref.kit.mutant import Mutant, load_mutants
from minimind_ref.oracle.bounded import PROFILES

FACTORS = (1.0, 10.0, 100.0)


def curve(components: list[str]) -> tuple[dict[str, Counter], dict[str, Counter]]:
    """Give for each profile how many mutants are rejected, and how many verdicts do it, by factor."""
    folder, rejected, verdicts = Folder(), {p: Counter() for p in PROFILES}, {p: Counter() for p in PROFILES}
    for component in components:
        beside = folder.file(component).with_suffix(".safetensors")
        tensors = safetensors.read(beside) if beside.exists() else {}
        cases = folder.load(component, complete=True)["cases"]
        for m in load_mutants(component).values():
            for profile in PROFILES:
                counts = Counter(f for case in cases for f in rejecting(case, m, profile, tensors))
                verdicts[profile].update(counts)
                rejected[profile].update(set(counts))
    return rejected, verdicts


def rejecting(case: dict, m: Mutant, profile: str, tensors: dict) -> list[float]:
    """List the factors under which a case with bounds still rejects a mutant."""
    if case["op"] != kills.golden_op(m) or not case["bound"].get(profile):
        return []
    results = kills.run(case, m, profile)
    return [factor for factor in FACTORS if kills.judged(case, results, profile, tensors, factor)]


def main() -> None:
    """Print the table."""
    names = sorted({m.component for m in load_mutants().values()})
    rejected, verdicts = curve(names)
    print("profile     mutants rejected at ×1, ×10, ×100     verdicts at ×1, ×10, ×100")
    for profile in PROFILES:
        each = ["".join(f"{counts[profile][f]:8}" for f in FACTORS) for counts in (rejected, verdicts)]
        print(f"{profile:10}  {each[0]}          {each[1]}")


if __name__ == "__main__":
    main()
