"""`target` as a setting of weights: the target's shares of the training domains."""

import re

import numpy as np
import pytest
from helpers import quiet_trainer
from toy import samples, toy_data, toy_module

from tandem_pl import InputError
from tandem_pl.callbacks import ADOReweighting, DynamixReweighting, FixedMixture, RAndBReweighting
from tandem_pl.callbacks.anchor import Anchor
from tandem_pl.data_weights import resolve_data_weights
from tandem_pl.mixture import Mixture, resolve_weights

CLUSTERED = {"one": {"twin": 0.5, "other": 0.25, "noise": 0.25}, "two": {"noise": 1.0}}


def data_for(*targets, **options):
    """Return the toy's data with these target domains."""
    data = toy_data(**options)
    data.target_sets = {name: samples("t", 40, 7) for name in targets}
    return data


def shares(data, spec="target", **options):
    return list(resolve_data_weights(spec, data, **options).weights.values())


def test_targets_count_for_the_training_domains_of_their_names() -> None:
    assert shares(data_for("noise", "twin")) == [0.5, 0, 0.5]
    weighted = data_for("noise", "twin", target_weights={"noise": 1, "twin": 3})
    assert shares(weighted) == [0.75, 0, 0.25]


def test_targets_count_for_the_clusters_that_they_lie_in() -> None:
    """A name that is a training domain's too does not matter then."""
    weights = {"one": 3, "two": 1}
    data = data_for("one", "two", clusters=CLUSTERED, target_weights=weights)
    assert shares(data) == [0.375, 0.1875, 0.4375]
    both = data_for("twin", clusters={"twin": {"other": 1.0}})
    assert shares(both) == [0, 1, 0]


def test_clusters_outside_the_training_domains_are_left_out() -> None:
    data = data_for("one", clusters={"one": {"twin": 0.4, "other": 0.2, "elsewhere": 0.4}})
    np.testing.assert_allclose(shares(data), [2 / 3, 1 / 3, 0])


def test_a_target_without_a_share_may_lie_anywhere() -> None:
    data = data_for("unknown", "twin", target_weights={"twin": 1})
    assert shares(data) == [1, 0, 0]


def test_passes_over_domains_can_be_limited_from_there() -> None:
    """120 samples of a domain: 2 passes are 240 of 480 samples."""
    data = data_for("one", clusters={"one": {"twin": 0.75, "other": 0.25}})
    expected = [0.5, 0.5, 0]
    assert shares(data, "epoch_capped:2:480:target") == expected
    for spec in ("epoch_capped:2::target", "epoch_capped:2:target"):
        assert shares(data, spec, budget=480) == expected
    with pytest.raises(InputError, match=r"240 samples, each .* or give weight to more domains\.$"):
        shares(data, "epoch_capped:1:target", budget=481)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (toy_data(target=False), "weights='target' needs target data, and there are none."),
        (
            data_for("unknown", "twin"),
            "weights='target' needs every target domain to have the name of a training domain, or "
            "training domains that are clusters, and 'unknown' has neither: rename it, set "
            "cluster, or give the shares as a map.",
        ),
        (data_for("one", clusters={"one": {"elsewhere": 1.0}}), "and 'one' has neither"),
    ],
)
def test_a_target_that_lies_nowhere_is_named(data, message) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        shares(data)


@pytest.mark.parametrize("spec", ["target", "epoch_capped:2:480:target"])
def test_it_is_refused_where_no_data_are_known(spec) -> None:
    with pytest.raises(InputError, match="='target' is not known here"):
        resolve_weights(spec, {"a": 1000, "b": 2000})
    with pytest.raises(InputError, match=r"^target_weights='target' is not known here"):
        data_for("twin", target_weights="target").setup("fit")


def test_other_settings_mean_what_they_mean_without_data() -> None:
    data = toy_data()
    for spec in (None, "temperature:2", {"twin": 1, "other": 2, "noise": 1}):
        assert resolve_data_weights(spec, data) == resolve_weights(spec, data.domain_sizes())


SETTINGS = {
    "data": lambda: (FixedMixture(episode_steps=4), {"weights": "target"}),
    "fixed": lambda: (FixedMixture("target", episode_steps=4), {}),
    "schedule": lambda: (
        FixedMixture(schedule=[{"step": 0, "weights": "target"}], episode_steps=4),
        {},
    ),
    "ado": lambda: (ADOReweighting(prior="target", period=4), {}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_a_run_knows_it(name, tmp_path) -> None:
    method, options = SETTINGS[name]()
    data = data_for("one", clusters=CLUSTERED, **options)
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_steps=4)
    trainer.fit(toy_module(), datamodule=data)
    assert method.trajectory[0].tolist() == [0.5, 0.25, 0.25]
    mixture = Mixture.load(tmp_path / "mixture.yaml")
    assert mixture.weights == {"twin": 0.5, "other": 0.25, "noise": 0.25}


def test_priors_that_are_not_weights_know_it(tmp_path) -> None:
    data = data_for("one", clusters=CLUSTERED)
    methods = [
        RAndBReweighting(period=4, shares="target"),
        DynamixReweighting(period=4, prior="target", measure_batches=1),
    ]
    for method in methods:
        trainer = quiet_trainer(tmp_path, callbacks=[method], max_steps=4)
        trainer.fit(toy_module(), datamodule=data)
    anchor = Anchor({"share": 1.0, "prior": "target"})
    anchor.prepare(data)
    expected = [0.5, 0.25, 0.25]
    assert methods[0]._p.tolist() == methods[1]._prior.tolist() == expected
    assert anchor(np.full(3, 1 / 3), 0.0).tolist() == expected
