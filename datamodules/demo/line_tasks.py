"""Tasks on lines of text: rules, and the rows that use them.

A rule takes a `Piece` and a random generator and returns `(input, response)`, or None if the piece
does not suit it. A row is `(name, kind of file, instruction, rule)`.
"""

import random
import re
from collections.abc import Callable

from .pieces import Piece

MAX_INPUT, MAX_RESPONSE = 110, 40  # characters
NAMES = {  # kind of file -> what a prompt calls it
    "python": "Python",
    "cpp": "C++",
    "stubs": "type stub",
    "javascript": "JavaScript",
    "docstrings": "docstring",
    "readmes": "readme",
    "licences": "licence",
}
CODE = ("python", "cpp", "stubs", "javascript")
PROSE = ("docstrings", "readmes", "licences")

Example = tuple[str, str]
Rule = Callable[[Piece, random.Random], Example | None]
Row = tuple[str, str, str, Rule]


def lines_of(piece: Piece) -> list[str]:
    """Return the lines that are not empty; there is at least one."""
    return [line for line in piece.text.split("\n") if line.strip()]


def first_words(piece: Piece, least: int, most: int) -> list[str]:
    """Return the first `least` to `most` words of the first line, or none."""
    words = re.findall(r"[A-Za-z][A-Za-z'-]+", lines_of(piece)[0])[:most]
    return words if len(words) >= least else []


# ---- completion ----


def next_line(piece: Piece, rng: random.Random) -> Example | None:
    """Ask for the line after one or two lines."""
    *given, last = lines_of(piece)
    return ("\n".join(given), last) if given else None


