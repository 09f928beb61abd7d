"""What every test starts from: one thread, one seed, an environment and a cache of its own."""

import os
from pathlib import Path

import hypothesis
import lightning.pytorch  # noqa: F401  (loggers keep the stderr of the import: not a test's)
import pytest
import torch

torch.set_num_threads(1)  # the networks are tiny
hypothesis.settings.register_profile("tests", deadline=None)  # cores may be shared
hypothesis.settings.load_profile("tests")
SUPPORT = str(Path(__file__).parent / "support")  # for the processes that tests start
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """Build corpora in a folder of this session, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TANDEM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _same_start():
    """Seed torch, and undo changes of the environment, such as Lightning's PL_GLOBAL_SEED."""
    torch.manual_seed(0)
    before = dict(os.environ)
    yield
    for key in os.environ.keys() - before.keys():
        del os.environ[key]
    os.environ.update(before)
