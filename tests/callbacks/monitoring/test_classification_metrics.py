"""Metrics of a classifier against torchmetrics, and over two ranks that run this file."""

import csv
import io
import sys
from pathlib import Path

import pytest
import torch
from classification_oracle import NAMES
from classifiers import CLASSES, check, data_of, module_of, network_of, sgd
from helpers import quiet_trainer
from ranks import keep_result, run_program
from torch import nn
from torchmetrics.functional import classification as oracle

from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.callbacks import ClassificationMetrics, EvaluationTable, TandemReweighting
from tandem_pl.objectives import Classification


class LogitsOf(Classification):
    def __call__(self, network, samples):
        return super().__call__(lambda images: network(images).logits, samples)


# ---- test and validate ----


@pytest.mark.parametrize("wrap", [False, True])
def test_test_has_metrics_columns_and_a_confusion_matrix(tmp_path, capsys, wrap):
    network = network_of(wrap=wrap)
    module = MixtureModule(network, (LogitsOf if wrap else Classification)(), sgd)
    data = data_of()
    data.classes = [f"class, {number}" for number in range(CLASSES)]
    trainer = quiet_trainer(tmp_path, callbacks=[ClassificationMetrics(), EvaluationTable()])
    trainer.test(module, data, verbose=False)
    batches = network.calls
    assert batches == len(data.test_dataloader())  # no additional forward
    assert not network._forward_hooks
    check(trainer.callback_metrics, "test", network.layers, data.test_sets)
    everything = [data.test_sets[name] for name in data.test_sets]
    logits = torch.cat([network.layers(one.images) for one in everything])
    labels = torch.cat([one.labels for one in everything])
    counts = oracle.multiclass_confusion_matrix(logits, labels, num_classes=CLASSES)
    header, *rows = csv.reader(io.StringIO((tmp_path / "confusion.csv").read_text()))
    assert header == ["label", *data.classes]
    assert [row[0] for row in rows] == data.classes
    assert [[int(cell) for cell in row[1:]] for row in rows] == counts.tolist()
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    header, *rows = csv.reader(io.StringIO((tmp_path / "test.csv").read_text()))
    assert header == ["domain", "loss", *NAMES, "samples"]
    for row in rows[:3]:
        tags = [f"test/{metric}/{row[0]}" for metric in NAMES]
        values = [float(trainer.callback_metrics[tag]) for tag in tags]
        assert [float(cell) for cell in row[2:-1]] == pytest.approx(values, rel=1e-6)
    printed = capsys.readouterr().out
    assert "calibration_error" in printed
    assert "of 22 samples" in printed


def test_validate_has_the_metrics_and_no_confusion_file(tmp_path):
    module, data = module_of(), data_of()
    trainer = quiet_trainer(tmp_path, callbacks=[ClassificationMetrics()], limit_val_batches=1.0)
    trainer.validate(module, data, verbose=False)
    check(trainer.callback_metrics, "validation", module.network.layers, data.target_sets)
    assert not list(tmp_path.iterdir())


def test_half_precision_becomes_float32(tmp_path):
    module, data = module_of(), data_of()
    trainer = quiet_trainer(tmp_path, callbacks=[ClassificationMetrics()], precision="bf16-mixed")
    trainer.test(module, data, verbose=False)

    def network(images):
        with torch.autocast("cpu", torch.bfloat16):
            logits = module.network.layers(images)
        assert logits.dtype == torch.bfloat16
        return logits.float()

    check(trainer.callback_metrics, "test", network, data.test_sets)


def test_an_objective_that_calls_a_part_of_the_network_costs_a_forward(tmp_path):
    class Part(Classification):
        def __call__(self, network, samples):
            return super().__call__(network.layers, samples)

    network, data = network_of(), data_of()
    trainer = quiet_trainer(tmp_path, callbacks=[ClassificationMetrics()])
    trainer.test(MixtureModule(network, Part(), sgd), data, verbose=False)
    assert network.calls == len(data.test_dataloader())
    check(trainer.callback_metrics, "test", network.layers, data.test_sets)


