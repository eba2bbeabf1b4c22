"""Where good implementations behave differently and no argument says so: named options, recognised by what they do.

An implementation declares one as it declares any choice, `choices={"cross_entropy.nothing_supervised": "nan"}`.  A
failure that is exactly what the option says is then CHOICE; anything else stays a failure.  The tables of choices in
specs/ say who takes what.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minimind_ref.kit.case import Expected
from minimind_ref.kit.compare import compare
from minimind_ref.kit.findings import EXCUSED, FAIL, Finding
from minimind_ref.kit.outcome import Result
from minimind_ref.kit.registry import CONSTANTS, REFERENCE
from minimind_ref.oracle.sampling import filter_logits

IGNORED = -100
TINY = 1e-6  # in the denominator of clipping
LARGEST = float(np.finfo(np.float32).max)
LAST_PLACES = 4 * float(np.finfo(np.float64).eps)  # of a product with what is itself rounded


@dataclass(frozen=True)
class Behaviour:
    """An option of an operation, how a failing answer shows it, and the clauses that it is about."""

    operation: str
    name: str
    option: Any
    shown: Callable[[Finding], bool]
    clauses: tuple[str, ...]

    @property
    def key(self) -> str:
        """Give the name under which it is declared."""
        return f"{self.operation}.{self.name}"


def nothing_supervised(finding: Finding) -> bool:
    """0/0, where no row has a target."""
    ignored = finding.case.parameters.get("ignore_index", IGNORED)
    if finding.part not in ("loss", "gradient logits") or (finding.case.inputs["labels"] != ignored).any():
        return False
    (outputs, gradients), found = finding.case.answer(finding.profile), finding.outcome
    lost = is_nan(found.outputs["loss"], outputs["loss"])
    return lost and (finding.part == "loss" or is_nan((found.gradients or {})["logits"], gradients["logits"]))


def is_nan(found: Result, right: Expected) -> bool:
    """Say whether a result is nothing but NaN."""
    return compare("", found, Expected(np.full(np.shape(right.value), np.nan))).good


def right_elsewhere(found: Result, right: Expected, excused: np.ndarray) -> bool:
    """Say whether a result is right but for some elements."""
    kept = Expected(np.asarray(right.value)[~excused], np.asarray(right.bound)[~excused])
    return compare("", replace(found, value=np.asarray(found.value)[~excused]), kept).good


def nan_under_ignored(finding: Finding) -> bool:
    """0·NaN or 0·inf: a gradient of NaN for logits that are not finite under an ignored label, and right elsewhere."""
    if finding.part != "gradient logits" or finding.outcome.gradients is None:
        return False
    inputs, ignored = finding.case.inputs, finding.case.parameters.get("ignore_index", IGNORED)
    excused = (inputs["labels"] == ignored) & ~np.isfinite(inputs["logits"]).all(axis=-1)
    right = finding.case.answer(finding.profile)[1]["logits"]
    return right_elsewhere(finding.outcome.gradients["logits"], right, excused)


def zero_times_unchosen(finding: Finding) -> bool:
    """0·inf: NaN, where an expert's weights are infinite and no token is to choose it, and right elsewhere."""
    name, gradient = finding.part.removeprefix("gradient "), finding.part.startswith("gradient ")
    found = ((finding.outcome.gradients if gradient else finding.outcome.outputs) or {}).get(name)
    if name == "aux" or found is None or all(np.isfinite(stack).all() for stack in finding.case.inputs["experts"]):
        return False
    lost = np.isnan(np.asarray(found.value))
    return bool(lost.any()) and right_elsewhere(found, finding.case.answer(finding.profile)[gradient][name], lost)


def blind_rows(finding: Finding) -> bool:
    """Only the rows that see nothing differ, and what comes from them (they give zeros here): their own gradient, and
    those of the keys and values of their sequence."""
    name = finding.part.removeprefix("gradient ")
    gradient = name != finding.part
    found = ((finding.outcome.gradients if gradient else finding.outcome.outputs) or {}).get(name)
    blind = None if found is None else _sees(finding.case.inputs, finding.case.parameters)
    if found is None or blind is None:
        return False
    return right_elsewhere(
        found, finding.case.answer(finding.profile)[gradient][name], blind if name in ("out", "q") else blind.any(1)
    )


def _sees(inputs: dict[str, Any], options: dict[str, Any]) -> Any:
    """Say which queries (b, s) see nothing; None where all see something."""
    (b, s), t = inputs["q"].shape[:2], inputs["k"].shape[1]
    seen = np.ones((b, s, t), bool) if inputs.get("mask") is None else np.asarray(inputs["mask"])
    if options.get("causal", True):
        seen = seen & (np.arange(t) <= np.arange(s)[:, None] + t - s)
    blind = ~seen.any(axis=-1)
    return blind if blind.any() else None


def multiplied(finding: Finding) -> bool:
    """An infinite norm multiplies every gradient by 0, or by NaN."""
    return finding.part == "law" and finding.text == "gradients of infinite norm were changed"


def without_constant(finding: Finding) -> bool:
    """The factor is max_norm/norm: longer than here by a factor of (norm + 1e-6)/norm, and no less exact."""
    if finding.part == "norm" or not finding.part.startswith("gradients."):
        return False
    right, norm = (finding.case.answer(finding.profile)[0][name] for name in (finding.part, "norm"))
    factor = (norm.value + TINY) / norm.value if norm.value + TINY > finding.case.parameters["max_norm"] else 1.0
    longer = np.asarray(right.value) * factor
    grown = Expected(longer, np.asarray(right.bound) * factor + LAST_PLACES * np.abs(longer))
    return compare(finding.part, finding.outcome.outputs[finding.part], grown).good


