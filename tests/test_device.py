"""Where a run computes and in which precision: what each machine gives, and what it has not is one line."""

import re
from dataclasses import fields

import pytest
import torch

from minimind_ref.errors import UserError
from minimind_ref.train.device import BATCH_SIZE, Placement, is_out_of_memory, place
from minimind_ref.train.settings import Settings


@pytest.fixture
def machine(monkeypatch):
    """Let torch say that it runs on another machine."""

    def of(cuda=0, native=True, mps=False, processor=()):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native
        )
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
            monkeypatch.setattr(torch.cpu, name, lambda name=name: name in processor, raising=False)

    return of


@pytest.mark.parametrize(
    ("has", "reason"),
    [
        (dict(cuda=1), "cuda:0 (GPU 0), bfloat16 (native on this GPU)"),
        (dict(cuda=1, native=False), "cuda:0 (GPU 0), float16 (no bfloat16 on this GPU; the loss is scaled)"),
        (dict(cuda=1, mps=True), "cuda:0 (GPU 0), bfloat16 (native on this GPU)"),
        (dict(mps=True), "mps (Apple GPU, no CUDA), float16 (MPS; the loss is scaled)"),
        (dict(), "cpu (no CUDA and no MPS here), float32 (no native bfloat16 on this processor)"),
        *(
            (dict(processor=[name]), "cpu (no CUDA and no MPS here), bfloat16 (native on this processor)")
            for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        ),
    ],
)
def test_the_best_device_is_taken_in_the_precision_that_it_multiplies_natively(machine, has, reason):
    """A GPU before Ampere multiplies bfloat16 too, but in software, for torch says that it supports it."""
    machine(**has)
    found = place()
    assert found.reason == reason
    assert reason.startswith(f"{found.device} (") and f"), {found.dtype} (".replace("torch.", "") in reason


def test_a_torch_that_does_not_know_its_processor_is_taken_for_one_without_bfloat16(machine, monkeypatch):
    machine()
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert place().dtype == torch.float32


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("auto", "float32", 1), "cuda:1 (GPU 1), float32 (as asked)"),
        (("cuda", "bfloat16"), "cuda:0 (as asked), bfloat16 (as asked)"),
        (("cuda", "float16", 1), "cuda:1 (as asked), float16 (as asked)"),
        (("cuda:1", "float32", 0), "cuda:1 (as asked), float32 (as asked)"),
        (("cpu", "float32", 1), "cpu (as asked), float32 (as asked)"),
    ],
)
def test_what_is_asked_for_is_taken_and_a_process_has_the_device_of_its_number(machine, asked, expected):
    machine(cuda=2)
    found = place(*asked)
    assert found.reason == expected and str(found.device) == expected.partition(" ")[0]
    assert found.scaled == (found.dtype == torch.float16)
    machine(cuda=1)
    assert place("cuda", "float32").device == torch.device("cuda", 0)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "meta"])
def test_a_device_that_is_not_there_is_named_with_what_is(machine, name):
    machine()
    with pytest.raises(UserError, match=f"--device {name} is not on this machine .CUDA devices: 0, MPS: False"):
        place(name)
    machine(cuda=2)
    with pytest.raises(UserError, match=r"--device cuda:2 is not on this machine .CUDA devices: 2, MPS: False"):
        place("cuda:2")
    with pytest.raises(UserError, match="--device abacus is no device"):
        place("abacus")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_forward_pass_multiplies_in_the_runs_precision(dtype):
    x = torch.ones(3, 3)
    with Placement(torch.device("cpu"), dtype, "").autocast():
        assert (x @ x).dtype == dtype
    assert x.dtype == torch.float32


def test_the_batch_is_as_large_as_help_says():
    (text,) = (field.metadata["help"] for field in fields(Settings) if field.name == "batch_size")
    on_cuda, elsewhere = map(int, re.search(r"(\d+) on CUDA, (\d+) elsewhere", text).groups())
    assert {"cuda": on_cuda, "mps": elsewhere, "cpu": elsewhere} == BATCH_SIZE


def test_only_what_no_memory_holds_is_out_of_memory():
    refused = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    errors = torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(refused), RuntimeError("another one")
    assert [is_out_of_memory(error) for error in errors] == [True, True, False]
