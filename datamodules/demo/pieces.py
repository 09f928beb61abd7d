"""Cut a file into pieces: runs of lines, and functions and classes of Python."""

import ast
import random
import warnings
from typing import NamedTuple

PIECES = 40  # of a file, at most
PIECE_LINES, PIECE_CHARACTERS = 3, 130
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Piece(NamedTuple):
    """A piece of a file.

    Args:
        text: one or a few lines; "" if there is a node.
        kind: of the file, a domain of `EnvironmentCorpus`.
        node: the syntax tree of a Python function or class, else None.
        package: top folder of the file.
    """

    text: str
    kind: str
    node: ast.AST | None = None
    package: str = ""


def cut_pieces(
    kind: str, text: str, package: str, rng: random.Random, parse: bool = False
) -> dict[str, list[Piece]]:
    r"""Return pieces of a file by unit: "lines" and, parsed, "function" and "class" of Python.

    Example:
        >>> rows = cut_pieces("readmes", "one\ntwo\n\nthree\nfour\n", "demo", random.Random(0))
        >>> sorted(piece.text for piece in rows["lines"])
        ['four', 'one\ntwo\n\nthree']
    """
    texts = _line_runs(text)
    rng.shuffle(texts)
    units = {"lines": [Piece(text, kind, None, package) for text in texts[:PIECES]]}
    if parse:
        nodes = [node for node in _walk(text) if isinstance(node, DEFINITIONS)]
        rng.shuffle(nodes)
        public = [node for node in nodes if not node.name.startswith("_")]
        for unit, is_class in (("function", False), ("class", True)):
            chosen = [node for node in public if isinstance(node, ast.ClassDef) == is_class]
            units[unit] = [Piece("", kind, node, package) for node in chosen[:PIECES]]
    return units


def _line_runs(text: str) -> list[str]:
    """Return runs of at most `PIECE_LINES` lines that are not empty, and `PIECE_CHARACTERS`."""
    runs: list[list[str]] = []
    for line in text.split("\n"):
        run = runs[-1] if runs else []
        full = sum(map(bool, run)) == PIECE_LINES or len("\n".join([*run, line])) > PIECE_CHARACTERS
        if not runs or (full and line.strip()):
            runs.append([line])
        elif run != [""]:
            run.append(line)
        else:
            runs[-1] = [line]
    return [joined for run in runs if (joined := "\n".join(run).strip("\n")).strip()]


def _walk(source: str) -> list[ast.AST]:
    """Return the nodes of a Python source; none if it cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as invalid escapes in others' code
            return list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):
        return []
