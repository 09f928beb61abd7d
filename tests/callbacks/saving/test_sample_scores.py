"""Scores of samples: the twins' losses one by one, the file, the filter, fit and predict."""

import csv

import numpy as np
import pytest
import torch
from helpers import quiet_trainer
from torch.nn.functional import cross_entropy
from toy import DOMAINS, samples, toy_data, toy_module, toy_network

from tandem_pl.callbacks import SampleScores, TandemReweighting
from tandem_pl.callbacks.saving.sample_scores import best_samples, color_scores, read_scores
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.errors import InputError


def loss_of(network, pair) -> float:
    inputs, label = pair
    return cross_entropy(network(inputs[None]), label[None]).item()


def by_hand(module, data) -> dict[str, list[float]]:
    with torch.no_grad():
        return {
            name: [loss_of(module.network, s) - loss_of(module.reference, s) for s in rows]
            for name, rows in data.train_sets.items()
        }


def twins():
    """A proxy and a reference that differ."""
    module = toy_module("TandemModule")
    module.reference.load_state_dict(toy_network(seed=3).state_dict())
    return module


def uneven() -> MixtureDataModule:
    sizes = {"a": 5, "b": 1, "c": 8}
    train = {name: samples("twin", size, size) for name, size in sizes.items()}
    return MixtureDataModule(train, batch_size=4)


def check(scores, expected) -> None:
    assert list(scores) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values, atol=1e-12)


def test_scores_are_differences_of_losses() -> None:
    module, data = twins(), uneven()
    module.train()
    check(color_scores(module, data), by_hand(module, data))
    assert module.network.training  # as before


def test_ranks_score_their_parts(monkeypatch) -> None:
    module, data = twins(), uneven()
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(data, "ranks", lambda rank=rank: (rank, 3))
        parts.append(color_scores(module, data))
    whole = {name: sum(part[name] for part in parts) for name in parts[0]}
    check(whole, by_hand(module, data))
    assert all((part["c"] == 0).any() for part in parts)


def test_fit_writes_them_from_the_best_down(tmp_path) -> None:
    module, data, scores = toy_module("TandemModule"), toy_data(), SampleScores()
    callbacks = [TandemReweighting(2, 3, 1), scores]
    trainer = quiet_trainer(tmp_path, max_epochs=3, callbacks=callbacks)
    trainer.fit(module, datamodule=data)
    got = read_scores(tmp_path / "sample_scores.csv")
    check(got, by_hand(module, data))
    assert tuple(got) == DOMAINS
    assert np.ptp(got["twin"]) > 0
    header, *rows = list(csv.reader((tmp_path / "sample_scores.csv").open()))
    assert header == ["domain", "index", "score"]
    for name in DOMAINS:
        column = [float(score) for domain, _, score in rows if domain == name]
        assert column == sorted(column, reverse=True)


def test_predict_scores_a_checkpoint(tmp_path) -> None:
    module, data = twins(), toy_data(test={"t": samples("t", 4, 9)})
    callback = SampleScores(str(tmp_path / "here.csv"))
    trainer = quiet_trainer(tmp_path, callbacks=[callback])
    trainer.predict(module, datamodule=data)
    check(read_scores(tmp_path / "here.csv"), by_hand(module, data))


def test_a_run_that_ends_in_free_steps_warns(tmp_path) -> None:
    callbacks = [TandemReweighting(4, 2, 1), SampleScores()]
    trainer = quiet_trainer(tmp_path, max_steps=9, max_epochs=-1, callbacks=callbacks)
    with pytest.warns(UserWarning, match="ended in free steps"):
        trainer.fit(toy_module("TandemModule"), datamodule=toy_data())


def test_a_module_without_twins_is_refused() -> None:
    with pytest.raises(InputError, match="which MixtureModule does not have: use a TandemModule"):
        color_scores(toy_module(), uneven())
    with pytest.raises(InputError, match="train has no sample to score"):
        color_scores(twins(), MixtureDataModule())


def test_the_filter_keeps_the_best() -> None:
    data = {"a": [10, 11, 12, 13, 14], "b": [20]}
    scores = {"a": np.array([0.5, -1, 2, 0.5, 0]), "b": np.array([-3.0])}
    hundred = best_samples({"a": range(100)}, {"a": np.arange(100.0)}, 0.07)
    assert len(hundred["a"]) == 7  # though 0.07 * 100 is a little more in floating point
    kept = best_samples(data, scores, 0.5)
    assert {name: list(rows) for name, rows in kept.items()} == {"a": [12, 10, 13], "b": [20]}
    assert sorted(best_samples(data, scores, 1.0)["a"]) == data["a"]
    with pytest.raises(InputError, match=r"share=0 must be above 0"):
        best_samples(data, scores, 0)
    with pytest.raises(InputError, match="the scores have 5 samples of 'a' and the data has 4"):
        best_samples({"a": [1, 2, 3, 4]}, scores, 0.5)


def test_the_filter_of_all_samples_is_the_authors() -> None:
    """The largest k of all scores, in whatever domain they are."""
    generator = np.random.default_rng(0)
    scores = {name: generator.normal(mean, 1, 40) for name, mean in (("a", 0), ("b", 1), ("c", -9))}
    data = {name: range(100 * m, 100 * m + 40) for m, name in enumerate(scores)}
    kept = best_samples(data, scores, 0.25, per="all")
    every = np.concatenate(list(scores.values()))
    rows = np.concatenate([list(samples) for samples in data.values()])
    chosen = rows[np.argsort(every)[-30:]].tolist()
    assert sorted(row for subset in kept.values() for row in subset) == sorted(chosen)
    assert list(kept) == ["a", "b"]  # no sample of c is good enough
    for name, subset in kept.items():
        values = scores[name][subset.indices]
        assert (np.diff(values) < 0).all()
        assert len(values) == (scores[name] >= np.sort(every)[-30]).sum()
    assert len(kept["a"]) < 10 < len(kept["b"])
    whole = best_samples(data, scores, 1.0, per="all")
    assert {name: sorted(rows) for name, rows in whole.items()} == {
        name: list(rows) for name, rows in data.items()
    }
    by_domain = best_samples(data, scores, 0.25)
    assert [len(subset) for subset in by_domain.values()] == [10, 10, 10]
    with pytest.raises(InputError, match="per='global' must be one of 'domain', 'all'"):
        best_samples(data, scores, 0.25, per="global")


@pytest.mark.parametrize("text", ["", "domain,score\n", "domain,index,score\na,1,0.5\n", "a,b,c\n"])
def test_other_files_are_refused(text, tmp_path) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(InputError, match=r"s\.csv does not hold the scores"):
        read_scores(tmp_path / "s.csv")
    with pytest.raises(InputError, match=r"absent\.csv does not hold"):
        read_scores(tmp_path / "absent.csv")
