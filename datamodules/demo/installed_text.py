"""The text files of the installed Python distributions, by kind: real text without a download."""

import ast
import email
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import NamedTuple

from tandem_pl.datamodules.text.documents import document_key

DOMAINS = ("python", "cpp", "docstrings", "stubs", "javascript", "readmes", "licences")

SUFFIXES = {
    **dict.fromkeys((".h", ".hpp", ".cuh"), "cpp"),
    **dict.fromkeys((".js", ".json", ".html", ".css"), "javascript"),
    ".pyi": "stubs",
}
LICENCE = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)
PROSE = {"", ".txt", ".md", ".rst"}
LEFT_OUT = {"test", "tests", "testing"}

MIN_DOCUMENT_BYTES = 200
MAX_FILE_BYTES = 1_000_000  # larger files are data, and slow to parse
MAX_LINE = 1_000  # longer lines mean minified code or data


def installed() -> Iterator[tuple[str, Distribution]]:
    """Yield the installed distributions except this project, by name, each once.

    Those that another package vendors are left out: setuptools, once imported, puts its own on the
    path.
    """
    found: dict[str, Distribution] = {}
    for distribution in distributions(path=[p for p in sys.path if "_vendor" not in Path(p).parts]):
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        found.setdefault(name, distribution)  # the first on the path is the one Python imports
    return ((name, found[name]) for name in sorted(found) if name not in ("", "tandem-pl"))


def domain_of(path: str) -> str | None:
    """Return the domain of a file, by its path in its distribution; None if it has none.

    Half of the Python files, by the hash of their path, serve `docstrings` and the other half
    `python`, so that no text is in both.

    Example:
        >>> domain_of("torch/include/a.h"), domain_of("x-1.dist-info/METADATA")
        ('cpp', 'readmes')
        >>> domain_of("x-1.dist-info/LICENSE.txt"), domain_of("numpy/tests/test_a.py")
        ('licences', None)
    """
    *folders, name = path.split("/")
    if ".." in folders or LEFT_OUT.intersection(folders) or name.startswith("test_"):
        return None
    suffix = Path(name).suffix.lower()
    if suffix == ".py":
        return "docstrings" if document_key(path, 0)[-1] % 2 else "python"
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if name == "METADATA":
        return "readmes"
    return "licences" if suffix in PROSE and LICENCE.match(name) else None


def list_candidates(seed: int) -> dict[str, list[Path]]:
    """Return domain -> the installed files for it, shuffled by a hash of path and seed."""
    found: dict[str, dict[str, Path]] = {domain: {} for domain in DOMAINS}
    for _, distribution in installed():
        for file in distribution.files or []:
            name = file.as_posix()
            domain = domain_of(name)
            if domain:
                found[domain].setdefault(name, Path(str(distribution.locate_file(file))))
    return {
        domain: [files[name] for name in sorted(files, key=lambda name: document_key(name, seed))]
        for domain, files in found.items()
    }


class Package(NamedTuple):
    """Python files of a distribution, and their size in bytes."""

    files: list[Path]
    size: int


def list_packages(seed: int, limit: int) -> dict[str, Package]:
    """Return distribution -> its Python files, shuffled by a hash of path and seed.

    Tests and vendored packages are left out. A file counts for at most `limit` bytes of the size.
    """
    found: dict[str, Package] = {}
    for package, distribution in installed():
        files = {file.as_posix(): file for file in distribution.files or []}
        names = [
            name
            for name in files
            if domain_of(name) in ("python", "docstrings") and "_vendor" not in name.split("/")
        ]
        names.sort(key=lambda name: document_key(name, seed))
        paths = [Path(str(distribution.locate_file(files[name]))) for name in names]
        size = sum(min(files[name].size or 0, limit) for name in names)
        found[package] = Package(paths, size)
    return found


def excerpt(text: str, limit: int) -> str:
    r"""Return the first whole lines of `text` that fit in `limit` bytes of UTF-8.

    Example:
        >>> excerpt("one\ntwo\nthree\n", 9)
        'one\ntwo\n'
    """
    data = text.encode("utf-8")
    if len(data) <= limit:
        return text
    return data[: data.rfind(b"\n", 0, limit) + 1].decode("utf-8")


def docstrings(source: str) -> str:
    r"""Return the docstrings of a Python source, in order, between empty lines.

    Returns "" if the source cannot be parsed.

    Example:
        >>> docstrings("'Top.'\ndef f():\n    'Inner.'\n")
        'Top.\n\nInner.\n'
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as invalid escapes in others' code
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    texts = [text for node in nodes if (text := ast.get_docstring(node))]
    return "\n\n".join(texts) + "\n" if texts else ""


def read_candidate(domain: str, path: Path, limit: int) -> str:
    """Return a file's text for its domain, cut to `limit` bytes; "" if it is unfit.

    Unfit are files that are gone, not UTF-8, very large or very short, or with very long lines.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return ""
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return ""
    if domain == "docstrings":
        text = docstrings(text)
    elif domain == "readmes":
        message = email.message_from_string(text)
        text = str(message.get_payload() or message["Description"] or "")
    text = excerpt(text, limit)
    if len(text) < MIN_DOCUMENT_BYTES or max(map(len, text.split("\n"))) > MAX_LINE:
        return ""
    return text


def read_candidates(domain: str, paths: Iterable[Path], limit: int) -> Iterator[str]:
    """Yield the texts of those files that are fit, see `read_candidate`."""
    texts = (read_candidate(domain, path, limit) for path in paths)
    return (text for text in texts if text)


class NoveltyFilter:
    """Yields new texts and drops repeats: equal ones, or mostly of lines met before.

    Packages share much text: one vendors another, licences differ by a name. A test document that
    is nearly in the training text would measure memory.

    Args:
        texts: the texts.
        seen: lines met before, such as in another domain; new ones are added.

    Attributes:
        kept: the texts yielded so far.
        dropped: how many were dropped.
    """

    def __init__(self, texts: Iterable[str], seen: set[str] | None = None) -> None:
        self.texts = texts
        self.seen = set() if seen is None else seen
        self.dropped = 0
        self.kept: list[str] = []

    def __iter__(self) -> Iterator[str]:
        seen = self.seen
        for text in self.texts:
            lines = {line for row in text.split("\n") if len(line := row.strip()) >= 20}
            if 2 * len(lines & seen) >= len(lines):
                self.dropped += 1
                continue
            seen |= lines
            self.kept.append(text)
            yield text
