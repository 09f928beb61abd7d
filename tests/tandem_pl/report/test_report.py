"""The report's numbers against known answers, and its sentences against its numbers."""

import base64
import io
import math
import re
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest

from tandem_pl import InputError, Mixture
from tandem_pl.report.domains import final_epochs, summarize_domains
from tandem_pl.report.page import build_page, to_html, write_page
from tandem_pl.report.run import Run, read_run
from tandem_pl.report.sentences import explain, headline, verdict
from tandem_pl.report.statistics import batch_means, stability
from tandem_pl.run_files import Signal, write_signal, write_trajectory
from tandem_pl.simplex import projected_step
from tandem_pl.steadiness import Interval, centred, mean_gradients


def correlated(count, length, rho, seed=0):
    """[length, count] first-order autoregressive series of mean 0, from their stationary law."""
    noise = np.random.default_rng(seed).normal(size=(length, count))
    rows = [noise[0] / math.sqrt(1 - rho**2)]
    for row in noise[1:]:
        rows.append(rho * rows[-1] + row)
    return np.stack(rows)


@pytest.mark.parametrize(("rho", "length"), [(0.0, 16), (0.0, 200), (0.5, 200), (0.8, 900)])
def test_intervals_cover_the_truth_95_times_in_100(rho, length):
    intervals = batch_means(5.0 + correlated(2000, length, rho))
    covered = np.mean([abs(mean - 5.0) <= half for mean, half in intervals])
    assert 0.90 <= covered <= 0.97, covered
    if rho == 0.8:  # where independent numbers are assumed, the interval is far too narrow
        values = correlated(2000, length, rho)
        naive = 1.96 * values.std(axis=0, ddof=1) / math.sqrt(length)
        assert np.mean(np.abs(values.mean(axis=0)) <= naive) < 0.75


def test_few_numbers_have_no_interval():
    [interval] = batch_means(np.ones((7, 1)))
    assert interval.mean == 1.0
    assert math.isnan(interval.half)
    assert not interval.distinct
    assert Interval(-2.0, 1.0).distinct


def make_run(weights, delta=None, folder=None, names=None, **about):
    weights = np.asarray(weights, float)
    names = names or [f"d{m}" for m in range(weights.shape[1])]
    half = weights[len(weights) // 2 :]
    about = {"method": "tandem", "settings": {"floor": 0.0}} | about
    mixture = Mixture.from_array(
        names, weights[-1], average=dict(zip(names, half.mean(axis=0), strict=True)), about=about
    )
    steps = list(range(0, 20 * len(weights), 20))
    signal = None
    if delta is not None:
        values = np.asarray(delta, float)[:, None]
        signal = Signal("hyper_gradient", ("delta",), steps[1 : len(values) + 1], values)
    return Run(folder, mixture, steps, weights, signal)


def save(run, folder):
    run.mixture.save(folder / "mixture.yaml")
    write_trajectory(folder / "trajectory.csv", run.mixture.domains, run.steps, run.weights)
    if run.signal is not None:
        write_signal(folder / "hyper_gradient.csv", run.mixture.domains, run.signal)


def line(start, end, length=81):
    share = np.linspace(start, end, length)
    return np.stack([share, 1 - share], axis=1)


def jitter(size, length=81):
    share = 0.5 + size * (-1.0) ** np.arange(length)
    return np.stack([share, 1 - share], axis=1)


def walk(delta, rate=0.5):
    """The weights [T + 1, M] that hyper-gradients [T, M] lead to, from uniform."""
    rows = [np.full(delta.shape[1], 1 / delta.shape[1])]
    for slope in delta:
        rows.append(projected_step(rows[-1], slope, rate))
    return np.stack(rows)


@pytest.mark.parametrize("updates", [8, 9, 40, 81])
def test_means_are_of_the_hyper_gradients_less_that_of_the_average_domain(updates):
    delta = noise([-0.002, 0.0, 0.001, 0.001], updates, size=0.0) + 7.0
    run = make_run(walk(delta), delta)
    for row, mean in zip(summarize_domains(run), (-0.002, 0.0, 0.001, 0.001), strict=True):
        assert row.mean.mean == pytest.approx(mean, abs=1e-12)


def test_updates_count_the_same_while_the_learning_rate_falls():
    """A hundredth of the noise and of the hyper-gradient towards the end hides nothing."""
    fall = np.geomspace(1.0, 0.01, 120)[:, None]
    delta = noise([-0.002, 0.001, 0.001], 120, size=0.006)
    steady, falling = (
        mean_gradients(make_run(walk(values), values).signal) for values in (delta, fall * delta)
    )
    for one, other in zip(steady, falling, strict=True):
        assert other.mean / other.half == pytest.approx(one.mean / one.half, rel=0.1)
    assert steady[0].distinct
    rows = (summarize_domains(make_run(walk(v), v)) for v in (delta, fall * delta))
    for one, other in zip(*([row.late for row in found] for found in rows), strict=True):
        assert other.mean / other.half == pytest.approx(one.mean / one.half, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"learning_rate": 3.0, "measure_batches": 2}, ", and measure more or lower learning_rate"),
        ({"learning_rate": "auto", "measure_batches": 2}, ", and measure more"),
        ({"period": 10}, ""),
    ],
)
def test_noisy_runs_get_advice_that_their_method_has(settings, advice):
    run = make_run(jitter(0.1), settings=settings)
    assert verdict(stability(run), run).endswith(f"Use the average{advice}.")


