"""The projects have no tests of their own: `tests/test_embedding.py` runs them."""

collect_ignore_glob = ["*.py"]
