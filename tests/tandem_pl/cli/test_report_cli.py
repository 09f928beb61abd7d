"""`tandem report RUN`, on a real run."""

import shutil
import subprocess
import sys

import pytest
import yaml
from helpers import QuadraticNetwork, half_squared_distance, quiet_trainer, random_rows
from torch.optim import SGD

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.callbacks import FixedMixture, TandemReweighting
from tandem_pl.cli import main
from tandem_pl.datamodules import MixtureDataModule


def sgd(parameters):
    return SGD(parameters, lr=0.1)


def fit(folder, module, method, episodes, tokens=True):
    train = {name: random_rows(12 * (m + 1), 4, m) for m, name in enumerate("ab")}
    for rows in train.values():
        if tokens:
            rows.tokens_per_sample = 8
    data = MixtureDataModule(train, {"t": random_rows(8, 4, 9)}, batch_size=6, epoch_batches=5)
    quiet_trainer(folder, callbacks=[method], max_epochs=episodes).fit(module, data)
    return folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    module = TandemModule(QuadraticNetwork(4), half_squared_distance, sgd)
    method = TandemReweighting(1, 1, 2, learning_rate=0.1)
    return fit(tmp_path_factory.mktemp("learned"), module, method, 20)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    module = MixtureModule(QuadraticNetwork(4), half_squared_distance, sgd)
    return fit(tmp_path_factory.mktemp("fixed"), module, FixedMixture({"a": 3, "b": 1}), 2, False)


def report(capsys, *arguments):
    code = main(["report", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_learned_run(learned, tmp_path, capsys):
    out = tmp_path / "page.html"
    code, said, error = report(capsys, learned, "--tokens", "1e6", "--out", out)
    assert (code, error) == (0, "")
    assert said.startswith("Train with ")
    assert said.endswith(f"written to {out}\n")
    assert "more than 4 epochs of a" in said  # 12 samples of 8 tokens
    page = out.read_text()
    assert "20 updates, the last at step 40" in page
    assert "nats an episode" in page or "next to the average" in page
    code, said, _ = report(capsys, learned, "--seeds", learned, learned, "--out", out)
    assert code == 0
    assert "The averages of 3 runs have standard deviations of 0.0 points" in said


def test_repetitions_for_another_target_are_refused(learned, tmp_path, capsys):
    """Runs that do not say their target, as those of older versions, are taken."""
    content = yaml.safe_load((learned / "mixture.yaml").read_text())
    assert content["data"]["target"] == {"t": 1.0}
    shutil.copytree(learned, tmp_path / "other")
    out = tmp_path / "page.html"
    said = {}
    for target in ("none", "another"):
        content["data"]["target"] = {"t": 0.25, "u": 0.75} if target == "another" else None
        (tmp_path / "other/mixture.yaml").write_text(yaml.safe_dump(content))
        code, _, error = report(capsys, learned, "--seeds", tmp_path / "other", "--out", out)
        said[target] = code, error
    assert said["none"] == (0, "")
    assert said["another"] == (
        2,
        f"tandem: error: --seeds {tmp_path}/other: that run was learned for another target, "
        "in which 't' has the share 0.25, not 1: give runs of the same target.\n",
    )


def test_a_run_on_given_weights(fixed, tmp_path, capsys):
    code, said, _ = report(capsys, fixed, "--samples", 96, "--out", tmp_path / "page.md")
    assert code == 0
    assert said.startswith("Train with a 75.0 %, b 25.0 %.\nThe weights were given")
    text = (tmp_path / "page.md").read_text()
    assert "given at 75.0 %, not learned" in text
    assert "| **6.0** |" in text  # .75 * 96 / 12
    assert "Δ" not in text


def test_the_report_lies_in_the_run_unless_told(learned, capsys):
    before = {path.name for path in learned.iterdir()}
    assert report(capsys, learned)[0] == 0
    assert {path.name for path in learned.iterdir()} - before == {"report.html"}
    (learned / "report.html").unlink()


def test_the_corpus_of_the_final_run(learned, tmp_path, capsys):
    manifest = {"splits": {"train": {"a": {"tokens": 1e6}, "b": {"tokens": 1e4}}, "test": {}}}
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    (tmp_path / "sizes.yaml").write_text("a: 1e6\nb: 10000\n")
    pages = []
    for path in ("corpus", "corpus/manifest.yaml", "sizes.yaml"):
        options = ["--tokens", "1e6", "--tokens_per_domain", tmp_path / path]
        code, said, _ = report(capsys, learned, *options, "--out", tmp_path / "page.html")
        assert code == 0
        assert "more than 4 epochs of b (" in said
        pages.append((tmp_path / "page.html").read_text())
    assert len(set(pages)) == 1


def test_it_starts_without_torch(learned, tmp_path):
    code = (
        "import sys; from tandem_pl.cli import main; "
        f"assert main(['report', {str(learned)!r}, '--out', {str(tmp_path / 'a.html')!r}]) == 0; "
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


MISTAKES = {
    "tokens": (["--tokens", "0"], "--tokens=0 must be a positive number"),
    "not a number": (["--tokens", "many"], "--tokens: expected float, given: many"),
    "both lengths": (["--tokens", "1", "--samples", "1"], "keep one"),
    "format": (["--format", "pdf"], "--format pdf is unknown: use html or md"),
    "sizes alone": (["--tokens_per_domain", "x"], "needs --tokens"),
    "no sizes": (
        ["--tokens", "1", "--tokens_per_domain", "x"],
        "'x' cannot be read as a corpus's manifest.yaml or a map",
    ),
    "no map": (["--tokens", "1", "--tokens_per_domain", "m.yaml"], "unknown"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake, learned, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text("a: 5\n")
    options, message = MISTAKES[mistake]
    message = "says nothing of 'b'" if mistake == "no map" else message
    code, out, error = report(capsys, learned, *options)
    assert (code, out) == (2, "")
    assert message in error
    assert error.startswith("tandem: error: ")
    assert error.count("\n") == 1
    assert not (learned / "report.html").exists()


def test_no_run_there(tmp_path, capsys):
    gone = tmp_path / "gone"
    assert f"{gone} does not exist: give the folder of a run." in report(capsys, gone)[2]
    assert "has no mixture.yaml: give the folder of a run." in report(capsys, tmp_path)[2]
    (tmp_path / "config.yaml").touch()
    assert (
        "has no mixture.yaml yet: it is written at the first checkpoint and at the end of the run."
    ) in report(capsys, tmp_path)[2]
    assert "RUN" not in report(capsys, tmp_path)[1]