def test_noise_alone_is_called_chance_95_times_in_100():
    found = []
    for seed in range(300):
        size = 0.003 * np.linspace(1, 0, 60)[:, None]  # noise that falls with the learning rate
        delta = size * np.random.default_rng(seed).normal(size=(60, 5))
        means = mean_gradients(make_run(walk(delta), delta).signal)
        found += [interval.distinct for interval in means]
    assert 0.02 < np.mean(found) < 0.07, np.mean(found)


@pytest.mark.parametrize(
    ("weights", "expected", "moved", "fluctuation"),
    [
        (np.full((81, 2), 0.5), "settled", 0.0, 0.0),
        (line(0.5, 0.9), "drifting", 0.1, None),  # half of the run moves .2, its quarters' means .1
        (line(0.5, 0.56), "settled", 0.015, None),  # below 2 %
        (jitter(0.02), "settled", 0.0, 0.02),
        (jitter(0.1), "noisy", 0.0, 0.1),
        (line(0.5, 0.62) + jitter(0.1) - 0.5, "noisy", 0.03, None),
        (np.full((5, 2), 0.5), "too short to judge", 0.0, 0.0),
        (np.full((29, 2), 0.5), "too short to judge", 0.0, 0.0),
        (np.full((33, 2), 0.5), "settled", 0.0, 0.0),
    ],
)
def test_stability_of_known_trajectories(weights, expected, moved, fluctuation):
    result = stability(make_run(weights))
    assert result.verdict == expected
    assert result.moved == pytest.approx(moved, abs=0.006)
    if fluctuation is not None:
        assert result.fluctuation == pytest.approx(fluctuation, abs=0.003)
    said = verdict(result, make_run(weights))
    assert said.lower().startswith(("still " if expected == "drifting" else "") + expected)


def test_a_common_shift_of_delta_changes_nothing():
    delta = np.random.default_rng(0).normal(size=(40, 3))
    run = make_run(np.full((41, 3), 1 / 3), delta)
    shifted = make_run(np.full((41, 3), 1 / 3), delta + np.linspace(-5, 5, 40)[:, None])
    np.testing.assert_allclose(centred(run.signal), centred(shifted.signal), atol=1e-12)
    for one, other in zip(summarize_domains(run), summarize_domains(shifted), strict=True):
        assert one.late == pytest.approx(other.late)


def test_rows_by_hand():
    weights = np.array([[0.5, 0.5]] * 4 + [[0.6, 0.4], [0.8, 0.2], [0.7, 0.3], [0.9, 0.1]])
    run = make_run(weights, epochs={"d0": 0.5, "d1": 6.0})
    first, second = summarize_domains(run)
    assert (first.start, first.last, first.epochs) == (0.5, 0.9, 0.5)
    assert first.average == pytest.approx(0.75)
    assert first.spread == pytest.approx(np.std([0.6, 0.8, 0.7, 0.9]))
    assert first.drift == pytest.approx(0.8 - 0.7)
    assert second.drift == pytest.approx(-0.1)
    assert first.late is None
    assert first.final_epochs is None


