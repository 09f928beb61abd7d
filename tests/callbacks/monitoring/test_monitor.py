import re

import numpy as np
import pytest
import torch
from helpers import QuadraticNetwork, half_squared_distance, quiet_trainer
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.callbacks import FixedMixture, MixtureMonitor, TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.errors import InputError

DOMAINS, TARGETS, WIDTH = ("code", "c++", "news/uk"), ("new", "old"), 4
EPISODE = 4 + 2  # proxy batches; one measure batch is added
# fmt: off
BY_DOMAIN = (
    "train/loss", "train/loss_reference", "measured/loss", "measured/loss_reference",
    "mixture/weight", "hypergradient", "hypergradient_error", "sampler/drawn",
    "sampler/requested", "seen/samples", "seen/epochs",
)
ALONE = (
    "train/loss", "train/loss_reference", "measured/loss", "measured/loss_reference", "target/loss",
    "train/learning_rate", "mixture/entropy", "mixture/effective_domains", "sampler/largest_gap",
    "twins/distance", "mixture/distance",
)
# fmt: on
VALIDATION = ("validation/loss", "validation/loss_reference")


def make_data(**options):
    generator = torch.Generator().manual_seed(0)

    def domain(size):
        centre = torch.randn(WIDTH, dtype=torch.float64, generator=generator)
        noise = torch.randn(size, WIDTH, dtype=torch.float64, generator=generator)
        return centre + 0.3 * noise

    train = {name: domain(size) for name, size in zip(DOMAINS, (10, 20, 40), strict=True)}
    target = {name: domain(6) for name in TARGETS}
    return MixtureDataModule(train, target, batch_size=8, validate_target=True, **options)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


class Recorder(Callback):
    """Record the module's outputs and the twins' distance, independently of the monitor."""

    def __init__(self):
        self.rows, self.distances = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        episode = trainer.current_epoch
        for key, domains in (
            ("losses", batch.domains),
            ("reference_losses", batch.domains),
            ("target_losses", batch.target_domains),
        ):
            if key in outputs:
                pairs = zip(domains.tolist(), outputs[key].tolist(), strict=True)
                self.rows += [(episode, batch.phase, key, *pair) for pair in pairs]
        if batch.last and hasattr(pl_module, "reference"):
            u, w = (n.weight.detach() for n in (pl_module.network, pl_module.reference))
            self.distances.append(float((w - u).norm() / u.norm()))

    def losses(self, episode, phases, key, domain):
        return [
            row[-1]
            for row in self.rows
            if row[:1] + row[2:4] == (episode, key, domain) and row[1] in phases
        ]


def run(folder, callbacks, module=None, data=None, ckpt_path=None, **options):
    options = {"max_epochs": 3, "log_every_n_steps": 1, "logger": logger(folder)} | options
    trainer = quiet_trainer(folder, callbacks=callbacks, limit_val_batches=1.0, **options)
    module = module or TandemModule(QuadraticNetwork(WIDTH), half_squared_distance, sgd)
    trainer.fit(module, data or make_data(), ckpt_path=ckpt_path)
    return trainer


def logger(folder):
    return TensorBoardLogger(folder, name="", version="run", default_hp_metric=False)


def read(folder):
    events = EventAccumulator(str(folder / "run"), size_guidance={"tensors": 0, "images": 0})
    return events.Reload()


def steps(events, tag):
    return [event.step for event in events.Scalars(tag)]


def values(events, tag):
    return np.array([event.value for event in events.Scalars(tag)])


def layout_of(events):
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    return layout


def tandem():
    return TandemReweighting(4, 2, 1, learning_rate=0.1)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    recorder, reweighting = Recorder(), tandem()
    run(folder, [recorder, MixtureMonitor(1, 2), reweighting])
    return folder, read(folder), recorder, reweighting


def test_tags_are_those_of_the_documentation(watched):
    _, events, _, _ = watched
    expected = {f"{tag}/{name}" for tag in BY_DOMAIN for name in DOMAINS}
    expected |= {f"hypergradient_band/{d}/{end}" for d in DOMAINS for end in ("lower", "upper")}
    expected |= {f"{tag}/{name}" for tag in ("target/loss", *VALIDATION[:2]) for name in TARGETS}
    found = set(events.Tags()["scalars"]) - {"epoch"}
    assert found == expected | set(ALONE) | set(VALIDATION)


def test_axis_is_the_global_step(watched):
    _, events, _, _ = watched
    for tag in events.Tags()["scalars"]:
        assert steps(events, tag) == [EPISODE, 2 * EPISODE, 3 * EPISODE], tag


