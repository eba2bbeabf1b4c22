"""The reference model: the seed's three checks, and that policy and copy share nothing."""

import pytest
import torch
from test_loop import MOE, SHAPE, batch_of, loss_of, make_run, rows_of
from tolerance import assert_same

from minimind_ref import ModelConfig
from minimind_ref.errors import UserError
from minimind_ref.train.loop import Loss, optimisation_step, parameter_groups
from minimind_ref.train.reference import digest, frozen_copy, require_no_dropout


def test_a_frozen_copy_passes_the_seeds_three_checks_while_the_policy_learns():
    run = make_run(ModelConfig(**SHAPE, **MOE, dropout=0.5))
    run.model.train()
    reference = frozen_copy(run.model)
    before = {name: tensor.clone() for name, tensor in reference.state_dict().items()}

    def loss_against_reference(network, batch):
        ours, theirs = loss_of(network, batch), loss_of(reference, batch)
        return Loss(ours.total + (ours.total - theirs.total) ** 2, ours.aux)

    for seed in range(3):
        optimisation_step(run, [batch_of(rows_of(seed, "pack"), "pack")], loss_against_reference)
    assert not any(p.requires_grad for p in reference.parameters())  # 1: nothing asks for a gradient
    assert all(p.grad is None for p in reference.parameters())  # 2: none is there after a backward
    for name, tensor in reference.state_dict().items():  # 3: the values are what they were
        assert_same(tensor, before[name])
        assert not torch.equal(tensor, run.model.state_dict()[name])
    assert not reference.training and run.model.training
    assert parameter_groups(reference, "matrices", 0.1) == []


def test_a_frozen_copy_keeps_the_head_tied_and_shares_no_storage():
    model = make_run(ModelConfig(**SHAPE)).model
    reference = frozen_copy(model)
    assert reference.lm_head.weight is reference.model.embed_tokens.weight
    ours = {p.data_ptr() for p in model.parameters()}
    assert not any(p.data_ptr() in ours for p in reference.parameters())


def test_a_copy_has_the_digest_of_its_weights_until_one_of_them_moves():
    model = make_run(ModelConfig(**SHAPE)).model
    reference = frozen_copy(model)
    assert digest(reference) == digest(model)
    for parameter in reference.parameters():
        before = digest(reference)
        parameter.flatten()[-1] += 1
        assert digest(reference) != before


def test_a_comparison_needs_a_network_without_dropout():
    require_no_dropout(ModelConfig(**SHAPE), "dpo")
    with pytest.raises(UserError, match=r"--dropout 0\.25: dpo compares two networks, which needs --dropout 0"):
        require_no_dropout(ModelConfig(**SHAPE, dropout=0.25), "dpo")
