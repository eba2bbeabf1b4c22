"""What a component refuses: a message that names the argument, what it is and what it must be."""

import math

import numpy as np
import pytest
import torch

from minimind_ref.checks import require_finite, require_range
from minimind_ref.oracle import checks as oracle


@pytest.mark.parametrize("least", [-math.inf, 0.0, 2.0])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_refused_whatever_the_least(value, least):
    limit = "" if least == -math.inf else f" and at least {least:g}"
    with pytest.raises(ValueError, match=f"^eps={value} must be finite{limit}$"):
        require_finite("eps", value, least)


def test_the_least_is_allowed_and_what_is_below_is_not():
    require_finite("scale", -3.5)
    require_finite("eps", 2.0, 2.0)
    with pytest.raises(ValueError, match=r"^eps=1.5 must be finite and at least 2$"):
        require_finite("eps", 1.5, 2.0)


def test_integers_outside_are_named_with_the_range_and_its_reason():
    require_range("index", torch.tensor([[0, 6]]), 7, "experts")
    require_range("index", torch.zeros(0, 3, dtype=torch.int64), 7, "experts")
    for held, named in (([0, 7], 7), ([-2, 9], -2)):
        with pytest.raises(ValueError, match=rf"^index holds {named}, outside 0 … 6 \(experts=7\)$"):
            require_range("index", torch.tensor(held), 7, "experts")


def test_an_oracles_limits_are_named_and_are_allowed_themselves():
    for at_least, said in ((True, "at least 1"), (False, "1")):
        with pytest.raises(ValueError, match=rf"^x has 0 axes but needs {said}; its shape is \(\)$"):
            oracle.require_rank("x", np.zeros(()), 1, at_least)
    oracle.require_finite("coef", 0.0, least=0.0)
    with pytest.raises(ValueError, match=r"^coef=-1\.0 must be finite and at least 0$"):
        oracle.require_finite("coef", -1.0, least=0.0)
