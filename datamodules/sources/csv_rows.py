"""CSV and TSV with a header.

Not by the reader of `datasets`: it turns `007` into a number and `NA` into nothing, and does not
name the line that is corrupt.
"""

import csv
import sys
from pathlib import Path

from tandem_pl.errors import InputError

from .reading import Columns, Remark, RowError, Rows, check_columns, check_text, open_text


def read_csv(
    path: Path, columns: Columns, encoding_errors: str, delimiter: str, quotes: bool
) -> Rows:
    """Yield a row for each record; all values are texts.

    Args:
        path: the file.
        columns: names of the columns; None for all.
        encoding_errors: see `read_files`.
        delimiter: what stands between fields.
        quotes: whether a field may stand in quotes, and then hold delimiters and line breaks.
    """
    csv.field_size_limit(sys.maxsize)  # a document may be longer than the default of 131072
    with open_text(path, encoding_errors) as file:
        # A quoted text may span lines, so the encoding is checked by record.
        reader = csv.reader(
            file,
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
            strict=True,
        )
        try:
            header = next((cells for cells in reader if cells), None)
        except csv.Error as error:
            raise RowError(
                f"{path} has a header that is not valid CSV ({error}); correct it."
            ) from error
        if header is None:
            return
        if not quotes and any(f'"{column}"' in header for column in columns or ()):
            raise RowError(
                f"{path} has a header in quotes: set quotes to true in the map of the source, such "
                f"as {{path: {path}, quotes: true}}."
            )
        check_columns(columns, header, str(path))
        columns = header if columns is None else [c for c in columns if c in header]
        for column in columns:
            if header.count(column) > 1:
                raise InputError(f"{path} has the column {column!r} twice; rename one.")
        advice = "" if quotes else ", set quotes to true in the map of the source"
        places = [header.index(column) for column in columns]
        cells: list[str] | None = []
        spread, enclosed = 0, 0  # lines more than records; rows with a field in quotes
        while cells is not None:
            start = reader.line_num
            where = f"{path}, line {start + 1}"
            try:
                cells = next(reader, None)
                spread += max(reader.line_num - start - 1, 0)
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise RowError(
                        f"{where} has {len(cells)} fields but the header has {len(header)}; "
                        f'correct that line{advice} or set corrupt to "skip".'
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
                if not quotes:
                    enclosed += any(len(v) > 1 and v[0] == v[-1] == '"' for v in values)
                yield where, dict(zip(columns, values, strict=True))
        if spread:
            yield Remark("line breaks", str(path), spread)
        if enclosed:
            yield Remark("quotes", str(path), enclosed)
