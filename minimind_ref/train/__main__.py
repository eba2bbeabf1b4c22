"""`python -m minimind_ref.train [STAGE] --flag value …`: read the command line, then run the stage."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from minimind_ref.config import DERIVED, ModelConfig
from minimind_ref.errors import UserError, run_command
from minimind_ref.flags import Parser, add_fields, parse
from minimind_ref.train.recipes import TINY, Family, layer
from minimind_ref.train.settings import Settings
from minimind_ref.train.stage_settings import STAGES, STEPS, AllSettings

ALL = """{what}

Steps: {steps}.  Every flag of a step's stage is given as --STEP.flag value.
Stages: {stages}."""
DESCRIPTION = """{what}

Stages: {stages}; pretrain if none is named.  Each has its own flags: python -m minimind_ref.train STAGE --help.
With neither --preset nor a model flag, the network is that of --init_from, or tiny with a recipe of its own, which a
CPU trains in minutes.  The defaults in brackets are those of the real presets; tiny's recipe sets
{tiny}."""


def main(argv: Sequence[str]) -> None:
    """Parse the command line and run the stage that it names."""
    argv = list(argv)
    stage = argv.pop(0) if argv and not argv[0].startswith("-") else "pretrain"
    # Threads that wait: to spin for long costs a busy machine an order of magnitude, to sleep at once costs an idle
    # one nearly half its speed.  Read when torch loads OpenMP; the count is GNU's, for the others it is to sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if stage == "all":
        return _all(argv)
    if stage not in STAGES:
        raise UserError(f"unknown stage {stage!r}; stages: {', '.join(STAGES)}, all")
    given = parse(_parser(stage, STAGES[stage], TINY[stage]), argv)
    from minimind_ref.train.run import run_stage  # torch takes seconds to load: --help and mistakes need none

    if given.get("init_from"):
        from minimind_ref.train.network import initial_weights

        given["init_from"] = initial_weights(given["init_from"])
    if given.get("resume"):
        from minimind_ref.train.checkpoint import read_resume

        folder = Path(given.get("out_dir", Settings.out_dir))
        content = read_resume(folder / f"{stage}_resume.pt", stage)
        config, settings = resumed(stage, given, content)
        run_stage(stage, config, replace(settings, out_dir=str(folder), resume=True), content)
    else:
        run_stage(stage, *layer(stage, given, _initial(stage, given)))


def _all(argv: Sequence[str]) -> None:
    """Run the pipeline; `--STEP.flag value` is for one of its steps."""
    general, of_step = split_flags(argv, tuple(STEPS))
    given = parse(_parser("all", AllSettings, {}), general)
    steps = {name: parse(_parser(name, STAGES[STEPS[name].stage], {}), flags) for name, flags in of_step.items()}
    from minimind_ref.train.pipeline import run_all

    settings = AllSettings(**{f.name: given.pop(f.name) for f in fields(AllSettings) if f.name in given})
    print(f"\nreport    {run_all(settings, given, steps)}")


def split_flags(argv: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """What is for everything, and for each name what was given as --NAME.flag, as if it had been given alone."""
    general: list[str] = []
    of_name: dict[str, list[str]] = {}
    current = general
    for word in argv:
        if word.startswith("--"):
            name, dot, flag = word[2:].partition(".")
            own = dot and name in names
            current = of_name.setdefault(name, []) if own else general
            word = f"--{flag}" if own else word
        current.append(word)
    return general, of_name


def _parser(stage: str, settings: Any, recipe: Mapping[str, Any]) -> Parser:
    tiny = ", ".join(f"{name} {value}" for name, value in recipe.items())
    description = (DESCRIPTION if recipe else ALL).format(
        what=settings.__doc__, stages=", ".join((*STAGES, "all")), tiny=tiny, steps=", ".join(STEPS)
    )
    parser = Parser(prog="python -m minimind_ref.train", description=description)
    parser.usage = "%(prog)s [STAGE] [--flag value …]"
    add_fields(parser, Family, {}, "model")
    add_fields(parser, ModelConfig, {}, "model")
    add_fields(parser, settings, {}, "run")
    return parser


def _initial(stage: str, given: Mapping[str, Any]) -> ModelConfig | None:
    """The network of the weights to start from, where the flags do not name one; UserError where a stage needs it."""
    if "init_from" not in given:
        if stage != "pretrain":
            raise UserError(f"{stage} starts from trained weights: give --init_from (a run folder or a .pth file)")
        return None
    if not given["init_from"] or given.get("preset"):
        return None
    from minimind_ref.train.network import initial_config

    return initial_config(given["init_from"])


FREE = {"out_dir", "resume", "device", "log_interval", "save_interval", "eval_interval", "eval_tokens", "eval_prompts"}
FREE |= {"num_workers", "use_wandb", "ddp", "local_rank", "data_path"}
"""Settings that a continuation may change: they do not change its weights (data_path: the content is compared)."""


def resumed(stage: str, given: Mapping[str, Any], content: Mapping[str, Any]) -> tuple[ModelConfig, Settings]:
    """The stored network and settings with the free ones as given; UserError where another one is asked to change."""
    stored = {**content["config"], **content["settings"]}
    asked = dict(given)
    if "preset" in given or "compat" in given:
        config, settings = layer(stage, given, ModelConfig(**content["config"]))
        asked = {**config.to_dict(), **vars(settings), **given}
    for name in sorted(asked.keys() & stored.keys() - FREE):
        derived = asked[name] is None and name in {*DERIVED, "batch_size"}
        if not derived and asked[name] != stored[name]:
            raise UserError(f"--resume keeps the run's settings: {name} is {stored[name]}, not {asked[name]}")
    free = {name: given[name] for name in FREE & given.keys()}
    return ModelConfig(**content["config"]), replace(STAGES[stage](**content["settings"]), **free)


if __name__ == "__main__":
    sys.exit(run_command(main))
