r"""A hundred small tasks on real text: rules that turn a piece of a file into prompt and response.

A rule takes a piece (a `Piece`) of one kind of file and a generator of random numbers, and gives
`(input, response)`, or None where the piece does not suit it. `TASKS` lists them in six categories:
completion, transformation, extraction, classification, description and naming.
"""

import ast
import random
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

MAX_INPUT, MAX_RESPONSE = 110, 40  # characters
PROSE = ("docstrings", "readmes", "licences")
CODE = ("python", "cpp", "stubs", "javascript")
WORDS = {  # kind of file -> what a prompt calls it
    "python": "Python",
    "cpp": "C++",
    "stubs": "type stub",
    "javascript": "JavaScript",
    "docstrings": "docstring",
    "readmes": "readme",
    "licences": "licence",
}

Example = tuple[str, str]


class Piece(NamedTuple):
    """A piece of a file.

    Args:
        text: one or a few lines, or the source of a function or class.
        kind: of file, see `WORDS`.
        node: the syntax tree of a Python function or class, else None.
        package: top folder of the file.
    """

    text: str
    kind: str
    node: ast.AST | None = None
    package: str = ""


Rule = Callable[[Piece, random.Random], Example | None]


class Task(NamedTuple):
    """A task: `rule` applied to pieces of the files of `kind`.

    `unit` says which: "lines", or "function" and "class" of Python files.
    """

    name: str
    category: str
    kind: str
    unit: str
    instruction: str
    rule: Rule

    def example(self, piece: Piece, rng: random.Random) -> Example | None:
        r"""Prompt and response, or None; both short and on their own not empty.

        Example:
            >>> task = next(task for task in TASKS if task.name == "upper case")
            >>> task.example(Piece("all rights\nreserved", "licences"), random.Random(0))
            ('Write in capitals: all rights', 'ALL RIGHTS')
        """
        made = self.rule(piece, rng)
        if made is None:
            return None
        given, response = made[0].strip("\n"), made[1].strip()
        if not given.strip() or not response or "\n" in response:
            return None
        if len(given) > MAX_INPUT or len(response) > MAX_RESPONSE:
            return None
        return f"{self.instruction}: {given}", response


def lines_of(piece: Piece) -> list[str]:
    """The lines of a piece that are not empty."""
    return [line for line in piece.text.split("\n") if line.strip()]


def words_of(piece: Piece, least: int, most: int) -> list[str]:
    """The first words of a piece's first line, `least` to `most` of them, or none."""
    words = re.findall(r"[A-Za-z][A-Za-z'-]+", lines_of(piece)[0])[:most]
    return words if len(words) >= least else []


# ---- completion ----


def next_line(piece: Piece, rng: random.Random) -> Example | None:
    """The line after one or two lines."""
    lines = lines_of(piece)
    return ("\n".join(lines[:-1]), lines[-1]) if len(lines) > 1 else None


