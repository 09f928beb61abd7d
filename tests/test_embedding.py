"""Projects of other people, before and after they take tandem_pl in."""

import csv
import difflib
import importlib
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tandem_pl import Mixture

FOLDER = Path(__file__).parent / "embedding"
MOST_LINES = 20


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The projects import by plain name."""
    monkeypatch.syspath_prepend(str(FOLDER))


def touched_lines(before, after):
    """Lines added and lines taken away; a changed line is one of each."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return sum(line.startswith(("+ ", "- ")) for line in lines)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_taking_it_in_touches_few_lines(kind):
    before, after = ((FOLDER / f"{kind}_project{end}.py").read_text() for end in ("", "_tandem"))
    assert "tandem" not in before
    count = touched_lines(before, after)
    print(f"{kind} project: {len(before.splitlines())} lines, {count} added or taken away")
    assert 0 < count < MOST_LINES


def test_changed_lines_are_counted_as_one_added_and_one_taken_away():
    assert touched_lines("a\nb\nc", "a\nB\nc\nd") == 3
    assert touched_lines("a\nb", "a") == 1


def callback_of(trainer, name):
    (found,) = [each for each in trainer.callbacks if type(each).__name__ == name]
    return found


def logged(trainer, key):
    """The values of a metric in the CSV logger's file."""
    with (Path(trainer.log_dir) / "metrics.csv").open() as file:
        return [float(row[key]) for row in csv.DictReader(file) if row.get(key)]


def learned(folder):
    (path,) = folder.rglob("mixture.yaml")
    return Mixture.load(path)


def check_own_parts(trainer, steps, rate):
    """Their schedule, early stopping, checkpoints and metrics work."""
    assert trainer.global_step == steps
    best = trainer.checkpoint_callback
    assert isinstance(best, ModelCheckpoint)
    assert Path(best.best_model_path).exists()
    assert best.best_model_score.isfinite()
    assert callback_of(trainer, "EarlyStopping").best_score < torch.inf
    assert trainer.optimizers[0].param_groups[0]["lr"] < rate / 100  # the schedule is through
    rates = logged(trainer, "lr-AdamW")
    assert len(rates) == steps // 10
    assert rates[-1] < max(rates)


@pytest.mark.parametrize("name", ["image_project", "image_project_tandem"])
def test_image_project(name, tmp_path):
    steps = 120 if name.endswith("tandem") else 40
    trainer = importlib.import_module(name).main(steps, tmp_path)
    check_own_parts(trainer, steps, 3e-3)
    assert len(callback_of(trainer, "LossHistory").losses) == steps
    if name.endswith("tandem"):
        weights = learned(tmp_path).average
        print(weights, trainer.callback_metrics)
        assert weights["scraped"] < 0.2 < min(weights["scans"], weights["fonts"])
        assert trainer.callback_metrics["val/accuracy"] > 0.5


@pytest.mark.parametrize("name", ["text_project", "text_project_tandem"])
def test_text_project(name, tmp_path):
    pytest.importorskip("datasets")
    steps = 100 if name.endswith("tandem") else 32
    trainer = importlib.import_module(name).main(steps, tmp_path)
    check_own_parts(trainer, steps, 3e-3)
    assert len(callback_of(trainer, "Completion").texts) == 5
    perplexities = logged(trainer, "val/perplexity")
    assert len(perplexities) == 4
    assert perplexities[-1] < perplexities[0] < 128
    if name.endswith("tandem"):
        weights = learned(tmp_path).average
        print(weights, trainer.callback_metrics)
        assert weights["broken"] < 0.2
        assert weights["manual"] > 0.5


def test_their_image_loss_is_the_objective():
    from image_project_tandem import Classifier, Digits, losses

    model = Classifier(steps=1).eval()
    model.log = lambda *_: None
    data = Digits(12, seed=0, train=False)
    batch = data.images, data.labels
    each = losses(model.network, batch)
    assert each.shape == (12,)
    torch.testing.assert_close(each.mean(), model.training_step(batch, 0))


def test_their_text_loss_is_the_objective():
    pytest.importorskip("datasets")
    from text_project_tandem import SHARES, CausalLanguageModeling, Corpus, LanguageModel

    model = LanguageModel(steps=1).eval()
    model.log = lambda *_, **__: None
    batch = Corpus(SHARES).val[:6]
    each = CausalLanguageModeling()(model.network, batch)
    assert each.shape == (6,)
    torch.testing.assert_close(each.mean(), model.training_step(batch, 0))