def rest_of_line(piece: Piece, rng: random.Random) -> Example | None:
    """Ask for what follows the first two thirds of a line's words."""
    words = lines_of(piece)[0].split()
    cut = max(1, 2 * len(words) // 3)
    return (" ".join(words[:cut]), " ".join(words[cut:])) if len(words) > 2 else None


def missing_word(piece: Piece, rng: random.Random) -> Example | None:
    """Ask for a word of a line that is left out."""
    words = lines_of(piece)[0].split()
    if len(words) < 4:
        return None
    place = rng.randrange(1, len(words))
    return " ".join([*words[:place], "___", *words[place + 1 :]]), words[place]


COMPLETIONS: list[Row] = [
    (f"{name}, {kind}", kind, instruction.format(NAMES[kind]), rule)
    for kind in NAMES
    for name, instruction, rule in (
        ("next line", "Next {} line", next_line),
        ("rest of line", "Finish the {} line", rest_of_line),
        ("missing word", "Fill the gap in the {}", missing_word),
    )
]


# ---- transformation ----


def on_words(change: Callable[[list[str]], str], least: int = 2, most: int = 4) -> Rule:
    """Build a rule that changes the first words of a piece."""

    def rule(piece: Piece, rng: random.Random) -> Example | None:
        words = first_words(piece, least, most)
        return (" ".join(words), change(words)) if words else None

    return rule


def replaced(pattern: str, by: str = "") -> Rule:
    """Build a rule that replaces a pattern in a line of at most 40 characters that has it."""

    def rule(piece: Piece, rng: random.Random) -> Example | None:
        line = lines_of(piece)[0].strip()
        changed = re.sub(pattern, by, line) if len(line) <= MAX_RESPONSE else line
        return (line, changed) if changed != line else None

    return rule


def camel(words: list[str]) -> str:
    """Return "twoWords" for "two" and "words"."""
    return words[0].lower() + "".join(word.lower().capitalize() for word in words[1:])


TRANSFORMATIONS: list[Row] = [
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
    ("quote words", "readmes", "Quote each word", on_words(lambda w: "'" + "' '".join(w) + "'")),
    ("twice", "docstrings", "Write twice", on_words(lambda w: f"{w[0]} {w[0]}", 1, 1)),
    ("no vowels", "readmes", "Drop the vowels", replaced("[aeiouAEIOU]")),
    ("no spaces", "docstrings", "Drop the spaces", replaced(" ")),
    ("no punctuation", "python", "Drop the punctuation", replaced(r"[^\w ]")),
    ("no comment", "python", "Drop the comment", replaced(r"\s*#.*")),
    ("no C comment", "cpp", "Drop the comment", replaced(r"\s*//.*")),
    ("mask digits", "cpp", "Write 0 for each digit", replaced("[1-9]", "0")),
    ("no annotation", "stubs", "Drop the result type", replaced(r" -> [^:]+")),
    ("single quotes", "javascript", "Use single quotes", replaced('"', "'")),
]  # fmt: skip


# ---- extraction ----


def matched(pattern: str, most: int = 1) -> Rule:
    """Build a rule whose response is the first `most` matches of a pattern, with commas between."""
    compiled = re.compile(pattern, re.MULTILINE)

    def rule(piece: Piece, rng: random.Random) -> Example | None:
        matches = compiled.findall(piece.text)
        return (piece.text, ", ".join(matches[:most])) if matches else None

    return rule


def longest(words: list[str]) -> str:
    """Return the first of the longest words."""
    return max(words, key=len)


EXTRACTIONS: list[Row] = [
    ("imported module", "python", "Which module", matched(r"^(?:from|import) ([\w.]+)")),
    ("imported names", "python", "Which names", matched(r"^from [\w.]+ import (\w[\w, ]*)")),
    ("called function", "python", "Which function is called", matched(r"([\w.]+)\(")),
    ("string", "python", "Which string", matched(r"[\"']([^\"'\n]+)[\"']")),
    ("assigned name", "python", "Which name is set", matched(r"^\s*(\w+) = ")),
    ("assigned value", "python", "To which value", matched(r"^\s*\w+ = (.+)$")),
    ("python numbers", "python", "Which numbers", matched(r"\b\d+(?:\.\d+)?\b", 4)),
    ("condition", "python", "Which condition", matched(r"^\s*(?:el)?if (.+):$")),
    ("stub result", "stubs", "Which result type", matched(r"-> ([\w.\[\], |]+):")),
    ("stub name", "stubs", "Which function", matched(r"def (\w+)\(")),
    ("stub types", "stubs", "Which types", matched(r": ([\w.]+)[,)=\n]", 4)),
    ("included file", "cpp", "Which file", matched(r"#include [<\"]([\w./+-]+)[>\"]")),
    ("macro", "cpp", "Which macro", matched(r"#(?:define|ifdef|ifndef|undef) (\w+)")),
    ("namespace", "cpp", "Which namespace", matched(r"(\w+)::")),
    ("C numbers", "cpp", "Which numbers", matched(r"\b\d+\b", 4)),
    ("template types", "cpp", "Which template types", matched(r"typename (\w+)", 4)),
    ("returned value", "cpp", "What is returned", matched(r"return (.+);")),
    ("JSON key", "javascript", "Which key", matched(r"\"([\w-]+)\"\s*:")),
    ("HTML tag", "javascript", "Which tag", matched(r"<(\w+)[ >]")),
    ("declared name", "javascript", "Which name", matched(r"(?:var|let|const|function) (\w+)")),
    ("link", "readmes", "Which address", matched(r"https?://[\w./-]+\w")),
    ("heading", "readmes", "Which heading", matched(r"^#+ (.+)$")),
    ("version", "readmes", "Which version", matched(r"\b\d+\.\d+(?:\.\d+)?\b")),
    ("year", "licences", "Which year", matched(r"\b(?:19|20)\d\d\b")),
    ("longest word", "docstrings", "Which word is longest", on_words(longest, 3, 9)),
]  # fmt: skip


# ---- classification ----


def of_piece(response: Callable[[Piece], str]) -> Rule:
    """Build a rule out of a function of the piece."""
    return lambda piece, rng: (piece.text, response(piece))


def count(number: Callable[[str], int]) -> Rule:
    """Build a rule whose response is a number of the first line."""
    return lambda piece, rng: (lines_of(piece)[0], str(number(lines_of(piece)[0])))


def has(pattern: str) -> Rule:
    """Build a rule whose response says whether a pattern is found: yes or no."""
    compiled = re.compile(pattern, re.MULTILINE)
    return of_piece(lambda piece: "yes" if compiled.search(piece.text) else "no")


KIND = of_piece(lambda piece: NAMES[piece.kind])
PACKAGE = of_piece(lambda piece: piece.package)

CLASSIFICATIONS: list[Row] = [
    *((f"language, {kind}", kind, "Which language", KIND) for kind in CODE),
    *((f"kind of text, {kind}", kind, "Which kind of text", KIND) for kind in PROSE),
    ("python package", "python", "Which package", PACKAGE),
    ("C package", "cpp", "Which package", PACKAGE),
    ("has a call", "python", "Is a function called", has(r"\w\(")),
    ("has a string", "python", "Is there a string", has(r"[\"']")),
    ("has a comment", "cpp", "Is there a comment", has(r"//|/\*|\*/|^\s*\*")),
    ("has a number", "javascript", "Is there a number", has(r"\d")),
    ("has an option", "stubs", "May it be None", has(r"None\b(?!:)|Optional")),
    ("indented", "python", "How many spaces of indent", count(lambda t: len(t) - len(t.lstrip()))),
    ("how many words", "readmes", "How many words", count(lambda t: len(t.split()))),
]  # fmt: skip
