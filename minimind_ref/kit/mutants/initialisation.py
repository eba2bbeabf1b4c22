"""Wrong first weights: distributions of another width, or of another scheme."""

import math

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.initialisation import initial_distribution

EMBEDDING = "embed_tokens.weight"


@mutant("initial_distribution", "INITIALISATION-M01", owner="INITIALISATION-1", summary="the bound is that of fan_out",
        source="the rows counted in place of the columns")  # fmt: skip
def fan_out(name, shape, *, scheme):
    kind, *width = initial_distribution(name, shape, scheme=scheme)
    return (kind, shape[0] ** -0.5) if kind == "uniform" else (kind, *width)


@mutant("initial_distribution", "INITIALISATION-M02", owner="INITIALISATION-1",
        summary="the bound is He's own, with the gain of a ReLU",
        source="He et al. 2015: kaiming_uniform_ without torch.nn.Linear's a = √5")  # fmt: skip
def gain_of_a_relu(name, shape, *, scheme):
    kind, *width = initial_distribution(name, shape, scheme=scheme)
    return (kind, math.sqrt(6) * width[0]) if kind == "uniform" else (kind, *width)


@mutant("initial_distribution", "INITIALISATION-M03", owner="INITIALISATION-1",
        summary="1/√fan_in is a deviation, not a bound", source="a normal draw of torch.nn.Linear's size")  # fmt: skip
def bound_as_deviation(name, shape, *, scheme):
    kind, *width = initial_distribution(name, shape, scheme=scheme)
    return ("normal", *width) if kind == "uniform" else (kind, *width)


@mutant("initial_distribution", "INITIALISATION-M04", owner="INITIALISATION-2", summary="the embedding is N(0, 1)",
        source="torch.nn.Embedding's default in an untied model")  # fmt: skip
def embedding_of_one(name, shape, *, scheme):
    return ("normal", 1.0) if name.endswith(EMBEDDING) else initial_distribution(name, shape, scheme=scheme)


@mutant("initial_distribution", "INITIALISATION-M05", owner="INITIALISATION-2",
        summary="the embedding's fan_in is the vocabulary",
        source="an embedding as a product with one-hot rows")  # fmt: skip
def fan_in_of_one_hot_rows(name, shape, *, scheme):
    if name.endswith(EMBEDDING) and scheme == "fan_in_uniform":
        return ("uniform", shape[0] ** -0.5)
    return initial_distribution(name, shape, scheme=scheme)


@mutant("initial_distribution", "INITIALISATION-M06", owner="INITIALISATION-3",
        summary="outward projections shrink with the depth",
        source="nanoGPT: 0.02/√(2·layers), as GPT-2's")  # fmt: skip
def scaled_with_depth(name, shape, *, scheme):
    if scheme == "normal" and name.endswith(("o_proj.weight", "down_proj.weight")):
        return ("normal", 0.02 / math.sqrt(2 * 8))
    return initial_distribution(name, shape, scheme=scheme)


@mutant("initial_distribution", "INITIALISATION-M07", owner="INITIALISATION-3", summary="the deviation is 1/√width",
        source="one scheme's width under the other's name")  # fmt: skip
def deviation_of_the_width(name, shape, *, scheme):
    kind, *width = initial_distribution(name, shape, scheme=scheme)
    return (kind, shape[1] ** -0.5) if kind == "normal" else (kind, *width)


@mutant("initial_distribution", "INITIALISATION-M08", owner="INITIALISATION-3", summary="0.02 is the variance",
        source="N(0, 0.02) read as mean and variance")  # fmt: skip
def variance(name, shape, *, scheme):
    kind, *width = initial_distribution(name, shape, scheme=scheme)
    return (kind, math.sqrt(0.02)) if kind == "normal" else (kind, *width)


@mutant("initial_distribution", "INITIALISATION-M09", owner="INITIALISATION-4", summary="norm weights start at zero",
        source="transformers PR #29402: Gemma's 1 + w in a Llama (NRM-7)")  # fmt: skip
def norms_of_zero(name, shape, *, scheme):
    found = initial_distribution(name, shape, scheme=scheme)
    return ("zeros",) if found == ("ones",) else found


@mutant("initial_distribution", "INITIALISATION-M10", owner="INITIALISATION-4",
        summary="weights of q and k norm are drawn like matrices",
        source="a filter by the class Linear or Norm that misses a custom norm (OPT-5)")  # fmt: skip
def head_norms_drawn(name, shape, *, scheme):
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return ("normal", 0.02)
    return initial_distribution(name, shape, scheme=scheme)
