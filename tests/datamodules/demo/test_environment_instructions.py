"""Tasks on the text of the installed packages: the rules, and the samples they give."""

import random
import re
from itertools import chain
from pathlib import Path

import pytest
import torch
import yaml

from tandem_pl import Mixture
from tandem_pl.cli import main
from tandem_pl.datamodules import EnvironmentInstructions
from tandem_pl.datamodules.demo import environment_instructions as module
from tandem_pl.datamodules.demo import task_examples
from tandem_pl.datamodules.demo.pieces import PIECE_CHARACTERS, PIECE_LINES, cut_pieces
from tandem_pl.datamodules.demo.task_examples import make_examples, split_files
from tandem_pl.datamodules.demo.tasks import CATEGORIES, TASKS
from tandem_pl.datamodules.text.documents import SPLITS
from tandem_pl.errors import InputError

SIZES = {split: dict.fromkeys(CATEGORIES, 60) for split in SPLITS}


def test_there_are_a_hundred_tasks_in_six_categories():
    tasks = EnvironmentInstructions.tasks()
    assert len(tasks) == len({task.name for task in tasks}) == 101
    counts = {category: sum(t.category == category for t in tasks) for category in CATEGORIES}
    assert list(counts) == list(module.TRAIN_SAMPLES)
    assert min(counts.values()) >= 6
    assert max(module.TRAIN_SAMPLES.values()) >= 10 * min(module.TRAIN_SAMPLES.values())


def test_splits_have_different_files():
    files = [Path(str(i)) for i in range(50)]
    splits = split_files(files)
    assert sorted(chain(*splits.values())) == sorted(files)
    assert all(splits.values())


def test_every_line_of_a_file_is_in_one_piece_at_most():
    text = "\n".join(f"line {i} {'x' * (i * 7 % 60)}" * (i % 3 > 0) for i in range(90))
    rows = cut_pieces("readmes", text, "demo", random.Random(0))["lines"]
    lines = [line for piece in rows for line in piece.text.split("\n") if line]
    assert len(lines) == len(set(lines))
    assert set(lines) <= set(text.split("\n"))
    assert max(len(piece.text) for piece in rows) <= PIECE_CHARACTERS
    assert all(len([x for x in p.text.split("\n") if x]) <= PIECE_LINES for p in rows)


@pytest.fixture(scope="module")
def made():
    return make_examples(SIZES, seed=0)[0]


def test_all_tasks_find_text_and_no_prompt_comes_twice(made):
    prompts = [p for splits in made.values() for rows in splits.values() for p, _ in rows]
    assert len(prompts) == len(set(prompts))
    for category, splits in made.items():
        for split, rows in splits.items():
            assert len(rows) == 60, (category, split)
            assert all(0 < len(response) <= 40 for _, response in rows)
    for task in TASKS:
        rows = made[task.category]["train"]
        mine = sum(prompt.startswith(task.instruction + ": ") for prompt, _ in rows)
        assert mine >= 1, task.name


def test_the_same_packages_give_the_same_samples(monkeypatch, tmp_path):
    """Not the order of files, nor the hash of strings, nor the global generator matter."""
    some = [tmp_path / f"{i}.py" for i in range(40)]
    for i, path in enumerate(some):
        functions = (
            f"def name_{i}_{j}(a{j}):\n    '''Gives {i} and {j}.'''\n    return a{j} + {i * j}\n"
            for j in range(6)
        )
        path.write_text("\n".join(functions))
    empty = {kind: [] for kind in task_examples.DOMAINS}
    monkeypatch.setattr(task_examples, "list_candidates", lambda seed: empty | {"python": some})
    random.seed(1)
    state = random.getstate()
    first, repeats = make_examples(SIZES, seed=3)
    assert random.getstate() == state
    assert first["naming"]["train"]
    assert make_examples(SIZES, seed=3) == (first, repeats)
    for split, numbers in (("test", {*range(0, 40, 6)}), ("target", {*range(1, 40, 6)})):
        found = [re.search(r"Gives (\d+) and", p) for p, _ in first["naming"][split]]
        files = {int(match[1]) for match in found if match}
        assert files
        assert files <= numbers, "samples of a split come from its own files"


@pytest.fixture
def ready(made, monkeypatch):
    """The data module takes the examples above, in place of reading the files again."""
    monkeypatch.setattr(module, "make_examples", lambda *_: (made, dict.fromkeys(CATEGORIES, 0)))


def test_the_data_module_serves_them(ready, made, tmp_path):
    data = EnvironmentInstructions(cache_dir=str(tmp_path), batch_size=12)
    with pytest.warns(UserWarning, match="'completion' finds 60 train samples .* where 8000"):
        data.setup("fit")
    assert list(data.train_sets) == list(CATEGORIES)
    assert {len(rows) for rows in data.train_sets.values()} == {60}
    prompt, response = made["naming"]["test"][7]
    sample = data.test_sets["naming"][7]
    assert bytes(sample["input_ids"][:-1].tolist()) == f"{prompt}\n{response}".encode()
    assert (sample["labels"] != -100).sum() == len(response.encode()) + 1
    batch = next(iter(data.train_dataloader()))
    assert batch.samples["input_ids"].shape[0] == 12
    assert batch.samples["input_ids"].shape[1] <= 192
    assert all(row["train_cut"] <= 1 for row in data.summary())


@pytest.mark.filterwarnings("ignore:category")
def test_the_shipped_configuration_runs_and_asks_for_what_it_says(ready, tmp_path, monkeypatch):
    config = Path(__file__).parents[3] / "configs" / "published" / "sft_qwen2_0.5b_tiny.yaml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    small = ["--trainer.max_steps", "25", "--trainer.limit_val_batches", "1"]
    small += ["--model.network.config.hidden_size", "16"]
    assert main(["fit", "--config", str(config), *small]) == 0
    run = next(tmp_path.glob("runs/*/version_0"))
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 25
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 25
    assert (run / "mixture.png").read_bytes()[1:4] == b"PNG"
    learned = Mixture.load(run / "mixture.yaml")
    assert learned != Mixture.uniform(learned.domains)
    mixture = yaml.safe_load((run / "mixture.yaml").read_text())
    assert list(mixture["average"]) == list(CATEGORIES)
    assert mixture["episodes"] == 2
    shipped = yaml.safe_load(config.read_text())
    sizes = shipped["data"]["init_args"]["train_samples"]
    passes = shipped["trainer"]["max_steps"] * shipped["data"]["init_args"]["batch_size"]
    assert sizes == module.TRAIN_SAMPLES
    assert passes / sum(sizes.values()) == pytest.approx(1.15, abs=0.005)


def test_settings_that_cannot_be_used():
    with pytest.raises(InputError, match="unknown category 'poetry'"):
        EnvironmentInstructions(train_samples={"poetry": 3})
    with pytest.raises(InputError, match="test_samples has a size below 1"):
        EnvironmentInstructions(test_samples=0)
