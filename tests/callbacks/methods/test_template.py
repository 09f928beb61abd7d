"""The template in callbacks/methods/README.md is a method: it is found, learns and resumes."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import quiet_trainer
from lightning.pytorch import Callback
from toy import DOMAINS, Losses, toy_data, toy_module

from tandem_pl import InputError
from tandem_pl.callbacks import methods
from tandem_pl.callbacks.methods.table import METHODS, collect_methods

README = Path(methods.__file__).with_name("README.md")


@pytest.fixture
def template(tmp_path, monkeypatch):
    """Its row of the table, when its file is in the folder of methods."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    code = code.replace('"highest_loss"', '"template"')  # a name that no real method has
    (tmp_path / "template.py").write_text(code)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield collect_methods()["template"]
    del sys.modules[f"{methods.__name__}.template"]


class SaveAfter(Callback):
    def __init__(self, batches, path) -> None:
        self.batches, self.path = batches, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.batches:
            trainer.save_checkpoint(self.path)


def fit(folder, method, *callbacks, ckpt_path=None):
    trainer = quiet_trainer(folder, callbacks=[method, *callbacks], max_epochs=4)
    trainer.fit(toy_module(), datamodule=toy_data(target=False), ckpt_path=ckpt_path)
    return np.stack(method.trajectory)


def test_the_template_is_a_method(template, tmp_path) -> None:
    assert "template" not in METHODS
    assert template.class_path == "tandem_pl.callbacks.methods.template.HighestLossReweighting"
    method, seen, path = template.load()(period=3), Losses(), tmp_path / "5.ckpt"
    rows = fit(tmp_path, method, seen, SaveAfter(5, path))
    last = [0.0] * len(DOMAINS)
    for episode in range(4):
        batches = seen.batches[3 * episode : 3 * episode + 3]
        domains, losses = map(np.concatenate, zip(*batches, strict=True))
        for m in set(domains):
            last[m] = losses[domains == m].mean()
        np.testing.assert_allclose(method.signals[episode][0], last, rtol=1e-12)
        assert rows[episode + 1].tolist() == np.eye(3)[np.argmax(last)].tolist()
    again = fit(tmp_path, template.load()(period=3), ckpt_path=path)
    assert again.tolist() == rows.tolist()
    assert method.settings() == {"period": 3}
    with pytest.raises(InputError, match="period=-1 must be at least 1"):
        template.load()(period=-1)


def test_weights_that_do_not_sum_to_one_end_the_run(template, tmp_path) -> None:
    method = template.load()(period=3)
    method.next_weights = lambda *_: (np.array([0.9, 0.9, 0.9]), {})
    with pytest.raises(InputError, match=r"HighestLossReweighting\.update returned .* sum is 2.7"):
        fit(tmp_path, method)
