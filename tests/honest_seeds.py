"""`python tests/honest_seeds.py [--seeds 100]`: right implementations under the kit again and again, with other inputs.

Ours and the oracle, torch's own parts, Hugging Face's, and those of honest.py, which compute in other orders.  What one
of them breaks, and why, is in kit/PEERS.md.  Exit code 1 where one is right with some seeds and wrong with others.
"""

import argparse
import sys
from collections import Counter

from honest import HONEST

from minimind_ref.kit import Implementation, verify
from minimind_ref.kit.peers import torch as torch_peers
from minimind_ref.kit.peers import transformers as hugging_face
from minimind_ref.kit.registry import OPERATIONS
from minimind_ref.kit.report import FAIL


def implementations() -> list[Implementation]:
    """Give every right implementation under its own name; those of the peers are in honest.py once more, wrapped."""
    from minimind_ref.kit import ours

    made = [ours.torch_faces, ours.oracles, *torch_peers.IMPLEMENTATIONS, *hugging_face.IMPLEMENTATIONS]
    for h in HONEST:
        if h.function.__name__ == "with_inputs_by_name" or h.component in ("grad_scaler", "moe"):  # whole ones only
            continue
        name = next(n for n, entry in OPERATIONS.items() if (entry.component, entry.golden) == (h.component, h.op))
        made.append(Implementation(f"{h.op}: {h.name}", arrays=h.arrays, profiles=h.profiles))
        made[-1].op(name, h.function)
    return made


def main() -> int:
    """Judge all of them with each seed, and print how often each clause was rejected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    seeds = parser.parse_args().seeds
    rejected, wrong = Counter[str](), Counter[str]()
    made, judged = implementations(), Counter[str]()
    for seed in range(seeds):
        for one in made:
            verdicts = verify(one, list(one.functions), seed=seed).verdicts
            judged.update(verdict.status for verdict in verdicts)
            failed = [f"{one.name}: {v.operation} {v.clause}" for v in verdicts if v.status == FAIL]
            rejected.update(failed)
            wrong[one.name] += bool(failed)
        print(f"seed {seed}: {len(made)} implementations, {dict(judged)}", flush=True)
    for name, times in sorted(rejected.items()):
        print(f"{times:4} of {seeds}  {name}")
    return int(any(0 < times < seeds for times in wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
