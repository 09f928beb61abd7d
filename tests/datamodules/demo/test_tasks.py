"""The rules of the tasks, and the prompts and responses that they give."""

import random

import pytest

from tandem_pl.datamodules.demo.pieces import Piece, cut_pieces
from tandem_pl.datamodules.demo.tasks import TASKS

EXPECTED = [  # task, text, input, response
    ("next line, cpp", "int a;\n  int b;", "int a;", "int b;"),
    ("rest of line, readmes", "one two three", "one two", "three"),
    ("upper case", "All rights reserved", "All rights reserved", "ALL RIGHTS RESERVED"),
    ("reverse words", "a line of words\nmore", "line of words", "words of line"),
    ("initials", "Apache Software License", "Apache Software License", "ASL"),
    ("camel case", "the Software license", "the Software license", "theSoftwareLicense"),
    ("spell backwards", "Returns it", "Returns", "snruteR"),
    ("no comment", "x = 1  # one", "x = 1  # one", "x = 1"),
    ("no annotation", "def f() -> int: ...", "def f() -> int: ...", "def f(): ..."),
    ("mask digits", "x[17] = 40;", "x[17] = 40;", "x[00] = 00;"),
    ("imported module", "from a.b import c", "from a.b import c", "a.b"),
    ("imported names", "from a.b import c, d", "from a.b import c, d", "c, d"),
    ("python numbers", "f(1, 2.5, x3)", "f(1, 2.5, x3)", "1, 2.5"),
    ("included file", "#include <cuda/std/a.h>", "#include <cuda/std/a.h>", "cuda/std/a.h"),
    ("stub result", "def f(x) -> list[int]: ...", "def f(x) -> list[int]: ...", "list[int]"),
    ("heading", "text\n## Install\nmore", "text\n## Install\nmore", "Install"),
    ("year", "Copyright 2019 by", "Copyright 2019 by", "2019"),
    ("longest word", "A rather strange line", "rather strange line", "strange"),
    ("language, cpp", "std::move(x)", "std::move(x)", "C++"),
    ("python package", "x = 1", "x = 1", "demo"),
    ("has a call", "x = y", "x = y", "no"),
    ("indented", "    x = 1", "    x = 1", "4"),
    ("comment python", "# add one\nx += 1", "x += 1", "add one"),
]


@pytest.mark.parametrize(("name", "text", "given", "response"), EXPECTED)
def test_rules_on_lines(name, text, given, response):
    (task,) = (task for task in TASKS if task.name == name)
    piece = Piece(text, task.kind, None, "demo")
    prompt = f"{task.instruction}: {given}"
    assert task.example(piece, random.Random(0)) == (prompt, response)


SOURCE = '''
def add_one(number, by=1):
    """Adds one to a number.

    More.
    """
    return number + by

class Adder(Base):
    """Adds things."""
    def run(self): pass
    def _hidden(self): pass
'''


@pytest.mark.parametrize(
    ("name", "given", "response"),
    [
        ("say what a body does", "def add_one(number, by=1)\nreturn number + by", None),
        ("name a function", "def f(number, by=1)\nreturn number + by", "add_one"),
        ("name by docstring", "Adds one to a number", "add_one"),
        ("name arguments", "add_one. Adds one to a number", "number, by"),
        ("say what is returned", "add_one(number, by=1)", "number + by"),
        ("name a class", "class C: run", "Adder"),
        ("name the base", "Adder", "Base"),
        ("describe a class", "Adder", "Adds things"),
    ],
)
def test_rules_on_functions_and_classes(name, given, response):
    (task,) = (task for task in TASKS if task.name == name)
    units = cut_pieces("python", SOURCE, "demo", random.Random(0), parse=True)
    (piece,) = units[task.unit] if task.unit == "class" else units["function"][:1]
    if task.unit == "function":
        piece = next(p for p in units["function"] if p.node.name == "add_one")
    expected = response or "Adds one to a number"
    assert task.example(piece, random.Random(0)) == (f"{task.instruction}: {given}", expected)


def test_a_missing_word_goes_back_in_its_place():
    (task,) = (task for task in TASKS if task.name == "missing word, docstrings")
    line = "four words stand here"
    for seed in range(8):
        prompt, word = task.example(Piece(line, "docstrings"), random.Random(seed))
        assert prompt.removeprefix(task.instruction + ": ").replace("___", word) == line


def test_examples_too_long_or_empty_are_left_out():
    (task,) = (task for task in TASKS if task.name == "heading")
    assert task.example(Piece("# " + "x" * 41, "readmes"), random.Random(0)) is None
    assert task.example(Piece("# x\n" + "y" * 110, "readmes"), random.Random(0)) is None
    assert task.example(Piece("no heading", "readmes"), random.Random(0)) is None