def test_an_exception_removes_the_hooks(tmp_path):
    class Failing(Classification):
        calls = 0

        def __call__(self, network, samples):
            losses = super().__call__(network, samples)
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("in the middle")
            return losses

    module = MixtureModule(network_of(), Failing(), sgd)
    callback = ClassificationMetrics()
    with pytest.raises(RuntimeError, match="in the middle"):
        quiet_trainer(tmp_path, callbacks=[callback]).test(module, data_of(), verbose=False)
    assert not module.network._forward_hooks
    module.objective = Classification()
    trainer = quiet_trainer(tmp_path, callbacks=[callback])
    trainer.test(module, data_of(), verbose=False)
    check(trainer.callback_metrics, "test", module.network.layers, data_of().test_sets)


# ---- errors ----


def test_labels_out_of_range_are_refused(tmp_path):
    class Blind(Classification):  # a loss that ignores the label
        def __call__(self, network, samples):
            return network(samples["image"]).square().sum(dim=1)

    data = data_of()
    data.test_sets["b/c"].labels[3] = CLASSES
    module = MixtureModule(network_of(), Blind(), sgd)
    trainer = quiet_trainer(tmp_path, callbacks=[ClassificationMetrics()])
    with pytest.raises(InputError, match=r"'b/c' has label 7, .* 0 to 6"):
        trainer.test(module, data, verbose=False)


def test_negative_labels_are_left_out(tmp_path):
    data, module = data_of(), module_of()
    for one in data.test_sets.values():  # one sample with a negative label for each sample
        one.labels = torch.cat([one.labels, torch.full_like(one.labels, -100)])
        one.images = torch.cat([one.images, one.images])
    trainer = quiet_trainer(tmp_path, callbacks=[ClassificationMetrics()])
    trainer.test(module, data, verbose=False)
    check(trainer.callback_metrics, "test", module.network.layers, data_of().test_sets)


def test_other_networks_are_refused(tmp_path):
    class Scores(Classification):
        def __call__(self, network, samples):
            return network(samples["image"]).flatten(1).sum(dim=1)

    module = MixtureModule(nn.Conv2d(3, 2, 1), Scores(), sgd)
    with pytest.raises(InputError, match=r"logits \[6, classes\], .*\(6, 2, 4, 4\)"):
        quiet_trainer(tmp_path, callbacks=[ClassificationMetrics()]).test(
            module, data_of(), verbose=False
        )
    assert not module.network._forward_hooks
    with pytest.raises(InputError, match="at least 1"):
        ClassificationMetrics(0)


# ---- several ranks ----


def evaluate(folder, devices):
    data = data_of(dtype=torch.float64)
    module = module_of(TandemModule).double()
    options = {"devices": devices, "strategy": "ddp"} if devices > 1 else {}
    trainer = quiet_trainer(
        folder,
        callbacks=[TandemReweighting(1, 1, 1), ClassificationMetrics()],
        max_epochs=2,
        limit_val_batches=1.0,
        use_distributed_sampler=False,
        precision="64-true",
        **options,
    )
    trainer.fit(module, data)
    found = dict(trainer.callback_metrics)
    trainer.test(module, data, verbose=False)
    found |= trainer.callback_metrics
    confusion = (Path(folder) / "confusion.csv").read_text() if trainer.is_global_zero else ""
    found = {key: float(v) for key, v in found.items() if any(name in key for name in NAMES)}
    return {"metrics": found, "confusion": confusion}


def test_two_ranks_equal_one_process(tmp_path):
    (tmp_path / "one").mkdir()
    alone = evaluate(tmp_path / "one", 1)
    both = run_program(__file__, tmp_path)
    assert len(alone["metrics"]) == 3 * 4 * 4  # proxy, reference, test; 3 domains and their mean
    assert both[0] == alone
    assert both[1]["metrics"] == alone["metrics"]


if __name__ == "__main__":
    keep_result(sys.argv[1], evaluate(sys.argv[1], 2))
