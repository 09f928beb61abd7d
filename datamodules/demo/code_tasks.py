"""Tasks on Python functions and classes, and on comments: rules, and the rows that use them.

Rules and rows are as in `line_tasks`; "python function" and "python class" name the pieces of a row
that are no lines.
"""

import ast
import random
import re
from collections.abc import Callable
from typing import Any

from .line_tasks import MAX_INPUT, Example, Row, Rule, lines_of
from .pieces import Piece


def comment_above(piece: Piece, rng: random.Random) -> Example | None:
    """Ask for the comment of a line, from the line below it."""
    lines = lines_of(piece)
    match = re.match(r"\s*(?:#|//)+ (.+)", lines[0])
    return (lines[1], match[1]) if match and len(lines) > 1 else None


def of_node(given: Callable[[Any], str], response: Callable[[Any], str]) -> Rule:
    """Build a rule out of two functions of the syntax tree."""
    return lambda piece, rng: (given(piece.node), response(piece.node))


def name_of(node: Any) -> str:
    """Return the name of a function or class."""
    return str(node.name)


def summary(node: Any) -> str:
    """Return the first line of the docstring, without its full stop."""
    text = ast.get_docstring(node) or ""
    return text.strip().split("\n")[0].strip().rstrip(".")


def body(node: Any) -> str:
    """Return the start of a function's source without docstring, or a class's public names."""
    statements = node.body[1:] if ast.get_docstring(node) else node.body
    if isinstance(node, ast.ClassDef):
        inner = [s.name for s in statements if isinstance(s, ast.FunctionDef | ast.ClassDef)]
        return f"class {node.name}: {' '.join(n for n in inner if not n.startswith('_'))}"
    text = "\n".join([f"def {head(node)}", *map(ast.unparse, statements)])
    return text[: text.rfind(" ", 0, MAX_INPUT)] if len(text) > MAX_INPUT else text


def body_called(alias: str) -> Callable[[Any], str]:
    """Return `body` with another name for the function or class."""
    return lambda node: re.sub(rf"\b{node.name}\b", alias, body(node))


def head(node: Any) -> str:
    """Return name and arguments of a function."""
    return f"{node.name}({ast.unparse(node.args)})"


def returned(node: Any) -> str:
    """Return what a function returns at its end; "" if nothing."""
    last = node.body[-1]
    return ast.unparse(last.value) if isinstance(last, ast.Return) and last.value else ""


def arguments(node: Any) -> str:
    """Return the names of a function's arguments without `self`."""
    return ", ".join(argument.arg for argument in node.args.args if argument.arg != "self")


def first_base(node: Any) -> str:
    """Return a class's first base; "" if there is none."""
    return ast.unparse(node.bases[0]) if node.bases else ""


DESCRIPTIONS: list[Row] = [
    ("say what a body does", "python function", "Say what it does", of_node(body, summary)),
    ("say what a name means", "python function", "What does it do", of_node(name_of, summary)),
    ("describe a class", "python class", "Describe the class", of_node(name_of, summary)),
    ("describe methods", "python class", "What is it for", of_node(body, summary)),
    ("say what is returned", "python function", "What does it return", of_node(head, returned)),
    ("comment python", "python", "Write a comment", comment_above),
    ("comment C", "cpp", "Write the comment", comment_above),
]  # fmt: skip

NAMINGS: list[Row] = [
    ("name a function", "python function", "Name it", of_node(body_called("f"), name_of)),
    ("name by docstring", "python function", "Name the function", of_node(summary, name_of)),
    ("name a class", "python class", "Name the class", of_node(body_called("C"), name_of)),
    ("class by docstring", "python class", "Which class is", of_node(summary, name_of)),
    ("name arguments", "python function", "Name its arguments", of_node(
        lambda node: f"{node.name}. {summary(node)}", arguments
    )),
    ("name the base", "python class", "Name its base", of_node(name_of, first_base)),
]  # fmt: skip
