"""What a reweighting method asks of the data, and what the data hands to the module.

One Lightning epoch is one episode. A method plans it as a list of `Segment`; the datamodule
turns each into `MixtureBatch`es; the module acts on a batch by its phase.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor

TRAIN, PROBE, MEASURE, EVALUATE = "train", "probe", "measure", "evaluate"
STATISTICS = "statistics"
WITHOUT_STEP = (MEASURE, STATISTICS)  # phases that train nothing


@dataclass(frozen=True)
class Segment:
    """Batches in a row that are drawn and used alike.

    Args:
        phase: what the module does with a batch: "train", "probe", "statistics" or "measure".
        batches: how many.
        weights: [M] domain weights to draw with.
        target: whether each batch comes with a batch of target data.
    """

    phase: str
    batches: int
    weights: tuple[float, ...]
    target: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain Python, for checkpoints."""
        return asdict(self) | {"weights": list(self.weights)}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Segment":
        """The inverse of `as_dict`."""
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
