"""Skill-it's weights against the formula written out, its graph against trainings replayed."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import Recorder, parameters_of, predict_last, quiet_trainer, random_rows, small_network
from lightning.pytorch import Callback
from module_helpers import WIDTH, adamw, falling, fit, make_data, poisoned, with_marker

from tandem_pl import InputError, MixtureModule
from tandem_pl.callbacks import SkillItReweighting
from tandem_pl.callbacks.measures.skill_graph import (
    damped_graph,
    learned_graph,
    read_graph,
    skill_it_weights,
)

GRAPH = [[0.9, 0.1], [0.3, 0.7]]


def by_hand(graph, window, rate):
    """p_i = exp(eta sum_t sum_j A_ij L_j(t)) / Z, in loops."""
    scores = []
    for row in graph:
        total = 0.0
        for losses in window:
            for effect, loss in zip(row, losses, strict=True):
                total += effect * loss
        scores.append(math.exp(rate * total))
    return [score / sum(scores) for score in scores]


def two_targets():
    return {"t": random_rows(30, WIDTH, 7), "s": random_rows(11, WIDTH, 8)}


def build(objective=predict_last, scheduler=falling, **data):
    module = MixtureModule(small_network(WIDTH), objective, adamw, scheduler)
    return module, make_data(**{"target": two_targets(), **data})


class Evaluate(Callback):
    """All target losses after each batch, by the objective itself."""

    def __init__(self, data):
        self.sets = [samples.rows for samples in data.target_sets.values()]
        self.after = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with torch.no_grad():
            losses = [predict_last(pl_module.network, rows).mean().item() for rows in self.sets]
        self.after.append(losses)


def test_weights_are_the_formula():
    generator = np.random.default_rng(0)
    for domains, targets, window in ((2, 2, 1), (5, 3, 3), (3, 1, 2)):
        graph = generator.uniform(-0.2, 1, (domains, targets))
        losses = generator.uniform(0.5, 9, (window, targets))
        np.testing.assert_allclose(
            skill_it_weights(graph, losses, 0.3), by_hand(graph, losses, 0.3), rtol=1e-12
        )


def test_weights_survive_large_losses():
    weights = skill_it_weights(np.array([[1.0], [0.5]]), np.array([[1e6]]), 1.0)
    assert weights.tolist() == [1.0, 0.0]


def test_a_learned_graph_is_the_relative_gain_and_never_negative():
    start, ends = np.array([2.0, 4.0, 0.0]), np.array([[1.0, 5.0, 1.0], [np.nan, 1.0, 0.0]])
    assert learned_graph(start, ends).tolist() == [[0.5, 0.0, 0.0], [0.0, 0.75, 0.0]]


def test_ones_off_the_diagonal_are_halved_by_name():
    graph = damped_graph(np.ones((2, 3)), ["a", "b"], ["b", "a", "c"])
    assert graph.tolist() == [[0.5, 1.0, 0.5], [1.0, 0.5, 0.5]]
    assert damped_graph(np.full((1, 1), 0.999), ["a"], ["b"]).tolist() == [[0.999]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.csv", "0.9, 0.1\n0.3, 0.7\n"),
        ("named.csv", "domain, s, t\nb, 0.7, 0.3\na, 0.1, 0.9\n"),
        ("rows.yaml", "[[0.9, 0.1], [0.3, 0.7]]"),
        ("map.yaml", "{b: {s: 0.7, t: 0.3}, a: {t: 0.9, s: 0.1}}"),
    ],
)
def test_reads_a_graph_from_a_file(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert read_graph(str(tmp_path / name), ["a", "b"], ["t", "s"]).tolist() == GRAPH


PUBLISHED = [  # ni_graphs/spanish_qg_normalized.npy, to four digits
    [0.4453, 0.0769, 0.1212, 0.0258],
    [0.0, 0.6837, 0.0, 0.4591],
    [0.0883, 0.0466, 0.5001, 0.0798],
    [0.0, 0.3610, 0.0, 0.4553],
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_reads_a_graph_from_a_numpy_file(dtype, tmp_path):
    rows = np.arange(6).reshape(2, 3).astype(dtype)
    np.save(tmp_path / "graph.npy", rows)
    graph = read_graph(str(tmp_path / "graph.npy"), ["a", "b"], ["t", "s", "r"])
    assert graph.tolist() == rows.tolist()
    assert graph.dtype == np.float64


def test_a_graph_of_all_skills_gives_the_columns_of_the_targets(tmp_path):
    """By name, as the authors' target mask 0 0 0 1 does for their graph."""
    np.save(tmp_path / "graph.npy", np.array(PUBLISHED))
    names, path = ["en qa", "en qg", "es qa", "es qg"], str(tmp_path / "graph.npy")
    assert read_graph(path, names, ["es qg"]).tolist() == [[row[3]] for row in PUBLISHED]
    two = read_graph(path, names, ["es qa", "en qg"])
    assert two.tolist() == [[row[2], row[1]] for row in PUBLISHED]
    assert read_graph(path, names, names).tolist() == PUBLISHED
    with pytest.raises(InputError, match="is 4 x 4 and must be 4 x 1"):
        read_graph(path, names, ["fr qg"])


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not an array", "objects"])
def test_refuses_a_numpy_file_that_is_no_table(content, tmp_path):
    """Objects are pickles, which could run any code."""
    path = tmp_path / "graph.npy"
    if content == "objects":
        np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"graph='.*graph\.npy' cannot be read \(.+\)") as caught:
        read_graph(str(path), ["a"], ["t"])
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"graph='absent\.npy' cannot be read"):
        read_graph("absent.npy", ["a"], ["t"])


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ([[1.0, 2.0]], r"graph is 1 x 2 and must be 2 x 2"),
        ([[1.0], [2.0]], r"graph is 2 x 1 and must be 2 x 2"),
        ([[1.0, 2.0], [3.0]], "no table of numbers"),
        ([[1.0, math.nan], [0.0, 1.0]], "finite"),
        ({"a": {"t": 1, "s": 1}}, "says nothing of 'b'"),
        ({"a": {"t": 1, "s": 1}, "b": {"t": 1, "u": 1}}, "unknown domain 'u'"),
        ("absent.csv", r"graph='absent.csv' cannot be read"),
        ("laern", r"graph='laern' cannot be read"),
    ],
)
def test_refuses_a_graph_that_does_not_fit(graph, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        fit(tmp_path, *build(), SkillItReweighting(2, graph=graph), max_epochs=1)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_run_on_a_given_graph_is_the_formula(tmp_path):
    module, data = build()
    method = SkillItReweighting(2, 0.7, window=2, graph=GRAPH, evaluation_samples=None)
    seen, recorder = Evaluate(data), Recorder()
    fit(tmp_path, module, data, seen, recorder, method, max_epochs=4)
    losses = seen.after[1::2]  # at the end of each episode
    expected = [by_hand(GRAPH, [[1, 1]], 0.7)]
    expected += [by_hand(GRAPH, losses[max(n - 1, 0) : n + 1], 0.7) for n in range(4)]
    np.testing.assert_allclose(method.trajectory, expected, rtol=1e-12)
    drawn = [np.bincount(batch.domains, minlength=2) for batch in recorder.batches[:2]]
    assert abs(np.sum(drawn, axis=0)[0] - 16 * expected[0][0]) <= 1


def test_evaluates_the_same_samples_each_time(tmp_path):
    """With a network that does not change, every evaluation gives the same."""
    module, data = build()
    for parameter in list(module.network.parameters())[:-1]:
        parameter.requires_grad_(False)
    module.make_optimizer = lambda parameters: torch.optim.SGD(parameters, 0.0)
    method = SkillItReweighting(3, 0.7, window=1, graph=GRAPH, evaluation_samples=5)
    fit(tmp_path, module, data, method, max_epochs=3)
    np.testing.assert_array_equal(method.trajectory[1], method.trajectory[2])
    np.testing.assert_array_equal(method.trajectory[1], method.trajectory[3])


def test_the_learned_graph_is_that_of_trainings_replayed(tmp_path):
    module, data = build()
    start = copy.deepcopy(module.network)
    method = SkillItReweighting(2, 0.5, graph_steps=4, evaluation_samples=None)
    recorder, states = Recorder(), []

    class State(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            optimizer = trainer.optimizers[0]
            kept = len(optimizer.state), optimizer.param_groups[0]["lr"]
            states.append((*kept, trainer.lr_scheduler_configs[0].scheduler.last_epoch))

    trainer = fit(tmp_path, module, data, recorder, State(), method, max_epochs=5)
    sets = [samples.rows for samples in data.target_sets.values()]

    def evaluate(network):
        with torch.no_grad():
            return np.array([predict_last(network, rows).mean().item() for rows in sets])

    graph = []
    for domain in range(2):
        network = copy.deepcopy(start)
        optimizer = adamw(network.parameters())
        scheduler = falling(optimizer)
        for batch in recorder.batches[4 * domain : 4 * domain + 4]:
            assert batch.domains.tolist() == [domain] * 8
            optimizer.zero_grad()
            predict_last(network, batch.samples).mean().backward()
            optimizer.step()
            scheduler.step()
        graph.append(np.maximum((evaluate(start) - evaluate(network)) / evaluate(start), 0))
    np.testing.assert_allclose(method.settings()["graph_in_use"], graph, rtol=1e-9)
    assert np.max(graph) > 0
    assert torch.equal(recorder.before[8][0], parameters_of(start))  # put back
    assert states == [(0, 0.05, 0), (4, 0.05 / 3, 2)] * 2 + [(0, 0.05, 0)]
    np.testing.assert_allclose(method.trajectory[4], by_hand(graph, [[1, 1]], 0.5), rtol=1e-9)
    assert trainer.global_step == 10
    assert data.seen()["a"]["samples"] >= 32


def test_the_average_is_of_what_came_after_the_graph(tmp_path):
    module, data = build(weights={"a": 0.1, "b": 0.9})
    method = SkillItReweighting(2, 0.5, graph_steps=4, evaluation_samples=9)
    fit(tmp_path, module, data, method, max_epochs=6)
    rows = np.stack(method.trajectory)
    np.testing.assert_allclose(rows[:4], [[0.1, 0.9]] * 4)
    assert abs(rows[4:, 0] - 0.1).min() > 0.1
    np.testing.assert_allclose(list(method.mixture.average.values()), rows[5:].mean(axis=0))
    module, data = build(weights={"a": 0.1, "b": 0.9})
    short = SkillItReweighting(2, 0.5, graph_steps=4, evaluation_samples=9)
    with pytest.warns(UserWarning, match=r"ended after 6 steps.* takes 8.* graph_steps=4"):
        fit(tmp_path, module, data, short, max_epochs=3)
    np.testing.assert_allclose(list(short.mixture.average.values()), [0.1, 0.9])


class SaveAt(Callback):
    def __init__(self, folder, steps):
        self.folder, self.steps = folder, steps

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.step in self.steps:
            trainer.save_checkpoint(self.folder / f"{batch.step}.ckpt")


def test_resumes_exactly_from_any_batch_of_the_graph(tmp_path):
    def run(folder, *callbacks, ckpt_path=None):
        module, data = build()
        method = SkillItReweighting(2, 0.5, window=2, graph_steps=4, evaluation_samples=9)
        trainer = quiet_trainer(folder, callbacks=[method, *callbacks], max_epochs=7)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return np.stack(method.trajectory), np.stack(method.signals), parameters_of(module.network)

    steps = (0, 1, 3, 4, 7, 8, 11)
    whole = run(tmp_path, SaveAt(tmp_path, steps))
    for step in steps:
        path = tmp_path / f"{step}.ckpt"
        torch.load(path, weights_only=True)
        for mine, theirs in zip(run(tmp_path / "again", ckpt_path=path), whole, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_checkpoint_of_another_graph_is_refused(tmp_path):
    first = SkillItReweighting(2, 0.5, graph=GRAPH, evaluation_samples=9)
    fit(tmp_path, *build(), first, SaveAt(tmp_path, (1,)), max_epochs=1)
    other = SkillItReweighting(2, 0.5, graph=(2 * np.array(GRAPH)).tolist(), evaluation_samples=9)
    module, data = build()
    trainer = quiet_trainer(tmp_path, callbacks=[other], max_epochs=2)
    with pytest.raises(InputError, match="made with another graph"):
        trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "1.ckpt")


@pytest.mark.filterwarnings("ignore:.*not finite")
def test_a_target_loss_that_is_not_finite_leaves_the_weights_alone(tmp_path):
    target = {"t": with_marker(random_rows(30, WIDTH, 7), 0), "s": random_rows(11, WIDTH, 8)}
    method = SkillItReweighting(2, 0.7, graph=GRAPH, evaluation_samples=None)
    with pytest.warns(UserWarning, match=r"target loss is not finite, .*\(domains: t; 1 update "):
        fit(tmp_path, *build(poisoned, target=target), method, max_epochs=2)
    assert method.skipped_updates == 2
    np.testing.assert_array_equal(method.trajectory[2], method.trajectory[0])
    learning = SkillItReweighting(2, 0.7, evaluation_samples=None)
    fit(tmp_path, *build(poisoned, target=target), learning, max_epochs=2)
    assert [row[0] for row in learning.settings()["graph_in_use"]] == [0.0, 0.0]
    assert np.isfinite(learning.weights).all()


def test_refuses_graph_steps_that_are_not_whole_episodes():
    with pytest.raises(InputError, match="graph_steps=15 must be a multiple of update_steps=10"):
        SkillItReweighting(10, graph_steps=15)
