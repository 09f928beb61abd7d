"""Averages of networks, and checkpoints of them that `tandem test` reads."""

import numpy as np
import pytest
import torch
from toy import DOMAINS, toy_data, toy_module, toy_network

from tandem_pl.callbacks import FixedMixture
from tandem_pl.errors import InputError
from tandem_pl.search import fit_law
from tandem_pl.search.merging import average_states, merge_checkpoints, merged, merged_runs


def test_states_are_averaged_in_float32_and_counts_are_the_first_ones():
    first = {"w": torch.tensor([1.0, 3.0]).bfloat16(), "count": torch.tensor(4)}
    second = {"w": torch.tensor([2.0, 5.0]).bfloat16(), "count": torch.tensor(9)}
    found = average_states([first, second], [0.75, 0.25])
    assert found["w"].dtype == torch.bfloat16
    assert found["w"].tolist() == [1.25, 3.5]
    assert found["count"] == 4
    many = [{"w": torch.full((2,), 1.0).bfloat16()}] * 1000
    assert average_states(many, [0.001] * 1000)["w"].tolist() == [1.0, 1.0]


def test_a_linear_network_is_merged_exactly():
    # y = θ·x is linear in θ, so that the average's loss is known
    network = torch.nn.Linear(3, 1, bias=False)
    states = {"a": {"weight": torch.eye(3)[:1]}, "b": {"weight": torch.eye(3)[1:2]}}
    own = network.weight.detach().clone()
    mixtures = np.random.default_rng(0).dirichlet([1, 1], 5)

    def evaluate(network):
        return {"loss": ((network.weight - torch.tensor([[0.3, 0.7, 0.0]])) ** 2).sum().item()}

    runs = merged_runs(network, states, mixtures, evaluate)
    assert runs.domains == ("a", "b")
    assert runs.weights == pytest.approx(mixtures)
    expected = ((mixtures - [0.3, 0.7]) ** 2).sum(axis=1)
    assert runs.metrics["loss"] == pytest.approx(expected, abs=1e-6)
    assert torch.equal(network.weight, own)
    assert fit_law("linear", runs, "loss").metric == "loss"


def test_a_network_gets_its_parameters_back_after_an_error():
    network = toy_network(0)
    own = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(RuntimeError), merged(network, [toy_network(1).state_dict()], [1.0]):
        raise RuntimeError
    assert all(torch.equal(value, own[key]) for key, value in network.state_dict().items())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Return domain -> checkpoint of a branch of one network."""
    from helpers import quiet_trainer

    folder, paths = tmp_path_factory.mktemp("branches"), {}
    for name in DOMAINS[:2]:
        weights = {other: float(other == name) for other in DOMAINS}
        data = toy_data(target=False, weights=weights)
        trainer = quiet_trainer(folder / name, callbacks=[FixedMixture()], max_epochs=1)
        trainer.fit(toy_module(), data)
        paths[name] = folder / f"{name}.ckpt"
        trainer.save_checkpoint(paths[name])
    return paths


def test_a_merged_checkpoint_is_evaluated_as_any_other(checkpoints, tmp_path):
    from helpers import quiet_trainer

    out = tmp_path / "merged.ckpt"
    merge_checkpoints(checkpoints, {"other": 0.25, "twin": 0.75}, out)
    states = [torch.load(path, weights_only=True)["state_dict"] for path in checkpoints.values()]
    data, module = toy_data(), toy_module()
    trainer = quiet_trainer(tmp_path, limit_val_batches=1.0)
    trainer.validate(module, data, ckpt_path=out, verbose=False)
    for key, value in module.state_dict().items():
        assert value.numpy() == pytest.approx(0.75 * states[0][key] + 0.25 * states[1][key])
    with torch.no_grad():
        inputs, labels = data.target_sets["t"].tensors
        loss = torch.nn.functional.cross_entropy(module.network(inputs), labels)
    assert trainer.callback_metrics["validation/loss"].item() == pytest.approx(loss.item())


def test_what_cannot_be_merged_is_one_sentence(checkpoints, tmp_path):
    wide = {"w": torch.zeros(3)}
    with pytest.raises(InputError, match=r"network 2 cannot be merged .* 'w' is \(2,\) there and"):
        average_states([wide, {"w": torch.zeros(2)}], [0.5, 0.5])
    with pytest.raises(InputError, match="'b' is missing there"):
        average_states([wide | {"b": torch.zeros(1)}, wide], [0.5, 0.5])
    with pytest.raises(InputError, match="1 weights for 2 networks"):
        average_states([wide, wide], [1.0])
    with pytest.raises(InputError, match="sum to 1, not"):
        merge_checkpoints(checkpoints, {"twin": 0.75, "other": 0.75}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="twn"):
        merge_checkpoints(checkpoints, {"twn": 0.5, "other": 0.5}, tmp_path / "a.ckpt")
    bad = checkpoints | {"other": tmp_path / "none.ckpt"}
    with pytest.raises(InputError, match=r"none.ckpt is not a checkpoint of a run"):
        merge_checkpoints(bad, {"twin": 0.5, "other": 0.5}, tmp_path / "a.ckpt")
