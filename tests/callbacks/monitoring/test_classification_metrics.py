"""Metrics of a classifier against torchmetrics, and over two ranks that run this file."""

import csv
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from classification_oracle import NAMES, expected
from helpers import quiet_trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from ranks import keep_result, run_program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import Dataset
from torchmetrics.functional import classification as oracle

from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.callbacks import ClassificationMetrics, EvaluationTable, TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.objectives import Classification

CLASSES = 7


class Images(Dataset):
    """Noise around a pattern for each class."""

    def __init__(self, size, seed, dtype=torch.float32, classes=CLASSES):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, classes, (size,), generator=generator)
        patterns = torch.randn(classes, 3, 4, 4, generator=torch.Generator().manual_seed(99))
        noise = torch.randn(size, 3, 4, 4, generator=generator)
        self.images = (noise + 0.3 * patterns[self.labels]).to(dtype)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": int(self.labels[index])}


class Counting(nn.Module):
    """A classifier that counts its calls, and can return logits as transformers do."""

    def __init__(self, classes=CLASSES, wrap=False):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, classes))
        self.calls, self.wrap = 0, wrap

    def forward(self, images):
        self.calls += 1
        logits = self.layers(images)
        return SimpleNamespace(logits=logits) if self.wrap else logits


class Plain(nn.Module):
    """The same classifier without a count, which would cause a recompilation at each call."""

    def __init__(self):
        super().__init__()
        self.layers = network_of().layers

    def forward(self, images):
        return self.layers(images)


class LogitsOf(Classification):
    def __call__(self, network, samples):
        return super().__call__(lambda images: network(images).logits, samples)


def network_of(classes=CLASSES, wrap=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Counting(classes, wrap)


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1)


def module_of(kind=MixtureModule, network=None, **options):
    return kind(network or network_of(), Classification(), sgd, **options)


def data_of(sizes=(13, 8, 1), dtype=torch.float32, **options):
    def sets(seed):
        return {
            name: Images(size, seed + m, dtype)
            for m, (name, size) in enumerate(zip(("a", "b/c", "d (x)"), sizes, strict=True))
        }

    options = {"batch_size": 6, "validate_target": True, **options}
    return MixtureDataModule(sets(0), sets(10), sets(20), **options)


def check(metrics, stage, network, sets, suffix=""):
    """Check that every metric equals torchmetrics', by domain and as the mean over domains."""
    by_domain = {}
    for name, data in sets.items():
        with torch.no_grad():
            by_domain[name] = expected(network(data.images), data.labels)
    for metric in NAMES:
        for name, values in by_domain.items():
            found = float(metrics[f"{stage}/{metric}{suffix}/{name}"])
            assert found == pytest.approx(values[metric], abs=1e-6)
        mean = np.mean([values[metric] for values in by_domain.values()])
        assert float(metrics[f"{stage}/{metric}{suffix}"]) == pytest.approx(mean, abs=1e-6)


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


# ---- fit ----


class Watch(Callback):
    """Check the metrics at each validation; must come before the checkpoint callback."""

    def __init__(self):
        self.accuracies = []

    def on_validation_end(self, trainer, pl_module):
        if trainer.sanity_checking:
            return
        metrics, sets = trainer.callback_metrics, trainer.datamodule.target_sets
        check(metrics, "validation", pl_module.network.layers, sets)
        check(metrics, "validation", pl_module.reference.layers, sets, "_reference")
        assert not pl_module.network._forward_hooks
        assert not pl_module.reference._forward_hooks
        self.accuracies.append(float(metrics["validation/accuracy"]))


def test_fit_logs_both_twins_and_checkpoints_use_them(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="", default_hp_metric=False)
    watch = Watch()
    best = ModelCheckpoint(tmp_path, monitor="validation/accuracy", mode="max")
    metrics = ClassificationMetrics(confusion_every_n_validations=3)
    trainer = quiet_trainer(
        tmp_path,
        callbacks=[TandemReweighting(1, 1, 1), metrics, watch, best],
        logger=logger,
        max_epochs=5,
        limit_val_batches=1.0,
        num_sanity_val_steps=2,
        enable_checkpointing=True,
    )
    module, data = module_of(TandemModule), data_of()
    trainer.fit(module, data)
    assert len(watch.accuracies) == 5
    assert len(set(watch.accuracies)) > 1
    assert float(best.best_model_score) == max(watch.accuracies)
    events = EventAccumulator(str(tmp_path)).Reload()
    scalars = events.Scalars("validation/accuracy")
    assert [scalar.value for scalar in scalars] == watch.accuracies
    assert [scalar.step for scalar in scalars] == [2, 4, 6, 8, 10]
    assert {f"validation/{name}_reference/d [x]" for name in NAMES} <= set(events.Tags()["scalars"])
    assert [image.step for image in events.Images("validation/confusion")] == [2, 8, 10]


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


