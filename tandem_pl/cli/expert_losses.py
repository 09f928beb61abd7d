"""Losses of target samples under the networks of several runs, and under averages of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentError
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser

from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.export.checkpoint import build_module, load_network
from tandem_pl.search.likelihoods import Likelihoods
from tandem_pl.search.merging import merged_runs
from tandem_pl.search.runs import Runs
from tandem_pl.simplex import Array

from .run_folder import last_checkpoint, read_config


def expert_likelihoods(
    runs: Mapping[str, str], per_token: bool = False, target: Sequence[str] | None = None
) -> Likelihoods:
    """Evaluate the networks of runs on the target data of the first of them.

    Args:
        runs: domain -> folder of the run that was trained on it.
        per_token: a row for each token instead of each sample; for objectives of tokens.
        target: target domains that must be among the data; all of them are evaluated.

    Raises:
        InputError: a folder is not that of a run, the first run has no such target data, or the
            objective has no losses of tokens.
    """
    configs = {name: read_config(Path(run)) for name, run in runs.items()}
    paths = {name: last_checkpoint(Path(run), configs[name]) for name, run in runs.items()}
    first = next(iter(runs))
    data, names = _target_data(configs[first], runs[first], target)
    device = _device()
    columns, samples, domains = [], np.zeros(0, np.int64), np.zeros(0, np.int64)
    for name, run in runs.items():
        module = build_module(configs[name], str(Path(run) / "config.yaml"))
        module.network = load_network(module, paths[name]).to(device)
        parts = list(_losses(module, data, device, per_token))
        columns.append(-np.concatenate([losses for losses, _, _ in parts]))
        offsets = np.cumsum([0, *(len(own) for _, _, own in parts)])
        samples = np.concatenate(
            [rows + start for (_, rows, _), start in zip(parts, offsets, strict=False)]
        )
        of_sample = np.concatenate([own for _, _, own in parts])
        domains = of_sample[samples]
    return Likelihoods(
        tuple(runs), np.stack(columns, axis=1), samples, tuple(names[m] for m in domains)
    )


def merged_losses(
    runs: Mapping[str, str], target: Sequence[str] | None = None
) -> Callable[[Array], Runs]:
    """Return a function of mixtures [n, M]: the losses of runs' averages on target data.

    Args:
        runs: domain -> folder of the run that was trained on it; the target data are the first's.
        target: target domains, each of which is a metric `loss/DOMAIN`; None for all.

    Raises:
        InputError: a folder is not that of a run, or the first run has no such target data.
    """
    first = next(iter(runs))
    configs = {name: read_config(Path(run)) for name, run in runs.items()}
    data, names = _target_data(configs[first], runs[first], target)
    module = build_module(configs[first], str(Path(runs[first]) / "config.yaml"))
    states = {}
    for name, run in runs.items():
        path = last_checkpoint(Path(run), configs[name])
        loaded = load_network(module, path).state_dict()
        states[name] = {key: value.clone() for key, value in loaded.items()}
    device = _device()
    network = module.network.to(device)

    def evaluate(_: Any) -> dict[str, float]:
        sums, counts = np.zeros(len(names)), np.zeros(len(names))
        for losses, _rows, domains in _losses(module, data, device, per_token=False):
            sums += np.bincount(domains, losses, minlength=len(names))
            counts += np.bincount(domains, minlength=len(names))
        means = dict(zip(names, (sums / counts).tolist(), strict=True))
        return {f"loss/{name}": means[name] for name in target or names}

    return lambda mixtures: merged_runs(network, states, mixtures, evaluate)


def _target_data(
    config: Mapping[str, Any], run: str, target: Sequence[str] | None
) -> tuple[Any, list[str]]:
    """Return the data module of a run, and its target domains, which `target` must be among."""
    data = build_data(config, run)
    data.prepare_data()
    data.setup("validate")
    if not getattr(data, "target_sets", None):
        raise InputError(
            f"run {run!r} has no target data, whose losses are needed: give the run a data module "
            "with target samples."
        )
    names = list(data.domain_names("validate"))
    for name in target or ():
        if name not in names:
            hint = did_you_mean(name, names)
            raise InputError(f"target={name!r} is unknown: {hint}there are {', '.join(names)}.")
    return data, names


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_data(config: Mapping[str, Any], run: str) -> Any:
    """Build the data module of a run's configuration.

    Raises:
        InputError: it cannot be built.
    """
    parser = LightningArgumentParser(exit_on_error=False, parser_mode="omegaconf+")
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=True)
    try:
        return parser.instantiate_classes(parser.parse_object({"data": config["data"]})).data
    except (ArgumentError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the data module of run {run!r} cannot be built: {reason}") from error


@torch.inference_mode()
def _losses(
    module: Any, data: Any, device: torch.device, per_token: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield losses [n], the sample in the batch that each is of [n], and the domains [B]."""
    if per_token and not hasattr(module.objective, "token_losses"):  # any objective may lack it
        name = getattr(module.objective, "__name__", type(module.objective).__name__)
        raise InputError(f"objective={name} has no losses of tokens: leave out --per_token.")
    for batch in data.val_dataloader():
        batch = data.transform_on_device(move_data_to_device(batch, device))
        size = len(batch.domains)
        if per_token:
            losses, labelled = module.objective.token_losses(module.network, batch.samples)
            rows = labelled.nonzero()[:, 0]
            losses = losses[labelled]
        else:
            losses = module.sample_losses(module.network, batch.samples, size)
            rows = torch.arange(size)
        yield losses.double().cpu().numpy(), rows.cpu().numpy(), batch.domains.cpu().numpy()