@pytest.mark.parametrize(
    ("tag", "phases", "key", "names"),
    [
        ("train/loss", {"train", "probe"}, "losses", DOMAINS),
        ("train/loss_reference", {"probe"}, "reference_losses", DOMAINS),
        ("target/loss", {"probe"}, "target_losses", TARGETS),
        ("measured/loss", {"measure"}, "losses", DOMAINS),
        ("measured/loss_reference", {"measure"}, "reference_losses", DOMAINS),
    ],
)
def test_losses_are_means_over_the_samples_of_an_episode(watched, tag, phases, key, names):
    _, events, recorder, _ = watched
    for episode in range(3):
        everything = []
        for m, name in enumerate(names):
            expected = recorder.losses(episode, phases, key, m)
            everything += expected
            found = values(events, f"{tag}/{name}")[episode]
            np.testing.assert_allclose(found, np.mean(expected), rtol=1e-6)
        np.testing.assert_allclose(values(events, tag)[episode], np.mean(everything), rtol=1e-6)


def test_mixture_scalars_follow_the_trajectory(watched):
    _, events, _, reweighting = watched
    trajectory = np.stack(reweighting.trajectory[1:])
    for m, name in enumerate(DOMAINS):
        found = values(events, f"mixture/weight/{name}")
        np.testing.assert_allclose(found, trajectory[:, m], rtol=1e-6)
    entropy = -(trajectory * np.log(trajectory)).sum(axis=1)
    np.testing.assert_allclose(values(events, "mixture/entropy"), entropy, rtol=1e-6)
    effective = values(events, "mixture/effective_domains")
    np.testing.assert_allclose(effective, np.exp(entropy), rtol=1e-6)


def test_bands_are_one_standard_error_wide(watched):
    _, events, _, _ = watched
    for name in DOMAINS:
        slope = values(events, f"hypergradient/{name}")
        error = values(events, f"hypergradient_error/{name}")
        assert (error > 0).all()
        for end, sign in (("lower", -1), ("upper", 1)):
            band = values(events, f"hypergradient_band/{name}/{end}")
            np.testing.assert_allclose(band, slope + sign * error, rtol=1e-5, atol=1e-7)


def test_twin_distance_is_taken_before_the_next_sync(watched):
    _, events, recorder, _ = watched
    np.testing.assert_allclose(values(events, "twins/distance"), recorder.distances, rtol=1e-6)


def test_drawn_shares_stay_near_the_requested_ones(watched):
    _, events, recorder, _ = watched
    drawn = np.stack([values(events, f"sampler/drawn/{name}") for name in DOMAINS])
    requested = np.stack([values(events, f"sampler/requested/{name}") for name in DOMAINS])
    total = 8 * EPISODE * np.arange(1, 4)
    gap = (np.abs(drawn - requested) * total).max(axis=0)
    np.testing.assert_allclose(values(events, "sampler/largest_gap"), gap, atol=1e-4)
    assert gap.max() < 2
    for m, (name, size) in enumerate(zip(DOMAINS, (10, 20, 40), strict=True)):
        count = sum(len(recorder.losses(e, {"train", "probe"}, "losses", m)) for e in range(3))
        assert values(events, f"seen/samples/{name}")[-1] == count
        assert values(events, f"seen/epochs/{name}")[-1] == pytest.approx(count / size)


def test_one_event_file_and_no_extra_run(watched):
    folder, _, _, _ = watched
    assert [path.name for path in folder.iterdir()] == ["run"]
    assert not [path for path in (folder / "run").iterdir() if path.is_dir()]
    assert len(list(folder.rglob("events*"))) == 1


def test_every_chart_of_the_layout_has_lines(watched):
    _, events, _, _ = watched
    tags = events.Tags()["scalars"]
    categories = {category.title: category for category in layout_of(events).category}
    assert next(iter(categories)) == "mixture"
    for category in categories.values():
        for chart in category.chart:
            for regex in chart.multiline.tag:  # as TensorBoard matches
                assert any(re.match(regex, tag) for tag in tags), (chart.title, regex)
            for series in chart.margin.series:
                assert {series.value, series.lower, series.upper} <= set(tags)
    weights = categories["mixture"].chart[0].multiline.tag
    assert sum(bool(re.match(weights[0], tag)) for tag in tags) == len(DOMAINS)
    margins = categories["hyper-gradient, with standard error"].chart
    assert {chart.title for chart in margins} == set(DOMAINS)
    train = categories["loss by domain"].chart[0].multiline.tag
    matched = {tag for tag in tags if re.match(train[0], tag)}
    assert matched == {f"train/loss/{name}" for name in DOMAINS}  # nothing measured among them