ABOUT = {
    "samples": {"a": 200, "b": 100, "c": 0},
    "tokens": {"a": 2000, "b": 500, "c": 0},
    "epochs": {"a": 2.0, "b": 0.5, "c": 0.0},
}


def test_final_epochs_by_hand():
    mixture = Mixture({"a": 0.6, "b": 0.3, "c": 0.1}, about=ABOUT)
    # a has 100 samples of 10 tokens, b 200 samples of 5, c is not known.
    assert final_epochs(mixture) == {}
    assert final_epochs(mixture, samples=1000) == pytest.approx({"a": 6.0, "b": 1.5})
    # One sample of the mixture has 0.6 * 10 + 0.3 * 5 + 0.1 * 7.5 = 8.25 tokens.
    expected = {"a": 1000 * 6 / 1000, "b": 1000 * 1.5 / 1000}
    assert final_epochs(mixture, tokens=8250) == pytest.approx(expected)
    given = {"a": 1e6, "b": 1e6, "c": 1e3}
    expected = {"a": 6e-3, "b": 1.5e-3, "c": 0.75}
    assert final_epochs(mixture, tokens=8250, tokens_per_domain=given) == pytest.approx(expected)


@pytest.mark.parametrize("length", [-1.0, 0.0, math.nan, math.inf])
def test_a_length_is_positive(length):
    with pytest.raises(InputError, match="must be a positive number"):
        final_epochs(Mixture({"a": 1}, about=ABOUT), tokens=length)


def test_tokens_need_a_run_that_counted_them():
    about = {key: ABOUT[key] for key in ("samples", "epochs")}
    with pytest.raises(InputError, match="give --samples"):
        final_epochs(Mixture({"a": 1, "b": 1, "c": 1}, about=about), tokens=1e9)


def sentences(weights, delta=None, **about):
    run = make_run(weights, delta, **about)
    return [explain(row, run) for row in summarize_domains(run)]


def noise(means, length=80, size=0.01, seed=0):
    draw = np.random.default_rng(seed)
    return np.array(means) + size * draw.normal(size=(length, len(means)))


def test_sentences_say_what_the_numbers_say():
    up, down = sentences(line(0.5, 0.9), noise([-0.05, 0.05]))
    assert up.startswith("up from 50.0 % to 80.0 % (×1.6); relative to the average domain, ")
    assert re.search(r"target data lowered its loss by 0\.0\d+ ± 0\.01\d+ nats an episode\.$", up)
    assert down.startswith("down from 50.0 % to 20.0 % (×0.4); ")
    assert "raised its loss by 0.0" in down


def test_sentences_admit_that_nothing_was_seen():
    up, _ = sentences(line(0.5, 0.9), noise([0.0, 0.0], size=0.05))
    assert re.search(r"its Δ, -?0\.0\d+ ± 0\.0\d+ nats next to the average's, does not rule", up)
    level, _ = sentences(jitter(0.02), noise([0.0, 0.0]))
    assert level.startswith("about level at 50.0 %")
    assert level.endswith("nats next to the average's.")


def test_sentences_name_floors_caps_and_repeats():
    weights = np.vstack([line(0.5, 0.9), [[0.9, 0.1]] * 3])
    settings = {"floor": 0.1, "caps": {"d0": 0.9}}
    up, down = sentences(weights, settings=settings, epochs={"d0": 1.0, "d1": 12.34})
    assert "held at its cap of 90.0 %" in up
    assert "seen" not in up
    assert "held at the floor of 10.0 %" in down
    assert "its data was seen 12.3 times in this run" in down
    assert "nats" not in up + down  # no hyper-gradients were kept
    _, gone = sentences(np.vstack([line(0.5, 1.0), [[1.0, 0.0]]]))
    assert "it ended at 0" in gone


def test_given_weights_are_said_to_be_given():
    run = make_run(np.full((41, 2), 0.5), method="fixed")
    assert explain(summarize_domains(run)[0], run) == "given at 50.0 %, not learned."
    assert verdict(stability(run), run).startswith("The weights were given")


