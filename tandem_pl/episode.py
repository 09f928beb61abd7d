"""What a method asks of the data, what the data hands to the module, and who may use what of whom.

One Lightning epoch is one episode. A reweighting callback plans it as a list of `Segment`s; the
data module serves each as `MixtureBatch`es; the module acts on a batch by its phase; the callback
reads what the module returned, and plans the next episode. The two protocols below are all that
callbacks know of data modules, and all that modules and data modules know of the callback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .mixture import Mixture

TRAIN = "train"  # the network takes a step
PROBE = "probe"  # proxy and reference take a step, the reference on target data too
TRIAL = "trial"  # a step of a short training that a method evaluates, as Aioli's and Skill-it's
STATISTICS = "statistics"  # BatchNorm's running statistics are computed again; no step
MEASURE = "measure"  # losses or gradients are measured; no step
EVALUATE = "evaluate"  # validation, test and prediction
WITHOUT_STEP = (STATISTICS, MEASURE)


@dataclass(frozen=True)
class Segment:
    """Consecutive batches of one phase, drawn with the same weights.

    Args:
        phase: what the module does with a batch: one of the constants above, but not "evaluate".
        batches: how many.
        weights: [M] domain weights to draw with.
        target: whether each batch comes with a batch of target data.
    """

    phase: str
    batches: int
    weights: tuple[float, ...]
    target: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain Python, for checkpoints."""
        return asdict(self) | {"weights": list(self.weights)}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Segment:
        """Invert `as_dict`."""
        return cls(**{**state, "weights": tuple(state["weights"])})


Plan = Sequence[Segment]


class MixtureBatch(NamedTuple):
    """One rank's part of a planned batch.

    Args:
        phase: see `Segment`; "evaluate" in validation and test.
        step: number of the batch since the start of training, over all phases.
        first: whether it opens its segment.
        last: whether it closes the episode.
        domains: [B] int64, the training domain of each sample.
        samples: what the data set yields, collated; every tensor has B rows.
        target_domains: [B'] int64 or None.
        target_samples: collated target data or None.
    """

    phase: str
    step: int
    first: bool
    last: bool
    domains: Tensor
    samples: Any
    target_domains: Tensor | None = None
    target_samples: Any = None


#: What a module returns for a batch: "loss" in every phase, and "losses" [B], whose mean it is.
Outputs = dict[str, Tensor]
#: What a method does with a batch of one phase, in place of the module: (module, batch) -> outputs.
Handler = Callable[[Any, MixtureBatch], Outputs]


@runtime_checkable
class EpisodePlanner(Protocol):
    """A callback that sets the domain weights, as modules and data modules know it."""

    def plan(self) -> Plan:
        """Return the segments of the coming episode."""

    def handlers(self) -> Mapping[str, Handler]:
        """Return what the method does itself with batches of a phase, in place of the module."""


@runtime_checkable
class MixtureData(Protocol):
    """A data module of domains, as callbacks and modules know it; see `MixtureDataModule`."""

    mixture: Mixture  # after its `setup`
    batch_size: int
    eval_batch_size: int
    seed: int
    train_sets: dict[str, Dataset]
    target_sets: dict[str, Dataset]
    record: dict[str, Any]  # what the data are, see `data_record`; after its `setup`
    #: target domain -> the share of its samples that each training domain is nearest to, if
    #: training domains are clusters
    target_clusters: dict[str, dict[str, float]]

    @property
    def consumed(self) -> int:
        """Batches that reached the module so far, of all phases."""

    def rewind(self) -> None:
        """Take back the batch that was consumed last."""

    @property
    def planned(self) -> Plan:
        """The present episode's plan."""

    @property
    def target_shares(self) -> NDArray[np.float64] | None:
        """[M'] shares of the target domains; None without target data."""

    def begin_episode(self, plan: Plan) -> None:
        """Take the plan of the next episode."""

    def rest_of_plan(self) -> Plan:
        """Return the segments that are left of the present episode's plan."""

    def rest_of_episode(self) -> Iterator[MixtureBatch]:
        """Yield this rank's batches that are left of the present episode, on the CPU."""

    def static_batches(self) -> int:
        """Return the number of batches in an epoch of given weights."""

    def domain_names(self, stage: str = "fit") -> tuple[str, ...]:
        """Return the names of the domains in batches of a stage, in the order of their numbers."""

    def domain_sizes(self) -> dict[str, int]:
        """Return the number of training samples of each domain."""

    def seen_arrays(self) -> dict[str, NDArray]:
        """Return what was trained on so far: name of the number -> [M]."""

    def target_batches(
        self, indices: Sequence[NDArray[np.int64]], largest: int | None
    ) -> Iterator[MixtureBatch]:
        """Yield this rank's batches of chosen target samples, on the CPU."""
