"""`MixtureDataModule`: domains in, planned mixture batches out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, default_collate

from tandem_pl.checks import check_at_least, check_choice
from tandem_pl.data_record import data_record, warn_if_other_data
from tandem_pl.data_weights import resolve_data_weights
from tandem_pl.episode import EVALUATE, TRAIN, MixtureBatch, Plan, Segment
from tandem_pl.mixture import Mixture, resolve_weights
from tandem_pl.training import trainer_flags
from tandem_pl.training.mixture_module import MixtureModule

from .planning.loaders import make_loader, no_batches, ranks_of
from .planning.loading import Episodes, PlannedSamples, evaluation_plan
from .planning.pool import Pools, check_final_lengths, final_length
from .planning.sampler import MixtureBatchSampler, known_numbers
from .planning.sizes import checked_sizes, refuse_other_data, sizes_of, tokens_per_sample
from .planning.stream import make_streams

Datasets = Mapping[str, Dataset]


class MixtureDataModule(LightningDataModule):
    """Serves batches that mix domains in the shares that a reweighting callback asks for.

    Args:
        train: domain -> map-style data set.
        target: the additional data that the mixture is learned for; may have other domains than
            `train`. `trainer.validate` evaluates on it too (the proxy never trains on it).
        test: domain -> data set, for `tandem test`.
        batch_size: samples in a batch over all ranks; target batches have the same size.
        weights: where the mixture starts, and stays without a reweighting callback: None or
            "uniform", "proportional", "temperature:TAU", a map, a `Mixture`, or a mixture file
            (its average; "last:PATH" for its last weights), which may be DoReMi's JSON
            (`train_domain_weights`). "target" is the target's shares of the training domains, which
            have its names or are clusters. Shares are of samples. A share of 0 can grow, unless the
            method's updates multiply weights, which it warns of.
        target_weights: shares of the target domains, in the same ways, or a map that leaves some
            out: `{"man": 1}` makes `man` alone the target. None weighs them equally.
        seed: of the order of samples.
        num_workers: of the data loaders.
        epoch_batches: batches in an epoch without a reweighting callback; None for as many as hold
            the training data once.
        collate_fn: list of samples -> batch; None for torch's default.
        allocation: "debt" keeps drawn shares within about a sample of the shares asked for;
            "multinomial" draws independently, as published methods do.
        eval_batch_size: of validation and test; None for `batch_size`.
        validate_target: whether `trainer.fit` also validates on the target data, as often as its
            `check_val_every_n_epoch` says; off by default, because episodes are short epochs.
        final_samples: samples that a longer, final run will train on. This run then draws from a
            fixed part of each domain, its pool, in proportion to the lengths of the two runs, so
            that it passes over each domain as often as the final run. None draws from all of it.
        final_tokens: the same in tokens, for samples of one `tokens_per_sample`.

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
        final_samples: int | None = None,
        final_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        check_at_least("batch_size", batch_size, 1)
        check_at_least("eval_batch_size", self.eval_batch_size, 1)
        if epoch_batches is not None:
            check_at_least("epoch_batches", epoch_batches, 1)
        check_at_least("num_workers", num_workers, 0)
        check_at_least("seed", seed, 0)
        check_choice("allocation", allocation, ("debt", "multinomial"))
        check_final_lengths(final_samples, final_tokens)
        self.train_sets: dict[str, Dataset] = dict(train or {})
        self.target_sets: dict[str, Dataset] = dict(target or {})
        self.test_sets: dict[str, Dataset] = dict(test or {})
        self.batch_size = batch_size
        self.weights = weights
        self.target_weights = target_weights
        self.seed, self.num_workers = seed, num_workers
        self.epoch_batches = epoch_batches
        self.collate_fn = collate_fn or default_collate
        self.allocation = allocation
        self.validate_target = validate_target
        self.final_samples, self.final_tokens = final_samples, final_tokens
        self.pools = Pools({})
        self.mixture: Mixture | None = None
        self.sampler: MixtureBatchSampler | None = None
        self.target_clusters: dict[str, dict[str, float]] = {}  # see `MixtureData`
        self.corpus: str | None = None  # folder of the data, if they are kept in one
        self.cluster_folder: str | None = None  # of domains that are clusters, if it is not that
        self.digests: dict[str, str] = {}  # of each domain's training data, if they are known
        self.record: dict[str, Any] = {}  # what the data are, for `mixture.yaml`

    # ---- set-up ----

    def setup(self, stage: str | None = None) -> None:
        """Check the data and plan the first episode. Subclasses fill the data sets first."""
        if stage not in (None, "fit"):
            return
        trainer_flags.check_loading(self.trainer)
        self.sampler = None  # of an earlier fit
        sizes = checked_sizes(self.train_sets, "train")
        self._tokens_per_sample: NDArray | None = tokens_per_sample(self.train_sets)
        final = final_length(self.final_samples, self.final_tokens, self._tokens_per_sample)
        self.pools = Pools(sizes, final=final).for_run(self.trainer, (), self.batch_size)
        self.mixture = resolve_data_weights(self.weights, self, budget=self.pools.budget)
        known = (self.corpus, self.digests, self.cluster_folder)
        self.record = data_record(self, self._identity(), *known)
        warn_if_other_data(self.mixture, self.record, self.weights)
        target_sizes = checked_sizes(self.target_sets, "target") if self.target_sets else {}
        streams = make_streams(sizes, target_sizes, self.seed, self.allocation)
        self.sampler = MixtureBatchSampler(streams, self.target_shares, self.batch_size)
        self.begin_episode(self._static_plan())

    # ---- episodes ----

    def begin_episode(self, plan: Plan) -> None:
        """Take the plan of the next episode; it starts with the trainer's next epoch."""
        assert self.sampler is not None
        if not self.consumed:  # the first plan may decide how long the run is
            self.pools = self.pools.for_run(self.trainer, plan, self.batch_size)
            self.sampler.draw_from(self.pools.sizes())
            self.record |= self.pools.record()
        self.sampler.begin(plan)

    @property
    def consumed(self) -> int:
        """Batches that reached the module so far, of all phases."""
        return self.sampler.step if self.sampler is not None else 0

    def rewind(self) -> None:
        """Take back the batch that was consumed last, because training on it failed."""
        if self.sampler is not None:
            self.sampler.rewind()

    @property
    def planned(self) -> Plan:
        """The present episode's plan."""
        return [] if self.sampler is None else self.sampler.plan

    def rest_of_plan(self) -> Plan:
        """Return the segments that are left of the present episode's plan."""
        return self.sampler.rest_of_plan() if self.sampler is not None else []

    def rest_of_episode(self) -> Iterator[MixtureBatch]:
        """Yield this rank's batches that are left of the present episode, on the CPU."""
        assert self.sampler is not None
        samples = self._samples(self.train_sets, self.target_sets, self.ranks()[0])
        yield from map(samples.__getitem__, self.sampler)

    def static_batches(self) -> int:
        """Return the number of batches in an epoch of given weights."""
        total = sum(self.domain_sizes().values())
        return self.epoch_batches or math.ceil(total / self.batch_size)

    def _static_plan(self) -> Plan:
        assert self.mixture is not None
        return [Segment(TRAIN, self.static_batches(), tuple(self.mixture.array.tolist()))]

    # ---- the domains, and what was drawn of them ----

    def domain_names(self, stage: str = "fit") -> tuple[str, ...]:
        """Return names in the order of the domain numbers in a stage's batches."""
        sets = {"validate": self.target_sets, "test": self.test_sets, "predict": self.test_sets}
        return tuple(sets.get(stage, self.train_sets))

    def domain_sizes(self) -> dict[str, int]:
        """Return the number of training samples of each domain, also those outside its pool."""
        return sizes_of(self.train_sets)

    @property
    def target_shares(self) -> NDArray[np.float64] | None:
        """[M'] shares of the target domains; None without target data."""
        if self.sampler is not None:
            return self.sampler.target_weights
        given = (self.target_weights, sizes_of(self.target_sets), "target_weights")
        return resolve_weights(*given, partial=True).array if self.target_sets else None

    def seen(self) -> dict[str, dict[str, float]]:
        """Return domain -> what was trained on of it; see `MixtureBatchSampler.seen`."""
        return known_numbers(self.train_sets, self.seen_arrays())

    def seen_arrays(self) -> dict[str, NDArray]:
        """Return the same as arrays [M]; NaN for a number that is not known of a domain."""
        assert self.sampler is not None
        return self.sampler.seen(self._tokens_per_sample)

    # ---- handing a batch to the module ----

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Hand a batch over: count it, transform it on its device, unwrap it for other modules."""
        if not isinstance(batch, MixtureBatch):
            return batch
        if batch.phase != EVALUATE and self.sampler is not None:
            self.sampler.consume(batch.step)  # it is no longer prefetched
        batch = self.transform_on_device(batch)
        module = getattr(self.trainer, "lightning_module", None)
        return batch if isinstance(module, MixtureModule | None) else batch.samples

    def transform_on_device(self, batch: MixtureBatch) -> MixtureBatch:
        """Return the batch that the module gets; subclasses mix samples here."""
        return batch

    # ---- loaders ----

    def train_dataloader(self) -> DataLoader:
        """Return the training loader: one pass is one episode, or the rest of it after a resume."""
        assert self.sampler is not None
        self.sampler.share(*self.ranks())
        self.pools.announce()
        trainer_flags.check_episode(self.trainer, self.planned)
        samples = self._samples(self.train_sets, self.target_sets, self.ranks()[0])
        return make_loader(samples, Episodes(self.sampler, self._static_plan), self.num_workers)

    def val_dataloader(self) -> Any:
        """Return the target data, in order; nothing while fitting unless `validate_target`."""
        fitting = getattr(getattr(self.trainer, "state", None), "fn", None) == "fit"
        if not self.target_sets or (fitting and not self.validate_target):
            return no_batches()
        return self.evaluation_loader(self.target_sets)

    def test_dataloader(self) -> DataLoader:
        """Return the test data, in order."""
        checked_sizes(self.test_sets, "test")
        return self.evaluation_loader(self.test_sets)

    predict_dataloader = test_dataloader

    def evaluation_loader(self, sets: Mapping[str, Dataset]) -> DataLoader:
        """Return a loader of this rank's samples of some data sets, in order."""
        indices = [np.arange(size) for size in sizes_of(sets).values()]
        rank, ranks = self.ranks()
        planned = evaluation_plan(indices, max(self.eval_batch_size // ranks, 1), rank, ranks)
        if sets is not self.train_sets:  # which a callback reads as a whole
            trainer_flags.check_evaluation(self.trainer, len(planned), len(sets))
        return make_loader(self._samples(sets, {}, rank), planned, self.num_workers)

    def target_batches(
        self, indices: Sequence[NDArray[np.int64]], largest: int | None
    ) -> Iterator[MixtureBatch]:
        """Yield this rank's batches of chosen target samples, on the CPU.

        `indices` are, for each target domain, the samples of its data set; `largest` is the most
        samples in a batch of this rank, or None.
        """
        rank, world_size = self.ranks()
        size = min(max(self.eval_batch_size // world_size, 1), largest or self.eval_batch_size)
        samples = self._samples(self.target_sets, {}, rank)
        for planned in evaluation_plan(indices, size, rank, world_size):
            yield samples[planned._replace(step=0)]  # step 0: the same augmentation every time

    def _samples(self, train: Datasets, target: Datasets, rank: int) -> PlannedSamples:
        return PlannedSamples(train, target, self.collate_fn, self.seed, rank)

    def ranks(self) -> tuple[int, int]:
        """Return this process's number, and how many processes share each batch."""
        return ranks_of(self.trainer)

    # ---- checkpoints ----

    def state_dict(self) -> dict[str, Any]:
        """Return plain Python: what must be the same to resume, and the position in the data."""
        if self.sampler is None:
            return {}
        return {"identity": self._identity(), "sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume the stream of batches; raise an error for a checkpoint of other data."""
        if self.sampler is None or not state:
            return
        refuse_other_data(state["identity"], self._identity())
        self.sampler.load_state_dict(state["sampler"])

    def _identity(self) -> dict[str, Any]:
        return {  # lists of pairs, since the order of domains matters
            "domains": list(self.domain_sizes().items()),
            "target domains": list(sizes_of(self.target_sets).items()),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "allocation": self.allocation,
            **self.pools.identity(),
        }
