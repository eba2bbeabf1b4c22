"""The same weights give what MiniMind's and Hugging Face's own networks give: logits, losses, gradients, caches.

In float64 both sides run without a float32 island (`widened`), so that a wrong formula has nothing to hide behind; in
float32 they run as released. MiniMind's side needs MINIMIND_PATH, Hugging Face's needs transformers (tests/peers.py).
"""

import math
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import pytest
import torch
from peers import (
    hugging_face,
    hugging_face_modules,
    minimind,
    minimind_module,
    randomise_,
    reduced,
    tokens,
    widened,
)
from tolerance import assert_same, assert_within, ulps
from torch import Tensor

from minimind_ref import PRESETS, ModelConfig, Transformer
from minimind_ref.interop import load_huggingface, load_minimind, save_huggingface, save_minimind
from minimind_ref.loss.cross_entropy import cross_entropy

REASON = (
    "n roundings that are as good as independent amount to λ√n units (Higham and Mary 2019, theorem 2.4), λ = 6 here; "
    "n is the number of terms summed along the longest path, and no oracle knows the peer's order of summation"
)
DTYPES = [torch.float64, torch.float32]
MINIMINDS = {
    "minimind2-small": reduced("minimind2-small"),
    "minimind2": reduced("minimind2", num_hidden_layers=3, num_key_value_heads=4),
    "minimind2-moe": reduced("minimind2-moe"),
    "minimind2-moe-batch": reduced("minimind2-moe", aux_loss_form="batch", num_shared_experts=2, num_experts=5),
    "minimind-3": reduced("minimind-3", head_dim=10),
    "minimind-3-moe": reduced("minimind-3-moe", head_dim=10, aux_loss_coef=0.5),
    "minimind-3-moe-top2": reduced("minimind-3-moe", num_experts=5, num_experts_per_tok=2, aux_loss_coef=0.5),
    "minimind-3-untied": reduced("minimind-3", tie_word_embeddings=False),
}
SIZES = {"vocab_size": 61, "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 128}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16}
YARN_CAPPED = {**YARN, "original_max_position_embeddings": 1024}  # so long that the ramp would end beyond the head
EXPERTS = {"head_dim": 10, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
HUGGING_FACES = {
    "llama": ("llama", {"rms_norm_eps": 1e-5, "rope_theta": 5e5}),
    "llama-tied-yarn": ("llama", {"head_dim": 16, "tie_word_embeddings": True, "rope_scaling": YARN}),
    "llama-yarn-capped": ("llama", {"head_dim": 16, "rope_theta": 10.0, "rope_scaling": YARN_CAPPED}),
    "qwen3": ("qwen3", {"head_dim": 10, "num_key_value_heads": 3, "tie_word_embeddings": True}),
    "qwen3-yarn": ("qwen3", {"head_dim": 16, "rope_scaling": {**YARN, "attention_factor": 1.25, "beta_fast": 8}}),
    "qwen3_moe": ("qwen3_moe", {**EXPERTS, "norm_topk_prob": True}),
    "qwen3_moe-sums-below-1": ("qwen3_moe", {**EXPERTS, "norm_topk_prob": False, "rope_scaling": YARN}),
}


class Pass(NamedTuple):
    """What one side computed: logits, load balance, loss, gradients by name."""

    logits: Tensor
    aux_loss: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]


def longest_path(config: ModelConfig, length: int) -> int:
    """Count the terms summed along the longest path from an id to a logit, plus ten roundings a layer."""
    c = config
    assert c.head_dim and c.intermediate_size and c.moe_intermediate_size
    experts = c.num_experts + c.num_experts_per_tok + c.num_shared_experts if c.use_moe else 0
    attention = c.hidden_size + 2 * c.head_dim + 2 * length + c.num_attention_heads * c.head_dim
    ffn = c.hidden_size + (c.moe_intermediate_size if c.use_moe else c.intermediate_size)
    return c.num_hidden_layers * (attention + ffn + experts + 2 * c.hidden_size + 10) + 2 * c.hidden_size


def assert_near(actual: Tensor, expected: Tensor, terms: int) -> float:
    """Assert that two sides differ by at most 6√terms ulps of the largest entry; returns the difference in them."""
    values, largest = expected.detach().double().numpy(), expected.detach().abs().max().double().numpy()
    assert actual.dtype == expected.dtype and largest > 0
    bound = ulps(6 * math.sqrt(terms), expected.dtype, reason=REASON).of(largest)
    return assert_within(actual, values, bound).largest_error_over_bound * 6 * math.sqrt(terms)


def run(model, ids: Tensor, labels: Tensor, balance: bool = True, **inputs: Tensor) -> Pass:
    """Run a network of either side; the loss is the next token's mean cross-entropy, plus the load balance."""
    model.zero_grad()
    output = model(ids, **inputs)
    aux_loss = torch.as_tensor((balance and getattr(output, "aux_loss", None)) or 0.0)
    loss = cross_entropy(output.logits[:, :-1], labels[:, 1:]) + aux_loss
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return Pass(output.logits, aux_loss, loss, gradients)


def assert_same_pass(ours: Pass, theirs: Pass, config: ModelConfig, real: Tensor | None = None) -> None:
    """Hold two passes together: logits where tokens are `real`, loss, load balance, every gradient."""
    rows, length = ours.logits.shape[:2]
    real = torch.ones(rows, length, dtype=torch.bool) if real is None else real
    terms = longest_path(config, length)
    assert_near(ours.logits[real], theirs.logits[real], terms)
    assert_near(ours.loss, theirs.loss, terms + rows * length)
    if config.use_moe and theirs.aux_loss:
        assert_near(ours.aux_loss, theirs.aux_loss.to(ours.aux_loss.dtype), terms + rows * length)
    assert ours.gradients.keys() == theirs.gradients.keys()
    for name, gradient in theirs.gradients.items():
        assert_near(ours.gradients[name], gradient, 3 * terms + rows * length)


def minimind_pair(config: ModelConfig, dtype: torch.dtype, *, ours: ModelConfig | None = None, **more):
    """Both networks with the same weights, and the context in which to run MiniMind's."""
    module = minimind_module(3 if config.qk_norm else 2)
    context = widened(module) if dtype == torch.float64 else nullcontext()
    with context:
        theirs = minimind(config, **more)
        randomise_(theirs, seed=3)
    theirs.to(dtype)
    mine = Transformer(ours or config).to(dtype)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine, lambda: widened(module) if dtype == torch.float64 else nullcontext()


# MiniMind


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MINIMINDS)
def test_minimind_logits(name, dtype):
    config = MINIMINDS[name]
    theirs, ours, context = minimind_pair(config, dtype)
    ids = tokens(config, 5, (3, 23))
    with torch.no_grad(), context():
        expected = theirs.eval()(ids).logits
    assert_near(ours.eval()(ids).logits, expected, longest_path(config, 23))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MINIMINDS)
