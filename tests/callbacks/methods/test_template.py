"""The template in callbacks/methods/README.md is a method: it is found, learns and resumes."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import quiet_trainer
from lightning.pytorch import Callback
from toy import DOMAINS, toy_data, toy_module

from tandem_pl import InputError
from tandem_pl.callbacks import methods
from tandem_pl.callbacks.methods.table import METHODS, collect_methods

README = Path(methods.__file__).with_name("README.md")


@pytest.fixture
def template(tmp_path, monkeypatch):
    """Its row of the table, when it stands in the folder of methods."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    (tmp_path / "highest_loss.py").write_text(code)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield collect_methods()["highest_loss"]
    del sys.modules[f"{methods.__name__}.highest_loss"]


class Measured(Callback):
    """Mean losses of the domains in each measure batch; saves a checkpoint after one batch."""

    def __init__(self, path=None) -> None:
        self.path, self.losses = path, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch.phase == "measure":
            losses = outputs["losses"].numpy()
            self.losses.append([losses[batch.domains == m].mean() for m in range(len(DOMAINS))])
        if self.path and batch.step == 6:
            trainer.save_checkpoint(self.path)


def fit(folder, method, *callbacks, ckpt_path=None):
    trainer = quiet_trainer(folder, callbacks=[method, *callbacks], max_epochs=4)
    trainer.fit(toy_module(), datamodule=toy_data(target=False), ckpt_path=ckpt_path)
    return np.stack(method.trajectory)


def test_the_template_is_a_method(template, tmp_path) -> None:
    assert "highest_loss" not in METHODS
    assert template.class_path == "tandem_pl.callbacks.methods.highest_loss.HighestLossReweighting"
    method, measured = template.load()(period=4), Measured(tmp_path / "7.ckpt")
    rows = fit(tmp_path, method, measured)
    assert rows[1:].tolist() == np.eye(3)[np.argmax(measured.losses, axis=1)].tolist()
    np.testing.assert_allclose(np.stack(method.signals)[:, 0], measured.losses, rtol=1e-12)
    again = fit(tmp_path, template.load()(period=4), ckpt_path=tmp_path / "7.ckpt")
    assert again.tolist() == rows.tolist()
    assert method.settings() == {"period": 4}
    with pytest.raises(InputError, match="period=-1 must be at least 1"):
        template.load()(period=-1)
