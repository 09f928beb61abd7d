"""`MixtureMonitor`: losses by domain, shares, signal and twins, as TensorBoard shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from tandem_pl import TandemModule
from tandem_pl.checks import check_at_least
from tandem_pl.curves import Places, by_name, domain_tags, with_curves
from tandem_pl.episode import MEASURE, PROBE, TRAIN, TRIAL, MixtureBatch
from tandem_pl.plots import draw_mixture
from tandem_pl.training.connection import mixture_data
from tandem_pl.training.domain_losses import DomainLosses
from tandem_pl.training.run_folder import run_folder

from .chart_layout import chart_layout
from .logger_outputs import (
    check_stores,
    experiments,
    log_figure,
    log_files,
    log_histograms,
    log_table,
)
from .mixture_scalars import (
    band_scalars,
    histograms,
    sampler_scalars,
    steadiness_scalars,
    weight_scalars,
)
from .trainer_parts import reweighting_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PURPOSE = "MixtureMonitor names curves after the domains of a MixtureDataModule"
#: phase -> first part of the tag
STAGES = {TRAIN: "train", PROBE: "train", TRIAL: "train", MEASURE: "measured"}


class MixtureMonitor(Callback):
    """Log what a run on a mixture does, on one axis: `trainer.global_step`, proxy batches.

    Scalars go to every logger of the trainer. TensorBoard, Weights & Biases and MLflow also get
    pictures of the mixture and, at the end, its table; the latter two the files of the run, and
    TensorBoard a page that groups the scalars (tab "Custom Scalars"). If the episode measures,
    everything is logged once at its end; otherwise every `trainer.log_every_n_steps` batches.
    Losses are means over samples and ranks since the last log, in nats.

    | tag | meaning |
    |---|---|
    | `train/loss`, `train/loss/D` | proxy, before its step, on training batches |
    | `train/loss_reference`, `.../D` | reference, on the training batches of probe steps |
    | `target/loss`, `target/loss/T` | reference, on the target batches of probe steps |
    | `measured/loss`, `.../D` | proxy, in eval mode, on measure batches |
    | `measured/loss_reference`, `.../D` | reference, in eval mode, on measure batches |
    | `train/learning_rate` | of the proxy's next step |
    | `train/skipped_updates` | batches skipped for a non-finite loss; from the first one on |
    | `mixture/entropy` | -sum alpha log alpha of the next weights |
    | `mixture/effective_domains` | exp(entropy): 1 for a single domain, M for uniform weights |
    | `mixture/distance` | share of the data by which the average differs from the start |
    | `mixture/drift`, `mixture/fluctuation` | between and within the run's last two quarters |
    | `mixture/settled` | 1 if both are small (see `steadiness.stability`), else 0 |
    | `mixture/significant` | domains whose mean hyper-gradient is not that of all |
    | `mixture/weights` | picture of the weights over steps |
    | `mixture/table` | first, average and last weight of each domain |
    | `hypergradient_band/D/lower`, `/upper` | hyper-gradient minus and plus its standard error |
    | `twins/distance` | norm(w - u) / norm(u), before the next sync |
    | `sampler/drawn/D`, `sampler/requested/D` | shares of samples since the start |
    | `sampler/largest_gap` | largest gap of a domain, in samples, between drawn and requested |
    | `seen/samples/D`, `seen/epochs/D` | trained on since the start; also tokens if known |

    D is a training domain, T a target domain; without either, it is a mean over all samples (of
    the target, drawn by `target_weights`).
    Others log `mixture/weight/D`, `hypergradient/D` and `hypergradient_error/D` (the reweighting
    callback) and `validation/loss/T` and `validation/loss_reference/T` (the module). Without a
    reweighting callback there are only losses, shares and what was seen. In tags, brackets
    replace the parentheses of a domain's name (see `curves.domain_tags`).

    If there are more than 30 domains, only the 30 largest have curves (see `curves.with_curves`).
    There are no bands then, and these stand for all domains, the histograms not in MLflow:

    | tag | meaning |
    |---|---|
    | `mixture/largest_weight` | of a domain |
    | `mixture/at_lowest` | share of the domains that are at the floor, or at 0 |
    | `seen/most_epochs` | of the domain that was repeated most |
    | `seen/never_drawn` | share of the domains without a drawn sample so far |
    | `histogram/weight_over_uniform` | histogram of M alpha: 1 is uniform |
    | `histogram/delta` | histogram of the measured hyper-gradients, in nats |

    Args:
        log_every_n_episodes: episodes between logs, if episodes measure.
        figure_every_n_episodes: episodes between pictures of the mixture; the last is at the end.

    Raises:
        InputError: a setting below 1, no `MixtureDataModule`, or MLflow's store of plain files.
    """

    def __init__(self, log_every_n_episodes: int = 1, figure_every_n_episodes: int = 25) -> None:
        check_at_least("log_every_n_episodes", log_every_n_episodes, 1)
        check_at_least("figure_every_n_episodes", figure_every_n_episodes, 1)
        self.log_every_n_episodes = log_every_n_episodes
        self.figure_every_n_episodes = figure_every_n_episodes
        self._losses: dict[str, DomainLosses] = {}  # tag -> losses since the last log
        self._by_episode = False
        self._has_layout = False
        self._drawn = -1  # updates in the last picture
        self._tags: dict[str, tuple[str, ...]] = {}  # verb -> last parts of the domains' tags

    # ---- when ----

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise an error for data without domains, or for MLflow's store of plain files."""
        if stage == "fit":
            mixture_data(trainer, PURPOSE)
            check_stores(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier run."""
        self._losses, self._has_layout, self._drawn = {}, False, -1
        names = mixture_data(trainer, PURPOSE).domain_names
        self._tags = {verb: domain_tags(names(verb)) for verb in ("fit", "validate")}
        self.on_train_epoch_start(trainer, pl_module)  # not called by a resume inside an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out if the episode measures."""
        plan = mixture_data(trainer, PURPOSE).planned
        self._by_episode = any(segment.phase == MEASURE for segment in plan)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the losses on the device, without a kernel or a sync."""
        if isinstance(batch, MixtureBatch):
            self._keep_losses(outputs, batch)
        every = getattr(trainer, "log_every_n_steps", 0)
        if not self._by_episode and every and trainer.global_step % every == 0:
            self._show(pl_module, self._log(trainer, pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log at the end of an episode, after the other callbacks are done with its last batch."""
        episodes = trainer.current_epoch + 1
        if self._by_episode and episodes % self.log_every_n_episodes == 0:
            self._show(pl_module, self._log(trainer, pl_module))
        if episodes % self.figure_every_n_episodes == 0:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the remaining losses, and draw the last picture."""
        if self._losses:
            self._log(trainer, pl_module)
        self._draw(trainer)
        self._upload(trainer)

    # ---- what ----

    def _keep_losses(self, outputs: Any, batch: MixtureBatch) -> None:
        stage = STAGES.get(batch.phase, batch.phase)
        for key, tag, domains in (
            ("losses", f"{stage}/loss", batch.domains),
            ("reference_losses", f"{stage}/loss_reference", batch.domains),
            ("target_losses", "target/loss", batch.target_domains),
        ):
            if key in outputs and domains is not None:
                self._losses.setdefault(tag, DomainLosses()).add(domains, outputs[key])

    def _log(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """Log everything and return the scalars; all ranks call it, as losses are reduced."""
        reweighting, data = reweighting_of(trainer), mixture_data(trainer, PURPOSE)
        target = data.target_shares
        curves = {  # verb -> indices of the domains that have curves
            "fit": with_curves(data.mixture.array) if reweighting is None else reweighting.curves,
            "validate": with_curves(np.zeros(0) if target is None else target),
        }
        scalars = self._reduce_losses(trainer, curves)
        scalars |= sampler_scalars(data.seen_arrays(), self._tags["fit"], curves["fit"])
        scalars["train/learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        skipped = getattr(module, "skipped_updates", 0)
        if skipped:
            scalars["train/skipped_updates"] = float(skipped)
        if reweighting is not None:
            scalars |= weight_scalars(reweighting) | steadiness_scalars(reweighting)
            if reweighting.steps[-1] == trainer.global_step:  # the weights were just updated
                scalars |= band_scalars(reweighting)
                if isinstance(module, TandemModule):
                    scalars["twins/distance"] = float(module.twin_distance())
                log_histograms(trainer, histograms(reweighting))
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=trainer.global_step)
        if not self._has_layout:  # the first log knows which charts there are
            self._has_layout = True
            twins = isinstance(module, TandemModule) and reweighting is not None
            validates = trainer.enable_validation and bool(data.domain_names("validate"))
            for experiment in experiments(trainer, "add_custom_scalars"):
                experiment.add_custom_scalars(chart_layout(reweighting, twins, validates))
        return scalars

    def _reduce_losses(self, trainer: Trainer, curves: dict[str, Places]) -> dict[str, float]:
        """Return the mean losses of all ranks since the last log."""
        collected, self._losses = self._losses, {}
        scalars: dict[str, float] = {}
        for tag, losses in collected.items():
            verb = "validate" if tag == "target/loss" else "fit"
            mean, count = losses.reduce(len(self._tags[verb]), trainer.strategy)
            seen = count > 0
            scalars[tag] = float((mean[seen] * count[seen]).sum() / count.sum())
            scalars |= by_name(tag, self._tags[verb], mean, curves[verb])
        return scalars

    def _show(self, module: LightningModule, scalars: dict[str, float]) -> None:
        for tag in ("train/loss", "mixture/effective_domains"):
            if tag in scalars:
                module.log(tag, scalars[tag], prog_bar=True, logger=False)

    def _draw(self, trainer: Trainer) -> None:
        reweighting = reweighting_of(trainer)
        if reweighting is None or reweighting.episodes == self._drawn:
            return
        self._drawn = reweighting.episodes

        def draw() -> Figure:
            rows = np.stack(reweighting.trajectory)
            average = reweighting.averaged()
            return draw_mixture(reweighting.domains, reweighting.steps, rows, average)

        log_figure(trainer, "mixture/weights", draw)

    def _upload(self, trainer: Trainer) -> None:
        """Show the result as a table, and upload the run's files to loggers that keep files."""
        reweighting, folder = reweighting_of(trainer), run_folder(trainer)
        if reweighting is None:
            return
        columns = reweighting.trajectory[0], reweighting.averaged(), reweighting.weights
        numbers = zip(*(column.tolist() for column in columns), strict=True)
        rows = [[name, *row] for name, row in zip(reweighting.domains, numbers, strict=True)]
        log_table(trainer, "mixture/table", ["domain", "start", "average", "last"], rows)
        names = ["mixture.yaml", "mixture.png", "trajectory.csv", f"{reweighting.signal_name}.csv"]
        log_files(trainer, [folder / name for name in names])
