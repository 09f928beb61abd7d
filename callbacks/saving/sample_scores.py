"""Scores of single samples by twin networks, as in CoLoR-Filter (arXiv 2406.10670).

`color_scores` computes them and `best_samples` selects samples by them; `write_scores` and
`read_scores` keep them in a file. `SampleScores` is the callback that computes and writes them.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import Subset

from tandem_pl.checks import check_choice
from tandem_pl.episode import TRAIN
from tandem_pl.errors import InputError
from tandem_pl.files import csv_bytes, write_atomically
from tandem_pl.modes import evaluating
from tandem_pl.simplex import Array
from tandem_pl.training.run_folder import run_folder
from tandem_pl.training.trainer_flags import is_dry_run

HEADER = ["domain", "index", "score"]


@torch.no_grad()
def color_scores(module: Any, datamodule: Any) -> dict[str, Array]:
    """Return domain -> scores [N]: loss under the proxy minus loss under the reference.

    The reference has seen target data. A sample with a high score is like the target, because the
    reference does better on it (L_prior - L_cond in CoLoR-Filter). It takes two forwards a sample,
    in eval mode. With several ranks all must call it; each scores its part, and all get all scores.

    Args:
        module: a `TandemModule`, on its device.
        datamodule: a `MixtureDataModule` that is set up.

    Raises:
        InputError: a module without twins, or no training data.
    """
    if getattr(module, "reference", None) is None:
        raise InputError(
            f"scores compare twin networks, which {type(module).__name__} does not have: use a "
            "TandemModule."
        )
    sizes = [len(samples) for samples in datamodule.train_sets.values()]
    if not sum(sizes):
        raise InputError("train has no sample to score: set the datamodule up first.")
    rank, world_size = datamodule.ranks()
    mine = []
    with evaluating(module.network), evaluating(module.reference):
        for batch in datamodule.evaluation_loader(datamodule.train_sets):
            batch = move_data_to_device(batch, module.device)
            proxy, reference = (
                module.sample_losses(network, batch.samples, len(batch.domains))
                for network in (module.network, module.reference)
            )
            mine.append((proxy - reference).double())
    scores = torch.zeros(sum(sizes), dtype=torch.float64, device=module.device)
    scores[rank::world_size] = torch.cat(mine) if mine else 0.0
    if world_size > 1:
        torch.distributed.all_reduce(scores)
    parts = np.split(scores.cpu().numpy(), np.cumsum(sizes)[:-1])
    return dict(zip(datamodule.train_sets, parts, strict=True))


def best_samples(
    data: Mapping[str, Any],
    scores: Mapping[str, Array],
    share: float,
    per: Literal["domain", "all"] = "domain",
) -> dict[str, Subset]:
    """Return the share of samples that scores best, of each domain or of all, best first.

    The authors of CoLoR-Filter select from all samples at once (`per="all"`), which also sets the
    shares of domains. A share of each domain leaves these to the weights.

    Args:
        data: domain -> map-style data set.
        scores: domain -> scores [N] by index.
        share: of the samples, above 0 and at most 1; their number is rounded up.
        per: "domain" for the share of each domain, at least one sample; "all" for the share of all
            samples together. A domain that keeps none of them is left out.

    Raises:
        InputError: settings out of range, or scores of other data.

    >>> kept = best_samples({"a": [10, 11, 12, 13]}, {"a": np.array([0.1, 0.9, 0.5, 0.2])}, 0.5)
    >>> list(kept["a"])
    [11, 12]
    """
    if not 0 < share <= 1:
        raise InputError(f"share={share} must be above 0 and at most 1, such as 0.25.")
    check_choice("per", per, ("domain", "all"))
    sizes = [len(samples) for samples in data.values()]
    for name, size in zip(data, sizes, strict=True):
        known = len(scores.get(name, []))
        if size != known:
            raise InputError(
                f"the scores have {known} samples of {name!r} and the data has {size}: score this "
                "data."
            )
    counts = [math.ceil(share * size - 1e-9) for size in sizes]
    if per == "all":
        most = math.ceil(share * sum(sizes) - 1e-9)
        best = np.argsort(-np.concatenate([scores[name] for name in data]), kind="stable")[:most]
        owners = np.repeat(np.arange(len(sizes)), sizes)
        counts = np.bincount(owners[best], minlength=len(sizes)).tolist()
    kept = {}
    for (name, samples), count in zip(data.items(), counts, strict=True):
        if count or per == "domain":
            order = np.argsort(-np.asarray(scores[name]), kind="stable")
            kept[name] = Subset(samples, order[:count].tolist())
    return kept


def write_scores(path: str | os.PathLike[str], scores: Mapping[str, Array]) -> None:
    """Write a CSV file with the columns domain, index, score; each domain's best sample first."""
    rows = (
        [name, index, float(values[index])]
        for name, values in scores.items()
        for index in np.argsort(-values, kind="stable").tolist()
    )
    write_atomically(path, csv_bytes(HEADER, rows))


def read_scores(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Return domain -> scores [N] by index, from a file that `write_scores` wrote.

    Raises:
        InputError: the file is missing or has another format.
    """
    scores: dict[str, dict[int, float]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        if header != HEADER:
            raise ValueError("it needs the header domain,index,score")
        for name, index, score in rows:
            scores.setdefault(name, {})[int(index)] = float(score)
        return {name: np.array([of[i] for i in range(len(of))]) for name, of in scores.items()}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} does not hold the scores of samples: {error}.") from None


class SampleScores(Callback):
    """Write the score of every training sample to a file, at the end of fit or of predict.

    Use it with a `TandemModule`. Let `max_steps` be a whole number of episodes: scores compare the
    twins best right after they were probed, because in free steps only the proxy trains.

    Args:
        path: of the file; None for `sample_scores.csv` in the run's folder.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self._stale = False  # whether the reference is older than the proxy

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note if the batch was a free step."""
        self._stale = batch.phase == TRAIN

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the training data."""
        if self._stale:
            rank_zero_warn(
                "the run ended in free steps, so the reference is older than the proxy: let "
                "max_steps be a whole number of episodes to score with twins of the same age."
            )
        self._write(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the training data with the twins of a checkpoint."""
        self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        with trainer.precision_plugin.forward_context():
            scores = color_scores(module, getattr(trainer, "datamodule", None))
        if trainer.is_global_zero and not is_dry_run(trainer):
            folder = run_folder(trainer)
            path = Path(self.path or folder / "sample_scores.csv")
            write_scores(path, scores)
            rank_zero_info(f"scores of {sum(map(len, scores.values()))} samples: {path}")
