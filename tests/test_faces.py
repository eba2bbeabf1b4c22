"""The rules of the house: every component has its faces, they share one signature, imports point one way."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minimind_ref"
FOLDERS = {
    "data": ["tokenizer", "chat_template", "packing"],
    "model": ["rms_norm", "rope", "attention", "swiglu", "moe", "block", "transformer", "initialisation"],
    "loss": ["cross_entropy", "dpo", "grpo"],
    "optim": ["adamw", "grad_clip", "accumulation", "cosine_schedule", "grad_scaler"],
    "generate": ["sampling"],
}
COMPONENTS = {name: folder for folder, names in FOLDERS.items() for name in names}
MODULES = {"block", "transformer", "initialisation"}  # their torch face is a module, or acts on one
RENAMED = {"clip_grad_norm", "update", "ScalerState"}

BASE = {"config", "checks", "errors", "files", "flags", "progress"}
ALLOWED = {  # folder or file -> what of the package it may import
    "__init__": {"config", "model"},
    "config": set(),
    "checks": set(),
    "errors": set(),
    "files": set(),
    "flags": {"errors"},
    "progress": set(),
    "oracle": set(),
    "data": {"config", "errors", "files", "flags", "progress"},
    "model": {"config", "checks"},
    "loss": {"config", "checks"},
    "optim": {"config", "checks"},
    "generate": BASE | {"model"},
    "interop": BASE | {"model"},
    "train": BASE | {"data", "model", "loss", "optim", "generate", "interop"},
    "evaluate": BASE | {"data", "model", "loss", "generate", "interop", "train"},
    "inspect": BASE | {"interop", "train"},
    "chat": BASE | {"data", "model", "generate", "interop", "train"},
}
ANYTHING = {"golden", "kit"}
STANDARD_LIBRARY_ONLY = {"config", "checks", "errors", "files", "flags"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "minimind_ref":
                yield from (f"minimind_ref.{a.name}" for a in node.names if a.name.islower() and a.name[0] != "_")


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_has_all_its_faces(name):
    faces = [
        f"specs/{name}.md",
        f"minimind_ref/{COMPONENTS[name]}/{name}.py",
        f"minimind_ref/oracle/{name}.py",
        f"tests/test_{name}.py",
        f"golden/{name}.json",
    ]
    missing = {face for face in faces if not (ROOT / face).exists()}
    assert missing == set()


@pytest.mark.parametrize("name", sorted(COMPONENTS.keys() - MODULES))
def test_torch_and_oracle_name_their_arguments_alike(name):
    torch_face = importlib.import_module(f"minimind_ref.{COMPONENTS[name]}.{name}")
    oracle = importlib.import_module(f"minimind_ref.oracle.{name}")
    shared = 0
    for function_name, function in inspect.getmembers(oracle, inspect.isfunction):
        if function.__module__ != oracle.__name__ or function_name.startswith("_") or "_vjp" in function_name:
            continue
        if function_name in RENAMED or not hasattr(torch_face, function_name):
            continue
        ours, theirs = (
            [(p.name, p.kind) for p in inspect.signature(f).parameters.values() if p.name not in TORCH_ONLY]
            for f in (getattr(torch_face, function_name), function)
        )
        assert ours == theirs, function_name
        shared += 1
    assert shared or name in {"tokenizer", "grad_scaler", "grad_clip"}


TORCH_ONLY = {"implementation", "generator", "dropout"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if layer in ANYTHING:
        return
    for module in imports(path):
        top, *rest = module.split(".")
        if top == "minimind_ref" and rest:
            assert rest[0] == layer or rest[0] in ALLOWED[layer], f"{layer} must not import {module}"
        elif layer == "oracle":
            assert top in sys.stdlib_module_names | {"numpy", "jaxtyping"}, f"the oracle must not import {module}"
        elif layer in STANDARD_LIBRARY_ONLY:
            assert top in sys.stdlib_module_names, f"{layer} must not import {module}"


COMPOSED = {"block", "transformer", "training", "objectives"}  # objectives: the losses of a training step's stages


def test_oracles_do_not_lean_on_each_other():
    for path in (PACKAGE / "oracle").glob("*.py"):
        if path.stem in COMPOSED:
            continue
        siblings = {module.split(".")[2] for module in imports(path) if module.startswith("minimind_ref.oracle.")}
        assert not siblings & COMPONENTS.keys(), f"{path.stem} imports {siblings & COMPONENTS.keys()}"


def test_an_oracle_loads_without_torch():
    code = "import sys, minimind_ref.oracle.rms_norm; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
