"""`MixtureMonitor`: losses by domain, shares, signal and twins, as TensorBoard shows them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from tandem_pl.callbacks.reweighting import ReweightingCallback
from tandem_pl.curves import MOST_CURVES, Places, by_name, domain_tags, with_curves
from tandem_pl.episode import MEASURE, PROBE, TRAIN, MixtureBatch
from tandem_pl.errors import InputError
from tandem_pl.plots import draw_mixture
from tandem_pl.simplex import Array
from tandem_pl.training.domain_losses import DomainLosses

from .trainer_parts import experiments, reweighting_of

STAGES = {TRAIN: "train", PROBE: "train", MEASURE: "measured"}  # phase -> first part of the tag
Layout = dict[str, dict[str, list]]


class MixtureMonitor(Callback):
    """Logs what a run on a mixture does, on one axis: `trainer.global_step`, proxy batches.

    Scalars go to every logger of the trainer. TensorBoard also gets a page that groups them
    (tab "Custom Scalars") and the mixture as stacked areas (tab "Images"). In an episode that
    measures, everything is logged once at its end; otherwise every `trainer.log_every_n_steps`
    batches. Losses are means over samples and ranks since the last log, in nats.

    | tag | meaning |
    |---|---|
    | `train/loss`, `train/loss/D` | proxy, before its step, on training batches |
    | `train/loss_reference`, `.../D` | reference, on the training batches of probe steps |
    | `target/loss`, `target/loss/T` | reference, on target batches of probe steps |
    | `measured/loss`, `.../D` | proxy, in eval mode, on measure batches |
    | `measured/loss_reference`, `.../D` | reference, in eval mode, on the same |
    | `train/learning_rate` | of the proxy's next step |
    | `train/skipped_updates` | batches skipped for a loss that was not finite; once there is one |
    | `mixture/entropy` | -sum alpha log alpha of the coming weights |
    | `mixture/effective_domains` | exp(entropy): 1 for one domain alone, M for uniform |
    | `mixture/weights` | picture of the weights over steps |
    | `hypergradient_band/D/lower`, `/upper` | hyper-gradient less and plus its standard error |
    | `twins/distance` | norm(w - u) / norm(u), before the next sync |
    | `sampler/drawn/D`, `sampler/requested/D` | shares of samples since the start |
    | `sampler/largest_gap` | samples that the worst domain is away from what was requested |
    | `seen/samples/D`, `seen/epochs/D` | trained on since the start; also tokens where known |

    D is a training domain, T a target domain; without either, a mean over all samples. Logged
    by others: `mixture/weight/D`, `hypergradient/D` and `hypergradient_error/D` by the
    reweighting callback; `validation/loss/T` and `validation/loss_reference/T` by the module.
    Without a reweighting callback only losses, shares and what was seen are there. In tags,
    parentheses of a domain's name are brackets (see `tags.domain_tags`).

    Of more than 30 domains only the 30 largest have curves: a domain gets them when it has twice
    the weight of the smallest that has them, which loses them. What then stands for all is

    | tag | meaning |
    |---|---|
    | `mixture/largest_weight` | of a domain |
    | `mixture/at_lowest` | share of the domains that are at the floor, or at 0 |
    | `seen/most_epochs` | of the domain that was repeated most |
    | `seen/never_drawn` | share of the domains of which nothing was drawn so far |
    | `histogram/weight_over_uniform` | histogram of M alpha: 1 is uniform |
    | `histogram/delta` | histogram of the hyper-gradients that were measured, in nats |

    (histograms on TensorBoard alone), and the bands are left out.

    Args:
        log_every_n_episodes: episodes between logs, where episodes measure.
        figure_every_n_episodes: episodes between pictures of the mixture; one comes at the end.

    Raises:
        InputError: for settings below 1, or without a `MixtureDataModule`.
    """

    def __init__(self, log_every_n_episodes: int = 1, figure_every_n_episodes: int = 25) -> None:
        for key, value in (
            ("log_every_n_episodes", log_every_n_episodes),
            ("figure_every_n_episodes", figure_every_n_episodes),
        ):
            if value < 1:
                raise InputError(f"{key}={value} must be at least 1.")
        self.log_every_n_episodes = log_every_n_episodes
        self.figure_every_n_episodes = figure_every_n_episodes
        self._stores: dict[str, DomainLosses] = {}
        self._by_episode = False
        self._has_layout = False
        self._drawn = -1  # updates in the last picture
        self._tags: dict[str, tuple[str, ...]] = {}

    # ---- when ----

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses data without domains; any logger, or none, will do."""
        if stage == "fit" and not hasattr(_datamodule(trainer), "domain_names"):
            raise InputError(
                "MixtureMonitor names curves after the domains of a MixtureDataModule: pass one "
                "as datamodule to trainer.fit."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets an earlier run."""
        self._stores, self._has_layout, self._drawn = {}, False, -1
        names = _datamodule(trainer).domain_names
        self._tags = {stage: domain_tags(names(stage)) for stage in ("fit", "validate")}
        self.on_train_epoch_start(trainer, pl_module)  # which a resume inside an epoch leaves out

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sees whether the episode measures."""
        plan = _datamodule(trainer).sampler.plan
        self._by_episode = any(segment.phase == MEASURE for segment in plan)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the losses where they are: no kernel and no wait for the device."""
        if isinstance(batch, MixtureBatch):
            self._collect(outputs, batch)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not self._by_episode and every and trainer.global_step % every == 0:
            self._show(pl_module, self._log(trainer, pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch is an episode; every other callback is done with its last batch."""
        episodes = trainer.current_epoch + 1
        if self._by_episode and episodes % self.log_every_n_episodes == 0:
            self._show(pl_module, self._log(trainer, pl_module))
        if episodes % self.figure_every_n_episodes == 0:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs what is left over, and the last picture."""
        if self._stores:
            self._log(trainer, pl_module)
        self._draw(trainer)

    # ---- what ----

    def _collect(self, outputs: Any, batch: MixtureBatch) -> None:
        stage = STAGES.get(batch.phase, batch.phase)
        for key, tag, domains in (
            ("losses", f"{stage}/loss", batch.domains),
            ("reference_losses", f"{stage}/loss_reference", batch.domains),
            ("target_losses", "target/loss", batch.target_domains),
        ):
            if key in outputs and domains is not None:
                self._stores.setdefault(tag, DomainLosses()).add(domains, outputs[key])

    def _log(self, trainer: Trainer, module: Any) -> dict[str, float]:
        """Reduces over ranks, so all of them come here together; gives what was logged."""
        reweighting, data = reweighting_of(trainer), _datamodule(trainer)
        curves = _curves(data, reweighting)
        scalars = self._losses(trainer, curves) | _seen(
            data.seen_arrays(), self._tags["fit"], curves["fit"]
        )
        scalars["train/learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        skipped = getattr(module, "skipped_updates", 0)
        if skipped:
            scalars["train/skipped_updates"] = float(skipped)
        if reweighting is not None:
            scalars |= _spread(reweighting)
            if reweighting.steps[-1] == trainer.global_step:  # not where a run stops in between
                scalars |= _bands(reweighting)
                _histograms(trainer, reweighting)
                if hasattr(module, "twin_distance"):
                    distance = module.twin_distance()
                    scalars["twins/distance"] = float(
                        distance.full_tensor() if hasattr(distance, "full_tensor") else distance
                    )
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=trainer.global_step)
        if not self._has_layout:  # now it is known what there is to show
            self._has_layout = True
            layout = _layout(trainer, module, reweighting)
            for experiment in experiments(trainer, "add_custom_scalars"):
                experiment.add_custom_scalars(layout)
        return scalars

    def _losses(self, trainer: Trainer, curves: dict[str, Places]) -> dict[str, float]:
        stores, self._stores = self._stores, {}
        scalars: dict[str, float] = {}
        for tag, store in stores.items():
            stage = "validate" if tag == "target/loss" else "fit"
            mean, count = store.reduce(len(self._tags[stage]), trainer.strategy)
            has = count > 0
            scalars[tag] = float((mean[has] * count[has]).sum() / count.sum())
            places = curves[stage][has[curves[stage]]]
            scalars |= by_name(tag, self._tags[stage], mean, places)
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
        for experiment in experiments(trainer, "add_figure"):
            figure = draw_mixture(
                reweighting.domains, reweighting.steps, np.stack(reweighting.trajectory)
            )
            experiment.add_figure("mixture/weights", figure, global_step=trainer.global_step)


def _datamodule(trainer: Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def _curves(data: Any, reweighting: ReweightingCallback | None) -> dict[str, Places]:
    """Stage -> numbers of the domains that have curves."""
    target = data.sampler.target_weights
    return {
        "fit": with_curves(data.mixture.array) if reweighting is None else reweighting.curves,
        "validate": with_curves(np.zeros(0) if target is None else target),
    }


def _seen(columns: dict[str, Array], tags: tuple[str, ...], places: Places) -> dict[str, float]:
    scalars: dict[str, float] = {}
    for key, values in columns.items():
        tag = {"share": "sampler/drawn", "requested": "sampler/requested"}.get(key, f"seen/{key}")
        scalars |= by_name(tag, tags, values, places)
    gaps = np.abs(columns["share"] - columns["requested"])
    scalars["sampler/largest_gap"] = float(columns["samples"].sum() * gaps.max())
    if len(tags) > MOST_CURVES:
        scalars["seen/most_epochs"] = float(columns["epochs"].max())
        scalars["seen/never_drawn"] = float((columns["samples"] == 0).mean())
    return scalars


def _spread(reweighting: ReweightingCallback) -> dict[str, float]:
    weights = reweighting.weights
    positive = weights[weights > 0]
    entropy = float(-(positive * np.log(positive)).sum())
    scalars = {"mixture/entropy": entropy, "mixture/effective_domains": math.exp(entropy)}
    if len(weights) > MOST_CURVES:
        scalars["mixture/largest_weight"] = float(weights.max())
        lowest = float((weights <= reweighting.lowest() * (1 + 1e-9)).mean())
        scalars["mixture/at_lowest"] = lowest
    return scalars


def _histograms(trainer: Trainer, reweighting: ReweightingCallback) -> None:
    size = len(reweighting.weights)
    if size <= MOST_CURVES:
        return
    shown = {"weight_over_uniform": size * reweighting.weights}
    signal = reweighting.measured(trainer.global_step)
    if signal is not None:
        names = reweighting.signal_columns
        known = signal[names.index("samples")] > 0 if "samples" in names else slice(None)
        shown[names[0]] = signal[0][known]
    for experiment in experiments(trainer, "add_histogram"):
        for tag, values in shown.items():
            experiment.add_histogram(f"histogram/{tag}", values, trainer.global_step)


def _bands(reweighting: ReweightingCallback) -> dict[str, float]:
    scalars: dict[str, float] = {}
    if len(reweighting.domains) > MOST_CURVES:
        return scalars
    for name in reweighting.tags:
        value = reweighting.metrics.get(f"hypergradient/{name}")
        error = reweighting.metrics.get(f"hypergradient_error/{name}")
        if value is not None and error is not None:
            scalars[f"hypergradient_band/{name}/lower"] = value - error
            scalars[f"hypergradient_band/{name}/upper"] = value + error
    return scalars


def _layout(trainer: Trainer, module: Any, reweighting: ReweightingCallback | None) -> Layout:
    """Category -> chart -> [kind, tags]; tags of "Multiline" charts are regular expressions."""

    def lines(*tags: str) -> list:
        return ["Multiline", list(tags)]

    twins = hasattr(module, "twin_distance") and reweighting is not None
    losses = {"train": lines(r"train/loss/.*")}
    means = {"train": lines(r"train/loss$", r"train/loss_reference$")}
    if twins:
        losses["train, reference (probe steps)"] = lines(r"train/loss_reference/.*")
        losses["target, reference (probe steps)"] = lines(r"target/loss/.*")
        means["target"] = lines(r"target/loss$")
    if trainer.enable_validation and _datamodule(trainer).domain_names("validate"):
        losses["validation"] = lines(r"validation/loss/.*")
        if twins:
            losses["validation, reference"] = lines(r"validation/loss_reference/.*")
        means["validation"] = lines(r"validation/loss$", r"validation/loss_reference$")
    data = {
        "share of samples so far": lines(r"sampler/drawn/.*"),
        "epochs seen": lines(r"seen/epochs/.*"),
    }
    layout: Layout = {"loss by domain": losses, "mean loss": means, "data": data}
    if reweighting is None:
        return layout
    mixture = {
        "weights": lines(r"mixture/weight/.*"),
        "effective domains": lines(r"mixture/effective_domains$"),
    }
    if twins:
        mixture["distance of the twins"] = lines(r"twins/distance$")
    layout = {"mixture": mixture} | layout
    if len(reweighting.domains) > MOST_CURVES:
        if any(tag.startswith("hypergradient/") for tag in reweighting.metrics):
            mixture["hyper-gradient"] = lines(r"hypergradient/.*")
        mixture["largest weight"] = lines(r"mixture/largest_weight$")
        mixture["share of domains at the lowest weight"] = lines(r"mixture/at_lowest$")
        data["most epochs of a domain"] = lines(r"seen/most_epochs$")
    elif _bands(reweighting):
        layout["hyper-gradient, with standard error"] = {
            name: [
                "Margin",
                [f"hypergradient/{name}"]
                + [f"hypergradient_band/{name}/{end}" for end in ("lower", "upper")],
            ]
            for name in reversed(reweighting.tags)  # TensorBoard shows them last to first
        }
    return layout
