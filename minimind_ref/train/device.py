"""Which device, which precision, and why."""

import contextlib
from typing import Any, NamedTuple

import torch

from minimind_ref.errors import UserError

BATCH_SIZE = {"cuda": 32, "mps": 16, "cpu": 16}


class Placement(NamedTuple):
    """Where a run computes and in which dtype its forward pass multiplies; `reason` says why."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def scaled(self) -> bool:
        """Whether the loss must be scaled: float16's smallest normal number is 6e-5."""
        return self.dtype is torch.float16

    def autocast(self) -> Any:
        """Context of the forward pass; weights, gradients and optimiser stay float32."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def place(device: str = "auto", dtype: str = "auto", local_rank: int = 0) -> Placement:
    """Choose the device and dtype, or check the ones asked for; UserError where the machine has none such."""
    where, why = _device(device, local_rank)
    kind, because = _dtype(where, dtype)
    return Placement(where, kind, f"{where} ({why}), {str(kind).removeprefix('torch.')} ({because})")


def _device(name: str, local_rank: int) -> tuple[torch.device, str]:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        if cuda:
            return torch.device("cuda", max(local_rank, 0)), torch.cuda.get_device_name(max(local_rank, 0))
        return (torch.device("mps"), "Apple GPU, no CUDA") if mps else (torch.device("cpu"), "no CUDA and no MPS here")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name} is no device; try cuda, cuda:1, mps or cpu") from None
    there = {"cuda": torch.cuda.device_count() > (device.index or 0), "mps": mps, "cpu": True}
    if not there.get(device.type, False):
        raise UserError(
            f"--device {name} is not on this machine (CUDA devices: {torch.cuda.device_count()}, MPS: {mps})"
        )
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", max(local_rank, 0))
    return device, "as asked"


def _dtype(device: torch.device, name: str) -> tuple[torch.dtype, str]:
    if name != "auto":
        return getattr(torch, name), "as asked"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):  # an older GPU emulates it, slowly
            return torch.bfloat16, "native on this GPU"
        return torch.float16, "no bfloat16 on this GPU; the loss is scaled"
    if device.type == "mps":
        return torch.float16, "MPS; the loss is scaled"
    if _cpu_has_bfloat16():
        return torch.bfloat16, "native on this processor"
    return torch.float32, "no native bfloat16 on this processor"


def _cpu_has_bfloat16() -> bool:
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate; its CPU allocator has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
