"""Warnings of this package are one line of the command, those of others are as they were."""

import subprocess
import sys
import warnings

import pytest

from tandem_pl.cli import main

REPORT = """
import sys, warnings
import tandem_pl.cli.report as report
from tandem_pl import cli
from tandem_pl.networks.checks import check_vocabulary
from torch import nn

class Network(nn.Embedding):
    def get_input_embeddings(self):
        return self

def warn(arguments):
    check_vocabulary(Network(9000, 1), 257)
    warnings.warn("of another")

report.main = warn
assert cli.main(["report", "run"]) == 0
warnings.warn("after it")
"""


def test_own_warnings_are_one_line_and_others_stay(tmp_path):
    path = tmp_path / "other.py"
    path.write_text(REPORT)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    note, *others = done.stderr.splitlines()
    assert note.startswith("tandem: note: the network has a vocabulary of 9000 tokens and the data")
    assert others == [
        f"{path}:14: UserWarning: of another",
        '  warnings.warn("of another")',
        f"{path}:18: UserWarning: after it",
        '  warnings.warn("after it")',
    ]


def test_warnings_are_still_recorded(monkeypatch):
    before = warnings.formatwarning
    monkeypatch.setattr(
        "tandem_pl.cli.report.main", lambda arguments: warnings.warn("seen", stacklevel=1)
    )
    with pytest.warns(UserWarning, match="seen"):
        assert main(["report", "run"]) == 0
    assert warnings.formatwarning is before
