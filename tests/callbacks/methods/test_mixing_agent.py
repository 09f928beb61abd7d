"""What the policy is asked, on which runs it is refused, and the random weights without one."""

import numpy as np
import pytest
import torch
from agents import toy_policy
from helpers import quiet_trainer
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file
from toy import DOMAINS, samples, toy_data, toy_module

from tandem_pl import InputError
from tandem_pl.callbacks import MixingAgentReweighting
from tandem_pl.callbacks.mixing_policy import MixingPolicy, describe
from tandem_pl.cli import main


def fit(folder, method, data=None, **options):
    trainer = quiet_trainer(folder, callbacks=[method], **options)
    trainer.fit(toy_module(), datamodule=data or toy_data())
    return method


def test_the_file_is_read_as_it_was_written(tmp_path):
    policy = toy_policy()
    policy.save(tmp_path / "agent")
    again = MixingPolicy.load(tmp_path / "agent")
    state = np.random.default_rng(0).normal(size=8)
    assert (again.weights(state) == policy.weights(state)).all()
    assert (again.domains, again.targets) == (DOMAINS, ("t",))


@pytest.mark.parametrize("names", [DOMAINS, DOMAINS[::-1]])
def test_the_policy_is_asked_with_weights_and_losses_so_far(names, tmp_path, monkeypatch):
    toy_policy(names).save(tmp_path / "agent")
    asked, found = [], []
    answer = MixingPolicy.weights

    def weights(policy, state):
        asked.append(state)
        return answer(policy, state)

    monkeypatch.setattr(MixingPolicy, "weights", weights)
    method = MixingAgentReweighting(str(tmp_path / "agent"), period=4)
    evaluate = method.evaluation.losses

    def losses(*parts):
        found.append(evaluate(*parts))
        return found[-1]

    monkeypatch.setattr(method.evaluation, "losses", losses)
    fit(tmp_path, method, max_steps=12, max_epochs=-1)
    place = [DOMAINS.index(name) for name in names]
    rows = np.stack(method.trajectory)
    assert len(asked) == len(found) == len(rows) - 1 == 3
    for number, state in enumerate(asked):
        own = rows[: number + 1, place]
        before = found[max(number - 1, 0)]
        wanted = describe(own[-1], own.mean(axis=0), found[0], before, found[number])
        np.testing.assert_allclose(state, wanted, rtol=1e-12)
        chosen = answer(MixingPolicy.load(tmp_path / "agent"), state)
        np.testing.assert_array_equal(rows[number + 1, place], chosen)


def test_without_an_agent_weights_are_random_around_the_datas(tmp_path):
    prior = {"twin": 0.7, "other": 0.3, "noise": 0.0}
    rows = [
        np.stack(
            fit(
                tmp_path,
                MixingAgentReweighting(period=1, evaluation_samples=2, strength=5.0),
                toy_data(weights=prior, seed=seed),
                max_steps=40,
                max_epochs=-1,
            ).trajectory[1:]
        )
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any()
    assert (rows[0][:, 2] == 0).all()
    assert rows[0][:, 0].mean() == pytest.approx(0.7, abs=0.06)
    assert rows[0][:, 0].std() == pytest.approx(np.sqrt(0.7 * 0.3 / 16), abs=0.03)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("x" * 100), "is not an agent of"),
        (lambda path: torch.save({"a": torch.ones(1)}, path), "is not an agent of"),
        (lambda path: save_file({"a": torch.ones(1)}, path), "is not an agent of"),
        (lambda path: toy_policy(("a", "b", "c")).save(path), "the domains a, b, c, and here are"),
        (lambda path: toy_policy(targets=("u",)).save(path), "the target domains u, and here are"),
    ],
)
def test_other_files_and_agents_of_other_runs_are_refused(make, said, tmp_path):
    make(tmp_path / "agent")
    with pytest.raises(InputError, match=said):
        fit(tmp_path, MixingAgentReweighting(str(tmp_path / "agent")), max_epochs=1)


def test_an_agent_is_learned_from_runs_and_used(tmp_path, capsys):
    def two_targets(seed=0):
        data = toy_data(seed=seed)
        data.target_sets["u"] = samples("other", 40, 8)
        return data

    for seed in range(2):
        logger = CSVLogger(tmp_path / "runs", name="", version=str(seed))
        data = two_targets(seed)
        fit(tmp_path, MixingAgentReweighting(period=2), data, max_steps=40, logger=logger)
    path = tmp_path / "agent.safetensors"
    options = ["--steps", "20", "--out", str(path)]
    assert main(["search", "agent", f"[{tmp_path / 'runs'}]", *options]) == 0
    said = capsys.readouterr().out
    assert "2 runs, 38 steps between evaluations, every 2 batches" in said
    policy = MixingPolicy.load(path)
    assert set(policy.domains) == set(DOMAINS)
    assert policy.targets == ("t", "u")
    method = MixingAgentReweighting(str(path), period=2)
    rows = fit(tmp_path, method, two_targets(), max_steps=8).trajectory
    assert np.ptp(np.stack(rows), axis=0).max() > 0
    assert main(["search", "agent", f"[{tmp_path / 'nowhere'}]"]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
