"""The image configurations run, with networks and images of a size for a test."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tandem_pl import Mixture
from tandem_pl.cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
CIFAR10 = yaml.safe_load((CONFIGS / "vision_cifar10.yaml").read_text())
CLASSES = CIFAR10["data"]["init_args"]["classes"]
SMALL = (
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true"),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--data.num_workers", "0", "--data.batch_size", "8"),
)


def folder_of_images(root, classes, each, size):
    random = np.random.default_rng(len(str(root)))
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(each):
            pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return str(root)


def learned(folder: Path) -> Mixture:
    (path,) = folder.glob("*/version_0/mixture.yaml")
    return Mixture.load(path)


@pytest.mark.parametrize("plural", ["s", ""])
def test_cifar10(plural, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of_images(tmp_path / "train", CLASSES, 20, 32)
    folder_of_images(tmp_path / "test", CLASSES, 1, 32)
    (tmp_path / "data").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    arrays = {f"image{plural}": images, f"label{plural}": np.arange(60) % 10}
    np.savez("data/cifar10_generated.npz", **arrays)
    config = str(CONFIGS / "vision_cifar10.yaml")
    generated = CIFAR10["data"]["init_args"]["train"]["generated"]
    train = json.dumps({"real": "train", "generated": generated})
    options = ["--model.network.name", "wrn_10_1_silu", "--trainer.max_steps", "101"]
    if plural == "":  # one look at the spelling of the arrays is enough
        options[-1] = "1"
    sources = ["--data.train", train, "--data.test", '{"real": "test"}']
    assert main(["fit", "--config", config, *SMALL, *options, *sources]) == 0
    weights = learned(tmp_path / "runs").weights
    assert set(weights) == {"real", "generated"}
    if plural:
        assert weights["real"] != 0.5
        run = tmp_path / "runs" / "vision_cifar10" / "version_0"
        checkpoint = str(run / "checkpoints" / "last.ckpt")
        command = ["--config", str(run / "config.yaml"), "--ckpt_path", checkpoint]
        assert main(["test", *command]) == 0
        with open(run / "test.csv", newline="") as file:
            rows = {row["domain"]: row for row in csv.DictReader(file)}
        assert 0 <= float(rows["real"]["accuracy"]) <= 1


def test_domainbed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = CONFIGS / "vision_domainbed.yaml"
    domains = yaml.safe_load(config.read_text())["data"]["init_args"]["train"]
    for path in domains.values():
        folder_of_images(tmp_path / path, [f"class{n}" for n in range(7)], 5, 40)
    network = {"init_args": {"name": "resnet10t", "pretrained": None}}
    small = {"model": {"init_args": {"network": network}}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    sizes = ["--data.image_size", "32", "--trainer.max_steps", "51"]
    configs = ["--config", str(config), "--config", "small.yaml"]
    assert main(["fit", *configs, *SMALL, *sizes]) == 0
    assert learned(tmp_path / "runs").weights.keys() == domains.keys()
