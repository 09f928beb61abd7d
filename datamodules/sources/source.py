"""`Source`: one domain's rows, read as often as asked; bad rows are refused or counted."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from tandem_pl.checks import check_choice
from tandem_pl.errors import InputError

from .reading import Columns, ReadAs, Remark, Row, RowError, Rows, sentences


class Source:
    r"""One domain's rows.

    Args:
        domain: the domain's name.
        read: yields the rows with the given columns.
        digest: returns what changes whenever the content of these columns may have changed.
        column: the domain's own text column; None if it names none.
        corrupt: `"stop"` raises at a row that cannot be read; `"skip"` leaves it out and counts it.
        left_out: reason -> files of its folders that are not read.

    Attributes:
        skipped: rows or files left out in the last pass.
        first_skipped: the message on the first of them.
        read_as: kind -> `(files, rows)` of the last pass.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt").write_text("one document")
        >>> _ = (folder / "b.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n')
        >>> from tandem_pl.datamodules.sources.domains import open_source
        >>> [row["text"] for _, row in open_source("demo", str(folder)).rows(["text"])]
        ['one document', 'two', 'three']
    """

    def __init__(
        self,
        domain: str,
        read: Callable[[Sequence[str]], Rows],
        digest: Callable[[Columns], str],
        column: str | None = None,
        corrupt: Literal["stop", "skip"] = "stop",
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        check_choice("corrupt", corrupt, ("stop", "skip"))
        self.domain, self.column, self.corrupt = domain, column, corrupt
        self._read, self._digest = read, digest
        self.left_out = dict(left_out or {})
        self.skipped = 0
        self.first_skipped: str | None = None
        self.read_as: dict[str, tuple[int, int]] = {}
        self._said = False

    def digest(self, columns: Sequence[str] = ("text",)) -> str:
        """Return what changes whenever the content of these columns may have changed."""
        return self._digest(columns)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield all rows as `(where, row)`, with the named columns only.

        `where` names the file and line, or the data set and row, for messages.

        Raises:
            InputError: a missing column; with `corrupt="stop"`, a row that cannot be read.
        """
        self.skipped, self.first_skipped, self.read_as = 0, None, {}
        remarks: list[Remark] = []
        for row in self._read(columns):
            if isinstance(row, RowError):
                self.refuse(str(row))
            elif isinstance(row, ReadAs):
                files, rows = self.read_as.get(row.kind, (0, 0))
                self.read_as[row.kind] = (files + row.files, rows + row.rows)
            elif isinstance(row, Remark):
                remarks.append(row)
            else:
                yield row
        for sentence in () if self._said else sentences(remarks):
            warnings.warn(f"domain {self.domain!r}: {sentence}", stacklevel=2)
        self._said = True  # once, and not in every pass

    def summary(self) -> list[dict[str, Any]]:
        """Return what the last pass read: rows of `read_as`, `files` and `rows`.

        Files that were left out have no `rows`.
        """
        read = [
            {"read_as": kind, "files": files, "rows": rows}
            for kind, (files, rows) in self.read_as.items()
        ]
        left = [
            {"read_as": f"left out: {reason}", "files": files}
            for reason, files in self.left_out.items()
        ]
        return [*read, *left]

    def refuse(self, message: str) -> None:
        """Raise `InputError(message)`, or count a row that is left out."""
        if self.corrupt == "stop":
            raise InputError(message)
        self.skipped += 1
        self.first_skipped = self.first_skipped or message

    def warn_of_skipped(self, domain: str) -> None:
        """Warn if rows were left out, with their number and the message on the first."""
        if self.skipped:
            warnings.warn(
                f"domain {domain!r}: {self.skipped} corrupt rows were left out; the first: "
                f"{self.first_skipped}",
                stacklevel=3,
            )


class Sources(dict[str, Source]):
    """Domain -> source.

    Attributes:
        skipped: rows left out before their domain was known.
        first_skipped: the message on the first of them.
    """

    skipped = 0
    first_skipped: str | None = None

    def skip(self, message: str, rows: int = 1) -> None:
        """Count rows that are left out."""
        self.skipped += rows
        self.first_skipped = self.first_skipped or message
