"""Checkpoints without the frozen parameters, read by `tandem export`."""

import pytest
import torch
from torch import nn

from tandem_pl import InputError, TandemModule
from tandem_pl.export.checkpoint import load_network
from tandem_pl.training.frozen import drop_frozen


def build(seed=0):
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 1))
    return TandemModule(layers, nn.Identity(), torch.optim.SGD, checkpoint_frozen=False)


def test_frozen_parameters_come_from_the_configuration(tmp_path):
    module, other = build(0), build(1)
    other.network[0].load_state_dict(module.network[0].state_dict())
    checkpoint = {"state_dict": module.state_dict()}
    drop_frozen(module, checkpoint)
    assert "network.0.weight" not in checkpoint["state_dict"]
    torch.save(checkpoint, tmp_path / "a.ckpt")
    network = load_network(other, tmp_path / "a.ckpt")
    rows = torch.randn(4, 3)
    assert torch.equal(network(rows), module.network(rows))
    with pytest.raises(InputError, match="frozen parameters"):
        load_network(build(2), tmp_path / "a.ckpt")


def test_frozen_parameters_have_the_precision_of_the_run(tmp_path):
    """A run with precision bf16-true converts the module only after the checkpoint is read."""
    module = build().to(torch.bfloat16)
    checkpoint = {"state_dict": module.state_dict()}
    drop_frozen(module, checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    network = load_network(build(), tmp_path / "a.ckpt")
    for mine, theirs in zip(network.parameters(), module.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.dtype == torch.bfloat16
