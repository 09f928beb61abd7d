"""The shipped fragments of strategies, by the command, on two processes."""

from pathlib import Path

import pytest
import yaml
from ranks import run_ranks

from tandem_pl import Mixture

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_the_configuration_runs(tmp_path, strategy) -> None:
    """`tandem fit` on two processes, with the fragment after a configuration."""
    for domain in "ab":
        (tmp_path / domain).mkdir()
        for number in range(8):
            words = [f"{domain}{number * word}" for word in range(60)]
            (tmp_path / domain / f"{number}.txt").write_text(" ".join(words))
    mine = {
        "trainer": {
            "max_steps": 4,  # an episode, and one batch of the next
            "logger": {"init_args": {"save_dir": str(tmp_path)}},
            "callbacks": [
                {
                    "class_path": "tandem_pl.callbacks.TandemReweighting",
                    "init_args": {"free_steps": 1, "probe_steps": 2, "measure_batches": 2},
                },
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"every_n_epochs": 1, "save_last": True},
                },
            ],
        },
        "data": {
            "class_path": "tandem_pl.datamodules.TextMixtureDataModule",
            "init_args": {
                "domains": {domain: f"{tmp_path / domain}/*.txt" for domain in "ab"},
                "cache_dir": str(tmp_path / "cache"),
                "tokenizer": "bytes",
                "target_fraction": 0.2,
                "block_size": 32,
                "batch_size": 4,
                "validate_target": False,
            },
        },
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    configs = ["quickstart.yaml", f"strategy_{strategy}.yaml", tmp_path / "mine.yaml"]
    chosen = [word for name in configs for word in ("--config", str(CONFIGS / name))]
    codes, texts = run_ranks(["-m", "tandem_pl", "fit", *chosen], tmp_path)
    assert codes == [0, 0], texts
    run = tmp_path / "quickstart" / "version_0"
    assert Mixture.load(run / "mixture.yaml").about["steps"] == 3
    checkpoints = list((run / "checkpoints").glob("*.ckpt"))
    assert checkpoints
    assert all(path.is_dir() == (strategy == "fsdp2") for path in checkpoints)
