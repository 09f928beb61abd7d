"""Which domains have curves, and the tags of these."""

import numpy as np
import torch
from helpers import Rows, predict_last, quiet_trainer, small_network
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tandem_pl import Mixture, TandemModule
from tandem_pl.callbacks import MixtureMonitor, TandemReweighting
from tandem_pl.curves import MOST_CURVES, domain_tags, with_curves
from tandem_pl.datamodules import MixtureDataModule


@given(st.integers(0, 10**6), st.integers(31, 60))
@settings(max_examples=50, deadline=None)
def test_curves_are_of_the_largest_and_stay_where_they_can(seed, size):
    generator = np.random.default_rng(seed)
    before = with_curves(generator.dirichlet(np.full(size, 0.3)))
    weights = generator.dirichlet(np.full(size, 0.3))
    now = with_curves(weights, before)
    assert len(now) == len(set(now.tolist())) == MOST_CURVES
    outside = np.setdiff1d(np.arange(size), now)
    assert weights[outside].max() <= 2 * weights[now].min()
    lost, new = np.setdiff1d(before, now), np.setdiff1d(now, before)
    assert len(lost) == len(new)
    if len(lost):
        assert weights[new].min() > 2 * weights[lost].min()
    assert with_curves(weights, now).tolist() == now.tolist()  # so that a resume keeps them
    fresh = with_curves(weights)
    assert weights[fresh].min() >= np.delete(weights, fresh).max()


def test_few_domains_all_have_curves():
    assert with_curves(np.zeros(MOST_CURVES)).tolist() == list(range(MOST_CURVES))


@given(st.lists(st.text(st.sampled_from("ab ()[]\n/é"), min_size=1), unique=True, max_size=12))
def test_tags_are_unique_and_leave_ordinary_names_alone(names):
    tags = domain_tags(names)
    assert len(set(tags)) == len(names)
    for name, tag in zip(names, tags, strict=True):
        assert not set("()\n") & set(tag)
        if not set("()\n") & set(name):
            assert tag == name


def test_parentheses_become_brackets_in_every_tag_and_nowhere_else(tmp_path):
    rows = {name: Rows(torch.randn(8, 4).double()) for name in ("web (2024)", "code")}
    method = TandemReweighting(1, 1, 1)
    module = TandemModule(small_network(4), predict_last, lambda p: torch.optim.SGD(p, 0.05))
    logger = TensorBoardLogger(tmp_path, name="", version="", default_hp_metric=False)
    callbacks = [method, MixtureMonitor()]
    trainer = quiet_trainer(
        tmp_path, callbacks=callbacks, max_epochs=2, logger=logger, limit_val_batches=1.0
    )
    target = {"t (x)": rows["code"]}
    trainer.fit(module, MixtureDataModule(rows, target, batch_size=4, validate_target=True))
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
    assert not [tag for tag in tags if "(" in tag]
    families = {tag.removesuffix("/web [2024]") for tag in tags if tag.endswith("/web [2024]")}
    assert {"mixture/weight", "train/loss", "hypergradient", "seen/epochs"} <= families
    assert {"target/loss/t [x]", "validation/loss/t [x]"} <= set(tags)
    assert "hypergradient_band/web [2024]/lower" in tags
    assert list(Mixture.load(tmp_path / "mixture.yaml").domains) == ["web (2024)", "code"]
