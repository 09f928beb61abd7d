"""What the pages tell people to type works, and prints what they say."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from token_files import write_litdata, write_megatron, write_nanogpt

from tandem_pl import Mixture
from tandem_pl.cli import main
from tandem_pl.datamodules.text.block_folder import read_manifest
from tandem_pl.networks import causal_language_model

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted(ROOT.glob("**/README.md"))
    if not set(path.relative_to(ROOT).parts) & {".venv", "build", "runs"}
}
README, DATA = PAGES["README.md"], PAGES["datamodules/README.md"]
EVERYTHING = "\n".join(PAGES.values())
NETWORK = ["hidden_size", "16", "num_hidden_layers", "1"]
FEW = ["--trainer.max_steps", "60", "--trainer.limit_val_batches", "1"]


def blocks(language, text):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def smaller(command):
    """Return options that make a command of a page quick."""
    if command.startswith("tandem prepare"):
        return ["--workers", "1", "--near_duplicate", "null"]
    if not command.startswith("tandem fit"):
        return []
    if "configs/vision" in command:
        return FEW
    sizes = [f"--model.network.config.{key}" for key in NETWORK[::2]]
    options = [*FEW, sizes[0], NETWORK[1], sizes[1], NETWORK[3]]
    if "configs/" in command:
        options += ["--data.target_bytes", "3000", "--data.test_bytes", "3000"]
    return options + (["--data.epoch_batches", "30"] if "train.yaml" in command else [])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the shipped configurations and some text of one's own."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    for folder, ending in (("books", "txt"), ("src", "py"), ("tools", "py")):
        (tmp_path / folder).mkdir()
        for number in range(12):
            text = f"{folder} {number}\n" + "".join(f"{number * line} " for line in range(199))
            (tmp_path / folder / f"{number}.{ending}").write_text(text)
    return tmp_path


def run_commands(text):
    """Run the commands of a page's `bash` blocks; return their verbs."""
    seen = []
    for line in "".join(blocks("bash", text)).splitlines():
        for command in line.split("&&"):
            command = command.strip()
            program, *arguments = shlex.split(command)
            if program in ("pip", "pytest"):  # .ci/run types these
                extras = [f'pip install -e ".[{extra}]"' for extra in ("dev", "vision")]
                assert command in ("pip install -e .", *extras, "pytest")
                continue
            assert program == "tandem", command
            assert main([*arguments, *smaller(command)]) == 0, command
            seen.append(arguments[0])
    return seen


def test_the_commands_of_the_first_page_run_in_order(place, capsys):
    verbs = ["fit", "report", "export", "fit", "fit", "test", "test", "export"]
    assert run_commands(README) == verbs
    assert "exp(mean loss)" in capsys.readouterr().out
    run = place / "runs/quickstart/version_0"
    assert (run / "report.html").exists()
    assert {path.name for path in run.iterdir()} >= set(re.findall(r"`(\w+\.(?:yaml|csv))`", FILES))
    assert (place / "exported" / "model.safetensors").exists()


def test_the_commands_for_data_of_ones_own_run_in_order(place):
    assert run_commands(DATA) == ["prepare", "fit", "fit", "fit", "fit", "test"]


def test_no_other_page_has_commands_that_nobody_runs():
    for name, text in PAGES.items():
        assert name in ("README.md", "datamodules/README.md") or not blocks("bash", text), name


def test_the_ways_to_choose_a_target_on_the_first_screen(place):
    passage = README[README.index("**The target**") : README.index("## Learn and keep")]
    (weights,) = re.findall(r"`--data\.target_weights ('[^']+')`", passage)
    (files,) = re.findall(r"`tandem prepare (--target\.\w+ '[^']+')`", passage)
    (sources,) = re.findall(r"`target: (\{.*?\})`", passage)
    (place / "exam").mkdir()
    for number in range(5):
        (place / "exam" / f"{number}.txt").write_text(f"exam {number}\n" * 200)
    options = [*shlex.split(files), "--domains.books", "books/*.txt", "--out", "corpus"]
    assert main(["prepare", *options, *smaller("tandem prepare"), "--block-size", "64"]) == 0
    assert list(read_manifest(place / "corpus")["splits"]["target"]) == ["exam"]
    fit = ["fit", "--config", "configs/quickstart.yaml", *smaller("tandem fit")]
    assert main([*fit, "--data.target_weights", *shlex.split(weights)]) == 0
    own = ["--data", "tandem_pl.datamodules.TextMixtureDataModule", "--data.block_size", "64"]
    vocabulary = ["--model.network.config.vocab_size", "257"]
    domains = ["--data.domains.books", "books/*.txt", "--data.target", sources]
    fit = [word for word in fit if "bytes" not in word and word != "3000"]
    assert main([*fit, *own, *domains, *vocabulary]) == 0