def test_pictures_come_every_n_episodes_and_at_the_end(watched):
    _, events, _, _ = watched
    assert [image.step for image in events.Images("mixture/weights")] == [12, 18]


def test_monitor_changes_nothing(watched, tmp_path):
    _, _, _, reweighting = watched
    alone = tandem()
    run(tmp_path, [alone], logger=False)
    assert np.array_equal(alone.trajectory, reweighting.trajectory)


def test_works_without_a_logger(tmp_path):
    trainer = run(tmp_path, [tandem(), MixtureMonitor()], logger=False)
    assert "train/loss" in trainer.progress_bar_metrics
    assert 1 <= trainer.progress_bar_metrics["mixture/effective_domains"] <= len(DOMAINS)


def test_other_loggers_get_the_scalars(tmp_path):
    csv_logger = CSVLogger(tmp_path, name="", version="run")
    run(tmp_path, [tandem(), MixtureMonitor(1, 1)], logger=csv_logger, max_epochs=1)
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"step", "train/loss/code", "twins/distance", "mixture/entropy"} <= set(header)


def test_logs_every_n_episodes(tmp_path):
    recorder = Recorder()
    run(tmp_path, [recorder, tandem(), MixtureMonitor(log_every_n_episodes=2)])
    events = read(tmp_path)
    assert steps(events, "train/loss/code") == [12, 18]
    two = [recorder.losses(e, {"train", "probe"}, "losses", 0) for e in (0, 1)]
    assert values(events, "train/loss/code")[0] == pytest.approx(np.mean(two[0] + two[1]), rel=1e-6)


@pytest.mark.parametrize("fixed", [False, True])
def test_without_measuring_logs_every_n_steps(tmp_path, fixed):
    recorder = Recorder()
    callbacks = [recorder, MixtureMonitor()] + [FixedMixture(episode_steps=40)] * fixed
    module = MixtureModule(QuadraticNetwork(WIDTH), half_squared_distance, sgd)
    data = make_data(epoch_batches=40, weights="proportional")
    run(tmp_path, callbacks, module, data, log_every_n_steps=4, max_steps=10, max_epochs=-1)
    events = read(tmp_path)
    for name in DOMAINS:
        assert steps(events, f"train/loss/{name}") == [4, 8, 10]
    last = [row[-1] for row in recorder.rows][8 * 8 :]
    assert values(events, "train/loss")[-1] == pytest.approx(np.mean(last), rel=1e-6)
    tags = set(events.Tags()["scalars"])
    assert ("mixture/entropy" in tags) == fixed
    assert not any(tag.startswith(("hypergradient", "twins", "measured")) for tag in tags)
    titles = [category.title for category in layout_of(events).category]
    assert titles == ["mixture"] * fixed + ["loss by domain", "mean loss", "data"]


def test_stop_and_resume_inside_an_episode(tmp_path):
    recorder = Recorder()
    first = run(tmp_path / "a", [recorder, tandem(), MixtureMonitor()], max_steps=8, max_epochs=-1)
    first.save_checkpoint(tmp_path / "middle.ckpt")
    events = read(tmp_path / "a")
    assert steps(events, "train/loss/code") == [6, 8]
    assert steps(events, "twins/distance") == [6]  # none from before the sync
    assert steps(events, "hypergradient_band/code/lower") == [6]
    callbacks, middle = [tandem(), MixtureMonitor()], tmp_path / "middle.ckpt"
    run(tmp_path / "b", callbacks, ckpt_path=middle, max_steps=18, max_epochs=-1)
    assert steps(read(tmp_path / "b"), "train/loss/code") == [12, 18]


def test_refuses_what_it_cannot_use(tmp_path):
    with pytest.raises(InputError, match="log_every_n_episodes=0"):
        MixtureMonitor(log_every_n_episodes=0)
    with pytest.raises(InputError, match="figure_every_n_episodes=-1"):
        MixtureMonitor(figure_every_n_episodes=-1)
    module = MixtureModule(QuadraticNetwork(WIDTH), half_squared_distance, sgd)
    trainer = quiet_trainer(tmp_path, callbacks=[MixtureMonitor()], max_epochs=1)
    with pytest.raises(InputError, match="MixtureDataModule"):
        trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(4, 1)))
