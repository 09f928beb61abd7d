"""A classifier that counts its calls, its data, and the check of its metrics."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from classification_oracle import NAMES, expected
from torch import nn
from torch.utils.data import Dataset

from tandem_pl import MixtureModule
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.objectives import Classification

CLASSES = 7


class Images(Dataset):
    """Noise around a pattern for each class."""

    def __init__(self, size, seed, dtype=torch.float32, classes=CLASSES):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, classes, (size,), generator=generator)
        patterns = torch.randn(classes, 3, 4, 4, generator=torch.Generator().manual_seed(99))
        noise = torch.randn(size, 3, 4, 4, generator=generator)
        self.images = (noise + 0.3 * patterns[self.labels]).to(dtype)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": int(self.labels[index])}


class Counting(nn.Module):
    """A classifier that counts its calls, and can return logits as transformers do."""

    def __init__(self, classes=CLASSES, wrap=False):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, classes))
        self.calls, self.wrap = 0, wrap

    def forward(self, images):
        self.calls += 1
        logits = self.layers(images)
        return SimpleNamespace(logits=logits) if self.wrap else logits


def network_of(classes=CLASSES, wrap=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Counting(classes, wrap)


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1)


def module_of(kind=MixtureModule, network=None, **options):
    return kind(network or network_of(), Classification(), sgd, **options)


def data_of(sizes=(13, 8, 1), dtype=torch.float32, **options):
    def sets(seed):
        return {
            name: Images(size, seed + m, dtype)
            for m, (name, size) in enumerate(zip(("a", "b/c", "d (x)"), sizes, strict=True))
        }

    options = {"batch_size": 6, "validate_target": True, **options}
    return MixtureDataModule(sets(0), sets(10), sets(20), **options)


def check(metrics, stage, network, sets, suffix=""):
    """Check that every metric equals torchmetrics', by domain and as the mean over domains."""
    by_domain = {}
    for name, data in sets.items():
        with torch.no_grad():
            by_domain[name] = expected(network(data.images), data.labels)
    for metric in NAMES:
        for name, values in by_domain.items():
            found = float(metrics[f"{stage}/{metric}{suffix}/{name}"])
            assert found == pytest.approx(values[metric], abs=1e-6)
        mean = np.mean([values[metric] for values in by_domain.values()])
        assert float(metrics[f"{stage}/{metric}{suffix}"]) == pytest.approx(mean, abs=1e-6)
