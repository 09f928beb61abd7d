"""Validation, test and prediction by domain."""

import copy
import math

import pytest
import torch
from helpers import Rows, predict_last, quiet_trainer, random_rows, small_network
from lightning.pytorch import Callback
from module_helpers import (
    WIDTH,
    adamw,
    batch_norm_network,
    fit,
    make_data,
    make_reweighting,
    poisoned,
    sgd,
    with_marker,
)

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.callbacks import EvaluationTable


def mean_losses(network, sets) -> dict[str, float]:
    network = copy.deepcopy(network).eval()
    return {
        name: predict_last(network, torch.stack([rows[i] for i in range(len(rows))])).mean().item()
        for name, rows in sets.items()
    }


def expected_metrics(stage, losses, label="loss", perplexity=None) -> dict[str, float]:
    values = list(losses.values())
    metrics = {f"{stage}/{label}/{name}": value for name, value in losses.items()}
    metrics[f"{stage}/{label}"] = math.fsum(values) / len(values)  # of domains, not of samples
    if perplexity:
        exps = [math.exp(value) for value in values]
        metrics[f"{stage}/{perplexity}"] = math.fsum(exps) / len(values)
    return metrics


class OfTokens:
    """An objective whose losses are means over tokens."""

    of_tokens = True

    def __call__(self, network, samples):
        return predict_last(network, samples)


def uneven_sets() -> dict[str, Rows]:
    return {"t": random_rows(9, WIDTH, 5), "v": random_rows(3, WIDTH, 6)}


@pytest.mark.parametrize(
    ("objective", "perplexity"), [(predict_last, None), (OfTokens(), "perplexity")]
)
def test_metrics_of_a_test_are_means_by_domain(tmp_path, objective, perplexity) -> None:
    module, sets = MixtureModule(batch_norm_network(), objective, sgd), uneven_sets()
    trainer = quiet_trainer(tmp_path)
    trainer.test(module, datamodule=make_data(test=sets), verbose=False)
    got = {key: value.item() for key, value in trainer.callback_metrics.items()}
    losses = mean_losses(module.network, sets)
    expected = expected_metrics("test", losses, perplexity=perplexity)
    assert got == pytest.approx(expected, rel=1e-6)


def test_metrics_of_a_validation_show_both_twins(tmp_path) -> None:
    module, sets = TandemModule(small_network(WIDTH), OfTokens(), sgd), uneven_sets()
    data = make_data(target=sets)
    trainer = fit(tmp_path, module, data, make_reweighting(), max_epochs=2, limit_val_batches=1.0)
    got = {key: value.item() for key, value in trainer.callback_metrics.items()}
    losses = mean_losses(module.network, sets)
    expected = expected_metrics("validation", losses, perplexity="perplexity")
    expected |= expected_metrics(
        "validation", mean_losses(module.reference, sets), "loss_reference", "perplexity_reference"
    )
    assert got == pytest.approx(expected, rel=1e-6)


def test_validating_does_not_change_the_training(tmp_path) -> None:
    ends = []
    for limit in (0, 1.0):
        module = TandemModule(batch_norm_network(), predict_last, adamw)
        options = {"max_epochs": 2, "limit_val_batches": limit}
        fit(tmp_path, module, make_data(), make_reweighting(), **options)
        ends.append(torch.cat([v.flatten().double() for v in module.state_dict().values()]))
    assert torch.equal(*ends)


def test_predictions_are_losses_with_their_domain(tmp_path) -> None:
    module, sets = MixtureModule(small_network(WIDTH), predict_last, sgd), uneven_sets()
    data = make_data(test=sets)
    data.setup("fit")
    parts = quiet_trainer(tmp_path).predict(module, dataloaders=data.test_dataloader())
    losses = torch.cat([part["losses"] for part in parts])
    domains = torch.cat([part["domains"] for part in parts])
    assert domains.tolist() == 9 * [0] + 3 * [1]
    expected = torch.cat([predict_last(module.network, rows.rows) for rows in sets.values()])
    assert torch.allclose(losses, expected)


def test_fit_validates_on_the_target_only_when_asked(tmp_path) -> None:
    class Count(Callback):
        batches = 0

        def on_validation_batch_end(self, *args) -> None:
            self.batches += 1

    for asked in (False, True):
        data = make_data(validate_target=asked, epoch_batches=1)
        count = Count()
        module = MixtureModule(small_network(WIDTH), predict_last, sgd)
        trainer = quiet_trainer(tmp_path, callbacks=[count], max_epochs=1, limit_val_batches=1.0)
        trainer.fit(module, datamodule=data)
        assert (count.batches > 0) is asked
        trainer.validate(module, datamodule=data, verbose=False)
        assert count.batches > 0


def test_a_domain_whose_loss_is_not_finite_is_listed_as_such(tmp_path) -> None:
    sets = {"fine": random_rows(5, WIDTH, 5), "bad": with_marker(random_rows(5, WIDTH, 6), 2)}
    trainer = quiet_trainer(tmp_path, callbacks=[EvaluationTable()])
    module = MixtureModule(small_network(WIDTH), poisoned, sgd)
    trainer.test(module, datamodule=make_data(test=sets), verbose=False)
    rows = dict(line.split(",", 1) for line in (tmp_path / "test.csv").read_text().splitlines())
    assert rows["bad"] == "nan,5"
    assert rows["mean"] == "nan,"
    assert math.isfinite(float(rows["fine"].split(",")[0]))