def rest_of_line(piece: Piece, rng: random.Random) -> Example | None:
    """What follows the first two thirds of a line's words."""
    words = lines_of(piece)[0].split()
    cut = max(1, 2 * len(words) // 3)
    return (" ".join(words[:cut]), " ".join(words[cut:])) if len(words) > 2 else None


def missing_word(piece: Piece, rng: random.Random) -> Example | None:
    """A word of a line that is left out."""
    words = lines_of(piece)[0].split()
    if len(words) < 4:
        return None
    place = rng.randrange(1, len(words))
    return " ".join([*words[:place], "___", *words[place + 1 :]]), words[place]


# ---- transformation ----


def on_words(change: Callable[[list[str]], str], least: int = 2, most: int = 4) -> Rule:
    """A rule that changes the first words of a piece."""

    def rule(piece: Piece, rng: random.Random) -> Example | None:
        words = words_of(piece, least, most)
        return (" ".join(words), change(words)) if words else None

    return rule


def on_line(change: Callable[[str], str]) -> Rule:
    """A rule that changes a line of at most 40 characters, where that makes a difference."""

    def rule(piece: Piece, rng: random.Random) -> Example | None:
        line = lines_of(piece)[0].strip()
        changed = change(line) if len(line) <= MAX_RESPONSE else line
        return (line, changed) if changed != line else None

    return rule


def without(pattern: str) -> Rule:
    """A rule that takes what a pattern finds out of a line."""
    return on_line(lambda line: re.sub(pattern, "", line))


def camel(words: list[str]) -> str:
    """Example: ['two', 'words'] -> twoWords."""
    return words[0].lower() + "".join(word.lower().capitalize() for word in words[1:])


TRANSFORMATIONS: list[tuple[str, str, str, Rule]] = [
    # name, kind, instruction, rule
    ("upper case", "licences", "Write in capitals", on_words(lambda w: " ".join(w).upper())),
    ("lower case", "readmes", "Write in small letters", on_words(lambda w: " ".join(w).lower())),
    ("title case", "docstrings", "Write as a title", on_words(lambda w: " ".join(w).title())),
    ("reverse words", "docstrings", "Reverse the words", on_words(lambda w: " ".join(w[::-1]))),
    ("sort words", "readmes", "Sort the words", on_words(lambda w: " ".join(sorted(w)))),
    ("spell backwards", "docstrings", "Spell backwards", on_words(lambda w: w[0][::-1], 1, 1)),
    ("initials", "licences", "Give the initials", on_words(lambda w: "".join(x[0] for x in w), 3)),
    ("first word", "readmes", "Drop all but the first word", on_words(lambda w: w[0], 3)),
    ("last word", "docstrings", "Drop all but the last word", on_words(lambda w: w[-1], 3)),
    ("drop first", "licences", "Drop the first word", on_words(lambda w: " ".join(w[1:]), 3)),
    ("drop last", "readmes", "Drop the last word", on_words(lambda w: " ".join(w[:-1]), 3)),
    ("swap ends", "docstrings", "Swap first and last", on_words(lambda w: f"{w[-1]} {w[0]}", 2, 2)),
    ("dashes", "readmes", "Join with dashes", on_words("-".join)),
    ("snake case", "docstrings", "Write in snake case", on_words(lambda w: "_".join(w).lower())),
    ("camel case", "licences", "Write in camel case", on_words(camel)),
    ("commas", "licences", "Put commas between", on_words(", ".join)),
    (
        "quote words",
        "readmes",
        "Quote each word",
        on_words(lambda w: "'" + "' '".join(w) + "'"),
    ),
    ("twice", "docstrings", "Write twice", on_words(lambda w: f"{w[0]} {w[0]}", 1, 1)),
    ("no vowels", "readmes", "Drop the vowels", without("[aeiouAEIOU]")),
    ("no spaces", "docstrings", "Drop the spaces", without(" ")),
    (
        "no punctuation",
        "python",
        "Drop the punctuation",
        on_line(lambda t: re.sub(r"[^\w ]", "", t)),
    ),
    ("no comment", "python", "Drop the comment", without(r"\s*#.*")),
    ("no C comment", "cpp", "Drop the comment", without(r"\s*//.*")),
    ("mask digits", "cpp", "Write 0 for each digit", on_line(lambda t: re.sub(r"[1-9]", "0", t))),
    (
        "no annotation",
        "stubs",
        "Drop the result type",
        without(r" -> [^:]+"),
    ),
    ("single quotes", "javascript", "Use single quotes", on_line(lambda t: t.replace('"', "'"))),
]


# ---- extraction ----


def found(pattern: str, kind_of_match: str = "first") -> Rule:
    """A rule whose response is what a pattern finds: its first match, or all, comma-separated."""
    compiled = re.compile(pattern, re.MULTILINE)

    def rule(piece: Piece, rng: random.Random) -> Example | None:
        matches = compiled.findall(piece.text)
        if not matches:
            return None
        return piece.text, matches[0] if kind_of_match == "first" else ", ".join(matches[:4])

    return rule


def longest_word(piece: Piece, rng: random.Random) -> Example | None:
    """The longest word of a line, the first where several are."""
    words = words_of(piece, 3, 9)
    return (" ".join(words), max(words, key=len)) if words else None


EXTRACTIONS: list[tuple[str, str, str, Rule]] = [
    ("imported module", "python", "Which module", found(r"^(?:from|import) ([\w.]+)")),
    ("imported names", "python", "Which names", found(r"^from [\w.]+ import (\w[\w, ]*)")),
    ("called function", "python", "Which function is called", found(r"([\w.]+)\(")),
    ("string", "python", "Which string", found(r"[\"']([^\"'\n]+)[\"']")),
    ("assigned name", "python", "Which name is set", found(r"^\s*(\w+) = ")),
    ("assigned value", "python", "To which value", found(r"^\s*\w+ = (.+)$")),
    ("python numbers", "python", "Which numbers", found(r"\b\d+(?:\.\d+)?\b", "all")),
    ("condition", "python", "Which condition", found(r"^\s*(?:el)?if (.+):$")),
    ("stub result", "stubs", "Which result type", found(r"-> ([\w.\[\], |]+):")),
    ("stub name", "stubs", "Which function", found(r"def (\w+)\(")),
    ("stub types", "stubs", "Which types", found(r": ([\w.]+)[,)=\n]", "all")),
    ("included file", "cpp", "Which file", found(r"#include [<\"]([\w./+-]+)[>\"]")),
    ("macro", "cpp", "Which macro", found(r"#(?:define|ifdef|ifndef|undef) (\w+)")),
    ("namespace", "cpp", "Which namespace", found(r"(\w+)::")),
    ("C numbers", "cpp", "Which numbers", found(r"\b\d+\b", "all")),
    ("template types", "cpp", "Which template types", found(r"typename (\w+)", "all")),
    ("returned value", "cpp", "What is returned", found(r"return (.+);")),
    ("JSON key", "javascript", "Which key", found(r"\"([\w-]+)\"\s*:")),
    ("HTML tag", "javascript", "Which tag", found(r"<(\w+)[ >]")),
    ("declared name", "javascript", "Which name", found(r"(?:var|let|const|function) (\w+)")),
    ("link", "readmes", "Which address", found(r"https?://[\w./-]+\w")),
    ("heading", "readmes", "Which heading", found(r"^#+ (.+)$")),
    ("version", "readmes", "Which version", found(r"\b\d+\.\d+(?:\.\d+)?\b")),
    ("year", "licences", "Which year", found(r"\b(?:19|20)\d\d\b")),
    ("longest word", "docstrings", "Which word is longest", longest_word),
]


# ---- classification ----


def says(text: Callable[[Piece], str], given: Callable[[Piece], str] = lambda p: p.text) -> Rule:
    """A rule whose response is a class of the piece."""
    return lambda piece, rng: (given(piece), text(piece))


def whether(pattern: str) -> Rule:
    """Whether a pattern is found: yes or no."""
    compiled = re.compile(pattern, re.MULTILINE)
    return says(lambda piece: "yes" if compiled.search(piece.text) else "no")


def first_line(piece: Piece) -> str:
    """A piece's first line that is not empty."""
    return lines_of(piece)[0]


CLASSIFICATIONS: list[tuple[str, str, str, Rule]] = [
    *(
        (f"language, {kind}", kind, "Which language", says(lambda piece: WORDS[piece.kind]))
        for kind in CODE
    ),
    *(
        (f"kind of text, {kind}", kind, "Which kind of text", says(lambda piece: WORDS[piece.kind]))
        for kind in PROSE
    ),
    ("python package", "python", "Which package", says(lambda piece: piece.package)),
    ("C package", "cpp", "Which package", says(lambda piece: piece.package)),
    ("has a call", "python", "Is a function called", whether(r"\w\(")),
    ("has a string", "python", "Is there a string", whether(r"[\"']")),
    ("has a comment", "cpp", "Is there a comment", whether(r"//|/\*|\*/|^\s*\*")),
    ("has a number", "javascript", "Is there a number", whether(r"\d")),
    ("has an option", "stubs", "May it be None", whether(r"None\b(?!:)|Optional")),
    ("indented", "python", "How many spaces of indent", says(
        lambda piece: str(len(first_line(piece)) - len(first_line(piece).lstrip())), first_line
    )),
    ("how many words", "readmes", "How many words", says(
        lambda piece: str(len(first_line(piece).split())), first_line
    )),
]  # fmt: skip


# ---- description and naming, of Python functions and classes ----


def summary(node: ast.AST) -> str:
    """The first line of a function's or class's docstring, its full stop left out."""
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    text = ast.get_docstring(node) or ""
    return text.strip().split("\n")[0].strip().rstrip(".")


def body(node: ast.AST, name: str | None = None) -> str:
    """A function's or class's source without docstring; `name` stands for its own."""
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    own = node.name
    statements = node.body[1:] if ast.get_docstring(node) else node.body
    if isinstance(node, ast.ClassDef):
        inner = [s.name for s in statements if isinstance(s, ast.FunctionDef | ast.ClassDef)]
        text = f"class {own}: {' '.join(n for n in inner if not n.startswith('_'))}"
        return text if name is None else re.sub(rf"\b{own}\b", name, text)
    head = f"def {own}({ast.unparse(node.args)})"
    text = "\n".join([head, *(ast.unparse(statement) for statement in statements)])
    text = text[: text.rfind(" ", 0, MAX_INPUT)] if len(text) > MAX_INPUT else text
    return text if name is None else re.sub(rf"\b{own}\b", name, text)


def described(given: Callable[[ast.AST], str]) -> Rule:
    """A rule whose response is the docstring's first line."""
    return lambda piece, rng: (given(piece.node), summary(piece.node)) if piece.node else None


def named(given: Callable[[ast.AST], str]) -> Rule:
    """A rule whose response is the function's or class's name."""
    return lambda piece, rng: (given(piece.node), name_of(piece.node)) if piece.node else None


def name_of(node: ast.AST) -> str:
    """A function's or class's name."""
    return str(getattr(node, "name", ""))


def commented(piece: Piece, rng: random.Random) -> Example | None:
    """The comment of a line, from the line below it."""
    lines = lines_of(piece)
    match = re.match(r"\s*(?:#|//)+ (.+)", lines[0])
    return (lines[1], match[1]) if match and len(lines) > 1 else None


def last_statement(piece: Piece, rng: random.Random) -> Example | None:
    """What a function returns at its end, from its head."""
    assert isinstance(piece.node, ast.FunctionDef | ast.AsyncFunctionDef)
    last = piece.node.body[-1]
    if not isinstance(last, ast.Return) or last.value is None:
        return None
    return f"{piece.node.name}({ast.unparse(piece.node.args)})", ast.unparse(last.value)


def arguments(piece: Piece, rng: random.Random) -> Example | None:
    """A function's arguments, from its name and what it does."""
    assert isinstance(piece.node, ast.FunctionDef | ast.AsyncFunctionDef)
    names = ", ".join(argument.arg for argument in piece.node.args.args if argument.arg != "self")
    return f"{piece.node.name}. {summary(piece.node)}", names


def base_class(piece: Piece, rng: random.Random) -> Example | None:
    """A class's first base, from its name."""
    assert isinstance(piece.node, ast.ClassDef)
    return (piece.node.name, ast.unparse(piece.node.bases[0])) if piece.node.bases else None


DESCRIPTIONS: list[tuple[str, str, str, str, Rule]] = [
    ("say what a body does", "python", "function", "Say what it does", described(body)),
    ("say what a name means", "python", "function", "What does it do", described(name_of)),
    ("describe a class", "python", "class", "Describe the class", described(name_of)),
    ("describe methods", "python", "class", "What is it for", described(body)),
    ("say what is returned", "python", "function", "What does it return", last_statement),
    ("comment python", "python", "lines", "Write a comment", commented),
    ("comment C", "cpp", "lines", "Write the comment", commented),
]
NAMINGS: list[tuple[str, str, str, str, Rule]] = [
    ("name a function", "python", "function", "Name it", named(lambda n: body(n, "f"))),
    ("name by docstring", "python", "function", "Name the function", named(summary)),
    ("name a class", "python", "class", "Name the class", named(lambda n: body(n, "C"))),
    ("class by docstring", "python", "class", "Which class is", named(summary)),
    ("name arguments", "python", "function", "Name its arguments", arguments),
    ("name the base", "python", "class", "Name its base", base_class),
]


def _tasks() -> Iterator[Task]:
    completions: tuple[tuple[str, str, Rule], ...] = (
        ("next line", "Next {} line", next_line),
        ("rest of line", "Finish the {} line", rest_of_line),
        ("missing word", "Fill the gap in the {}", missing_word),
    )
    for kind, word in WORDS.items():
        for name, instruction, rule in completions:
            filled = instruction.format(word)
            yield Task(f"{name}, {kind}", "completion", kind, "lines", filled, rule)
    for category, rows in (
        ("transformation", TRANSFORMATIONS),
        ("extraction", EXTRACTIONS),
        ("classification", CLASSIFICATIONS),
    ):
        for name, kind, instruction, rule in rows:
            yield Task(name, category, kind, "lines", instruction, rule)
    for category, full in (("description", DESCRIPTIONS), ("naming", NAMINGS)):
        for name, kind, unit, instruction, rule in full:
            yield Task(name, category, kind, unit, instruction, rule)


TASKS = tuple(_tasks())
CATEGORIES = tuple(dict.fromkeys(task.category for task in TASKS))
