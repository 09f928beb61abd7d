"""A moving average of the network's weights, used in its place in validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from tandem_pl.errors import InputError
from tandem_pl.training.sharding import data_mesh, is_sharded


class Averaged(nn.Module):
    """What is averaged of a network: the parameters that train, and the buffers that it saves.

    It holds the network's own tensors, under their names with "/" for ".".

    >>> network = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.BatchNorm1d(2))
    >>> list(Averaged(network).state_dict())[:3]
    ['1/weight', '1/bias', '1/running_mean']
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        kept = network.state_dict().keys()  # without the buffers that are not persistent
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)
        for name, buffer in network.named_buffers():
            if name in kept:
                self.register_buffer(name.replace(".", "/"), buffer)


class MovingAverage(Callback):
    """Keeps an exponential moving average of `pl_module.network`: the proxy, or the final network.

    After each optimizer step, average <- d average + (1 - d) weights, by timm's `ModelEmaV3`; the
    first step's weights start it. Batches that measure take no step and leave it alone. Validation,
    test and prediction run with the average in the network's place, and what is learned does not
    change by it. BatchNorm's running statistics are averaged alike, and counts are copied; on
    several devices the first one's statistics are used by all. Frozen parameters are not held
    twice.

    Checkpoints have the average among the states of the callbacks, and `tandem export --network
    FOLDER --which average` writes it. Averages are float32 where the network is in 16 bits.
    Evaluation takes memory for one more copy of what trains.

    Args:
        decay: d, at least 0 and below 1. The average reaches back about 1 / (1 - d) steps.
        warmup: whether d rises to `decay`, as 1 - (1 + t)^(-2/3) after t more steps, so that a
            short run's average is not full of its first steps.

    Raises:
        InputError: a decay out of range; when set up, a network that is sharded, or none.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = False) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"decay={decay} must be at least 0 and below 1, such as 0.999.")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._source: Averaged | None = None
        self._average: Any = None  # timm's ModelEmaV3
        self._loaded: Mapping[str, Any] | None = None
        self._set_aside: list[tuple[Tensor, Tensor]] = []  # the network's tensors, and their values
        self._last_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses what it cannot average; a new fit starts a new average.

        Raises:
            InputError: see the class.
        """
        network = getattr(pl_module, "network", None)
        if not isinstance(network, nn.Module):
            raise InputError(
                f"MovingAverage averages module.network, which {type(pl_module).__name__} does not "
                "have: use a MixtureModule or TandemModule."
            )
        if data_mesh(trainer) is not None or is_sharded(network):
            raise InputError("MovingAverage cannot average sharded networks: use strategy=ddp.")
        if stage == "fit":
            self.updates, self._average, self._loaded = 0, None, None

    def averages(self) -> dict[str, Tensor]:
        """Name in the network -> its average; empty before the first step."""
        if self._loaded is not None:
            return dict(self._loaded["average"])
        if self._average is None:
            return {}
        state = self._average.module.state_dict()
        return {name.replace("/", "."): value for name, value in state.items()}

    # ---- training ----

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Builds the average, of the checkpoint's state where there is one."""
        self._build(pl_module)
        self._last_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses parameters that were unfrozen meanwhile: they would not be averaged."""
        self._build(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Updates the average where the batch took an optimizer step."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        self.updates += 1
        self._average.update(self._source, step=self.updates)

    # ---- evaluation, in which the network has the average's values ----

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the average in."""
        self._put_in(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the network's own values back, to the bit."""
        self._put_back()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Puts them back too."""
        self._put_back()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    @torch.no_grad()
    def _put_in(self, trainer: Trainer, module: LightningModule) -> None:
        if not self.averages():
            if not trainer.sanity_checking:
                rank_zero_warn("there is no moving average yet: the network itself is evaluated.")
            return
        self._build(module)
        if trainer.world_size > 1:  # each rank has statistics of its own samples
            for buffer in self._average.module.buffers():
                torch.distributed.broadcast(buffer, 0)
        mine, theirs = self._average.module.state_dict(), self._source.state_dict()  # type: ignore[union-attr]
        self._set_aside = [(value, value.clone()) for value in theirs.values()]
        for name, value in theirs.items():
            value.copy_(mine[name])

    @torch.no_grad()
    def _put_back(self) -> None:
        for value, own in self._set_aside:
            value.copy_(own)
        self._set_aside = []

    # ---- state ----

    def _build(self, module: Any) -> None:
        """The average, and the tensors that it follows: moving a network replaces its buffers."""
        from timm.utils import ModelEmaV3

        with torch.inference_mode(False), torch.no_grad():
            self._source = Averaged(module.network)
            kinds = {value.dtype for value in self._source.state_dict().values()}
            if self._average is None:
                self._average = ModelEmaV3(
                    self._source,
                    decay=self.decay,
                    use_warmup=self.warmup,
                    dtype=torch.float32 if kinds & {torch.bfloat16, torch.float16} else None,
                )
            elif self._average.module.state_dict().keys() != self._source.state_dict().keys():
                raise InputError(
                    "MovingAverage began with other parameters than those that train now: unfreeze "
                    "them before fit, or leave it out."
                )
            loaded, self._loaded = self._loaded, None
            if loaded is not None:
                self._load(loaded)

    def _load(self, state: Mapping[str, Any]) -> None:
        mine, theirs = self.averages(), state["average"]
        for name in [*mine, *theirs]:
            here, there = (tuple(of[name].shape) if name in of else None for of in (mine, theirs))
            if here != there:
                raise InputError(
                    f"the checkpoint's moving average is of another network: {name!r} is "
                    f"{there or 'missing'} there and {here or 'missing'} here; give the checkpoint "
                    "of this network."
                )
        for name, value in mine.items():
            value.copy_(theirs[name])
        self.updates = state["updates"]

    def state_dict(self) -> dict[str, Any]:
        """The averages by the network's names, and how many updates they have had."""
        return {"updates": self.updates, "average": self.averages()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state until the network is where it will be used."""
        self._loaded = state_dict if state_dict["average"] else None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint that is written during an evaluation has the network's own values too."""
        own = {value.data_ptr(): kept for value, kept in self._set_aside}
        state = checkpoint["state_dict"]
        for name, value in state.items():
            state[name] = own.get(value.data_ptr(), value)
