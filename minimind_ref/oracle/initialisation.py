"""What each parameter is drawn from, oracle.  Spec: specs/initialisation.md."""

from collections.abc import Sequence

from minimind_ref.oracle.checks import require_option

SCHEMES = ("fan_in_uniform", "normal")
STD = 0.02


def initial_distribution(name: str, shape: Sequence[int], *, scheme: str) -> tuple[str, float] | tuple[str]:
    """Name a parameter's distribution: ("uniform", bound), ("normal", std) or ("ones",) (INITIALISATION-1 … 4).

    Source: He et al. 2015, arXiv:1502.01852, section 2.2; Radford et al. 2019, section 2.3.
    """
    require_option("scheme", scheme, SCHEMES)
    if len(shape) == 1:
        return ("ones",)
    if len(shape) != 2:
        raise ValueError(f"{name} has {len(shape)} axes but a parameter has 1 or 2; its shape is {tuple(shape)}")
    return ("normal", STD) if scheme == "normal" else ("uniform", shape[1] ** -0.5)
