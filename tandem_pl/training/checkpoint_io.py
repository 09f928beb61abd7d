"""Checkpoints that are complete or absent, and sharded ones read as one."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from tandem_pl.errors import InputError
from tandem_pl.files import write_atomically

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

META = "meta.pt"  # of a sharded checkpoint: all but parameters and optimizer state


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a local checkpoint under a temporary name and rename it; read sharded ones too.

    Lightning writes to the system's temporary folder and moves the file; between file systems a
    move is a copy, and a killed run can leave part of a file. A run that shards (FSDP2) with
    `save_distributed_checkpoint` writes and reads its folders without this class.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save to `path`; Lightning's own code saves to remote paths."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(os.fspath(path), buffer.getvalue())

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Load a file, or the folder of a sharded checkpoint.

        Raises:
            InputError: a folder that holds no checkpoint.
        """
        if "://" not in str(path) and os.path.isdir(path):
            return read_sharded(path)
        return super().load_checkpoint(path, *arguments, **options)


def read_sharded(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a sharded checkpoint of any number of ranks as one process would have written it.

    The host holds all of it in memory. Optimizer state, which shards key by parameters' names, is
    keyed by number as optimizers do.

    Raises:
        InputError: the folder holds no complete checkpoint.
    """
    from lightning.fabric.utilities.load import _load_distributed_checkpoint

    if not Path(folder, META).is_file():
        raise InputError(
            f"{os.fspath(folder)} is a folder without {META}, so not a complete checkpoint: give a "
            "checkpoint's file, or the folder of a sharded one."
        )
    checkpoint = _load_distributed_checkpoint(Path(folder))
    keys = sorted(key for key in checkpoint if key.startswith("optimizer_"))
    checkpoint["optimizer_states"] = [_numbered(checkpoint.pop(key)) for key in keys]
    return checkpoint


def _numbered(state: dict[str, Any]) -> dict[str, Any]:
    names = [name for group in state["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    groups = [
        {**group, "params": [numbers[name] for name in group["params"]]}
        for group in state["param_groups"]
    ]
    return {
        "state": {numbers[name]: value for name, value in state["state"].items()},
        "param_groups": groups,
    }


def refuse_time_interval(trainer: "Trainer") -> None:
    """Raise an error for a ModelCheckpoint that never saves under manual optimization.

    Raises:
        InputError: `train_time_interval` is set.
    """
    for callback in trainer.checkpoint_callbacks:
        interval = getattr(callback, "_train_time_interval", None)
        if interval is not None:
            minutes = interval.total_seconds() / 60
            raise InputError(
                f"ModelCheckpoint(train_time_interval={interval}) saves nothing with this module, "
                "whose optimization is manual: use "
                f"tandem_pl.callbacks.TimedCheckpoint(minutes={minutes:g})."
            )
