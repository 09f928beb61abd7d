"""`MixtureDataModule`: domains in, planned mixture batches out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, default_collate

from tandem_pl.episode import EVALUATE, TRAIN, WITHOUT_STEP, MixtureBatch, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture, resolve_weights

from .planning.loader_workers import outlive_sigterm
from .planning.loading import Batches, Episodes, ResumableLoader, Rows, as_is, evaluation_rows
from .planning.sampler import MixtureBatchSampler, PlannedBatch, Stream

Datasets = Mapping[str, Dataset]


class MixtureDataModule(LightningDataModule):
    """Serves batches that mix domains in the shares that a reweighting callback asks for.

    Args:
        train: domain -> map-style data set.
        target: the additional data that the mixture is learned for; may have other domains than
            `train`. Also what `trainer.validate` evaluates (the proxy never trains on it).
        test: domain -> data set, for `tandem test`.
        batch_size: samples in a batch over all ranks; target batches have the same size.
        weights: where the mixture starts, and stays without a reweighting callback: None or
            "uniform", "proportional", "temperature:TAU", a map, a `Mixture`, or a mixture file
            (its average; "last:PATH" for its last weights). Shares are of samples.
        target_weights: shares of the target domains, written alike; None weighs them equally.
        seed: of the order of samples.
        num_workers: of the data loaders.
        epoch_batches: batches in an epoch without a reweighting callback; None for as many as
            hold the training data once.
        collate_fn: list of samples -> batch; None for torch's default.
        allocation: "debt" keeps drawn shares within about a sample of the asked ones;
            "multinomial" draws independently, as published methods do.
        eval_batch_size: of validation and test; None for `batch_size`.
        validate_target: whether `trainer.fit` also validates on the target data, as often as its
            `check_val_every_n_epoch` says; episodes are short epochs, so it is off by default.

    Raises:
        InputError: by `setup`, for domains, weights or sizes that cannot be used.
    """

    def __init__(
        self,
        train: Datasets | None = None,
        target: Datasets | None = None,
        test: Datasets | None = None,
        batch_size: int = 32,
        weights: Any = None,
        target_weights: Any = None,
        seed: int = 0,
        num_workers: int = 0,
        epoch_batches: int | None = None,
        collate_fn: Callable[[list], Any] | None = None,
        allocation: str = "debt",
        eval_batch_size: int | None = None,
        validate_target: bool = False,
    ) -> None:
        super().__init__()
        for key, value, least in (
            ("batch_size", batch_size, 1),
            ("epoch_batches", epoch_batches, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value is not None and value < least:
                raise InputError(f"{key}={value} must be at least {least}.")
        if allocation not in ("debt", "multinomial"):
            raise InputError(f"allocation={allocation!r} must be 'debt' or 'multinomial'.")
        self.train_sets: dict[str, Dataset] = dict(train or {})
        self.target_sets: dict[str, Dataset] = dict(target or {})
        self.test_sets: dict[str, Dataset] = dict(test or {})
        self.batch_size = batch_size
        self.weights = weights
        self.target_weights = target_weights
        self.seed = seed
        self.num_workers = num_workers
        self.epoch_batches = epoch_batches
        self.collate_fn = collate_fn or default_collate
        self.allocation = allocation
        self.eval_batch_size = eval_batch_size or batch_size
        self.validate_target = validate_target
        self.mixture: Mixture | None = None
        self.sampler: MixtureBatchSampler | None = None
        self._tokens_per_sample: NDArray | None = None  # [M]; None where no domain tells

    # ---- set-up ----

    def setup(self, stage: str | None = None) -> None:
        """Checks the data and plans the first episode. Subclasses fill the data sets first."""
        if stage not in (None, "fit"):
            return
        sizes = _sizes(self.train_sets, "train")
        self.mixture = resolve_weights(self.weights, sizes, budget=self._budget())
        streams = {"train": Stream("train", sizes, self.seed, self.allocation)}
        streams |= {phase: Stream(phase, sizes, self.seed, "debt") for phase in WITHOUT_STEP}
        target_weights = None
        if self.target_sets:
            target_sizes = _sizes(self.target_sets, "target")
            streams["target"] = Stream("target", target_sizes, self.seed, self.allocation)
            target_weights = resolve_weights(
                self.target_weights, target_sizes, "target_weights"
            ).array
        self.sampler = MixtureBatchSampler(streams, target_weights, self.batch_size)
        tokens = [getattr(data, "tokens_per_sample", None) for data in self.train_sets.values()]
        if any(value is not None for value in tokens):
            self._tokens_per_sample = np.array([np.nan if n is None else n for n in tokens])
        self.begin_episode(self._static_plan())

    def begin_episode(self, plan: Plan) -> None:
        """Takes the plan of the next episode; it starts with the trainer's next epoch."""
        assert self.sampler is not None
        for segment in plan:
            if segment.target and "target" not in self.sampler.streams:
                raise InputError(
                    f"{segment.phase!r} batches need target data: give the datamodule target=..."
                )
        self.sampler.begin(plan)

    def _budget(self) -> int | None:
        """Samples of the run, where its length is given in steps."""
        steps = getattr(self.trainer, "max_steps", -1) if self.trainer is not None else -1
        return steps * self.batch_size if steps and steps > 0 else None

    def static_batches(self) -> int:
        """Batches in an epoch of given weights."""
        total = sum(lengths(self.train_sets).values())
        return self.epoch_batches or math.ceil(total / self.batch_size)

    def _static_plan(self) -> Plan:
        assert self.mixture is not None
        return [Segment(TRAIN, self.static_batches(), tuple(self.mixture.array.tolist()))]

    # ---- what was drawn ----

    def domain_names(self, stage: str = "fit") -> tuple[str, ...]:
        """Names in the order of the domain numbers: of training, "validate" or "test" batches."""
        sets = {"validate": self.target_sets, "test": self.test_sets, "predict": self.test_sets}
        return tuple(sets.get(stage, self.train_sets))

    def seen(self) -> dict[str, dict[str, float]]:
        """What has been trained on so far, by domain.

        `samples`, `epochs` (passes over the domain), `share` drawn, `requested` share, and
        `tokens` and `token_share` where data sets have an attribute `tokens_per_sample`.
        """
        columns = {key: values.tolist() for key, values in self.seen_arrays().items()}
        rows = zip(*columns.values(), strict=True)
        return {
            name: {key: value for key, value in zip(columns, row, strict=True) if value == value}
            for name, row in zip(self.train_sets, rows, strict=True)
        }

    def seen_arrays(self) -> dict[str, NDArray]:
        """The same as arrays [M]; NaN for a number that is not known of a domain."""
        assert self.sampler is not None
        debts, drawn = self.sampler.cursors["train"]
        total = max(float(drawn.sum()), 1.0)
        columns = {
            "samples": drawn,
            "epochs": drawn / self.sampler.streams["train"].sizes,
            "share": drawn / total,
            "requested": (drawn + debts) / total,
        }
        if self._tokens_per_sample is not None:
            columns["tokens"] = drawn * self._tokens_per_sample
            if not np.isnan(columns["tokens"]).any():
                columns["token_share"] = columns["tokens"] / max(columns["tokens"].sum(), 1)
        return columns

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Counts the training batches that reach the module.

        A LightningModule of another project gets the samples alone, as its own data set gives them.
        """
        if not isinstance(batch, MixtureBatch):
            return batch
        if batch.phase != EVALUATE:
            assert self.sampler is not None
            self.sampler.consume(batch.step)
        module = getattr(self.trainer, "lightning_module", None)
        return batch if module is None or hasattr(module, "phase_step") else batch.samples

    # ---- loaders ----

    def train_dataloader(self) -> DataLoader:
        """One pass is one episode, or the rest of it after a resume."""
        assert self.sampler is not None
        rank, world_size = self.ranks()
        if self.batch_size % world_size:
            raise InputError(
                f"batch_size={self.batch_size} is the batch over all ranks and must be a multiple "
                f"of their number, {world_size}."
            )
        self.sampler.rank, self.sampler.world_size = rank, world_size
        batches = Episodes(self.sampler, self._static_plan)
        return ResumableLoader(
            Rows(self.train_sets, self.target_sets, self.collate_fn, self.seed, rank),
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=as_is,
            **self._loader_options(),
        )

    def val_dataloader(self) -> Any:
        """The target data, in order; nothing while fitting unless `validate_target` is set."""
        fitting = getattr(getattr(self.trainer, "state", None), "fn", None) == "fit"
        if not self.target_sets or (fitting and not self.validate_target):
            return []
        return self.evaluation_loader(self.target_sets)

    def test_dataloader(self) -> DataLoader:
        """The test data, in order."""
        _sizes(self.test_sets, "test")
        return self.evaluation_loader(self.test_sets)

    predict_dataloader = test_dataloader

    def evaluation_loader(self, sets: dict[str, Dataset]) -> DataLoader:
        """Return a loader of all samples of the sets, in order, divided among the ranks."""
        sizes = list(lengths(sets).values())
        rank, world_size = self.ranks()
        domains = np.repeat(np.arange(len(sizes)), sizes)
        indices = np.concatenate([np.arange(size) for size in sizes])
        size = max(self.eval_batch_size // world_size, 1)
        batches = [
            PlannedBatch(EVALUATE, number, False, False, domains[rows], indices[rows])
            for number, rows in enumerate(evaluation_rows(len(domains), size, rank, world_size))
        ]
        return DataLoader(
            Batches(Rows(sets, {}, self.collate_fn, self.seed, rank), batches),
            batch_size=None,
            collate_fn=as_is,
            **self._loader_options(),
        )

    def _loader_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "worker_init_fn": outlive_sigterm,
            "pin_memory": torch.cuda.is_available(),
            # of workers' randomness, apart on every rank; leaves the global generator alone
            "generator": torch.Generator().manual_seed(self.seed + (self.ranks()[0] << 32)),
        }

    def ranks(self) -> tuple[int, int]:
        """Return the rank of this process and the number of ranks that share each batch.

        Raises:
            InputError: Lightning's own sampler would replace the mixture's.
        """
        given = self.trainer.distributed_sampler_kwargs if self.trainer is not None else None
        rank, world_size = (given["rank"], given["num_replicas"]) if given else (0, 1)
        connector = getattr(self.trainer, "_accelerator_connector", None)
        if world_size > 1 and getattr(connector, "use_distributed_sampler", False):
            raise InputError(
                "use_distributed_sampler=True would replace the mixture's sampler: set "
                "Trainer(use_distributed_sampler=False); the datamodule shards over ranks itself."
            )
        return rank, world_size

    # ---- checkpoints ----

    def state_dict(self) -> dict[str, Any]:
        """Plain Python: what must be the same to resume, and where training stands."""
        if self.sampler is None:
            return {}
        return {"identity": self._identity(), "sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes the stream of batches; refuses a checkpoint of other data."""
        if self.sampler is None or not state:
            return
        now = self._identity()
        for key, value in state["identity"].items():
            if now.get(key) != value:
                then, here = (dict(v) if isinstance(v, list) else v for v in (value, now.get(key)))
                raise InputError(
                    f"the checkpoint was made with {key}={then!r} and this run has {key}={here!r}: "
                    "use the same to resume, or start without ckpt_path."
                )
        self.sampler.load_state_dict(state["sampler"])

    def _identity(self) -> dict[str, Any]:
        return {  # lists of pairs, since the order of domains matters
            "domains": list(lengths(self.train_sets).items()),
            "target domains": list(lengths(self.target_sets).items()),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "allocation": self.allocation,
        }


def lengths(sets: Mapping[str, Dataset]) -> dict[str, int]:
    """Domain -> number of samples."""
    return {name: len(data) for name, data in sets.items()}  # type: ignore[arg-type]


def _sizes(sets: dict[str, Dataset], key: str) -> dict[str, int]:
    if not sets:
        raise InputError(f"{key} has no domain: give the datamodule {key}={{'name': data set}}.")
    sizes = lengths(sets)
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{key}[{name!r}] has no sample: give it data or leave it out.")
    return sizes
