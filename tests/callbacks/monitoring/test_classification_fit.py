"""Metrics of both twins of a classifier in training, compiled or not."""

import pytest
import torch
from classification_oracle import NAMES
from classifiers import Images, check, data_of, module_of, network_of
from helpers import quiet_trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from tandem_pl import TandemModule
from tandem_pl.callbacks import ClassificationMetrics, TandemReweighting
from tandem_pl.datamodules import MixtureDataModule


class Plain(nn.Module):
    """The same classifier without a count, which would cause a recompilation at each call."""

    def __init__(self):
        super().__init__()
        self.layers = network_of().layers

    def forward(self, images):
        return self.layers(images)


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
