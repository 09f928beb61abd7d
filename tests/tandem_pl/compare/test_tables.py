"""The statistics of a comparison's tables, and the page that shows them."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import yaml
from comparisons import comparison

from tandem_pl.compare.cells import build_cells
from tandem_pl.compare.files import write_results
from tandem_pl.compare.results import NETWORK, RUN, Runs, collect
from tandem_pl.compare.statistics import differences, estimate, over_seeds
from tandem_pl.compare.tables import difference, markdown


def runs_of(losses):
    """A frame of runs from (method, network) -> seed -> the losses of domains a and b."""
    pairs = {(*key, seed): pair for key, seeds in losses.items() for seed, pair in seeds.items()}
    index = pd.MultiIndex.from_tuples(list(pairs), names=RUN)
    return pd.DataFrame(list(pairs.values()), index, ["a", "b"])


def test_intervals_agree_with_scipys_paired_test():
    numbers = np.random.default_rng(0).normal(size=(2, 5))
    ours, base = (dict(enumerate(zip(row, row, strict=True))) for row in numbers)
    runs = runs_of({("m", "fresh"): ours, ("base", "fresh"): base | {9: (1.0, 1.0)}})
    gap = over_seeds(differences(runs, "base"))
    mean, sd, low, high, number = (frame.loc[("m", "fresh"), "a"] for frame in gap)
    theirs = scipy.stats.ttest_rel(*numbers).confidence_interval(0.95)
    assert (low, high) == pytest.approx((theirs.low, theirs.high))
    assert mean == pytest.approx(np.mean(numbers[0] - numbers[1]))
    assert sd == pytest.approx(np.std(numbers[0] - numbers[1], ddof=1))
    assert number == 5
    alone = estimate(pd.Series([3.0]))
    assert alone.mean == 3.0
    assert math.isnan(alone.sd)
    assert math.isnan(alone.high)
    assert estimate(pd.Series([], dtype=float)).number == 0
    assert difference(alone, 1) == "+3.0"


OF_TOKENS = {"model": {"objective": "tandem_pl.objectives.CausalLanguageModeling"}}


def test_the_page_says_what_was_measured(tmp_path):
    study = comparison(
        tmp_path, methods=["uniform", "tandem"], seeds=[0, 1, 2], overrides=OF_TOKENS
    )
    losses = runs_of(
        {
            ("tandem", "fresh"): {0: (0.9, 2.9), 1: (1.1, 2.9), 2: (1.0, 2.9)},
            ("uniform", "fresh"): {0: (1.0, 3.0), 1: (1.2, 3.0), 2: (1.1, 3.0)},
        }
    )
    weights, epochs = losses * 0 + 0.5, losses * math.nan
    lines = {
        ("tandem", "fresh"): (math.nan, 0, 60.0),
        ("uniform", "fresh"): (1.0, 0, 60.0),
        ("tandem", "online"): (math.nan, 0, math.nan),
    }
    index = pd.MultiIndex.from_tuples(list(lines), names=NETWORK)
    networks = pd.DataFrame(list(lines.values()), index, ["cost", "extra_runs", "seconds"])
    broken = {("tandem", "online", 0): "it broke."}
    page = markdown(study, Runs(losses, weights, epochs, networks, broken, ["a", "b"]))

    def cells(heading, start):
        lines = page.split(heading)[1].splitlines()
        line = next(line for line in lines if line.startswith(f"| {start} "))
        return [cell.strip() for cell in line.strip("|").split("|")]

    overview, averages = cells("# study", "tandem"), cells("## Test perplexity\n", "tandem")
    assert overview[1] == "1.9500 ± 0.0500"
    assert overview[2] == "**-0.1000** [-0.1000, -0.1000]"
    assert overview[3] == ""  # a cost that nobody stated
    mean = np.mean([np.exp([loss, 2.9]).mean() for loss in (0.9, 1.1, 1.0)])
    assert averages[1].startswith(f"{mean:.3f} ± ")
    assert averages[3].startswith(f"{np.mean(np.exp([1.9, 2.0, 1.95])):.3f} ± ")
    assert cells("# study", "tandem (online)")[1] == "failed"
    assert cells("## Test perplexity by domain", "uniform")[1].startswith(
        f"{np.mean(np.exp([1.0, 1.2, 1.1])):.2f} ± "
    )
    assert "- tandem (online), seed 0: it broke." in page
    assert "bold ones, from 3 seeds on, have an interval without 0." in page


def finished(losses):
    """Runs that all succeeded, with equal weights."""
    networks = losses.groupby(level=NETWORK, sort=False).size().to_frame("cost") * math.nan
    networks["extra_runs"], networks["seconds"] = 0, 60.0
    return Runs(losses, losses * 0 + 0.5, losses * math.nan, networks, {}, list(losses))


def test_two_seeds_mark_nothing_and_images_have_no_perplexity(tmp_path):
    study = comparison(tmp_path, methods=["uniform", "tandem"], seeds=[0, 1])
    seeds = {0: (1.0, 3.0), 1: (1.2, 3.0)}
    runs = finished(
        runs_of(
            {
                ("tandem", "fresh"): {0: (0.9, 2.9), 1: (1.1, 2.9)},
                ("uniform", "fresh"): seeds,
            }
        )
    )
    page, files = write_results(study, runs)
    assert "-0.1000 [-0.1000, -0.1000]" in page
    assert "**" not in page
    assert "perplexity" not in page
    assert {path.name for path in files} >= {"comparison.png", "mixtures.png"}


def test_pictures_without_data_are_not_made(tmp_path):
    study = comparison(tmp_path)
    runs = finished(runs_of({("uniform", "fresh"): {0: (1.0, 3.0)}}))
    _, files = write_results(study, runs)
    assert "comparison.png" not in {path.name for path in files}
    assert all(path.exists() for path in files)
    text = (tmp_path / "out/comparison.md").read_text()
    assert "mixtures.png" in text
    assert "comparison.png" not in text


def test_averages_count_a_target_of_its_own_alone(tmp_path):
    """Held-out data of the training domains are tested too, and are shown after it."""
    study = comparison(tmp_path, methods=["uniform", "tandem"], seeds=[0], overrides=OF_TOKENS)
    for cell in build_cells(study):
        if cell.stage == "final":
            own = 1.0 if cell.label == "tandem" else 2.0
            result = {
                "losses": {"a": 3.0 - own, "b": 3.0 - own, "exam": own},
                "target": {"exam": 1.0},
                "weights": {"a": 0.5, "b": 0.5},
                "settings": {},
                "seconds": 1.0,
            }
            cell.folder.mkdir(parents=True)
            cell.result.write_text(yaml.safe_dump(result))
    runs = collect(study, build_cells(study))
    assert list(runs.losses) == ["exam", "a", "b"]
    page = markdown(study, runs)
    assert "Averages count the domains of the target alone (exam) the same" in page
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    (first,) = (row[:4] for row in rows if row[1:3] == ["tandem", "1.0000"])
    assert first[3] == "-1.0000"
    assert any(row[1:3] == ["uniform", "2.0000"] for row in rows)
