"""Which known wrong implementations a case detects: judged as a reader of the file would, with its stored bounds."""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from minimind_ref.golden import faces, files, networks, texts
from minimind_ref.golden.agreement import close
from minimind_ref.golden.compute import as_stored
from minimind_ref.golden.trees import GoldenError, is_floating, leaves, map_leaves, named, settled, typed
from minimind_ref.kit.mutant import Mutant, load_mutants

NARROW = {"float32": np.float32, "float16": np.float16}  # NumPy has no bfloat16
Case = dict[str, Any]
Results = dict[str, Any]  # by name
Tensors = dict[str, np.ndarray]  # of the safetensors file


def kills(component: str, cases: list[Case], tensors: Tensors) -> dict[str, list[str]]:
    """Give for each case, by id, the mutants that it rejects."""
    return {i: list(said) for i, said in rejections(component, cases, tensors).items()}


def rejections(component: str, cases: list[Case], tensors: Tensors) -> dict[str, dict[str, str]]:
    """Give for each case what it says of each mutant that it rejects."""
    found: dict[str, dict[str, str]] = {}
    for case in cases:
        case = case | {"inputs": files.attach(case["inputs"], tensors)}
        said = found[case["id"]] = {}
        for m in load_mutants(component).values():
            texts = [text for p in profiles(case, m) if (text := complaint(case, m, p, tensors))]
            said |= {m.id: texts[0]} if texts else {}
    return found


def profiles(case: Case, mutant: Mutant) -> list[str]:
    """List the profiles that may show a mutant: float64 unless its precision is what is wrong with it."""
    return [p for p in ("float64", *(NARROW if mutant.narrow else ())) if p in case["bound"]]


def complaint(case: Case, mutant: Mutant, profile: str, tensors: Tensors) -> str | None:
    """Say which result of a mutant is outside its bound, or None where the case accepts it."""
    if case["op"] != golden_op(mutant):
        return None
    try:
        results = run(case, mutant, profile)
    except GoldenError as error:  # more or fewer results than there should be
        return f"{case['id']} in {profile}: {error}"
    return judged(case, results, profile, tensors)


def judged(
    case: Case, results: tuple[Results, Results], profile: str, tensors: Tensors, factor: float = 1.0
) -> str | None:
    """Hold outputs and gradients against what a case expects, its bounds multiplied by `factor`."""
    for part, found in ((case, results[0]), (case.get("gradients"), results[1])):
        for name, result in found.items():
            if part and (wrong := outside(part, name, result, profile, tensors, factor)):
                return f"{case['id']} in {profile}: {'gradient of ' * (part is not case)}{wrong}"
    return None


def golden_op(mutant: Mutant) -> str:
    """Name the operation as the golden files do."""
    return {"pieces": "split"}.get(mutant.called, mutant.called)


def run(case: Case, mutant: Mutant, profile: str) -> tuple[Results, Results]:
    """Run a mutant on the inputs as a profile stores them; gradients only where it has a vjp of its own."""
    component, dtype = mutant.component, NARROW.get(profile, np.float64) if mutant.narrow else np.float64
    inputs, cotangents = (
        map_leaves(lambda leaf: leaf.astype(dtype) if is_floating(leaf) else leaf, part)
        for part in as_stored(case, profile)
    )
    inputs = typed(faces.oracle(component, case["op"]), inputs)
    with np.errstate(all="ignore"):
        if mutant.vjp is None:
            outputs = adapted(mutant.function, component, case["op"])(**inputs, **case["parameters"])
            return {n: settled(y) for n, y in named(case["outputs"], outputs).items()}, {}
        if not cotangents:
            return {}, {}
        given = list(cotangents.values())
        vjp = adapted(mutant.vjp, component, f"{case['op']}_vjp")
        found = vjp(**inputs, **case["parameters"], cotangent=given[0] if len(given) == 1 else tuple(given))
    return {}, named(faces.gradient_names(case), tuple(g for _, g in leaves(found) if g is not None))