def test_minimind_loss_load_balance_and_gradients(name, dtype):
    config = MINIMINDS[name]
    if name.startswith("minimind2-moe") and dtype != torch.float64:
        pytest.skip("MiniMind2 collects experts' outputs in a float16 buffer in training; widened runs have none")
    theirs, ours, context = minimind_pair(config, dtype)
    ids = tokens(config, 7, (3, 19))
    with context():
        expected = run(theirs.train(), ids, ids)
    assert bool(expected.aux_loss) == config.use_moe
    assert_same_pass(run(ours.train(), ids, ids), expected, config)


@pytest.mark.parametrize("name", ["minimind2-small", "minimind2-moe", "minimind-3", "minimind-3-moe"])
def test_minimind_cache_one_token_at_a_time(name):
    config = MINIMINDS[name]
    theirs, ours, context = minimind_pair(config, torch.float64)
    ids, past, cache = tokens(config, 11, (2, 9)), None, None
    for position in range(ids.shape[1]):
        with torch.no_grad(), context():
            output = theirs.eval()(ids[:, position : position + 1], past_key_values=past, use_cache=True)
        past, expected = output.past_key_values, output.logits.clone()
        logits, _, cache = ours.eval()(ids[:, position : position + 1], cache=cache)
        assert_near(logits, expected, longest_path(config, 9))
    for (keys, values), (their_keys, their_values) in zip(cache, past, strict=True):
        assert_near(keys, their_keys, longest_path(config, 9))
        assert_near(values, their_values, longest_path(config, 9))


