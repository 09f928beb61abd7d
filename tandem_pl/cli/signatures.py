"""The options of a class or function, read from its source.

Importing torch and lightning takes seconds, and mistakes in the names of options are found without.
Options that cannot be told from the source are left to jsonargparse, which imports the class.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

OURS = "tandem_pl"  # its packages import nothing heavy, so that the import system may find files


class Option(NamedTuple):
    """An argument: its default as in the source, None without one."""

    name: str
    default: str | None
    about: str  # from the docstring


class Signature(NamedTuple):
    """What a class or function takes; `complete` if there can be no other options."""

    path: str
    about: str
    options: dict[str, Option]
    complete: bool


class Definition(NamedTuple):
    """A class or function in the source, and the module it is in."""

    module: str
    node: ast.ClassDef | ast.FunctionDef


@cache
def signature(path: str) -> Signature | None:
    """Return the signature of what an import path names, or None if its source is not found."""
    definition = find(path)
    if definition is None:
        return None
    about = (ast.get_docstring(definition.node) or "").partition("\n\n")[0]
    options, complete = _options(definition)
    return Signature(path, about, options, complete)


def find(path: str) -> Definition | None:
    """Return the definition that an import path names."""
    module, _, name = path.rpartition(".")
    for _ in range(9):  # a name is often imported from where it is defined
        tree = _source(module)
        if tree is None:
            return None
        for node in _statements(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return Definition(module, node)
        found = _imports(module).get(name)
        if found is None:
            return None
        module, _, name = found.rpartition(".")
    return None


def names_in(module: str) -> list[str]:
    """Return the public names that a module's source defines or imports from its own package."""
    tree, top = _source(module), module.partition(".")[0]
    if tree is None:
        return []
    defined = [n.name for n in _statements(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    imported = [name for name, path in _imports(module).items() if path.startswith(f"{top}.")]
    return [name for name in (*defined, *imported) if not name.startswith("_")]


@cache
def _source(module: str) -> ast.Module | None:
    file = _file(module)
    try:
        return ast.parse(file.read_text(encoding="utf-8")) if file else None
    except (OSError, SyntaxError, ValueError):
        return None


@cache
def _file(module: str) -> Path | None:
    """Return a module's file without importing packages of others."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(module if top == OURS else top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    if top == OURS or not rest:
        return Path(spec.origin)
    base = Path(spec.origin).parent.joinpath(*rest)
    for file in (base / "__init__.py", base.with_name(f"{base.name}.py")):
        if file.is_file():
            return file
    return None


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of a module, also inside `if TYPE_CHECKING:` and `try:`."""
    for field in ("body", "orelse"):
        for node in getattr(tree, field, []):
            yield node
            if isinstance(node, ast.If | ast.Try):
                yield from _statements(node)


@cache
def _imports(module: str) -> dict[str, str]:
    """Return name -> import path, for what a module imports."""
    tree, file, found = _source(module), _file(module), dict[str, str]()
    if tree is None or file is None:
        return found
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            for alias in node.names:
                found[alias.asname or alias.name] = f"{source}.{alias.name}"
    return found


def _options(definition: Definition) -> tuple[dict[str, Option], bool]:
    """Return the options of a definition, and whether these are all."""
    node = definition.node
    if isinstance(node, ast.FunctionDef):
        return _arguments(node, ast.get_docstring(node) or ""), node.args.kwarg is None
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    if "__init__" not in methods:
        if node.decorator_list or "__new__" in methods:
            return {}, False  # a dataclass, for example
        return _inherited(definition)
    init = methods["__init__"]
    text = "\n\n".join(filter(None, [ast.get_docstring(node), ast.get_docstring(init)]))
    own = _arguments(init, text)
    own.pop(init.args.args[0].arg, None)
    if init.args.kwarg is None:
        return own, True
    inherited, complete = _inherited(definition)
    return inherited | own, complete and _passes_on(init, init.args.kwarg.arg)


def _inherited(definition: Definition) -> tuple[dict[str, Option], bool]:
    """Return the options of the first base class with some."""
    assert isinstance(definition.node, ast.ClassDef)
    for base in definition.node.bases:
        if isinstance(base, ast.Subscript):
            base = base.value  # such as Generic[T]
        name, _, rest = ast.unparse(base).partition(".")
        if name in ("object", "ABC", "Protocol", "Generic"):
            continue
        start = _imports(definition.module).get(name, f"{definition.module}.{name}")
        found = find(f"{start}.{rest}" if rest else start)
        if found is None or isinstance(found.node, ast.FunctionDef):
            return {}, False
        options, complete = _options(found)
        if options or not complete:
            return options, complete
    return {}, True


def _passes_on(init: ast.FunctionDef, name: str) -> bool:
    """Return whether the keywords `name` are used only by `super().__init__(**name)`."""
    uses = [n for n in ast.walk(init) if isinstance(n, ast.Name) and n.id == name]
    calls = [n for n in ast.walk(init) if isinstance(n, ast.Call)]
    inits = [call for call in calls if ast.unparse(call.func) == "super().__init__"]
    return len(uses) == 1 and any(k.value is uses[0] for call in inits for k in call.keywords)


def _arguments(node: ast.FunctionDef, docstring: str) -> dict[str, Option]:
    positional = [*node.args.posonlyargs, *node.args.args]
    given = [None] * (len(positional) - len(node.args.defaults)) + list(node.args.defaults)
    pairs = zip([*positional, *node.args.kwonlyargs], [*given, *node.args.kw_defaults], strict=True)
    return {
        argument.arg: Option(
            argument.arg,
            None if default is None else ast.unparse(default),
            _about(argument.arg, docstring),
        )
        for argument, default in pairs
    }


def _about(name: str, docstring: str) -> str:
    """Return what the `Args:` of a docstring say of an argument."""
    text = inspect.cleandoc(docstring)
    entry = re.search(rf"^( +){name}(?: \(.*?\))?: (.*(?:\n\1 +.*)*)", text, re.M)
    return " ".join(entry[2].split()) if entry else ""
