"""Parquet, read by pyarrow a few rows at a time."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .reading import Columns, RowError, Rows, check_columns

ROWS_AT_ONCE = 256


def read_parquet(path: Path, columns: Columns, encoding_errors: str) -> Rows:
    """Yield the rows of the file; its text is UTF-8 always, so `encoding_errors` is not used."""
    message = why_unreadable(path)
    if message:
        raise RowError(message)
    with pq.ParquetFile(path) as table:
        check_columns(columns, table.schema_arrow.names, str(path))
        number = 0
        names = None if columns is None else list(columns)  # missing ones are not read
        try:
            for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=names):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
        except pa.ArrowInvalid as error:
            raise RowError(
                f"{path} cannot be read after row {number} ({_reason(error)}); write it again, or "
                'set corrupt to "skip".'
            ) from error


def why_unreadable(path: Path) -> str | None:
    """Return the message on a file that is no Parquet at all, such as an empty one; else None."""
    try:
        pq.read_metadata(path)
    except pa.ArrowInvalid as error:
        return (
            f"{path} is not a Parquet file ({_reason(error)}); write it again, leave it out, or "
            'set corrupt to "skip".'
        )
    except OSError as error:
        return (
            f"{path} cannot be read ({error.strerror or error}); repair the file, leave it out, "
            'or set corrupt to "skip".'
        )
    return None


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