def falls_to_zero(finding: Finding) -> bool:
    """The scale follows its factors to 0, below the smallest whose reciprocal is finite."""
    if finding.part != "scales":
        return False
    fallen = Expected(np.array(without_floor(**finding.case.inputs, **finding.case.parameters)))
    return compare("scales", finding.outcome.outputs["scales"], fallen).good


def without_floor(
    overflows: Any, *, init_scale: float, growth_factor: float, backoff_factor: float, growth_interval: int
) -> list[float]:
    """Give the scale after each window, as the definition in specs/grad_scaler.md without its smallest one."""
    scale, good, scales = init_scale, 0, []
    for overflow in overflows:
        good = 0 if overflow else good + 1
        if overflow:
            scale = float(np.float32(scale * backoff_factor))
        elif good == growth_interval:
            grown, good = scale * growth_factor, 0
            scale = float(np.float32(grown)) if grown <= LARGEST else scale
        scales.append(scale)
    return scales


def not_detached(*constants: str) -> Callable[[Finding], bool]:
    """Gradients go to what the caller is to hold constant, and nowhere else wrongly."""
    return lambda finding: finding.part.removeprefix("gradient ") in constants


def refuses_zero(finding: Finding) -> bool:
    """Temperature 0 is refused: the caller takes the largest."""
    refused = finding.part == "call" and finding.outcome.problem == "raised"
    return refused and finding.case.parameters.get("temperature") == 0


def one_more(finding: Finding) -> bool:
    """The token at which the mass is exactly p, to float32's rounding, is followed by one more."""
    options = finding.case.parameters
    if finding.part != "filtered" or "top_p" not in options:
        return False
    found, right = finding.outcome.outputs["filtered"], finding.case.answer(finding.profile)[0]["filtered"]
    more = np.isfinite(np.asarray(found.value)) & ~np.isfinite(np.asarray(right.value))
    edge = np.abs(mass_kept(finding.case.inputs["logits"], **options) - options["top_p"]) <= np.finfo(np.float32).eps
    alone = more.sum(axis=-1) <= edge
    return bool(more.any() and alone.all()) and right_elsewhere(found, right, more)


def mass_kept(logits: Any, *, top_p: float, temperature: float = 1.0, top_k: int = 0, min_p: Any = None) -> np.ndarray:
    """Give the mass (b) of what top_p keeps of the tokens that it is asked about; min_p comes later."""
    before = {"temperature": temperature, "top_k": top_k}
    asked, kept = (np.exp(filter_logits(logits, **before, top_p=p)) for p in (1.0, top_p))
    return kept.sum(axis=-1) / asked.sum(axis=-1)


BEHAVIOURS = (
    Behaviour("cross_entropy", "nothing_supervised", "nan", nothing_supervised, ("CROSS_ENTROPY-4",)),
    Behaviour("cross_entropy", "ignored_not_finite", "nan gradient", nan_under_ignored, ("CROSS_ENTROPY-3",)),
    Behaviour("moe", "unchosen_not_finite", "nan", zero_times_unchosen, ("MOE-9",)),
    Behaviour("attention", "nothing_visible", "other", blind_rows, ("ATTENTION-5", "ATTENTION-19")),
    Behaviour("clip_grad_norm", "not_finite", "multiplied", multiplied, ("GRAD_CLIP-6",)),
    Behaviour("clip_grad_norm", "constant", 0, without_constant, ("GRAD_CLIP-2",)),
    Behaviour("grad_scaler", "smallest_scale", 0, falls_to_zero, ("GRAD_SCALER-6",)),
    Behaviour("dpo_loss", "reference", "not detached", not_detached(*REFERENCE), ("DPO-11",)),
    Behaviour("kl_k3", "reference", "not detached", not_detached("reference_logp"), ("GRPO-17",)),
    Behaviour("grpo_loss", "constants", "not detached", not_detached(*CONSTANTS), ("GRPO-17",)),
    Behaviour("filter_logits", "temperature_zero", "refused", refuses_zero, ("SAMPLING-3",)),
    Behaviour("filter_logits", "top_p_edge", "one more", one_more, ("SAMPLING-5",)),
)  # fmt: skip
KEYS = {behaviour.key: [b.option for b in BEHAVIOURS if b.key == behaviour.key] for behaviour in BEHAVIOURS}


def excused(finding: Finding, choices: dict[str, Any]) -> Finding:
    """Turn a failure that is what a declared option says into CHOICE."""
    if finding.state != FAIL:
        return finding
    for behaviour in shown_by(finding):
        if choices.get(behaviour.key) == behaviour.option:
            text = f"it takes {behaviour.name}={behaviour.option!r}"
            about = tuple(clause for clause in finding.clauses if clause in behaviour.clauses)
            return replace(finding, state=EXCUSED, text=text, clauses=about)
    return finding


def shown_by(finding: Finding) -> list[Behaviour]:
    """Give the options that a failure shows."""
    if finding.comparison.kind in ("type", "shape"):
        return []
    return [b for b in BEHAVIOURS if b.operation == finding.case.operation.name and b.shown(finding)]
