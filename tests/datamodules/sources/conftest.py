import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Rows of files with a domain column are cached in a folder of the test."""
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path_factory.mktemp("cache")))