def outside(part: Case, name: str, result: Any, profile: str, tensors: Tensors, factor: float) -> str | None:
    """Say where a result is further from the expected one than its bound, by the comparison of golden/README.md."""
    node = part.get("rounded", {}).get(profile, {}).get(name) or part["expected"][name]
    if "json" in node:
        return None if result == node["json"] else f"{name} is {result!r} but {node['json']!r} is expected"
    expected, actual = stored_numbers(node, tensors), np.asarray(result)
    if actual.shape != expected.shape:
        return f"{name} has shape {actual.shape} but {expected.shape} is expected"
    limits = part["bound"][profile].get(name, np.zeros(expected.size).tolist())
    node = {"shape": expected.shape, "dtype": "float", **(limits if isinstance(limits, dict) else {"values": limits})}
    bound = stored_numbers(node, tensors) * factor
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    wrong = np.argwhere(~close(actual, expected, bound))
    if not len(wrong):  # its size is 0 where the result has no axes
        return None
    at = tuple(int(i) for i in wrong[0])
    return f"{name}{list(at)} is {actual[at]!s} but {expected[at]!s} ± {bound[at]:.3g} is expected"


def stored_numbers(node: dict[str, Any], tensors: Tensors) -> np.ndarray:
    """Read what stands in the JSON itself or in the tensors beside it."""
    if "tensor" in node:
        return tensors[node["tensor"]]
    return files.read_numbers(node["values"], node["shape"], node["dtype"])


def adapted(function: Callable[..., Any], component: str, name: str) -> Callable[..., Any]:
    """Let a mutant take a case's inputs as they are where the oracle's function has others: text and networks."""
    changed = {
        "encode": _with_tokenizer(function),
        "decode": _with_tokenizer(function),
        "split": lambda text: list(function(text)),
        "train": lambda **given: _merges(*function(**given)),
        "supervised_spans": lambda messages, **options: [list(span) for span in function(messages, **options)],
        "encode_chat": lambda messages, tokenizer, **options: function(_encoder(tokenizer), messages, **options),
        "block_vjp": lambda x, parameters, cos, sin, *, cotangent, **options: _block_gradients(
            parameters, *function(x, parameters, cos, sin, cotangent=networks.both(cotangent), **options)
        ),
        "transformer": lambda *given, **options: function(*given, **options)[:2],
        "transformer_vjp": lambda parameters, *given, cotangent, **options: networks.in_order(
            parameters, function(parameters, *given, cotangent=networks.both(cotangent), **options)
        ),
        "loss_and_gradients": lambda **given: function(**given)[0],
        "loss_and_gradients_vjp": lambda parameters, *, cotangent, **given: networks.in_order(
            parameters, function(parameters, **given)[1]
        ),
    }
    return changed.get(name, function) if component in faces.ADAPTERS else function


def _block_gradients(parameters: dict[str, Any], dx: Any, shares: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return dx, networks.in_order(parameters, shares)


def _with_tokenizer(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give vocabulary and merges, or special tokens, from a case's tokenizer."""

    def run_it(tokenizer: dict[str, Any], **given: Any) -> Any:
        made = texts.read(tokenizer)
        asked = {"vocab": made.vocab, "merges": made.merges, "special_tokens": made.special}
        taken = inspect.signature(function).parameters
        return function(**given, **{name: asked[name] for name in asked if name in taken})

    return run_it


def _encoder(tokenizer: dict[str, Any]) -> SimpleNamespace:
    from minimind_ref.oracle.tokenizer import encode

    made = texts.read(tokenizer)
    control_ids = {name: made.vocab[name] for name in made.special}
    return SimpleNamespace(control_ids=control_ids, encode=lambda text: encode(text, made.vocab, made.merges))


def _merges(vocab: dict[str, int], merges: list[tuple[str, str]]) -> tuple[list[list[str]], list[str]]:
    return [list(pair) for pair in merges], sorted(vocab, key=vocab.__getitem__)
