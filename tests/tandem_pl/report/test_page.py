"""The page of a run and its pictures, as files."""

import base64
import io
import re
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
from report_runs import line, make_run, noise, save

from tandem_pl import InputError, Mixture
from tandem_pl.report.domains import summarize_domains
from tandem_pl.report.page import build_page, to_html, write_page
from tandem_pl.report.run import read_run


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
