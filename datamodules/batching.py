"""`ConfiguredDataModule`: the options of batches that every data module for configurations has."""

from __future__ import annotations

from typing import Literal

from .mixture import MixtureDataModule


class ConfiguredDataModule(MixtureDataModule):
    """Base of data modules that open their own data, so that a configuration can name them.

    A subclass takes its own options and `**batching`, which the command line shows and checks as
    the options below. Data sets and `collate_fn` cannot be written in a configuration, so they are
    no options here: the subclass fills `train_sets`, `target_sets` and `test_sets` in `setup`.

    Args:
        batch_size: samples in a batch, over all ranks.
        weights: where the mixture starts: a name, a map or a file, see `MixtureDataModule`.
        target_weights: shares of the target domains, in the same ways, or a map that leaves some
            out: `{man: 1}` makes `man` alone the target. None weighs them equally.
        seed: of the order of samples, and of whatever is drawn for a batch.
        num_workers: processes of the data loaders.
        epoch_batches: batches in an epoch without a reweighting callback; None for as many as hold
            the training data once.
        allocation: "debt" or "multinomial", see `MixtureDataModule`.
        eval_batch_size: of validation and test; None for `batch_size`.
        validate_target: whether `fit` also validates, on the target data.
        final_samples: samples that the final run will train on; this run then passes over each
            domain as often, by drawing from a part of it, see `MixtureDataModule`.
        final_tokens: the same in tokens, for samples that all have as many.
    """

    def __init__(
        self,
        batch_size: int = 32,
        weights: str | dict[str, float] | None = None,
        target_weights: str | dict[str, float] | None = None,
        seed: int = 0,
        num_workers: int = 0,
        epoch_batches: int | None = None,
        allocation: Literal["debt", "multinomial"] = "debt",
        eval_batch_size: int | None = None,
        validate_target: bool = False,
        final_samples: int | None = None,
        final_tokens: int | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            weights=weights,
            target_weights=target_weights,
            seed=seed,
            num_workers=num_workers,
            epoch_batches=epoch_batches,
            allocation=allocation,
            eval_batch_size=eval_batch_size,
            validate_target=validate_target,
            final_samples=final_samples,
            final_tokens=final_tokens,
        )
