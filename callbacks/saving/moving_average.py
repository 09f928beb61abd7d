"""`MovingAverage`: a moving average of the network's weights, for validation and test."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tandem_pl.errors import InputError
from tandem_pl.training.sharding import data_mesh, is_sharded

HALF = (torch.bfloat16, torch.float16)


class MovingAverage(Callback):
    """Keep an exponential moving average of `pl_module.network`: the proxy, or the final network.

    After each optimizer step, average <- d average + (1 - d) weights, to the bit as timm's
    `ModelEmaV3` computes it. The first step starts the average at the weights. Batches without a
    step, such as measure batches, do not change it. Validation, test and prediction use the average
    instead of the network's weights; training is the same as without the callback. BatchNorm's
    running statistics are averaged too, and its counts are copied; with several ranks, evaluation
    uses the statistics of rank zero. Frozen parameters are not copied.

    Checkpoints hold the average in the states of the callbacks, and the network's own weights in
    `state_dict`. `tandem export --network FOLDER --which average` writes the average. Averages are
    float32 if the network has 16-bit weights. Evaluation needs memory for one more copy of the
    trainable weights.

    It is not Lightning's `EMAWeightAveraging`, because that replaces the weights at the end of fit
    and in checkpoints, averages BatchNorm's counts, and keeps 16-bit averages in 16 bits.

    Args:
        decay: d, at least 0 and below 1. The average covers about the last 1 / (1 - d) steps.
        warmup: whether d rises to `decay`, as 1 - (1 + t)^(-2/3) after t more steps, so that the
            first steps do not dominate the average of a short run.

    Raises:
        InputError: a decay out of range; in `setup`, a module without a network or with shards.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = False) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"decay={decay} must be at least 0 and below 1, such as 0.999.")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._average: dict[str, Tensor] = {}  # name in the network -> average
        self._current: dict[str, Tensor] = {}  # the same names -> the network's tensors
        self._own: list[Tensor] = []  # values of these while the network has the average's
        self._last_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise an error for a network that cannot be averaged; start a new average for fit.

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
            self.updates, self._average, self._current = 0, {}, {}

    def averages(self) -> dict[str, Tensor]:
        """Return the average of each tensor by its name in the network; {} before training."""
        return dict(self._average)

    # ---- training ----

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the average, or move the checkpoint's average to the network's device."""
        self._attach(pl_module)
        self._last_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise an error if parameters were unfrozen, because they have no average."""
        self._attach(pl_module)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average if the batch took an optimizer step."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        rising = 1 - (1 + self.updates) ** (-2 / 3)  # 0 for the first step
        decay = min(self.decay, rising) if self.warmup or not self.updates else self.decay
        self.updates += 1
        floats = [name for name, average in self._average.items() if average.is_floating_point()]
        for name in self._average.keys() - floats:
            self._average[name].copy_(self._current[name])
        averages, values = ([of[name] for name in floats] for of in (self._average, self._current))
        if all(one.dtype == other.dtype for one, other in zip(averages, values, strict=True)):
            get_ema_multi_avg_fn(decay)(averages, values, 0)
        else:  # 16-bit weights
            for average, value in zip(averages, values, strict=True):
                average.mul_(1 - (1 - decay)).add_(value, alpha=1 - decay)

    # ---- evaluation ----

    @torch.no_grad()
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the average into the network."""
        if not self._average:
            if not trainer.sanity_checking:
                rank_zero_warn("there is no moving average yet: the network itself is evaluated.")
            return
        self._attach(pl_module)
        for name, tensor in self._current.items():
            if trainer.world_size > 1 and not isinstance(tensor, nn.Parameter):
                torch.distributed.broadcast(self._average[name], 0)  # ranks saw different samples
        self._own = [tensor.clone() for tensor in self._current.values()]
        for name, tensor in self._current.items():
            tensor.copy_(self._average[name])

    @torch.no_grad()
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the network's own values."""
        for tensor, value in zip(self._current.values(), self._own, strict=False):
            tensor.copy_(value)
        self._own = []

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the network's own values."""
        self.on_validation_end(trainer, pl_module)

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    # ---- state ----

    def _attach(self, module: Any) -> None:
        """Find the network's tensors, which are replaced when it moves, and check the average."""
        network: nn.Module = module.network
        saved = network.state_dict().keys()  # without buffers that are not persistent
        parameters = network.named_parameters()
        current: dict[str, Tensor] = {name: p for name, p in parameters if p.requires_grad}
        current |= {name: b for name, b in network.named_buffers() if name in saved}
        average = self._average or current
        shapes = [{name: tuple(t.shape) for name, t in of.items()} for of in (average, current)]
        for name in [*current, *average]:
            there, here = (of.get(name, "missing") for of in shapes)
            if there != here:
                raise InputError(
                    f"the moving average is of another network: {name!r} is {there} there and "
                    f"{here} here; give a checkpoint of this network, and unfreeze parameters "
                    "before fit."
                )
        if not self._current:
            half = any(tensor.dtype in HALF for tensor in current.values())
            with torch.inference_mode(False), torch.no_grad():
                for name, tensor in current.items():
                    kind = torch.float32 if half and tensor.is_floating_point() else tensor.dtype
                    self._average[name] = average[name].to(tensor.device, kind, copy=True)
        self._current = current

    def state_dict(self) -> dict[str, Any]:
        """Return the averages by the network's names, and the number of updates."""
        return {"updates": self.updates, "average": self.averages()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average of a checkpoint; it moves to the network's device when it is used."""
        self.updates, self._average = state_dict["updates"], dict(state_dict["average"])
        self._current = {}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the network's own values, also in a checkpoint that is written in evaluation."""
        pairs = zip(self._current.values(), self._own, strict=False)
        own = {tensor.data_ptr(): value for tensor, value in pairs}
        state = checkpoint["state_dict"]
        for name, tensor in state.items():
            state[name] = own.get(tensor.data_ptr(), tensor)
