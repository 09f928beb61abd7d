"""Flags of the trainer on the command line."""

from pathlib import Path

import pytest

from tandem_pl.cli import main

ROOT = Path(__file__).parents[3]


def files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The quickstart on a few lines of text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    for name in ("prose", "code"):
        for number in range(6):
            text = f"{name} of some sort, number {number}, line by line. \n" * 20
            (tmp_path / "text" / f"{name}{number}.txt").write_text(text)
    network, domains = "--model.network.config", "{prose: text/prose*.txt, code: text/code*.txt}"
    return [
        *("fit", "--config", str(ROOT / "configs" / "quickstart.yaml")),
        *("--data", "tandem_pl.datamodules.TextMixtureDataModule", "--data.batch_size", "2"),
        *("--data.domains", domains, "--data.block_size", "16"),
        *("--data.cache_dir", str(tmp_path / "cache")),
        *(f"{network}.hidden_size", "16", f"{network}.num_hidden_layers", "1"),
    ]


@pytest.mark.parametrize("batches", ["true", "34"])
def test_a_dry_run_of_the_command_writes_nothing(command, tmp_path, batches):
    before = files(tmp_path)
    assert main([*command, "--trainer.fast_dev_run", batches]) == 0
    assert [path for path in files(tmp_path) if not path.startswith("cache")] == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--trainer.accumulate_grad_batches", "2"], "accumulate_grad_batches=2 of the trainer"),
        (["--trainer.gradient_clip_val", "1.5"], "gradient_clip_val=1.5 of the trainer"),
        (["--trainer.overfit_batches", "1"], "overfit_batches=1 cannot be used"),
        (["--trainer.val_check_interval", "60"], "val_check_interval=60 counts batches"),
        (["--trainer.barebones", "true"], "trainer: `Trainer(barebones=True, logger="),
    ],
)
def test_the_command_says_one_sentence(command, tmp_path, capfd, options, said):
    assert main([*command, *options]) == 2
    error = capfd.readouterr().err
    assert f"tandem: error: {said}" in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("mixture.yaml"))
