"""`PackedBlocks`: the blocks of one Arrow file as a data set."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset


class PackedBlocks(Dataset[dict[str, Tensor]]):
    """The blocks of one Arrow file, memory-mapped.

    A sample is `{"input_ids": LongTensor[block_size]}`; `tokens_per_sample` is the block size. A
    pickled copy holds only the path and opens the file again, so workers share its pages and not a
    copy of its content. NumPy views of the mapped file give a batch several times faster than
    formatted rows of `datasets`.

    Args:
        path: a file that `BlockWriter` wrote.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
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
        """Return the samples of a batch at once; they are rows of one tensor."""
        rows = np.asarray(indices, dtype=np.int64)
        if np.any((rows < 0) | (rows >= len(self))):
            raise IndexError(f"an index of {indices} is not in 0 .. {len(self) - 1}")
        chunks = np.searchsorted(self._starts, rows, side="right") - 1
        batch = np.empty((len(rows), self.block_size), dtype=np.int64)
        places = zip(chunks.tolist(), (rows - self._starts[chunks]).tolist(), strict=True)
        for place, (chunk, row) in enumerate(places):
            batch[place] = self._chunks[chunk][row]
        return [{"input_ids": block} for block in torch.from_numpy(batch)]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)