def test_the_headline_names_the_largest_and_sums_the_rest():
    run = make_run(np.tile(np.arange(1, 10)[None] / 45, (9, 1)))
    said = headline(summarize_domains(run))
    assert said.startswith("Train with d8 20.0 %, d7 17.8 %, ")
    assert said.endswith("4 others 22.2 %.")
    few = make_run(np.tile(np.arange(1, 8)[None] / 28, (9, 1)))
    assert "others" not in headline(summarize_domains(few))


class Reader(HTMLParser):
    """Collects tags with their attributes, and the text of the table's cells."""

    def __init__(self):
        super().__init__()
        self.tags, self.cells, self.open = [], [], None

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        if self.open in ("td", "th"):
            self.cells[-1] += data


def read_html(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def write(run, folder, form="html", **length):
    rows = summarize_domains(run, **length)
    page = build_page(run, rows, "1e6 tokens" if length else None)
    return page, write_page(run, rows, page, folder / f"report.{form}", form)


def test_html_is_one_file_without_scripts_or_links(tmp_path):
    names = ["<b>web</b>", 'a & "b"', "c|d`"]
    run = make_run(
        np.full((41, 3), 1 / 3), noise([0.01, 0, -0.01], 40), tmp_path, names, about=None
    )
    _, files = write(run, tmp_path)
    assert [path.name for path in files] == ["report.html"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    reader = read_html(files[0])
    assert not {"script", "link", "iframe", "a"} & {tag for tag, _ in reader.tags}
    images = [attributes["src"] for tag, attributes in reader.tags if tag == "img"]
    assert len(images) == 2
    for source in images:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)))
        assert picture.std() > 0.05
    text = files[0].read_text(encoding="utf-8")
    assert "http" not in text
    assert "<b>web</b>" not in text
    width = reader.cells.index(sorted(names, key=lambda n: reader.cells.index(n))[0])
    assert set(reader.cells[width::width]) == set(names)  # the first column, unharmed


def test_the_table_holds_the_rows(tmp_path):
    about = {
        "samples": {"d0": 500, "d1": 300},
        "tokens": {"d0": 5000, "d1": 3000},
        "epochs": {"d0": 0.5, "d1": 10.0},
    }
    run = make_run(line(0.4, 0.8), noise([-0.05, 0.05]), tmp_path, **about)
    page, files = write(run, tmp_path, tokens=1e6)
    assert page.header[-1] == "epochs in 1e6 tokens"
    cells = read_html(files[0]).cells
    row = cells[cells.index("d0") :][: len(page.header)]
    assert row[1:4] == ["40.0 %", "70.0 %", "80.0 %"]
    assert row[4] == "+30.0"
    assert float(row[7].split(" ± ")[0]) == pytest.approx(-0.05, abs=0.01)
    assert row[8:] == ["0.5", "70.0"]  # 1e6 tokens * .7 over 500 / .5 samples of 10
    assert cells[cells.index("d1") + 9] == "1000.0"  # 1e6 * .3 over 300 / 10 samples of 10
    assert len(page.warnings) == 1
    assert "d1 (1000.0), d0 (70.0)" in page.warnings[0]
    assert 'class="over">70.0' in files[0].read_text()
    assert 'class="over">0.5' not in files[0].read_text()


def test_the_epochs_of_a_run_with_pools_and_of_a_final_run_on_whole_domains(tmp_path):
    about = {
        "samples": {"d0": 500, "d1": 0},
        "epochs": {"d0": 5.0, "d1": 0.0},
        "data": {
            "samples": {"d0": 1000, "d1": 400},
            "pool": {"d0": 100, "d1": 40},
            "final_samples": 5000,
        },
    }
    run = make_run(line(0.4, 0.8), folder=tmp_path, **about)
    rows = summarize_domains(run, samples=5000)
    assert [row.epochs for row in rows] == [5.0, 0.0]
    assert [row.final_epochs for row in rows] == pytest.approx([5000 * 0.7 / 1000, 1500 / 400])
    notes = " ".join(build_page(run, rows, "5000 samples").notes)
    assert "epochs here: passes over the part of each domain that this run drew from" in notes


