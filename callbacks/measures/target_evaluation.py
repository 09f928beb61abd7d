"""`TargetEvaluation`: losses on the same target samples each time, for comparing them."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import Trainer

from tandem_pl.checks import check_at_least
from tandem_pl.episode import MixtureData
from tandem_pl.errors import InputError
from tandem_pl.modes import evaluating
from tandem_pl.randomness import private_randomness
from tandem_pl.simplex import Array
from tandem_pl.training.domain_losses import DomainLosses
from tandem_pl.training.mixture_module import MixtureModule


class TargetEvaluation:
    """Computes the mean loss of each target domain, on a fixed set of samples.

    The samples are the same at every evaluation of a run, and after a resume, so that the
    difference of two evaluations is due to training alone. They depend on the data's seed. Target
    domains whose share is 0 (see `target_weights` of the data module) are left out; the other
    shares do not matter here.

    Args:
        samples: of each target domain; None for all.

    Raises:
        InputError: by `prepare`, for data without a target.
    """

    def __init__(self, samples: int | None) -> None:
        if samples is not None:
            check_at_least("evaluation_samples", samples, 1)
        self.samples = samples
        self.names: tuple[str, ...] = ()
        self._indices: list[np.ndarray] = []  # of each target domain
        self._wanted = np.zeros(0, bool)  # [M'] whether it has a share

    def prepare(self, data: MixtureData, method: str) -> None:
        """Choose the samples."""
        if not data.target_sets:
            raise InputError(
                f"{method} weighs domains by what they do for target data, and there is none: give "
                "the datamodule target=..."
            )
        shares = data.target_shares
        assert shares is not None
        self._wanted = shares > 0
        names = data.domain_names("validate")
        self.names = tuple(name for name, w in zip(names, self._wanted, strict=True) if w)
        self._indices = []
        for number, samples in enumerate(data.target_sets.values()):
            size = len(samples)  # type: ignore[arg-type] # torch declares no length of Dataset
            order = np.random.default_rng([data.seed, number]).permutation(size)
            self._indices.append(np.sort(order[: self.samples if self._wanted[number] else 0]))

    def losses(self, trainer: Trainer, data: MixtureData, module: MixtureModule) -> Array:
        """Return means [M'] of `names` in nats, in eval mode; all ranks call this and get them.

        It runs one forward of each sample, so a batch costs a third of a training step.
        """
        store, precision = DomainLosses(), trainer.precision_plugin
        module.share_buffers()
        with torch.no_grad(), private_randomness(module.device), precision.forward_context():
            # one forward a batch, so that all ranks run equally many
            for batch in data.target_batches(self._indices, module.micro_batch_size):
                batch = trainer.strategy.batch_to_device(precision.convert_input(batch))
                with evaluating(module.network):
                    losses = module.sample_losses(module.network, batch.samples, len(batch.domains))
                store.add(batch.domains, losses)
        return store.reduce(len(self._indices), trainer.strategy)[0][self._wanted]

    def metrics(self, losses: Array) -> dict[str, float]:
        """Return `target/evaluation/DOMAIN` -> loss, to log."""
        pairs = zip(self.names, losses.tolist(), strict=True)
        return {f"target/evaluation/{name}": loss for name, loss in pairs}
