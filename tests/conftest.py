"""What every test starts from: one thread, one seed, an environment and a cache of its own."""

import os
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import lightning.pytorch  # noqa: F401  (loggers keep the stderr of the import: not a test's)
import pytest
import torch

from tandem_pl.datamodules.demo import (
    environment,
    environment_instructions,
    installed_corpus,
    installed_text,
    problems,
    task_examples,
)

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


@pytest.fixture(scope="session", autouse=True)
def _installed_text():
    """List the installed packages and their files once, as they stay: a list takes seconds."""
    files = cache(installed_text.list_candidates)

    @cache
    def versions():
        found = installed_text.installed()
        return [(name, SimpleNamespace(version=package.version)) for name, package in found]

    with pytest.MonkeyPatch.context() as patch:
        for module in (environment, problems, task_examples):
            patch.setattr(module, "list_candidates", files)
        for module in (environment_instructions, installed_corpus):
            patch.setattr(module, "installed", versions)
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