@pytest.mark.parametrize("name", ["minimind2-small", "minimind-3"])
def test_minimind_left_padding(name):
    config = MINIMINDS[name]
    theirs, ours, context = minimind_pair(config, torch.float64)
    ids, real = tokens(config, 13, (3, 17)), torch.arange(17) >= torch.tensor([[0], [4], [11]])
    with torch.no_grad(), context():
        expected = theirs.eval()(ids, attention_mask=real.long()).logits
    logits = ours.eval()(ids, attention_mask=real).logits
    assert_near(logits[real], expected[real], longest_path(config, 17))


@pytest.mark.parametrize("length", [4096, 2048], ids=["table longer", "gate shut"])
@pytest.mark.parametrize("name", ["minimind2-small", "minimind-3"])
def test_minimind_yarn(name, length):
    config = MINIMINDS[name].replace(
        num_attention_heads=2, num_key_value_heads=1, head_dim=24, max_position_embeddings=length, rope_theta=1e4
    )
    scaled = config.replace(rope_scaling={"type": f"yarn-minimind{3 if config.qk_norm else 2}"})
    theirs, ours, context = minimind_pair(config, torch.float64, ours=scaled, inference_rope_scaling=True)
    ids = tokens(config, 17, (2, 31))
    with torch.no_grad(), context():
        expected = theirs.eval()(ids).logits
    assert_near(ours.eval()(ids).logits, expected, longest_path(config, 31))
    plain = Transformer(config).double().eval()
    plain.load_state_dict(ours.state_dict())
    assert torch.equal(plain(ids).logits, ours(ids).logits) == (length == 2048)


@pytest.mark.parametrize("name", MINIMINDS)
def test_minimind_files_both_ways(name, tmp_path):
    config = MINIMINDS[name]
    theirs, _, _ = minimind_pair(config, torch.float32)
    torch.save({key: tensor.half() for key, tensor in theirs.state_dict().items()}, tmp_path / "theirs.pth")
    theirs.load_state_dict(torch.load(tmp_path / "theirs.pth", weights_only=True))
    ours = load_minimind(tmp_path / "theirs.pth", config)
    for key, tensor in theirs.state_dict().items():
        assert_same(ours.state_dict()[key], tensor)
    ids = tokens(config, 19, (2, 13))
    with torch.no_grad():
        assert_near(ours(ids).logits, theirs.eval()(ids).logits, longest_path(config, 13))
    randomise_(ours, seed=4)
    save_minimind(ours, tmp_path / "ours.pth", torch.float16)
    theirs.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True), strict=True)
    with torch.no_grad():
        expected = theirs(ids).logits
    assert_near(load_minimind(tmp_path / "ours.pth", config)(ids).logits, expected, longest_path(config, 13))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"tiny"}))
def test_minimind_at_real_size(name, dtype):
    config = PRESETS[name]
    if name == "minimind-3-moe":  # the main loss cancels in its router: at 5e-4 its gradient is mostly what that leaves
        config = config.replace(aux_loss_coef=0.5)
    theirs, ours, context = minimind_pair(config, dtype)
    ids = tokens(config, 23, (2, 67))
    with torch.no_grad(), context():
        expected = theirs.eval()(ids).logits
    assert_near(ours.eval()(ids).logits.detach(), expected, longest_path(config, 67))
    if name == "minimind2-moe" and dtype != torch.float64:
        return  # the float16 buffer of its training pass
    with context():
        trained = run(theirs.train(), ids, ids)
    assert_same_pass(run(ours.train(), ids, ids), trained, config)


# Hugging Face


def hugging_face_pair(name: str, dtype: torch.dtype, folder):
    """Their network, and ours read from what theirs wrote."""
    kind, fields = HUGGING_FACES[name]
    modules = hugging_face_modules()
    with widened(*modules) if dtype == torch.float64 else nullcontext():
        theirs = hugging_face(kind, **SIZES | fields)
        randomise_(theirs, seed=29)
    theirs.save_pretrained(folder)
    return (
        theirs,
        load_huggingface(folder).to(dtype),
        lambda: widened(*modules) if dtype == torch.float64 else nullcontext(),
    )


