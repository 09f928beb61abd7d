import csv
import math

import numpy as np
import pytest
import torch
from helpers import QuadraticNetwork, Rows, half_squared_distance, quiet_trainer
from lightning.pytorch import Callback

from tandem_pl import MixtureModule
from tandem_pl.callbacks import EvaluationTable
from tandem_pl.callbacks.monitoring.evaluation_table import format_table, table_columns, too_few
from tandem_pl.callbacks.monitoring.trainer_parts import interleave
from tandem_pl.datamodules import MixtureDataModule

SIZES = {"code": 5, "books, old": 3, "web": 9}


def domain(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return Rows(torch.randn(size, 4, generator=generator, dtype=torch.float64))


SETS = {name: domain(size, seed) for seed, (name, size) in enumerate(SIZES.items())}
LOSSES = {name: 0.5 * data.rows.square().sum(dim=1) for name, data in SETS.items()}  # at weight 0


class OfTokens:
    of_tokens = True

    def __call__(self, network, samples):
        return half_squared_distance(network, samples)


@pytest.fixture
def parts(tmp_path):
    module = MixtureModule(QuadraticNetwork(4), OfTokens(), lambda p: torch.optim.SGD(p, lr=0.1))
    data = MixtureDataModule(SETS, SETS, SETS, batch_size=4, validate_target=True)
    trainer = quiet_trainer(
        tmp_path, callbacks=[EvaluationTable()], limit_val_batches=1.0, max_epochs=1
    )
    return trainer, module, data


def read(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize(("verb", "name"), [("test", "test"), ("validate", "validation")])
def test_table_is_printed_and_written(parts, tmp_path, capsys, verb, name):
    trainer, module, data = parts
    getattr(trainer, verb)(module, data, verbose=False)
    printed = capsys.readouterr().out
    header, *rows = read(tmp_path / f"{name}.csv")
    assert header == ["domain", "loss", "perplexity", "samples"]
    means = [float(losses.mean()) for losses in LOSSES.values()]
    assert [row[0] for row in rows] == [*SIZES, "mean", "exp(mean loss)"]
    for row, mean in zip(rows, means, strict=False):
        assert float(row[1]) == pytest.approx(mean, rel=1e-6)
        assert float(row[2]) == pytest.approx(math.exp(mean), rel=1e-6)
        assert int(row[3]) == SIZES[row[0]]
        assert f"{row[0]} " in printed
        assert f"{mean:.4f}" in printed
    assert float(rows[3][1]) == pytest.approx(np.mean(means), rel=1e-6)
    assert float(rows[3][2]) == pytest.approx(np.exp(means).mean(), rel=1e-6)
    assert rows[4][1] == ""
    assert float(rows[4][2]) == pytest.approx(math.exp(np.mean(means)), rel=1e-6)
    metrics = trainer.callback_metrics  # the module's own averages are the same
    assert float(metrics[f"{name}/loss"]) == pytest.approx(float(rows[3][1]), rel=1e-6)
    assert float(metrics[f"{name}/perplexity"]) == pytest.approx(float(rows[3][2]), rel=1e-6)
    assert rows[3][3] == rows[4][3] == ""
    assert str(tmp_path / f"{name}.csv") in printed
    assert printed.splitlines()[-1].startswith("few samples of code (5), books, old (3), web (9): ")
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.csv"]


def test_averages_of_the_target_are_by_its_weights(parts, tmp_path):
    trainer, module, _ = parts
    data = MixtureDataModule(
        SETS, SETS, SETS, batch_size=4, target_weights={"web": 3, "code": 1}, validate_target=True
    )
    code, books, web = (float(losses.mean()) for losses in LOSSES.values())
    expected = 0.25 * code + 0.75 * web
    trainer.validate(module, data, verbose=False)
    _, *rows = read(tmp_path / "validation.csv")
    assert [row[0] for row in rows] == [*SIZES, "mean", "exp(mean loss)"]
    assert float(rows[1][1]) == pytest.approx(books, rel=1e-6), "a domain without weight has a row"
    assert float(rows[3][1]) == pytest.approx(expected, rel=1e-6)
    perplexity = 0.25 * math.exp(code) + 0.75 * math.exp(web)
    assert float(rows[3][2]) == pytest.approx(perplexity, rel=1e-6)
    assert float(rows[4][2]) == pytest.approx(math.exp(expected), rel=1e-6)
    metrics = trainer.callback_metrics
    assert float(metrics["validation/loss"]) == pytest.approx(expected, rel=1e-6)
    assert float(metrics["validation/perplexity"]) == pytest.approx(perplexity, rel=1e-6)
    trainer.test(module, data, verbose=False)
    _, *rows = read(tmp_path / "test.csv")
    assert float(rows[3][1]) == pytest.approx((code + books + web) / 3, rel=1e-6)


def test_predictions_are_one_loss_a_sample(parts, tmp_path, capsys):
    trainer, module, data = parts
    for _ in range(2):  # the second run starts without samples
        trainer.predict(module, data)
    header, *rows = read(tmp_path / "predictions.csv")
    assert header == ["domain", "loss"]
    assert [row[0] for row in rows] == [name for name, size in SIZES.items() for _ in range(size)]
    expected = torch.cat(list(LOSSES.values())).tolist()
    assert [float(row[1]) for row in rows] == expected  # to the bit
    assert "17 samples" in capsys.readouterr().out


def test_validation_inside_of_training_is_silent(parts, tmp_path, capsys):
    trainer, module, data = parts
    trainer.fit(module, data)
    assert "perplexity" not in capsys.readouterr().out
    assert not list(tmp_path.glob("*.csv"))


def test_single_precision_losses_are_short_numbers(tmp_path):
    module = MixtureModule(
        QuadraticNetwork(4).float(), half_squared_distance, lambda p: torch.optim.SGD(p, lr=0.1)
    )
    rows = torch.full((2, 4), 0.1)
    data = MixtureDataModule(test={"one": Rows(rows)}, batch_size=2)
    quiet_trainer(tmp_path, callbacks=[EvaluationTable()]).predict(module, data)
    loss = read(tmp_path / "predictions.csv")[1][1]
    assert len(loss) < 12
    assert np.float32(loss) == (0.5 * rows.square().sum(dim=1))[0].item()


def test_a_loss_that_is_not_of_tokens_has_no_perplexity(parts, tmp_path, capsys):
    trainer, module, data = parts
    module.objective = half_squared_distance
    trainer.test(module, data, verbose=False)
    header, *rows = read(tmp_path / "test.csv")
    assert header == ["domain", "loss", "samples"]
    assert [row[0] for row in rows] == [*SIZES, "mean"]
    assert not [key for key in trainer.callback_metrics if "perplexity" in key]
    assert "exp(" not in capsys.readouterr().out


def test_samples_are_those_of_this_test_alone(parts, tmp_path):
    trainer, module, data = parts
    trainer.limit_test_batches = 1
    for _ in range(2):
        trainer.test(module, data, verbose=False)
        assert [row[3] for row in read(tmp_path / "test.csv")[1:]] == ["4", "", ""]
    trainer.fit(module, data)  # validates
    trainer.validate(module, data, verbose=False)
    assert [row[3] for row in read(tmp_path / "validation.csv")[1:4]] == ["5", "3", "9"]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ({"a": 30, "b": 31}, ""),
        (
            {"a": 29, "b": 31, "c": 1},
            "few samples of a (29), c (1): with fewer than 30, differences between networks are "
            "mostly chance.",
        ),
        (dict.fromkeys("abcdefghijk", 2), "few samples of a (2), b (2), c (2), d (2), e (2), f (2)"
            ", g (2), h (2) and 3 more domains: with fewer than 30, differences between networks "
            "are mostly chance."),
    ],
)  # fmt: skip
def test_few_samples_are_a_sentence(samples, expected):
    assert too_few(samples) == expected


