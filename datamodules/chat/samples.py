"""Tokenized samples of different lengths: on disk, as data sets, and padded into batches.

A split of a domain is one Arrow file with the columns `input_ids` and `response`. The latter is a
list of pairs `start, stop` of token positions: the tokens with a loss.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
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
        too_long: `"cut"` keeps the first `max_length` tokens of a longer sample, `"drop"` leaves
            the sample out.

    Attributes:
        counts: `samples`, `tokens` and `response_tokens` written, the `longest` sample's tokens,
            how many were `cut`, `dropped_long` (by `too_long`) and `dropped_empty` (without a token
            of a response).
    """

    def __init__(
        self, path: Path, vocab_size: int, max_length: int, too_long: Literal["cut", "drop"]
    ) -> None:
        self.path, self.max_length, self.too_long = path, max_length, too_long
        self.counts = dict.fromkeys(COUNTS, 0)
        self._dtype = smallest_dtype(vocab_size)
        ids = pa.list_(pa.from_numpy_dtype(self._dtype))
        self._schema = pa.schema({"input_ids": ids, "response": pa.list_(pa.int32())})
        self._rows: list[tuple[np.ndarray, np.ndarray]] = []

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
        """Add a sample, or cut or drop it as the settings say."""
        is_long = len(sample.ids) > self.max_length
        if is_long and self.too_long == "drop":
            self.counts["dropped_long"] += 1
            return
        ids, response = sample.ids[: self.max_length], sample.response[: self.max_length]
        if not response[1:].any():  # nothing predicts the first token
            self.counts["dropped_empty"] += 1
            return
        self.counts["cut"] += is_long
        self.counts["samples"] += 1
        self.counts["tokens"] += len(ids)
        self.counts["response_tokens"] += int(response[1:].sum())
        self.counts["longest"] = max(self.counts["longest"], len(ids))
        self._rows.append((ids.astype(self._dtype), spans_of(response)))
        if len(self._rows) == BATCH_SAMPLES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._rows = []


def spans_of(mask: np.ndarray) -> np.ndarray:
    """Return `start, stop` of every run of true values, flat, int32.

    Example:
        >>> spans_of(np.array([False, True, True, False, True])).tolist()
        [1, 3, 4, 5]
    """
    return np.flatnonzero(np.diff(mask, prepend=False, append=False)).astype(np.int32)


class TokenizedSamples(Dataset[dict[str, Tensor]]):
    """The samples of one Arrow file, memory-mapped.

    A sample is `{"input_ids": LongTensor[T], "labels": LongTensor[T]}` with T its own length; the
    label of a token without a loss is -100.

    Args:
        path: a file that `SampleWriter` wrote.
    """

    def __init__(self, path: str | Path) -> None:
        from datasets import Dataset as ArrowDataset

        self.rows = ArrowDataset.from_file(str(path)).with_format("numpy")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """Return several samples with one look-up, which is much faster."""
        rows = self.rows[indices]
        samples = []
        for tokens, spans in zip(rows["input_ids"], rows["response"], strict=True):
            ids = torch.from_numpy(tokens)
            labels = torch.full_like(ids, IGNORED)
            for start, stop in spans.reshape(-1, 2):
                labels[start:stop] = ids[start:stop]
            samples.append({"input_ids": ids, "labels": labels})
        return samples


class PadToLongest:
    """Collates samples: pads them at the end to the longest, rounded up to a multiple.

    The batch is `{"input_ids", "labels", "attention_mask"}`, each LongTensor[B, L]; labels are -100
    and the mask is 0 at padding.

    Args:
        pad_id: token at padding; it has no influence.
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
        """Return the padded batch."""
        ids = [sample["input_ids"] for sample in samples]
        longest = max(map(len, ids))
        rounded = -(-longest // self.multiple) * self.multiple
        more = max(min(rounded, self.max_length) - longest, 0)

        def pad(rows: list[Tensor], value: int) -> Tensor:
            return F.pad(pad_sequence(rows, True, value), (0, more), value=value)

        return {
            "input_ids": pad(ids, self.pad_id),
            "labels": pad([sample["labels"] for sample in samples], IGNORED),
            "attention_mask": pad([torch.ones_like(row) for row in ids], 0),
        }
