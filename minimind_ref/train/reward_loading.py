"""From `--reward exact_match=1,my.module:function=0.5,model:DIR` to the rewards that it names."""

from __future__ import annotations

import difflib
import importlib
import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from minimind_ref.errors import UserError
from minimind_ref.train.reward_model import RewardModel
from minimind_ref.train.rewards import BUILT_IN, Reward, Rewards, Term


def load_rewards(text: str, *, template: str = "minimind2", device: str | torch.device = "cpu") -> Rewards:
    """Read rewards by comma, each NAME or NAME=WEIGHT: a built-in one, `module:function`, or `model:PATH`.

    A weight is any finite number, 1 where none is given.  A module is found as Python finds one, from the current
    folder under `python -m`.  `template` and `device` are for reward models.
    Raises UserError naming what cannot be read, found or imported.
    """
    terms: list[Term] = []
    for item in filter(None, map(str.strip, text.split(","))):
        name, _, weight = item.rpartition("=") if "=" in item else (item, "", "1")
        name = name.strip()
        if name in (term.name for term in terms):
            raise UserError(f"--reward names {name} twice")
        terms.append(Term(name, _weight(name, weight), _find(name, template, device)))
    if not terms:
        raise UserError(f"--reward {text!r} names no reward; built in: {', '.join(BUILT_IN)}")
    return Rewards(tuple(terms))


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UserError(f"--reward {name}: the weight {text.strip()!r} is not a finite number")
    return weight


def _find(name: str, template: str, device: str | torch.device) -> Reward:
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, sign, rest = name.partition(":")
    if not sign:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; built in: {', '.join(BUILT_IN)}; or module:function"
        raise UserError(f"--reward {name}: no such reward{hint}")
    if not module or not rest:
        raise UserError(f"--reward {name}: not of the form module:function")
    if module == "model":
        return partial(RewardModel.load(Path(rest), device=device).reward, template=template)
    return _import(name, module, rest)


def _import(name: str, module: str, attribute: str) -> Reward:
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise UserError(f"--reward {name}: there is no module {module} (looked for from here)") from error
        raise UserError(f"--reward {name}: {module} cannot be imported ({error})") from error
    except Exception as error:
        raise UserError(f"--reward {name}: {module} cannot be imported ({type(error).__name__}: {error})") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            raise UserError(
                f"--reward {name}: {module} has no {attribute}" + (f"; did you mean {near[0]}?" if near else "")
            )
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"--reward {name}: {attribute} is a {type(found).__name__}, not a function")
    return cast(Reward, found)
