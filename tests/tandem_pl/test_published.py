"""The published set-ups: their sizes, and siblings that differ in sizes alone."""

from pathlib import Path

import pytest
import torch
import yaml

from tandem_pl.networks import causal_language_model

FOLDER = Path(__file__).parents[2] / "configs" / "published"
FULL = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.endswith("_tiny"))
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
