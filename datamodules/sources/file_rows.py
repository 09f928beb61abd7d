"""The rows of files: which reader reads which kind of file.

To read another kind of file, write its reader in a file of its own and add its suffix to `READERS`;
see README.md.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .csv_rows import read_csv
from .json_lines import read_json_lines
from .parquet_rows import read_parquet
from .plain_text import read_text
from .reading import Reader, RowError, Rows, suffix_of

JSON_LINES = {".jsonl", ".ndjson"}
PARQUET = {".parquet", ".pq"}
BINARY = PARQUET  # kept when a folder is listed; other binary files are left out
CSV = {".csv": ",", ".tsv": "\t"}

#: suffix -> reader; any other file is plain text.
READERS: dict[str, Reader] = {
    **dict.fromkeys(JSON_LINES, read_json_lines),
    **dict.fromkeys(PARQUET, read_parquet),
    **{suffix: partial(read_csv, delimiter=delimiter) for suffix, delimiter in CSV.items()},
}


def read_files(files: Sequence[Path], encoding_errors: str, columns: Sequence[str]) -> Rows:
    """Yield the rows of one file after the other, with the named columns only.

    Args:
        files: the files.
        encoding_errors: `"raise"` makes text that is not UTF-8 a `RowError`; `"replace"` puts
            U+FFFD in place of the bytes that are not.
        columns: names of the columns.

    Raises:
        InputError: a missing column, or a file that is not what its suffix says.
    """
    for path in files:
        reader = READERS.get(suffix_of(path), read_text)
        try:
            yield from reader(path, columns, encoding_errors)
        except RowError as error:
            yield error
        except OSError as error:  # also of compressed files that are cut short
            yield RowError(
                f"{path} cannot be read ({error.strerror or error}); repair the file, leave it "
                'out, or set corrupt to "skip".'
            )
