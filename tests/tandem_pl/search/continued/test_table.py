"""Tables of continued runs, and the two commands on them."""

import numpy as np
import pandas as pd
import pytest
from continued_runs import make_table

from tandem_pl import Mixture
from tandem_pl.cli import main
from tandem_pl.errors import InputError
from tandem_pl.search.continued import critical_ratios, read_continued


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a folder, now the current one, with a table of runs."""
    monkeypatch.chdir(tmp_path)
    make_table(noise=0.001).to_csv("runs.csv", index=False)
    return tmp_path


def test_columns_and_checkpoints_are_read(place):
    runs = read_continued("runs.csv")
    assert len(runs.share) == 72
    assert sorted(runs.start) == [0.5e9, 1.8e9, 4e9]
    assert len(runs.of_size(1.8e9).share) == 24
    written = make_table().assign(size=lambda t: (t["size"] / 1e9).map("{:g}B".format))
    written.to_csv("b.csv")
    assert (read_continued("b.csv").size == runs.size).all()
    table = make_table().drop(columns=["size", "domain_loss"])
    table.rename(columns={"ratio": "weight/finance", "general_loss": "web"}).to_csv("b.csv")
    other = read_continued("b.csv", share="weight/finance", general="web")
    assert other.size is None
    assert other.domain is None
    assert other.general == pytest.approx(make_table()["general_loss"][3:])
    assert other.start_loss(1e9) == other.start[None]


def test_the_largest_share_is_printed_and_written(place, capsys):
    Mixture({"web": 3, "books": 1}).save("general.yaml")
    options = ["--size", "1.8e9", "--epsilon", "0.1", "--domain", "finance"]
    assert main(["search", "cmr", "runs.csv", *options, "--general", "general.yaml"]) == 0
    printed = capsys.readouterr().out
    share = critical_ratios(read_continued("runs.csv"), 0.1, 1.8e9).at()
    assert f"largest share of finance at 1e+10 tokens: {share:.4f}" in printed
    assert "finance loss there" in printed
    weights = Mixture.load("proposal.yaml").weights
    expected = {"finance": share, "web": 0.75 * (1 - share), "books": 0.25 * (1 - share)}
    assert weights == pytest.approx(expected, abs=1e-6)
    assert pd.read_csv("shares.csv")["critical ratio"].iloc[-1] == pytest.approx(share)
    assert (place / "shares.png").stat().st_size > 1000


def test_the_best_share_is_printed_and_written(place, capsys):
    options = ["--size", "1.8e9", "--tokens", "8e9", "--epsilon", "0.05"]
    assert main(["search", "dcpt", "runs.csv", *options]) == 0
    printed = capsys.readouterr().out
    share = Mixture.load("proposal.yaml")["domain"]
    assert f"best share of domain at 8e+09 tokens: {share:.4f}" in printed
    losses = pd.read_csv("shares.csv")
    here = losses[np.isclose(losses["share"], share)]
    start = read_continued("runs.csv").start[1.8e9]
    assert here["general_loss"].item() == pytest.approx(start + 0.05, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cmr", "runs.csv", "--out", "runs.csv"], "--out runs.csv is a file: give a folder"),
        (["dcpt", "run.csv"], "did you mean 'runs.csv'"),
        (["cmr", "runs.csv"], "several sizes: give --size one of 5e+08, 1.8e+09, 4e+09"),
        (["cmr", "runs.csv", "--size", "3e9"], "no run has 3e+09: give --size one of"),
        (["cmr", "runs.csv", "--share", "rato"], "no column 'rato': did you mean 'ratio'"),
        (["cmr", "runs.csv", "--size", "4e9", "--domain", "general"], "also a domain of"),
        (["dcpt", "runs.csv", "--tokens", "1e9", "--epsilon", "1"], "several sizes: give --size"),
        (
            ["dcpt", "runs.csv", "--size", "7e9", "--tokens", "1e9", "--epsilon", "1"],
            "--start_loss",
        ),
        (["dcpt", "bare.csv", "--tokens", "1e9"], "needs at least 10 losses"),
        (["dcpt", "bare.csv", "--tokens", "1e9", "--general_loss", "no"], "has no column 'no'"),
        (
            ["cmr", "bare.csv", "--size", "1e9"],
            "no general loss: add a column 'general_loss'",
        ),
        (["cmr", "wide.csv"], "the share in row 2 of wide.csv is 1.5"),
        (["cmr", "gap.csv"], "the domain in row 2 of gap.csv is missing"),
        (["cmr", "none.csv"], "none.csv has no losses"),
        (["cmr", "no_share.csv"], "no column 'ratio': name the one that has the share of the"),
        (["cmr", "no_tokens.csv"], "no column 'tokens': rename the one that has the tokens of"),
        (["cmr", "lost.csv"], "the tokens in row 2 of lost.csv are missing or below 0"),
    ],
)
def test_bad_input_is_one_sentence(place, capsys, arguments, message):
    bare = pd.DataFrame({"ratio": [0.1, 0.5], "tokens": [1e9, 2e9], "domain_loss": [2.0, 3.0]})
    bare.assign(size=[1e9, 2e9]).to_csv("bare.csv", index=False)
    bare.assign(ratio=[0.1, 1.5]).to_csv("wide.csv", index=False)
    bare.assign(domain_loss=[1.0, None]).to_csv("gap.csv", index=False)
    bare.drop(columns="domain_loss").to_csv("none.csv", index=False)
    bare.drop(columns="ratio").to_csv("no_share.csv", index=False)
    bare.drop(columns="tokens").to_csv("no_tokens.csv", index=False)
    bare.assign(tokens=[1e9, None]).to_csv("lost.csv", index=False)
    assert main(["search", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_table_of_checkpoints_alone_has_no_runs(place):
    make_table().head(3).to_csv("first.csv", index=False)
    with pytest.raises(InputError, match="no row with tokens above 0"):
        read_continued("first.csv")