def per_expert(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the gradients of fused experts the names and shapes of ours."""
    split = {}
    for name, gradient in gradients.items():
        head, _, part = name.rpartition(".")
        parts = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.get(part)
        if parts is None:
            split[name] = gradient
        else:
            for expert in range(gradient.shape[0]):
                for own, piece in zip(parts, gradient[expert].chunk(len(parts)), strict=True):
                    split[f"{head}.{expert}.{own}.weight"] = piece
    return split


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", HUGGING_FACES)
def test_hugging_face_logits_loss_and_gradients_left_padded(name, dtype, tmp_path):
    theirs, ours, context = hugging_face_pair(name, dtype, tmp_path)
    ids, real = tokens(ours.config, 31, (3, 37)), torch.arange(37) >= torch.tensor([[0], [5], [19]])
    labels = ids.where(real & real.roll(1, dims=1), -100)  # what follows padding is not predicted from it
    with context():
        expected = run(theirs, ids, labels, balance=False, attention_mask=real.long())
    expected = expected._replace(gradients=per_expert(expected.gradients))
    actual = run(ours, ids, labels, balance=False, attention_mask=real)
    assert_same_pass(actual, expected, ours.config, real)


@pytest.mark.parametrize("name", ["llama-tied-yarn", "qwen3"])
def test_hugging_face_positions_that_start_after_the_padding(name, tmp_path):
    theirs, ours, context = hugging_face_pair(name, torch.float64, tmp_path)
    ids, real = tokens(ours.config, 37, (2, 29)), torch.arange(29) >= torch.tensor([[3], [13]])
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    inputs = {"attention_mask": real.long(), "position_ids": positions}
    with torch.no_grad(), context():
        expected = theirs(ids, **inputs).logits
    assert_near(ours(ids, **inputs).logits[real], expected[real], longest_path(ours.config, 29))


def test_hugging_face_own_loss_is_ours(tmp_path):
    theirs, ours, context = hugging_face_pair("llama", torch.float64, tmp_path)
    ids = tokens(ours.config, 41, (2, 11))
    labels = ids.masked_fill(ids < 7, -100)
    assert 0 < (labels == -100).sum() < labels.numel()
    with torch.no_grad(), context():
        expected = theirs(ids, labels=labels).loss
    actual = cross_entropy(ours(ids).logits[:, :-1], labels[:, 1:])
    assert_near(actual, expected, longest_path(ours.config, 11) + 22)


EXPORTS = {
    "minimind2": MINIMINDS["minimind2"],
    "minimind2-yarn": reduced("minimind2", head_dim=24, rope_scaling={"type": "yarn", "factor": 8.0}),
    "minimind-3": MINIMINDS["minimind-3"],
    "minimind-3-yarn": reduced("minimind-3", head_dim=96, rope_scaling={"type": "yarn-minimind3"}),
    "minimind-3-moe": MINIMINDS["minimind-3-moe-top2"],
    "minimind-3-untied": MINIMINDS["minimind-3-untied"],
}


@pytest.mark.parametrize("name", EXPORTS)
def test_hugging_face_reads_what_we_write(name, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the comparison needs transformers (extra hf)")
    ours = Transformer(EXPORTS[name]).eval()
    randomise_(ours, seed=43)
    save_huggingface(ours, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.generation_config.eos_token_id == 2 and theirs.dtype == torch.float32
    ids = tokens(ours.config, 47, (2, 41))
    with torch.no_grad():
        assert_near(ours(ids).logits, theirs(ids).logits, longest_path(ours.config, 41))


# What the comparison itself rests on


def test_the_bound_is_not_vacuous():
    """An error of 1e-10 in float64, of 1e-4 in float32, in the largest entry is seen at every reduced size."""
    for config in MINIMINDS.values():
        for dtype, error in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
            x = torch.tensor(np.linspace(0.5, 1.0, 7)).to(dtype)
            with pytest.raises(AssertionError, match="outside their bound"):
                assert_near(x * (1 + error), x, 3 * longest_path(config, 37) + 111)
