"""The files of a run folder: written whole or not at all, by one run at a time, read with complaints of one line."""

import json
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minimind_ref.config import ModelConfig
from minimind_ref.errors import UserError
from minimind_ref.files import write_atomically
from minimind_ref.interop.state_dict import load_weights, read_file
from minimind_ref.train.distributed import gather
from minimind_ref.train.loop import Progress, Run
from minimind_ref.train.stage import Stage
from minimind_ref.train.stage_settings import STAGES

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT = 1
"""Version of the resume file; another one is refused."""

CONTENT = {
    "stage",
    "config",
    "settings",
    "data",
    "world_size",
    "progress",
    "model",
    "optimizer",
    "scaler",
    "generators",
    "stage_state",
}


def weights_name(prefix: str, config: ModelConfig) -> str:
    """MiniMind's name of a stage's weights: pretrain_512.pth, pretrain_640_moe.pth."""
    return f"{prefix}_{config.hidden_size}{'_moe' if config.use_moe else ''}.pth"


def prepare_folder(path: Path) -> bool:
    """Make the run folder, and say whether it is new; UserError where nothing can be written into it."""
    try:
        fresh = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return fresh
    except OSError as error:
        raise UserError(f"--out_dir {path}: cannot be written ({error.strerror})") from None


@contextmanager
def kept_alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder until this one ends, however it does; UserError where one is at work in it.

    The lock belongs to the process, not to its data workers, which may outlive it for a moment.
    """
    if fcntl is None:
        yield
        return
    path = folder / ".running"
    with path.open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(f"--out_dir {folder}: another run is at work there") from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as indented JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict in full precision under MiniMind's names."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    write_atomically(path, lambda file: torch.save(state, file))


def save_resume(run: Run, path: Path, *, config: ModelConfig, name: str, stage: Stage) -> None:
    """Write everything that the rest of the run depends on; all ranks call this, the first one writes."""
    device = run.placement.device
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    generators = gather({"cpu": torch.get_rng_state(), "device": on_device}, run.ranks)
    stage_state = gather(stage.state_dict(), run.ranks)
    if not run.ranks.main:
        return
    content = {
        "format": FORMAT,
        "stage": name,
        "config": config.to_dict(),
        "settings": asdict(run.settings),
        "data": stage.fingerprint,
        "world_size": run.ranks.world_size,
        "progress": asdict(run.progress),
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "generators": generators,
        "stage_state": stage_state,
    }
    write_atomically(path, lambda file: torch.save(content, file))


def read_resume(path: Path, stage: str) -> dict[str, Any]:
    """Read a resume file; UserError where there is none, or one that is damaged, of another format or stage."""
    if not path.exists():
        raise UserError(f"--resume: {path} is not there; no {stage} run has saved anything in {path.parent}")
    content = read_file(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: format {content.get('format')!r} where this version reads {FORMAT}")
    with reading_parts(path):
        _require_keys("", content, CONTENT | {"format"})
        if content["stage"] != stage:
            raise UserError(f"{path}: a {content['stage']} run, not {stage}")
        for part, kind in (("config", ModelConfig), ("settings", STAGES[stage]), ("progress", Progress)):
            _require_keys(f"{part}: ", content[part], {f.name for f in fields(kind)})
            kind(**content[part])
        if (damaged := zipfile.ZipFile(path).testzip()) is not None:  # torch.load checks no sums
            raise ValueError(f"the checksum of {damaged} is wrong")
    return content


@contextmanager
def reading_parts(path: Path) -> Iterator[None]:
    """Turn into one line whatever a part that is damaged, or not ours, raises."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: not a sound resume file of this format: {reason}") from None


def _require_keys(what: str, part: Mapping[str, Any], keys: Collection[str]) -> None:
    if wrong := sorted(set(keys) ^ part.keys()):
        raise ValueError(f"{what}{wrong[0]} {'is missing' if wrong[0] in keys else 'is unknown'}")


def restore(run: Run, stage: Stage, content: Mapping[str, Any], path: Path) -> None:
    """Put a resume file's state into a freshly built run and its stage."""
    with reading_parts(path):
        load_weights(run.model, content["model"], path)
        run.optimizer.load_state_dict(content["optimizer"])
        run.scaler.load_state_dict(content["scaler"])
        run.progress = Progress(**content["progress"])
        stage.load_state_dict(content["stage_state"][run.ranks.rank])
        generators = content["generators"][run.ranks.rank]
        torch.set_rng_state(generators["cpu"])
        if generators["device"] is not None and run.placement.device.type == "cuda":
            torch.cuda.set_rng_state(generators["device"], run.placement.device)
        parameters = sum(len(group["params"]) for group in run.optimizer.param_groups)
        if len(run.optimizer.state) not in (0, parameters):
            raise ValueError(f"moments of {len(run.optimizer.state)} of {parameters} parameters")
