"""Conservative Q-learning (arXiv 2006.04779) of a policy on the simplex, from stored steps."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tandem_pl.callbacks.mixing_policy import layers
from tandem_pl.errors import InputError

from .trajectories import Transitions

BATCH = 128
RATE = 3e-3  # of Adam
FOLLOW = 0.01  # of the target critic, a step
IMITATION = 0.2  # share of the steps that only imitate the runs, as the paper's warm start
MILD = 1e-2  # on squared logits: shares of almost 0 or 1 could not change any more
PASSES, LEAST_STEPS = 100, 400
EACH_SHARE = 10  # steps for each domain, at least
GENTLE = 1e-3  # least spread of a feature or a reward


class Learned(NamedTuple):
    """An actor, and what the critic says of it.

    Args:
        actor: from normalised states to the logits of shares.
        center: [S] of the states.
        scale: [S] of the states.
        value: mean Q of the actor's weights in the states of the runs, in units of the reward.
        value_of_runs: mean Q of the weights that the runs had there.
    """

    actor: nn.Sequential
    center: Tensor
    scale: Tensor
    value: float
    value_of_runs: float


def conservative_loss(proposed: Tensor, taken: Tensor, wanted: Tensor, penalty: float) -> Tensor:
    """Return mean((taken - wanted)^2) / 2 + penalty mean(log mean exp(proposed) - taken).

    The second term is CQL's: it lowers Q of any action, and raises Q of those in the data by as
    much in sum, so that actions which no run tried do not look good by extrapolation.

    Args:
        proposed: [B, K] Q of other actions, drawn evenly.
        taken: [B] Q of the actions in the data.
        wanted: [B] reward, and discounted Q of what followed.
        penalty: its strength.

    >>> zero = torch.zeros(1)
    >>> conservative_loss(torch.zeros(1, 2), zero, zero + 2, 1.0).item()
    2.0
    """
    others = proposed.logsumexp(dim=1) - float(np.log(proposed.shape[1]))
    return 0.5 * (taken - wanted).square().mean() + penalty * (others - taken).mean()


def learn_agent(
    data: Transitions,
    steps: int | None = None,
    penalty: float = 0.3,
    discount: float = 0.9,
    hidden: int = 64,
    proposals: int = 8,
    seed: int = 0,
) -> Learned:
    """Return an actor that maximises a conservative critic.

    The actor first imitates the runs. Then, step by step, the critic Q(s, a) is moved towards
    r + discount Q'(s', actor(s')), with Q' a running mean of Q, under `conservative_loss`, whose
    other actions are even draws of the simplex and the actor's own weights; and the actor towards
    higher Q(s, actor(s)). Rewards are in units of their standard deviation.

    Args:
        data: of finished runs.
        steps: of learning; None for 100 passes over the data, and at least 400. With many more the
            critic overfits single steps of the runs.
        penalty: on Q of actions that are not in the data.
        discount: of later rewards, for each evaluation.
        hidden: width of both networks.
        proposals: even draws for each state.
        seed: of both networks and all draws.

    Raises:
        InputError: too few steps between evaluations.
    """
    number, domains = data.actions.shape
    if number < EACH_SHARE * domains:
        raise InputError(
            f"{number} steps between evaluations are too few for {domains} domains: give runs with "
            f"{EACH_SHARE * domains} or more in all (the paper's have 1600)."
        )
    steps = max(LEAST_STEPS, PASSES * number // BATCH) if steps is None else steps
    states, actions, rewards, following, ends = (
        torch.as_tensor(column, dtype=torch.float32) for column in data
    )
    center, scale = states.mean(dim=0), states.std(dim=0).clamp_min(GENTLE)
    states, following = (states - center) / scale, (following - center) / scale
    spread = rewards.std().clamp_min(GENTLE * rewards.abs().mean() + 1e-12)
    rewards = rewards / spread
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        actor = layers(states.shape[1], hidden, domains)
        critic = layers(states.shape[1] + domains, hidden, 1)
        slow = copy.deepcopy(critic)
        even = torch.distributions.Dirichlet(torch.ones(domains))
        update_actor = torch.optim.Adam(actor.parameters(), RATE)
        update_critic = torch.optim.Adam(critic.parameters(), RATE)
        for step, rows in enumerate(_batches(number, steps)):
            state, action = states[rows], actions[rows]
            logits = actor(state)
            if step < IMITATION * steps:
                loss = nn.functional.cross_entropy(logits, action)
                _minimise(loss, update_actor)
                continue
            own = logits.softmax(dim=1)
            with torch.no_grad():
                after = actor(following[rows]).softmax(dim=1)
                later = _value(slow, following[rows], after)
                wanted = rewards[rows] + discount * (1 - ends[rows]) * later
            others = torch.cat([even.sample((len(rows), proposals)), own.detach()[:, None]], dim=1)
            proposed = _value(critic, state[:, None].expand(-1, proposals + 1, -1), others)
            taken = _value(critic, state, action)
            _minimise(conservative_loss(proposed, taken, wanted, penalty), update_critic)
            bound = MILD * logits.square().mean()
            _minimise(bound - _value(critic, state, own).mean(), update_actor)
            with torch.no_grad():
                for old, new in zip(slow.parameters(), critic.parameters(), strict=True):
                    old.lerp_(new, FOLLOW)
        with torch.no_grad():
            value = _value(critic, states, actor(states).softmax(dim=1)).mean() * spread
            value_of_runs = _value(critic, states, actions).mean() * spread
    return Learned(actor, center, scale, value.item(), value_of_runs.item())


def _batches(number: int, steps: int) -> Iterator[Tensor]:
    for _ in range(steps):
        yield torch.randint(number, (min(BATCH, number),))


def _value(critic: nn.Module, states: Tensor, actions: Tensor) -> Tensor:
    found: Tensor = critic(torch.cat([states, actions], dim=-1))
    return found.squeeze(-1)


def _minimise(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
