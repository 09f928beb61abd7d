"""The published set-ups: their sizes, and siblings that differ in sizes alone."""

from pathlib import Path

import pytest
import torch
import yaml

from tandem_pl.cli import main
from tandem_pl.networks import causal_language_model

FOLDER = Path(__file__).parents[2] / "configs" / "published"
FULL = sorted(
    path.with_stem(path.stem.removesuffix("_tiny")) for path in FOLDER.glob("*_tiny.yaml")
)
SIZES = (
    *("trainer.max_steps", "trainer.accelerator", "trainer.devices", "trainer.precision"),
    *("trainer.check_val_every_n_epoch", "trainer.logger.init_args.name"),
    *("measure_batches", "every_n_epochs", "micro_batch_size", "lr", "warmup_steps"),
    *("free_steps", "gradient_checkpointing"),
)
PARAMETERS = {  # millions, embeddings included
    "abundant_160m": 162.3,
    "restricted_160m": 162.3,
    "restricted_410m": 405.3,
    "restricted_1b": 1011.8,
    "sft_qwen2_0.5b": 494.0,
}


def leaves(node, prefix=""):
    """Dotted key -> value."""
    if isinstance(node, dict | list) and node:
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        return {k: v for key, value in pairs for k, v in leaves(value, f"{prefix}.{key}").items()}
    return {prefix.lstrip("."): node}


def is_size(key):
    inside = ("model.init_args.network.init_args.", "data.")  # the network's sizes, and the corpus
    return key.startswith(inside) or key in SIZES or key.rsplit(".", 1)[-1] in SIZES


@pytest.mark.parametrize("path", FULL, ids=lambda path: path.stem)
def test_the_tiny_sibling_differs_in_sizes_alone(path):
    full, tiny = (
        leaves(yaml.safe_load(file.read_text()))
        for file in (path, path.with_stem(f"{path.stem}_tiny"))
    )
    differing = {key for key in full | tiny if full.get(key) != tiny.get(key)}
    assert {key for key in differing if not is_size(key)} == set()
    network = "model.init_args.network."
    assert full[f"{network}class_path"] == tiny[f"{network}class_path"]
    model_type = f"{network}init_args.model_type"
    assert full.get(model_type) == tiny.get(model_type)
    assert full["data.init_args.weights"] == tiny["data.init_args.weights"]


@pytest.mark.parametrize("path", FULL, ids=lambda path: path.stem)
def test_parameter_counts(path):
    settings = yaml.safe_load(path.read_text())["model"]["init_args"]["network"]["init_args"]
    if "pretrained" in settings:  # Qwen2-0.5B's own config.json
        settings = {"model_type": "qwen2", "config": QWEN2_05B}
    with torch.device("meta"):
        network = causal_language_model(settings["model_type"], settings["config"])
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 1) == PARAMETERS[path.stem]


QWEN2_05B = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "tie_word_embeddings": True,
}


def test_the_published_numbers():
    published = {"abundant_160m": (40_000, 128), "restricted_1b": (5000, 128)}
    for name, (steps, batch) in published.items():
        config = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        assert config["trainer"]["max_steps"] == steps
        assert config["data"]["init_args"]["batch_size"] == batch
        sizes = config["model"]["init_args"]["network"]["init_args"]["config"]
        assert sizes["max_position_embeddings"] == 512


def test_the_corpus_is_prepared_as_the_file_says(tmp_path):
    import datasets

    rows = [
        {"text": f"{name} {n}: " + f"{name} line {n} " * 90, "meta": {"redpajama_set_name": name}}
        for name in ("RedPajamaC4", "RedPajamaBook")
        for n in range(9)
    ]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    local = ["--dataset", str(tmp_path / "saved"), "--tokenizer", "bytes", "--workers", "1"]
    config = ["--config", str(FOLDER / "prepare_slimpajama.yaml"), "--near_duplicate", "null"]
    assert main(["prepare", *config, *local, "--out", str(tmp_path / "data")]) == 0
    manifest = yaml.safe_load((tmp_path / "data" / "manifest.yaml").read_text())
    assert list(manifest["splits"]["train"]) == ["RedPajamaBook", "RedPajamaC4"]
    assert manifest["block_size"] == 512


@pytest.mark.parametrize(
    ("config", "sibling"),
    [
        ("published/abundant_160m", "abundant_160m"),
        ("published/restricted_1b", "restricted_1b"),
        ("online", "restricted_160m"),
    ],
)
def test_a_large_set_up_runs_with_a_siblings_sizes(config, sibling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for domain in ("code", "books"):
        (tmp_path / domain).mkdir()
        for n in range(9):
            (tmp_path / domain / f"{n}.txt").write_text(f"{domain} {n} " * 200)
    sources = ["--domains.code", "code", "--domains.books", "books", "--near_duplicate", "null"]
    sizes = ["--tokenizer", "bytes", "--block_size", "64", "--workers", "1", "--out", "corpus"]
    assert main(["prepare", *sources, *sizes]) == 0
    tiny = yaml.safe_load((FOLDER / f"{sibling}_tiny.yaml").read_text())
    network = tiny["model"]["init_args"]["network"]["init_args"]["config"]
    options = [f"--model.network.config.{key}={value}" for key, value in network.items()]
    for key in ("accelerator", "devices", "precision"):
        options.append(f"--trainer.{key}={tiny['trainer'][key]}")
    options += ["--trainer.max_steps=55", "--data.manifest=corpus/manifest.yaml"]
    options += ["--data.batch_size=8", "--data.num_workers=0", "--trainer.limit_val_batches=1"]
    path = FOLDER.parent / f"{config}.yaml"
    assert main(["fit", "--config", str(path), *options]) == 0
    assert (tmp_path / "runs" / path.stem / "version_0" / "mixture.yaml").exists()