def failing_backend(graph, inputs):
    raise RuntimeError("no compiler")


def fit_compiled(folder, backend, *callbacks):
    torch._dynamo.reset()
    module = module_of(TandemModule, Plain(), compile={"backend": backend})
    trainer = quiet_trainer(
        folder,
        callbacks=[TandemReweighting(1, 1, 1), *callbacks],
        max_epochs=3,
        limit_val_batches=1.0,
        inference_mode=False,  # so that validation and measuring share compiled code
    )
    trainer.fit(module, data_of())
    return module


def test_compiled_networks_have_the_metrics_without_recompilation(tmp_path):
    graphs = {}
    for name, callbacks in (("plain", ()), ("watched", (ClassificationMetrics(), Watch()))):
        graphs[name] = 0

        def counting(graph, inputs, name=name):
            graphs[name] += 1
            return graph.forward

        module = fit_compiled(tmp_path, counting, *callbacks)
        for network in module.networks():
            assert not network._forward_hooks
    assert len(callbacks[1].accuracies) == 3
    assert graphs["watched"] == graphs["plain"] > 0


def test_a_compiler_that_fails_in_validation_loses_no_sample(tmp_path):
    torch._dynamo.reset()
    module = module_of(TandemModule, compile={"backend": failing_backend})
    watch = Watch()
    trainer = quiet_trainer(
        tmp_path,
        callbacks=[TandemReweighting(1, 1, 1), ClassificationMetrics(), watch],
        max_epochs=1,
        limit_val_batches=1.0,
    )

    class Early(Callback):  # nothing is compiled before the first validation
        def on_validation_start(self, trainer, pl_module):
            for network in pl_module.networks():
                network.compile(backend=failing_backend)

    trainer.callbacks.insert(0, Early())
    with pytest.warns(UserWarning, match="continues without"):
        trainer.fit(module, data_of())
    assert len(watch.accuracies) == 1


def test_an_objective_that_calls_a_part_of_the_network_costs_a_forward(tmp_path):
    class Part(Classification):
        def __call__(self, network, samples):
            return super().__call__(network.layers, samples)

    network, data = network_of(), data_of()
    trainer = quiet_trainer(tmp_path, callbacks=[ClassificationMetrics()])
    trainer.test(MixtureModule(network, Part(), sgd), data, verbose=False)
    assert network.calls == len(data.test_dataloader())
    check(trainer.callback_metrics, "test", network.layers, data.test_sets)


def test_many_domains_have_few_curves(tmp_path):
    sets = {f"d{m}": Images(2 + m % 3, m) for m in range(35)}
    data = MixtureDataModule(sets, sets, sets, batch_size=16, validate_target=True, epoch_batches=1)
    logger = TensorBoardLogger(tmp_path, name="", version="", default_hp_metric=False)
    trainer = quiet_trainer(
        tmp_path,
        callbacks=[ClassificationMetrics()],
        logger=logger,
        max_epochs=1,
        limit_val_batches=1.0,
    )
    module = module_of()
    trainer.fit(module, data)
    kept = [key for key in trainer.callback_metrics if key.startswith("validation/accuracy/")]
    assert len(kept) == 30
    trainer.test(module, data, verbose=False)
    kept = [key for key in trainer.callback_metrics if key.startswith("test/accuracy/")]
    assert len(kept) == 35
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
    for stage in ("validation", "test"):
        assert sum(tag.startswith(f"{stage}/macro_f1/") for tag in tags) == 30
    small = {f"test/accuracy/d{m}" for m in range(0, 35, 3)}  # those with the fewest samples
    assert len(small - set(tags)) == 5


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
