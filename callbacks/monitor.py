"""`MixtureMonitor`: losses by domain, shares, signal and twins, as TensorBoard shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from tandem_pl.domain_losses import DomainLosses
from tandem_pl.episode import MEASURE, PROBE, TRAIN, MixtureBatch
from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture

from .plots import draw_mixture
from .reweighting import ReweightingCallback

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
    Without a reweighting callback only losses, shares and what was seen are there. Parentheses in
    a domain's name stop TensorBoard from drawing lines of custom charts; other signs are fine.

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
        self._drawn = 0  # rows of the trajectory in the last picture

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
        self._stores, self._has_layout, self._drawn = {}, False, 0
        self.on_train_epoch_start(trainer, pl_module)  # which a resume inside an epoch leaves out

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sees whether the episode measures."""
        plan = _datamodule(trainer).sampler.plan
        self._by_episode = any(segment.phase == MEASURE for segment in plan)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the losses where they are: no kernel and no wait for the device."""
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
        scalars = self._losses(trainer) | _seen(_datamodule(trainer).seen())
        scalars["train/learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        if getattr(module, "skipped_updates", 0):
            scalars["train/skipped_updates"] = float(module.skipped_updates)
        reweighting = _reweighting(trainer)
        if reweighting is not None:
            mixture = Mixture.from_array(reweighting.domains, reweighting.weights)
            scalars["mixture/entropy"] = mixture.entropy()
            scalars["mixture/effective_domains"] = mixture.effective_domains()
            if reweighting.steps[-1] == trainer.global_step:  # not where a run stops in between
                scalars |= _bands(reweighting)
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
            for experiment in _experiments(trainer, "add_custom_scalars"):
                experiment.add_custom_scalars(layout)
        return scalars

    def _losses(self, trainer: Trainer) -> dict[str, float]:
        stores, self._stores = self._stores, {}
        scalars: dict[str, float] = {}
        for tag, store in stores.items():
            names = _datamodule(trainer).domain_names("validate" if tag == "target/loss" else "fit")
            mean, count = store.reduce(len(names), trainer.strategy)
            has = count > 0
            scalars[tag] = float((mean[has] * count[has]).sum() / count.sum())
            scalars |= {f"{tag}/{names[m]}": float(mean[m]) for m in np.flatnonzero(has)}
        return scalars

    def _show(self, module: LightningModule, scalars: dict[str, float]) -> None:
        for tag in ("train/loss", "mixture/effective_domains"):
            if tag in scalars:
                module.log(tag, scalars[tag], prog_bar=True, logger=False)

    def _draw(self, trainer: Trainer) -> None:
        reweighting = _reweighting(trainer)
        if reweighting is None or len(reweighting.steps) == self._drawn:
            return
        self._drawn = len(reweighting.steps)
        for experiment in _experiments(trainer, "add_figure"):
            figure = draw_mixture(
                reweighting.domains, reweighting.steps, np.stack(reweighting.trajectory)
            )
            experiment.add_figure("mixture/weights", figure, global_step=trainer.global_step)


def _datamodule(trainer: Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def _reweighting(trainer: Trainer) -> ReweightingCallback | None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((c for c in callbacks if isinstance(c, ReweightingCallback)), None)


def _experiments(trainer: Trainer, method: str) -> Iterator[Any]:
    """The loggers' writers that have `method`, on rank zero."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            experiment = getattr(logger, "experiment", None)
            if hasattr(experiment, method):
                yield experiment


def _seen(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    scalars = {}
    for name, row in rows.items():
        scalars[f"sampler/drawn/{name}"] = row["share"]
        scalars[f"sampler/requested/{name}"] = row["requested"]
        for key in ("samples", "epochs", "tokens", "token_share"):
            if key in row:
                scalars[f"seen/{key}/{name}"] = float(row[key])
    total = sum(row["samples"] for row in rows.values())
    gaps = [abs(row["share"] - row["requested"]) for row in rows.values()]
    return scalars | {"sampler/largest_gap": total * max(gaps)}


def _bands(reweighting: ReweightingCallback) -> dict[str, float]:
    scalars = {}
    for name in reweighting.domains:
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
    if _bands(reweighting):
        layout["hyper-gradient, with standard error"] = {
            name: [
                "Margin",
                [f"hypergradient/{name}"]
                + [f"hypergradient_band/{name}/{end}" for end in ("lower", "upper")],
            ]
            for name in reversed(reweighting.domains)  # TensorBoard shows them last to first
        }
    return layout
