from helpers import QuadraticNetwork, half_squared_distance, quiet_trainer, random_rows
from torch.optim import SGD

from tandem_pl import TandemModule
from tandem_pl.callbacks import RunProgressBar, TandemReweighting
from tandem_pl.datamodules import MixtureDataModule


def run(tmp_path, capsys, **options):
    data = MixtureDataModule({"a": random_rows(9, 3, 0)}, {"t": random_rows(9, 3, 1)}, batch_size=4)
    module = TandemModule(
        QuadraticNetwork(3), half_squared_distance, lambda params: SGD(params, 0.1)
    )
    trainer = quiet_trainer(
        tmp_path,
        callbacks=[TandemReweighting(3, 2, 1), RunProgressBar(refresh_rate=1)],
        enable_progress_bar=True,
        **options,
    )
    trainer.fit(module, datamodule=data)
    return capsys.readouterr().err


def test_counts_proxy_batches_to_the_last_episode(tmp_path, capsys):
    assert "20/20" in run(tmp_path, capsys, max_epochs=4)


def test_counts_proxy_batches_to_max_steps(tmp_path, capsys):
    assert "7/7" in run(tmp_path, capsys, max_steps=7)