def test_markdown_has_its_pictures_beside_it(tmp_path):
    run = make_run(line(0.4, 0.8), noise([-0.05, 0.05]), tmp_path, names=["a|b", "c"])
    _, files = write(run, tmp_path, "md")
    text = files[0].read_text()
    linked = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert linked == [path.name for path in files[1:]]
    assert all((tmp_path / name).read_bytes()[1:4] == b"PNG" for name in linked)
    table = [row for row in text.splitlines() if row.startswith("| ")]
    assert len(table) == 4
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table}) == 1


def test_a_thousand_domains_are_forty_rows(tmp_path):
    draw = np.random.default_rng(0)
    weights = draw.dirichlet(np.ones(1000), size=31)
    run = make_run(weights, draw.normal(size=(30, 1000)), tmp_path)
    page, files = write(run, tmp_path)
    assert len(page.table) == len(page.reasons) == 40
    assert "960 between them share" in page.between
    averages = sorted(run.mixture.average, key=run.mixture.average.get, reverse=True)
    assert [row[0] for row in page.table] == averages[:20] + averages[-20:]
    assert files[0].stat().st_size < 400_000


@pytest.mark.parametrize("updates", [0, 1, 2, 3, 7])
def test_a_short_run_is_reported_as_short(updates, tmp_path):
    weights = np.full((updates + 1, 2), 0.5)
    delta = noise([0.1, -0.1], updates) if updates else None
    page, files = write(make_run(weights, delta, tmp_path), tmp_path)
    assert page.verdict.startswith("Too short to judge: the run has")
    assert "±" not in "".join(cell for row in page.table for cell in row)
    assert files[0].exists()


def test_what_was_never_drawn_has_a_question_mark(tmp_path):
    run = make_run(line(0.5, 1.0), folder=tmp_path, samples={"d0": 5, "d1": 0}, epochs={"d0": 1.0})
    rows = summarize_domains(run, samples=100)
    assert build_page(run, rows, "100 samples").table[1][-1] == "?"


def test_reads_what_a_run_wrote(tmp_path):
    run = make_run(line(0.4, 0.8), noise([-0.05, 0.05]), tmp_path)
    save(run, tmp_path)
    again = read_run(tmp_path)
    assert again.mixture == run.mixture
    assert again.steps == run.steps
    assert again.weights.tobytes() == run.weights.tobytes()
    assert summarize_domains(again) == summarize_domains(run)
    (tmp_path / "hyper_gradient.csv").unlink()
    assert read_run(tmp_path).signal is None
    page = build_page(read_run(tmp_path), summarize_domains(read_run(tmp_path)))
    assert any("kept no hyper-gradients" in note for note in page.notes)


def test_files_of_different_runs_are_refused(tmp_path):
    save(make_run(line(0.4, 0.8), noise([-0.05, 0.05])), tmp_path)
    Mixture({"x": 1.0}).save(tmp_path / "mixture.yaml")
    with pytest.raises(InputError, match="have different domains"):
        read_run(tmp_path)


def test_the_page_is_the_same_twice(tmp_path):
    run = make_run(line(0.4, 0.8), noise([-0.05, 0.05]), tmp_path)
    page = build_page(run, summarize_domains(run))
    assert to_html(page, [b"x", b"y"]) == to_html(page, [b"x", b"y"])


def test_repeated_runs_are_compared(tmp_path):
    run = make_run(line(0.4, 0.8), noise([-0.05, 0.05]), tmp_path)
    others = [Mixture({"d0": 0.66, "d1": 0.34}), Mixture({"d1": 0.26, "d0": 0.74})]
    rows = summarize_domains(run, others=others)
    assert rows[0].seeds == pytest.approx((0.7, np.std([0.7, 0.66, 0.74], ddof=1)))
    page = build_page(run, rows, runs=3)
    assert page.header[-2] == "3 runs, ± sd"
    assert [row[-2] for row in page.table] == ["70.0 ± 4.0", "30.0 ± 4.0"]
    assert re.search(r"4\.0 points on average, and 4\.0 at most, of d[01]\.$", page.verdict)
    with pytest.raises(InputError, match="seeds names the unknown domain 'x'"):
        summarize_domains(run, others=[Mixture({"x": 1.0})])
