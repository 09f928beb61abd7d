"""Small networks, data sets and trainers for tests."""

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

torch.set_num_threads(1)


class Rows(Dataset):
    """A data set whose samples are the rows of a tensor."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


def random_rows(size: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    return Rows(torch.randn(size, width, generator=generator, dtype=dtype))


def numbered(domain: int, size: int) -> Rows:
    """Return samples that name their place: (domain, index)."""
    return Rows(torch.tensor([[domain, index] for index in range(size)]))


class QuadraticNetwork(nn.Module):
    """One vector of weights, without an input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, dtype=torch.float64))


def half_squared_distance(network: nn.Module, samples: Tensor) -> Tensor:
    """Return the quadratic's loss, 1/2 ||weight - sample||^2."""
    return 0.5 * (network.weight - samples).square().sum(dim=1)


def small_network(width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a network that predicts the last column of a row from the others."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(width - 1, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)


def predict_last(network: nn.Module, samples: Tensor) -> Tensor:
    """Return the squared error of the last column, one loss a row."""
    return (network(samples[:, :-1]).squeeze(1) - samples[:, -1]).square()


def quiet_trainer(folder, **options) -> Trainer:
    """Return a trainer on the CPU that writes and prints as little as it can."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "default_root_dir": folder,
    }
    return Trainer(**{**defaults, **options})


def parameters_of(network: nn.Module) -> Tensor:
    """Return all parameters in one flat copy."""
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


class Recorder(Callback):
    """Keeps every training batch, and both twins' parameters and the rates before and after it."""

    def __init__(self) -> None:
        self.batches, self.before, self.after, self.rates = [], [], [], []
        self.global_steps, self.epochs = [], []

    @staticmethod
    def _state(module) -> list[Tensor]:
        twins = [module.network, getattr(module, "reference", module.network)]
        return [parameters_of(network) for network in twins]

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.batches.append(batch)
        self.before.append(self._state(pl_module))
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.after.append(self._state(pl_module))
        self.global_steps.append(trainer.global_step)
        self.epochs.append(trainer.current_epoch)
