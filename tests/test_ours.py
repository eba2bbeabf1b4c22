"""Our own functions, put into the operations' conventions, are what the oracles are there, defaults included."""

import inspect

import jaxtyping
import pytest
import torch

from minimind_ref.data.tokenizer import END, PAD, START
from minimind_ref.kit import verify
from minimind_ref.kit.ours import OWN, encode, holding, oracles, torch_faces
from minimind_ref.kit.registry import ALL, operation
from minimind_ref.oracle.tokenizer import byte_alphabet


@pytest.mark.parametrize("name", OWN)
def test_what_stands_for_an_operation_passes_and_has_its_defaults(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # types are checked in the parts' own tests
    report = verify(torch_faces, [name])
    assert report.passed, str(report)
    missing = [verdict for verdict in report.verdicts if verdict.detail.startswith("no case shows it")]
    assert not missing and len(report.verdicts) > 1
    for parameter in inspect.signature(OWN[name]).parameters.values():
        if parameter.default is not parameter.empty:
            assert parameter.default == operation(name).arguments[parameter.name].default, parameter.name


def test_every_operation_has_both_faces_and_gradients_where_it_is_differentiable():
    assert list(oracles.functions) == [entry.name for entry in ALL] and set(torch_faces.functions) == set(
        oracles.functions
    )
    assert set(oracles.vjps) == {entry.name for entry in ALL if entry.differentiable}
    assert all(torch_faces.functions[name] is own for name, own in OWN.items())


def test_gradients_are_held_as_copies_and_none_stays_none():
    given = torch.tensor([1.0, 2.0])
    first, second = (parameter.grad for parameter in holding([given, None]))
    assert first is not None and first.mul_(2).tolist() == [2, 4] and given.tolist() == [1, 2] and second is None


def test_a_token_that_only_looks_like_the_half_of_a_special_one_is_text():
    merges = [("<", "|"), ("|", ">")]
    tokens = [PAD, START, END, *sorted(byte_alphabet()), "<|", "|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    assert encode("a<|b|>", vocab, merges) == [vocab[token] for token in ("a", "<|", "b", "|>")]
    assert encode(f"{PAD}!", vocab, merges) == operation("bpe.encode").reference(f"{PAD}!", vocab, merges)