FILES = README[README.index("The run's folder has") : README.index("The two domains")]


QWEN2 = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
GPT2 = {"n_head": 2, "n_positions": 256}


@pytest.mark.parametrize(
    ("adapters", "kind", "heads"),
    [(True, "qwen2", QWEN2), (False, "qwen2", QWEN2), (False, "gpt2", GPT2)],
)
def test_the_configuration_for_fine_tuning_runs(adapters, kind, heads, place):
    (block,) = [block for block in blocks("yaml", DATA) if "InstructionMixture" in block]
    if adapters:
        pytest.importorskip("peft")
    else:
        (model,) = [block for block in blocks("yaml", DATA) if "config: null" in block]
        block = model + block[block.index("data:") :]
    (place / "mine.yaml").write_text(block)
    sizes = {"vocab_size": 257, "hidden_size": 16, "num_hidden_layers": 1}
    causal_language_model(kind, sizes | heads).save_pretrained("models/mine")
    for name in ("maths", "poems"):
        rows = [{"prompt": f"{name} {n}?", "response": f"{n} " * 3} for n in range(60)]
        (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (command,) = re.findall(r"`tandem (fit --config \S+_tiny.yaml\s+--config mine.yaml)`", DATA)
    assert main([*shlex.split(command), *FEW, "--data.tokenizer", "bytes"]) == 0
    run = next(place.glob("runs/*/version_0"))
    names = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert names
    assert all("lora" in name or "inv_freq" in name for name in names) == adapters


def test_the_configuration_for_tokens_runs(place):
    (block,) = [block for block in blocks("yaml", DATA) if "TokenMixture" in block]
    (place / "mine.yaml").write_text(block)
    tokens = np.random.default_rng(0).integers(0, 50257, size=(4, 3000))
    write_megatron(place / "data/web_text_document", list(tokens))
    for number, row in enumerate(tokens):
        write_nanogpt(place / f"data/code_train_{number}.bin", row)
    write_nanogpt(place / "data/wide.bin", tokens[0], "uint32")
    write_litdata(place / "data/books", [torch.tensor(row) for row in tokens], chunk_size=5000)
    (command,) = re.findall(r"`tandem (fit --config configs/quick[^`]+ 50257)`", DATA)
    small = ["--model.network.config.hidden_size", "16", "--data.batch_size", "4"]
    assert main([*shlex.split(command), *FEW, *small, "--data.block_size", "8"]) == 0
    weights = Mixture.load(place / "runs/quickstart/version_0/mixture.yaml").weights
    assert list(weights) == ["web", "code", "wide", "books"]


def test_the_configuration_for_images_runs(place):
    (block,) = [block for block in blocks("yaml", DATA) if "ImageMixture" in block]
    (place / "mine.yaml").write_text(block)
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (place / "photos" / name).mkdir(parents=True)
        for number in range(40):
            pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "photos" / name / f"{number}.png")
    images = random.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    np.savez("generated.npz", images=images, labels=np.arange(30) % 2)
    (command,) = re.findall(
        r"`tandem (fit --config configs/vision.yaml\s+--config\s+mine.yaml)`", DATA
    )
    few = ["--trainer.max_steps", "21", "--data.image_size", "16", "--model.network.name"]
    assert main([*shlex.split(command), *few, "wrn_10_1_silu"]) == 0
    (mixture,) = place.glob("runs/*/version_0/mixture.yaml")
    assert set(Mixture.load(mixture).weights) == {"real", "generated"}


def test_the_example_runs_and_its_comment_is_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python", README):
        exec(block, names)
    weights = names["reweighting"].mixture.weights
    assert weights["clean"] > 0.5
    assert weights["noise"] < 0.2


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"(?:configs|tests/benchmarks|\.ci)/[\w./]*\w", EVERYTHING)))
)
def test_every_file_it_names_is_there(path):
    assert (ROOT / path).exists()


def test_its_defaults_are_the_defaults():
    from tandem_pl.callbacks import TandemReweighting

    settings = TandemReweighting().settings()
    rows = re.findall(r"^\| `(\w+)`[^|]*\| ([\d.]+|auto) \|", PAGES["tandem_pl/README.md"], re.M)
    assert len(rows) >= 5
    for name, value in rows:
        if name != "penalty":
            assert settings[name] == (value if value == "auto" else float(value))


def test_its_table_of_methods_is_the_table():
    from tandem_pl.callbacks.methods.table import methods_table

    assert methods_table() in PAGES["callbacks/README.md"]


def test_links_between_pages_lead_somewhere():
    for name, text in PAGES.items():
        for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[\w-]+)?\)", text):
            assert ((ROOT / name).parent / link).exists(), (name, link)


def test_the_first_page_is_one_page():
    assert len(README.splitlines()) <= 160
