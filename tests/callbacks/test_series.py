"""A thousand and ten thousand domains: all are measured, few are drawn, memory is bounded."""

import io
import logging
import re

import numpy as np
import pytest
import torch
from helpers import Rows, predict_last, quiet_trainer, small_network
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

import tandem_pl.callbacks.series as series_module
from tandem_pl import Mixture, TandemModule
from tandem_pl.callbacks import MixtureMonitor, TandemReweighting
from tandem_pl.callbacks.methods.tandem import hyper_gradient
from tandem_pl.callbacks.series import Blocks, Trajectory, most_rows
from tandem_pl.curves import MOST_CURVES, by_name, domain_tags, with_curves
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.plots import MOST_DOMAINS, draw_mixture
from tandem_pl.report.domains import summarize_domains
from tandem_pl.report.page import build_page, to_html, write_page
from tandem_pl.report.run import Run, read_run
from tandem_pl.run_files import Signal, mixture_table, read_signal, read_trajectory
from tandem_pl.simplex import projected_step
from tandem_pl.steadiness import mean_gradients

MANY, BATCH, MEASURED, FREE, PROBE = 1000, 32, 4, 2, 1
EPISODES, KEPT = 11, 4  # rows of the trajectory that the short runs here may keep
FILES = ("mixture.yaml", "trajectory.csv", "hyper_gradient.csv")


class Watch(Callback):
    """Every row of weights, samples and curves, and checkpoints after the batches asked for."""

    def __init__(self, folder, save=()):
        self.folder, self.save, self.batches = folder, set(save), 0
        self.weights, self.samples, self.curves = [], [], []

    def on_train_start(self, trainer, pl_module):
        self.method = next(c for c in trainer.callbacks if isinstance(c, TandemReweighting))
        self.weights.append(self.method.weights)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches += 1
        if batch.last:
            self.weights.append(self.method.weights)
            self.samples.append(self.method.signal.samples)
            self.curves.append(set(self.method.curves.tolist()))
        if self.batches in self.save:
            trainer.save_checkpoint(self.folder / f"{self.batches:02d}.ckpt")


