import pytest


@pytest.fixture
def few_features(monkeypatch):
    """Keep the arrays of hashed features small."""
    monkeypatch.setattr("tandem_pl.datamodules.clusters.hashed.BITS", 12)