def test_columns_are_aligned_and_perplexities_have_equal_digits():
    losses = {"a": 1.0, "a longer name": 7.456}
    lines = format_table(
        list(losses), table_columns(losses, {}, {"a": 5, "a longer name": 1234}, True)
    ).splitlines()
    assert len({len(line) for line in lines[:3]}) == 1
    assert len(lines) == 5
    assert [line.split()[-2] for line in lines[1:3]] == ["2.718", "1730.213"]
    assert lines[2].split()[-1] == "1234"


def test_huge_losses_give_an_infinite_perplexity():
    columns = table_columns({"a": 1000.0, "b": 1.0}, {}, {"a": 1, "b": 1}, True)
    assert columns["perplexity"][0] == math.inf
    assert columns["perplexity"][-2] == math.inf
    assert columns["loss"][-2] == 500.5
    assert "inf" in format_table(["a", "b"], columns)


@pytest.mark.parametrize("size", [0, 1, 7, 8])
def test_rows_of_ranks_come_back_in_order(size):
    whole = np.arange(size)
    assert np.array_equal(interleave([whole[rank::3] for rank in range(3)]), whole)


class Logged(Callback):
    """Log metrics by domain; one domain has none."""

    def on_test_epoch_end(self, trainer, pl_module) -> None:
        for name, value in (("code", 0.1), ("web", 0.7)):
            pl_module.log(f"test/accuracy/{name}", value)
            pl_module.log(f"test/loss_average/{name}", 10 * value)
        pl_module.log("test/accuracy", 0.4)
        pl_module.log("test/speed/nowhere", 3.0)


def test_other_metrics_by_domain_have_columns(parts, tmp_path, capsys):
    trainer, module, data = parts
    trainer.callbacks.append(Logged())
    trainer.test(module, data, verbose=False)
    header, *rows = read(tmp_path / "test.csv")
    assert header == ["domain", "loss", "perplexity", "accuracy", "loss_average", "samples"]
    assert [row[3:5] for row in rows] == [
        ["0.1", "1.0"],
        ["", ""],
        ["0.7", "7.0"],
        ["0.4", "4.0"],
        ["", ""],
    ]
    for row, losses in zip(rows, LOSSES.values(), strict=False):
        assert float(row[1]) == pytest.approx(float(losses.mean()), rel=1e-6)
    lines = capsys.readouterr().out.strip().splitlines()[:6]
    assert lines[0].split() == header
    assert lines[1].split()[-3:] == ["0.1000", "1.0000", "5"]
    assert all(line.index("0.1000") > lines[0].index("perplexity") for line in lines[1:2])
    assert {len(line) for line in lines[1:4]} == {len(lines[0])}


def test_a_target_of_its_own_has_its_means(tmp_path, capsys):
    """It is tested beside held-out data of the training domains, and is named first."""
    train = {name: SETS[name] for name in ("code", "web")}
    exam = {"books, old": SETS["books, old"]}
    module = MixtureModule(QuadraticNetwork(4), OfTokens(), lambda p: torch.optim.SGD(p, lr=0.1))
    data = MixtureDataModule(train, target=exam, test={**train, **exam}, batch_size=4)
    data.setup("fit")
    trainer = quiet_trainer(tmp_path, callbacks=[EvaluationTable()])
    trainer.test(module, data, verbose=False)
    printed = capsys.readouterr().out
    mean = float(LOSSES["books, old"].mean())
    assert (
        f"The target alone (books, old): mean loss {mean:.4f}, exp(mean loss) "
        f"{math.exp(mean):.3f}; the means above count all 3." in printed
    )
    assert "few samples of books, old (3), code (5)" in printed
