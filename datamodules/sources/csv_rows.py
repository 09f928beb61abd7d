"""CSV with a header.

Not by the reader of `datasets`: it turns `007` into a number and `NA` into nothing, and does not
name the line that is corrupt.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from tandem_pl.errors import InputError

from .reading import RowError, Rows, check_columns, check_text, open_text


def read_csv(path: Path, columns: Sequence[str], encoding_errors: str, delimiter: str) -> Rows:
    """Yield a row for each record; all values are texts."""
    csv.field_size_limit(sys.maxsize)  # a document may be longer than the default of 131072
    with open_text(path) as file:
        # A quoted text may span lines, so the encoding is checked by record.
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next((cells for cells in reader if cells), None)
        except csv.Error as error:
            raise InputError(
                f"{path} has a header that is not valid CSV ({error}); correct it."
            ) from error
        if header is None:
            return
        header[0] = header[0].removeprefix("\ufeff")
        check_columns(columns, header, str(path))
        places = [header.index(column) for column in columns]
        cells: list[str] | None = []
        while cells is not None:
            where = f"{path}, line {reader.line_num + 1}"
            try:
                cells = next(reader, None)
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise RowError(
                        f"{where} has {len(cells)} fields but the header has {len(header)}; "
                        'correct that line or set corrupt to "skip".'
                    )
                values = [check_text(cells[place], where, encoding_errors) for place in places]
            except csv.Error as error:
                yield RowError(
                    f"{where} is not valid CSV ({error}); correct that line or set corrupt to "
                    '"skip".'
                )
            except RowError as error:
                yield error
            else:
                yield where, dict(zip(columns, values, strict=True))
