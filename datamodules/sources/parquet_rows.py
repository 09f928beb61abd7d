"""Parquet, read by pyarrow a few rows at a time."""

from collections.abc import Sequence
from pathlib import Path

from tandem_pl.errors import InputError

from .reading import Rows, check_columns

ROWS_AT_ONCE = 256


def read_parquet(path: Path, columns: Sequence[str], encoding_errors: str) -> Rows:
    """Yield the rows of the file; its text is UTF-8 always, so `encoding_errors` is not used."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{path} is not a Parquet file; write it again or leave it out."
        ) from error
    with table:
        check_columns(columns, table.schema_arrow.names, str(path))
        number = 0
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
