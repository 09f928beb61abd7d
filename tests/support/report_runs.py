"""Runs whose weights and hyper-gradients are known, for reports of them."""

import numpy as np

from tandem_pl import Mixture
from tandem_pl.report.run import Run
from tandem_pl.run_files import Signal, write_signal, write_trajectory
from tandem_pl.simplex import projected_step


def make_run(weights, delta=None, folder=None, names=None, **about):
    weights = np.asarray(weights, float)
    names = names or [f"d{m}" for m in range(weights.shape[1])]
    half = weights[len(weights) // 2 :]
    about = {"method": "tandem", "settings": {"floor": 0.0}} | about
    mixture = Mixture.from_array(
        names, weights[-1], average=dict(zip(names, half.mean(axis=0), strict=True)), about=about
    )
    steps = list(range(0, 20 * len(weights), 20))
    signal = None
    if delta is not None:
        values = np.asarray(delta, float)[:, None]
        signal = Signal("hyper_gradient", ("delta",), steps[1 : len(values) + 1], values)
    return Run(folder, mixture, steps, weights, signal)


def save(run, folder):
    run.mixture.save(folder / "mixture.yaml")
    write_trajectory(folder / "trajectory.csv", run.mixture.domains, run.steps, run.weights)
    if run.signal is not None:
        write_signal(folder / "hyper_gradient.csv", run.mixture.domains, run.signal)


def line(start, end, length=81):
    share = np.linspace(start, end, length)
    return np.stack([share, 1 - share], axis=1)


def jitter(size, length=81):
    share = 0.5 + size * (-1.0) ** np.arange(length)
    return np.stack([share, 1 - share], axis=1)


def walk(delta, rate=0.5):
    """The weights [T + 1, M] that hyper-gradients [T, M] lead to, from uniform."""
    rows = [np.full(delta.shape[1], 1 / delta.shape[1])]
    for slope in delta:
        rows.append(projected_step(rows[-1], slope, rate))
    return np.stack(rows)


def noise(means, length=80, size=0.01, seed=0):
    draw = np.random.default_rng(seed)
    return np.array(means) + size * draw.normal(size=(length, len(means)))
