"""Tokenized samples of different lengths: on disk, as data sets, and padded into batches.

A domain's split is one Arrow file with the columns `input_ids` and `response`, the latter a list of
`start, stop` pairs of token positions: where the tokens with a loss lie. It is memory-mapped when
read, and `datasets.Dataset.from_file` opens it too.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tandem_pl.datamodules.text.blocks import smallest_dtype

from .templates import Rendered

IGNORED = -100  # label of a token without a loss
BATCH_SAMPLES = 1024  # samples in one Arrow record batch
COUNTS = ("samples", "tokens", "response_tokens", "longest", "cut", "dropped_long", "dropped_empty")


class SampleWriter:
    """Writes samples to an Arrow file and counts them; use it as a context.

    Args:
        path: the file to write.
        vocab_size: decides the integer type of the tokens.
        max_length: most tokens of a sample.
        too_long: `"cut"` keeps the first `max_length` tokens of a longer one, so that the response
            loses its end; `"drop"` leaves it out.

    Attributes:
        counts: `samples`, `tokens` and `response_tokens` written, the `longest` sample's tokens,
            how many were `cut`, `dropped_long` (by `too_long`) and `dropped_empty` (with no token
            of a response left).
    """

    def __init__(
        self, path: Path, vocab_size: int, max_length: int, too_long: Literal["cut", "drop"]
    ) -> None:
        self.path, self.max_length, self.too_long = path, max_length, too_long
        self.counts = dict.fromkeys(COUNTS, 0)
        self._dtype = smallest_dtype(vocab_size)
        self._schema = pa.schema(
            {
                "input_ids": pa.list_(pa.from_numpy_dtype(self._dtype)),
                "response": pa.list_(pa.int32()),
            }
        )
        self._ids: list[np.ndarray] = []
        self._spans: list[np.ndarray] = []

    def __enter__(self) -> "SampleWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = pa.OSFile(str(self.path), "wb")
        self._writer = pa.ipc.new_stream(self._file, self._schema)
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._flush()
        self._writer.close()
        self._file.close()

    def write(self, sample: Rendered) -> None:
        """Adds a sample, cut or left out as the settings say."""
        ids, response = sample
        long = len(ids) > self.max_length
        if long and self.too_long == "drop":
            self.counts["dropped_long"] += 1
            return
        ids, response = ids[: self.max_length], response[: self.max_length]
        if not response[1:].any():  # a first token has nothing to be predicted from
            self.counts["dropped_empty"] += 1
            return
        self.counts["cut"] += long
        self.counts["samples"] += 1
        self.counts["tokens"] += len(ids)
        self.counts["response_tokens"] += int(response[1:].sum())
        self.counts["longest"] = max(self.counts["longest"], len(ids))
        self._ids.append(ids.astype(self._dtype))
        self._spans.append(spans_of(response))
        if len(self._ids) == BATCH_SAMPLES:
            self._flush()

    def _flush(self) -> None:
        if self._ids:
            columns = [_lists(self._ids), _lists(self._spans)]
            self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._ids, self._spans = [], []


def spans_of(mask: np.ndarray) -> np.ndarray:
    """`start, stop` of every run of true values, flat, int32.

    Example:
        >>> spans_of(np.array([False, True, True, False, True])).tolist()
        [1, 3, 4, 5]
    """
    return np.flatnonzero(np.diff(mask, prepend=False, append=False)).astype(np.int32)


class TokenizedSamples(Dataset[dict[str, Tensor]]):
    """The samples of one Arrow file, memory-mapped.

    A sample is `{"input_ids": LongTensor[T], "labels": LongTensor[T]}` with T its own length; the
    label of a token without a loss is -100. A pickled copy holds only the path and opens the file
    anew, so workers share its pages.

    Args:
        path: a file that `SampleWriter` wrote.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._open()

    def _open(self) -> None:
        with pa.memory_map(self.path) as source:
            table = pa.ipc.open_stream(source).read_all()
        self._ids = [_views(chunk) for chunk in table.column("input_ids").chunks]
        self._spans = [_views(chunk) for chunk in table.column("response").chunks]
        self._starts = np.cumsum([0] + [len(offsets) - 1 for _, offsets in self._ids])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not in 0 .. {len(self) - 1}")
        chunk = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = index - int(self._starts[chunk])
        ids = torch.from_numpy(_row(self._ids[chunk], row).astype(np.int64))
        labels = torch.full_like(ids, IGNORED)
        spans = _row(self._spans[chunk], row).tolist()
        for start, stop in zip(spans[::2], spans[1::2], strict=True):
            labels[start:stop] = ids[start:stop]
        return {"input_ids": ids, "labels": labels}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._open()


class PadToLongest:
    """Collates samples: padded at their end to the longest, rounded up to a multiple.

    The batch is `{"input_ids", "labels", "attention_mask"}`, each LongTensor[B, L]; labels are -100
    and the mask 0 at padding.

    Args:
        pad_id: token that stands at padding; it has no influence.
        multiple: L is a multiple of it, but never more than `max_length`.
        max_length: most tokens of a sample.

    Example:
        >>> two = [{"input_ids": torch.arange(n), "labels": torch.arange(n)} for n in (2, 3)]
        >>> PadToLongest(9, 4, 100)(two)["input_ids"].tolist()
        [[0, 1, 9, 9], [0, 1, 2, 9]]
    """

    def __init__(self, pad_id: int, multiple: int, max_length: int) -> None:
        self.pad_id, self.multiple, self.max_length = pad_id, multiple, max_length

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The padded batch."""
        lengths = [len(sample["input_ids"]) for sample in samples]
        width = -(-max(lengths) // self.multiple) * self.multiple
        shape = (len(samples), max(min(width, self.max_length), max(lengths)))
        batch = {
            "input_ids": torch.full(shape, self.pad_id),
            "labels": torch.full(shape, IGNORED),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
        }
        for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
            batch["input_ids"][row, :length] = sample["input_ids"]
            batch["labels"][row, :length] = sample["labels"]
            batch["attention_mask"][row, :length] = 1
        return batch


def _lists(arrays: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.cumsum([0] + [len(array) for array in arrays]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays)))


def _views(chunk: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """Values and row offsets of a list column, without a copy."""
    return chunk.values.to_numpy(zero_copy_only=True), chunk.offsets.to_numpy(zero_copy_only=True)


def _row(views: tuple[np.ndarray, np.ndarray], row: int) -> np.ndarray:
    values, offsets = views
    return values[offsets[row] : offsets[row + 1]]
