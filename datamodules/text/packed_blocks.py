"""Read packed blocks back: memory-mapped, a batch at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tandem_pl.errors import InputError

from .packing import SPLITS, blocks_path


def open_blocks(folder: Path, manifest: dict[str, Any]) -> dict[str, dict[str, "PackedBlocks"]]:
    """The blocks of every split and domain of a folder that `packing.new_folder` made.

    Raises:
        InputError: a file is missing, or has not as many blocks as the manifest says.
    """
    opened: dict[str, dict[str, PackedBlocks]] = {}
    for split in SPLITS:
        opened[split] = {}
        for domain, counts in manifest["splits"][split].items():
            path = blocks_path(folder, split, domain)
            try:
                blocks = PackedBlocks(path)
                found = len(blocks)
            except (OSError, pa.ArrowInvalid) as error:
                raise InputError(
                    f"{path} cannot be read ({error}); copy the folder {folder} whole, or build it "
                    "again."
                ) from error
            if found != counts["blocks"]:
                raise InputError(
                    f"{path} has {found} blocks where the manifest says {counts['blocks']}; copy "
                    f"the folder {folder} whole, or build it again."
                )
            opened[split][domain] = blocks
    return opened


class PackedBlocks(Dataset[dict[str, Tensor]]):
    """The blocks of one Arrow file, memory-mapped.

    A sample is `{"input_ids": LongTensor[block_size]}`; `tokens_per_sample` is the block size.
    A pickled copy holds only the path and
    opens the file anew, so workers share its pages and not a copy of its content.

    Args:
        path: a file that `write_blocks` wrote.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._open()

    def _open(self) -> None:
        # Straight to NumPy views of the mapped file: several times quicker a batch than formatted
        # rows of `datasets`.
        with pa.memory_map(self.path) as source:
            column = pa.ipc.open_stream(source).read_all().column("input_ids")
        self.block_size = self.tokens_per_sample = int(column.type.list_size)
        self._chunks = [
            chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, self.block_size)
            for chunk in column.chunks
        ]
        self._starts = np.cumsum([0] + [len(chunk) for chunk in self._chunks])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """The samples of a batch at once; they are rows of one tensor."""
        rows = np.asarray(indices, dtype=np.int64)
        if np.any((rows < 0) | (rows >= len(self))):
            raise IndexError(f"an index of {indices} is not in 0 .. {len(self) - 1}")
        chunks = np.searchsorted(self._starts, rows, side="right") - 1
        batch = np.empty((len(rows), self.block_size), dtype=np.int64)
        places = zip(chunks.tolist(), (rows - self._starts[chunks]).tolist(), strict=True)
        for place, (chunk, row) in enumerate(places):
            batch[place] = self._chunks[chunk][row]
        return [{"input_ids": block} for block in torch.from_numpy(batch)]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._open()
