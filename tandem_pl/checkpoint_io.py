"""Checkpoints that are whole or absent."""

import io
import os
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from .files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a local checkpoint beside its place and renames it.

    Lightning's own writes in the system's temporary folder and moves; between file systems a move
    is a copy, and a killed run can leave half a file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Saves to `path`; remote paths go Lightning's way."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(os.fspath(path), buffer.getvalue())
