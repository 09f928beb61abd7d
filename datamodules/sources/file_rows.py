"""The rows of files: which reader reads which kind of file.

To read another kind of file, write its reader in a file of its own and add its suffix to `READERS`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tandem_pl.checks import check_choice

from .csv_rows import read_csv
from .json_lines import read_json_lines
from .parquet_rows import read_parquet
from .plain_text import read_text
from .reading import Reader, RowError, Rows, digest_files, suffix_of

JSON_LINES = {".jsonl", ".ndjson"}
PARQUET = {".parquet", ".pq"}
CSV = {".csv": ",", ".tsv": "\t"}

#: suffix -> reader; any other file is plain text.
READERS: dict[str, Reader] = {
    **dict.fromkeys(JSON_LINES, read_json_lines),
    **dict.fromkeys(PARQUET, read_parquet),
    **{suffix: partial(read_csv, delimiter=delimiter) for suffix, delimiter in CSV.items()},
}


class FileRows:
    """The rows of files, one file after the other.

    Args:
        files: the files.
        encoding_errors: `"raise"` makes text that is not UTF-8 a bad row; `"replace"` puts U+FFFD
            in place of the bytes that are not.
    """

    def __init__(self, files: Sequence[Path], encoding_errors: str) -> None:
        check_choice("encoding_errors", encoding_errors, ("raise", "replace"))
        self.files = files
        self.encoding_errors = encoding_errors

    def digest(self) -> str:
        """Return what changes with the files' names, sizes and times of change."""
        return digest_files(self.files)

    def read(self, columns: Sequence[str]) -> Rows:
        """Yield the rows, with the named columns only.

        Raises:
            InputError: a missing column, or a file that is not what its suffix says.
        """
        for path in self.files:
            reader = READERS.get(suffix_of(path), read_text)
            try:
                yield from reader(path, columns, self.encoding_errors)
            except RowError as error:
                yield error
            except OSError as error:  # also of compressed files that are cut short
                yield RowError(
                    f"{path} cannot be read ({error.strerror or error}); repair the file, leave "
                    'it out, or set corrupt to "skip".'
                )