def run(folder, *callbacks, domains=MANY, episodes=EPISODES, logger=False, ckpt_path=None, **more):
    pool = torch.randn(domains, 3, 4, generator=torch.Generator().manual_seed(0))
    train = {f"domain {m:05d}": Rows(pool[m].double()) for m in range(domains)}
    target = {"t": Rows(pool[:20, 0].double())}
    method = TandemReweighting(FREE, PROBE, MEASURED, learning_rate=0.002, **more)
    module = TandemModule(
        small_network(4), predict_last, lambda parameters: torch.optim.SGD(parameters, 0.05)
    )
    data = MixtureDataModule(train, target, batch_size=BATCH)
    trainer = quiet_trainer(
        folder, callbacks=[*callbacks, method][::-1], max_epochs=episodes, logger=logger
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return method


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder, what was watched, the method and its log, of a run that leaves rows out."""
    folder = tmp_path_factory.mktemp("whole")
    per_episode = FREE + PROBE + MEASURED
    watch = Watch(folder, [per_episode * 2 + 1, per_episode * 6 - 1, per_episode * 9])
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    log.addHandler(handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series_module, "MOST_NUMBERS", KEPT * MANY)
        patch.setattr(series_module, "LEAST_ROWS", 2)
        logger = TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
        method = run(folder, watch, MixtureMonitor(), logger=logger)
    log.removeHandler(handler)
    return folder, watch, method, records


# ---- measuring ----


def test_each_domain_is_measured_within_the_episodes_that_the_log_says(whole):
    _, watch, _, records = whole
    said = [line for line in records if "measured every" in line]
    assert said == [
        "1000 domains, 4 x 32 samples measured: each domain is measured every 8 episodes."
    ]
    counts = np.cumsum(watch.samples, axis=0)
    assert counts[6].min() == 0  # 7 x 128 samples are fewer than the domains
    assert counts[7].min() == 1
    assert counts[7].max() == 2
    assert counts[-1].sum() == EPISODES * MEASURED * BATCH


def test_nothing_is_said_where_each_episode_measures_all(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        run(tmp_path, domains=MEASURED * BATCH, episodes=1)
    assert "measured every" not in caplog.text


@pytest.mark.parametrize("floor", [0.0, 0.0004])
def test_domains_that_were_not_measured_keep_their_weight_relative_to_the_mean(floor):
    generator = np.random.default_rng(0)
    weights = generator.dirichlet(np.ones(MANY)) * (1 - MANY * floor) + floor
    measured = generator.choice(MANY, 128, replace=False)
    losses = generator.normal(size=(2, 128))
    signal = hyper_gradient(measured, *losses, MANY)
    unmeasured = signal.samples == 0
    for rate, bounded in ((1e-7, False), (5e-4, True)):
        after = projected_step(weights, signal.delta, rate, floor)
        inside = unmeasured & (after > floor)
        shift = (after - weights)[inside]
        assert bounded == bool((after <= floor).any())
        np.testing.assert_allclose(shift, shift[0], rtol=0, atol=1e-12)
        assert (abs(shift[0]) < 1e-12) == (not bounded)
        assert inside.sum() > 100


# ---- a run of a thousand domains ----


def test_the_average_counts_every_episode_though_rows_are_left_out(whole):
    folder, watch, method, _ = whole
    rows = np.stack(watch.weights)
    assert len(rows) == EPISODES + 1
    assert method.steps == [0, 12, 24, 33]  # every 4th episode of 3 batches, and the last
    assert np.array_equal(np.stack(method.trajectory), rows[[0, 4, 8, 11]])
    expected = rows[4:].mean(axis=0)  # the half begins at 6, in the block of 4 that begins at 4
    np.testing.assert_allclose(method.mixture.average_array, expected, rtol=1e-12)
    saved = Mixture.load(folder / "mixture.yaml")
    assert saved.about["episodes"] == EPISODES
    assert saved.about["thinned"] == {"trajectory": 4, "hyper_gradient": 8}
    assert saved.about["steps"] == 33
    names, steps, weights = read_trajectory(folder / "trajectory.csv")
    assert (len(names), steps) == (MANY, method.steps)
    assert np.array_equal(weights[-1], rows[-1])
    signal = read_signal(folder / "hyper_gradient.csv")[1]
    assert signal.steps == [24, 33]
    samples = np.stack(watch.samples)
    expected = np.stack([samples[:8].mean(axis=0), samples[8:].mean(axis=0)])
    np.testing.assert_allclose(signal.values[:, 2], expected, rtol=1e-12)


@pytest.mark.parametrize("batch", [15, 41, 63])
def test_a_resumed_run_ends_with_the_same_files_and_curves(batch, whole, tmp_path, monkeypatch):
    folder, _, method, _ = whole
    monkeypatch.setattr(series_module, "MOST_NUMBERS", KEPT * MANY)
    monkeypatch.setattr(series_module, "LEAST_ROWS", 2)
    torch.load(folder / f"{batch}.ckpt", weights_only=True)  # tensors and plain Python only
    again = run(tmp_path, ckpt_path=folder / f"{batch}.ckpt")
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    assert again.curves.tolist() == method.curves.tolist()
    assert again.metrics == method.metrics


def test_tensorboard_gets_few_curves_and_histograms_of_all(whole):
    folder, watch, method, _ = whole
    events = EventAccumulator(str(folder), {"histograms": 0, "tensors": 0, "scalars": 0}).Reload()
    tags = events.Tags()
    curves = watch.curves
    for family in ("mixture/weight", "sampler/drawn", "seen/epochs"):
        found = [tag for tag in tags["scalars"] if tag.startswith(f"{family}/")]
        assert {tag.split("/")[-1] for tag in found} == {
            method.tags[m] for shown in curves for m in shown
        }
    assert all(len(shown) == MOST_CURVES for shown in curves)
    assert len(set().union(*curves)) <= 3 * MOST_CURVES  # a domain that has curves keeps them
    for m in curves[-1]:
        last = events.Scalars(f"mixture/weight/{method.tags[m]}")[-1]
        assert last.value == pytest.approx(method.weights[m], rel=1e-6)
    spread = {
        tag: events.Scalars(tag)[-1].value
        for tag in ("mixture/largest_weight", "mixture/at_lowest", "mixture/effective_domains")
    }
    weights = method.weights[method.weights > 0]
    assert spread["mixture/largest_weight"] == pytest.approx(weights.max(), rel=1e-6)
    assert spread["mixture/at_lowest"] == pytest.approx(1 - len(weights) / MANY)
    expected = np.exp(-(weights * np.log(weights)).sum())
    assert spread["mixture/effective_domains"] == pytest.approx(expected, rel=1e-6)
    assert set(tags["histograms"]) == {"histogram/weight_over_uniform", "histogram/delta"}
    over = events.Histograms("histogram/weight_over_uniform")
    assert [event.step for event in over] == list(range(3, 34, 3))
    assert over[-1].histogram_value.num == MANY
    assert over[-1].histogram_value.sum == pytest.approx(MANY)
    delta = events.Histograms("histogram/delta")[-1].histogram_value
    assert delta.num == MEASURED * BATCH  # those that were measured
    measured = [tag for tag in tags["scalars"] if tag.startswith("hypergradient/")]
    assert all(
        watch.samples[event.step // 3 - 1][method.tags.index(tag.split("/")[-1])] > 0
        for tag in measured
        for event in events.Scalars(tag)
    )


def test_the_layout_is_as_short_as_for_few_domains(whole):
    folder, _, _, _ = whole
    events = EventAccumulator(str(folder), {"tensors": 0}).Reload()
    layout = layout_pb2.Layout()
    [config] = events.Tensors("custom_scalars__config__")
    layout.ParseFromString(config.tensor_proto.string_val[0])
    charts = {chart.title: chart for category in layout.category for chart in category.chart}
    assert len(charts) < 20
    tags = events.Tags()["scalars"]
    for title in ("weights", "hyper-gradient", "largest weight", "most epochs of a domain"):
        [regex] = charts[title].multiline.tag
        assert any(re.match(regex, tag) for tag in tags), title


def test_a_csv_has_few_columns(tmp_path):
    run(tmp_path, MixtureMonitor(), logger=CSVLogger(tmp_path, name="", version=""), episodes=2)
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "mixture/effective_domains" in header
    assert len(header) < 3 * 11 * MOST_CURVES


def test_a_report_of_a_run_that_left_rows_out(whole):
    folder, _, _, _ = whole
    run_of = read_run(folder)
    page = build_page(run_of, summarize_domains(run_of))
    assert "11 updates" in page.facts
    notes = " ".join(page.notes)
    assert "the weights of one update in 4, and means of Δ over 8 updates" in notes
    assert "measured 0.13 samples of a domain" in notes
    assert "Δ is known" not in notes
    assert len(page.table) == 2 * MOST_DOMAINS


# ---- rows in bounded memory ----


@given(st.integers(1, 90), st.integers(1, 9), st.data())
@settings(max_examples=60, deadline=None)
def test_blocks_hold_every_row(count, most, data):
    rows = np.random.default_rng(count).normal(size=(count, 2))
    start = data.draw(st.integers(0, count - 1))
    kept = Trajectory(most)
    for number, row in enumerate(rows):
        kept.add(10 * number, row)
        assert len(kept.sums) <= most
        assert np.array_equal(kept.rows[0], rows[0])
        assert np.array_equal(kept.rows[-1], row)
    stride = kept.stride
    assert stride == 1 if count <= most else len(kept.sums) * 2 > most
    places = sorted({*range(0, count, stride), count - 1})
    assert kept.row_steps == [10 * place for place in places]
    assert np.array_equal(np.stack(kept.rows), rows[places])
    blocks = [rows[i : i + stride] for i in range(0, count, stride)]
    np.testing.assert_allclose(kept.means(), [block.mean(axis=0) for block in blocks], atol=1e-12)
    begin = start // stride * stride
    np.testing.assert_allclose(kept.mean_since(start), rows[begin:].mean(axis=0), atol=1e-12)
    again = Trajectory(most)
    again.load_state_dict(kept.state_dict())
    for series in (kept, again):
        for number in range(3):
            series.add(10 * (count + number), rows[number % count])
    assert again.state_dict().keys() == kept.state_dict().keys()
    for key, value in kept.state_dict().items():
        same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
        assert same(value, again.state_dict()[key]), key


def test_a_trajectory_that_was_saved_whole_is_cut_when_it_goes_on():
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 3)))
    series = Trajectory(8)
    series.load_state_dict({"rows": rows, "row_steps": list(range(50))})
    assert len(series.rows) == 50
    series.add(50, np.zeros(3))
    assert series.row_steps == [0, 8, 16, 24, 32, 40, 48, 50]
    np.testing.assert_allclose(series.mean_since(0), rows.sum(0).numpy() / 51, atol=1e-12)


def test_a_checkpoint_of_a_version_that_kept_every_row_still_loads(tmp_path):
    method = TandemReweighting()
    weights = np.random.default_rng(0).dirichlet(np.ones(3), size=5)
    state = {"domains": list("abc"), "trajectory": torch.from_numpy(weights), "steps": [0, 2, 4, 6]}
    state["steps"].append(8)
    state |= {"signals": torch.ones(4, 3, 3), "signal_steps": [2, 4, 6, 8]}
    method.load_state_dict(state)
    assert method.episodes == 4
    assert np.array_equal(method.averaged(), weights[2:].mean(axis=0))
    again = method.state_dict()
    assert {"trajectory", "steps", "signals", "signal_steps"} <= set(again)
    assert not {"trajectory_blocks", "signal_blocks", "curves"} & set(again)
    assert torch.equal(again["trajectory"], state["trajectory"])


# ---- ten thousand, piece by piece ----

HUGE = 10_000
NAMES = [f"web (part {m})" for m in range(HUGE)]


def test_ten_thousand_domains_fit_a_checkpoint_and_a_log():
    series, signals = Trajectory(), Blocks()
    row = np.full(HUGE, 1 / HUGE)
    for step in range(3 * most_rows(HUGE)):
        series.add(step, row)
        signals.add(step, np.stack([row] * 3))
    assert sum(array.size for array in [*series.rows, *series.sums]) < 2.1 * 2**20
    assert sum(array.size for array in signals.sums) <= max(2**20, 64 * 3 * HUGE)
    np.testing.assert_allclose(series.mean_since(99), row, rtol=1e-12)
    assert len(by_name("a", domain_tags(NAMES), row, with_curves(row))) == MOST_CURVES


def test_the_table_of_ten_thousand_domains_is_short():
    weights = np.random.default_rng(0).dirichlet(np.full(HUGE, 0.1))
    mixture = Mixture.from_array(NAMES, weights)
    table = mixture_table(mixture, np.full(HUGE, 1 / HUGE)).splitlines()
    assert len(table) == 1 + MOST_DOMAINS + 1
    assert table[1].startswith(NAMES[int(weights.argmax())])
    rest = np.sort(weights)[:-MOST_DOMAINS].sum()
    assert table[-1] == f"... 9980 more in mixture.yaml, with {rest:.4f} on average"


def test_what_was_seen_of_ten_thousand_domains():
    pool = Rows(torch.zeros(2, 4))
    data = MixtureDataModule(dict.fromkeys(NAMES, pool), batch_size=64)
    data.setup("fit")
    drawn = np.random.default_rng(0).integers(0, 5, HUGE)
    data.sampler.cursors["train"] = (np.zeros(HUGE), drawn)
    arrays, rows = data.seen_arrays(), data.seen()
    assert list(rows) == NAMES
    for key, values in arrays.items():
        assert values.tolist() == [row[key] for row in rows.values()]
    assert arrays["epochs"].tolist() == (drawn / 2).tolist()
    assert arrays["share"].sum() == pytest.approx(1.0)


def test_a_picture_and_a_page_of_ten_thousand_domains_are_small(tmp_path):
    generator = np.random.default_rng(0)
    weights = generator.dirichlet(np.full(HUGE, 0.1), size=40)
    figure = draw_mixture(NAMES, range(40), weights, weights[-1])
    figure.savefig(io.BytesIO(), format="png")
    assert len(figure.axes[0].texts) == MOST_DOMAINS
    caps = dict.fromkeys(NAMES, 0.5)
    about = {"method": "tandem", "episodes": 39, "settings": {"caps": caps}}
    mixture = Mixture.from_array(NAMES, weights[-1], about=about)
    signal = Signal("hyper_gradient", ("delta",), range(10, 400, 10), weights[1:, None])
    big = Run(tmp_path, mixture, list(range(0, 400, 10)), weights, signal)
    rows = summarize_domains(big)
    page = build_page(big, rows)
    assert "caps of 10000 domains" in page.facts
    assert len(to_html(page, [b"", b""])) < 40_000
    [path] = write_page(big, rows, page, tmp_path / "report.html", "html")
    assert path.stat().st_size < 500_000


def test_the_way_is_the_same_where_rows_are_left_out():
    """Means over blocks of two, and every second row of the weights, against all of them."""
    generator = np.random.default_rng(0)
    delta = generator.normal(size=(400, 1, 3)) + np.array([0.3, 0.0, -0.3])
    weights, steps = np.full((401, 3), 1 / 3), np.arange(0, 4010, 10)
    mixture = Mixture.from_array("abc", weights[-1])
    full = Run(None, mixture, steps.tolist(), weights, Signal("s", ("delta",), steps[1:], delta))
    means = Signal("s", ("delta",), steps[2::2], delta.reshape(200, 2, 1, 3).mean(axis=1))
    thin = Run(None, mixture, steps[::2].tolist(), weights[::2], means)
    for one, other in zip(mean_gradients(full.signal), mean_gradients(thin.signal), strict=True):
        assert other.mean == pytest.approx(one.mean, abs=0.01)
        assert other.half == pytest.approx(one.half, rel=0.25)
