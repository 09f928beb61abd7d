"""Tables for a terminal and for Markdown, and numbers of things.

The first column of a table is to the left, the others to the right.
"""

from collections.abc import Iterable, Sequence


def text_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], gap: str = "  ", left: int = 1
) -> str:
    """Aligned plain text, which a pipe takes as well as a terminal does.

    Args:
        header: names of the columns.
        rows: their cells.
        gap: between columns.
        left: columns that are aligned to the left; the others are numbers.

    >>> print(text_table(["domain", "loss"], [["code", "0.5"], ["books", "12.5"]]))
    domain  loss
    code     0.5
    books   12.5
    """
    return "\n".join(gap.join(cells).rstrip() for cells in _aligned([header, *rows], left))


def counted(number: int | str, noun: str) -> str:
    """Write a number of things; a text is a number that is written already.

    >>> counted(1, "update"), counted(0, "update"), counted("0.5", "update")
    ('1 update', '0 updates', '0.5 updates')
    """
    return f"{number} {noun}{'' if str(number) == '1' else 's'}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown whose columns are aligned for a terminal too.

    >>> print(markdown_table(["method", "loss"], [["a", "1.0"]]))
    | method | loss |
    |--------|------|
    | a      |  1.0 |
    """
    aligned = _aligned([header, *rows])
    lines = ["| " + " | ".join(cells) + " |" for cells in aligned]
    lines.insert(1, "|" + "|".join("-" * (len(cell) + 2) for cell in aligned[0]) + "|")
    return "\n".join(lines)


def _aligned(lines: Sequence[Sequence[str]], left: int = 1) -> list[list[str]]:
    """The cells, padded to the width of their column."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        [
            f"{cell:{'<' if place < left else '>'}{width}}"
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
