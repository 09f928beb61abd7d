"""Conservative Q-learning against a closed form and a known best policy; reading finished runs."""

import numpy as np
import pandas as pd
import pytest
import torch

from tandem_pl.callbacks.mixing_policy import MixingPolicy, describe
from tandem_pl.errors import InputError
from tandem_pl.run_files import write_trajectory
from tandem_pl.search.agent.learning import conservative_loss, learn_agent
from tandem_pl.search.agent.trajectories import Trajectory, read_trajectories, transitions

DOMAINS = ("web", "code", "noise")
EARLY, LATE = np.array([0.6, 0.3, 0.1]), np.array([0.1, 0.2, 0.7])
FALL = 0.1  # of the log loss at the best weights


# ---- the penalty ----


@pytest.mark.parametrize("penalty", [0.0, 0.3, 1.0])
def test_a_table_of_values_ends_where_the_equation_says(penalty):
    """Q_a = r_a - penalty (softmax(Q)_a / share_a - 1) for the shares of the data."""
    shares = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    rewards = torch.tensor([1.0, 1.5, 1.5], dtype=torch.float64)
    taken = torch.tensor([0] * 7 + [1] * 2 + [2])
    table = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([table], max_iter=200, tolerance_grad=1e-10, tolerance_change=0)

    def loss():
        solver.zero_grad()
        value = conservative_loss(table.expand(10, 3), table[taken], rewards[taken], penalty)
        value.backward()
        return value

    solver.step(loss)
    found = table.detach()
    wanted = rewards - penalty * (found.softmax(0) / shares - 1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7)
    assert (shares @ found).item() == pytest.approx((shares @ rewards).item(), abs=1e-7)
    if penalty:  # of two equally good actions, the one that is rare in the data looks worse
        assert found[2] < found[1] - 0.1


def test_only_the_penalty_moves_the_value_of_an_action_that_no_run_took():
    table = torch.tensor([0.4, 2.0], requires_grad=True)
    for penalty, slope in ((0.0, 0.0), (0.5, 0.5 * table.detach().softmax(0)[1].item())):
        table.grad = None
        taken = table[torch.zeros(4, dtype=torch.long)]
        conservative_loss(table.expand(4, 2), taken, torch.ones(4), penalty).backward()
        assert table.grad is not None
        assert table.grad[1].item() == pytest.approx(slope)


# ---- a run whose best weights are known, and change when the loss has halved ----


def simulate(policy, seed, evaluations=30):
    generator = np.random.default_rng(seed)
    weights, losses = [generator.dirichlet(np.ones(3))], []
    while True:
        loss = losses[-1] if losses else np.ones(1)
        best = EARLY if loss[0] > 0.5 else LATE
        losses.append(loss * np.exp(-FALL * (1 - 2 * ((weights[-1] - best) ** 2).sum())))
        if len(losses) == evaluations:
            steps = 10 * np.arange(1, evaluations + 1)
            return Trajectory(DOMAINS, ("t",), steps, np.array(weights), np.array(losses))
        weights.append(policy(weights, losses) if policy else generator.dirichlet(np.ones(3)))


def test_the_agent_does_better_than_the_random_runs_it_learned_from():
    data = transitions([simulate(None, seed) for seed in range(20)])
    assert len(data.rewards) == 20 * 29
    agent = learn_agent(data)
    policy = MixingPolicy(DOMAINS, ("t",), agent.actor, agent.center, agent.scale)

    def ask(weights, losses):
        before = losses[-2] if len(losses) > 1 else losses[0]
        mean = np.mean(weights, axis=0)
        return policy.weights(describe(weights[-1], mean, losses[0], before, losses[-1]))

    own = transitions([simulate(ask, 99)])
    assert own.rewards.mean() > 2 * data.rewards.mean()  # 0.09 and 0.03; 0.1 is the best there is
    assert own.rewards.mean() > 0.75 * FALL
    assert np.abs(own.actions[2] - EARLY).max() < 0.3
    assert np.abs(own.actions[-3] - LATE).max() < 0.3
    assert agent.value > agent.value_of_runs


def test_too_few_steps_are_refused():
    with pytest.raises(InputError, match="29 steps between evaluations are too few for 3 domains"):
        learn_agent(transitions([simulate(None, 0)]))


# ---- reading ----


def write_run(folder, names=("a", "b"), tag="validation/loss", targets=("t",)):
    folder.mkdir(parents=True)
    weights = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    order = [("a", "b").index(name) for name in names]
    write_trajectory(folder / "trajectory.csv", names, [0, 10, 30], weights[:, order])
    values = {f"{tag}/{name}": [4.0, 2.0, 1.0] for name in targets}
    table = pd.DataFrame({"step": [10, 20, 40], tag: [4.0, 2.0, 1.0]} | values)
    table.to_csv(folder / "metrics.csv", index=False)


@pytest.mark.parametrize("tag", ["validation/loss", "target/evaluation"])
def test_runs_are_read_with_the_weights_between_evaluations(tag, tmp_path):
    write_run(tmp_path / "one", tag=tag)
    write_run(tmp_path / "two", ("b", "a"), tag)
    runs = read_trajectories([tmp_path])
    for run in runs:
        assert run.domains == ("a", "b")
        assert run.targets == ("t",)
        assert run.steps.tolist() == [10, 20, 40]
        # half of the batches 20 to 40 came before the last change
        np.testing.assert_allclose(run.weights, [[1, 0], [0.5, 0.5], [0.25, 0.75]], atol=1e-12)
    data = transitions(runs)
    np.testing.assert_allclose(data.rewards, np.log(2) * np.ones(4))
    assert data.ends.tolist() == [0, 1, 0, 1]
    half = np.log(0.5)
    np.testing.assert_allclose(data.states[0], [1, 0, 1, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(data.states[1], [0.5, 0.5, 0.75, 0.25, half, half], atol=1e-12)
    np.testing.assert_allclose(data.following[0], data.states[1])
    last = [0.25, 0.75, 0.5, 0.5, 2 * half, half]
    np.testing.assert_allclose(data.following[1], last, atol=1e-12)
    np.testing.assert_allclose(data.actions[:2], [[0.5, 0.5], [0.25, 0.75]], atol=1e-12)


def test_runs_that_cannot_be_used_are_named(tmp_path):
    write_run(tmp_path / "one")
    write_run(tmp_path / "other", targets=("u",))
    with pytest.raises(InputError, match="other has the targets u, and the runs before it t"):
        read_trajectories([tmp_path])
    (tmp_path / "one" / "metrics.csv").unlink()
    (tmp_path / "other" / "metrics.csv").unlink()
    with pytest.raises(InputError, match=r"no run in .* has a trajectory and 3 or more"):
        read_trajectories([tmp_path])
