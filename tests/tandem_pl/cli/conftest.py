"""Fixtures of the commands that run swarms."""

import sys
from types import ModuleType

import pytest
from small_swarm import MODULE

from tandem_pl.search.swarm import run


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with a data module and objectives of one's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "swarm_parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run, "POLL_SECONDS", 0.02)
    return tmp_path


@pytest.fixture
def botorch(monkeypatch):
    """Botorch is installed, though nothing is in it."""
    monkeypatch.setitem(sys.modules, "botorch", ModuleType("botorch"))
