"""Real text on every machine that installed this project: the files of its Python distributions.

Seven domains of very different size and kind, without any download: enough to see a mixture being
learned, and the same text wherever the same versions are installed.
"""

import ast
import email
import hashlib
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from tandem_pl.datamodules.text.packing import SPLITS
from tandem_pl.datamodules.text.text import PackedTextDataModule, SplitDocuments
from tandem_pl.errors import InputError

#: Training text a domain, in bytes of UTF-8. "restricted" has two large domains and five
#: small ones, as web corpora do.
PRESETS: dict[str, dict[str, int]] = {
    "restricted": {
        "python": 1_500_000,
        "cpp": 750_000,
        "docstrings": 36_000,
        "stubs": 30_000,
        "javascript": 24_000,
        "readmes": 20_000,
        "licences": 15_000,
    },
    "abundant": {
        "python": 3_000_000,
        "cpp": 1_640_000,
        "docstrings": 900_000,
        "stubs": 490_000,
        "javascript": 100_000,
        "readmes": 268_000,
        "licences": 80_000,
    },
}
DOMAINS = tuple(PRESETS["restricted"])

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
    """The installed distributions but this project, by name, each once.

    Those that another package brings for itself are that package's: setuptools, once imported, puts
    its own on the path.
    """
    found: dict[str, Distribution] = {}
    for distribution in distributions(path=[p for p in sys.path if "_vendor" not in Path(p).parts]):
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        found.setdefault(name, distribution)  # the first on the path is the one Python imports
    return ((name, found[name]) for name in sorted(found) if name not in ("", "tandem-pl"))


def domain_of(path: str) -> str | None:
    """The domain of a file, by its path in its distribution; None for none.

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
        return "docstrings" if _order(path, 0)[-1] % 2 else "python"
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if name == "METADATA":
        return "readmes"
    return "licences" if suffix in PROSE and LICENCE.match(name) else None


def list_candidates(seed: int) -> dict[str, list[Path]]:
    """Domain -> the installed files that may serve it, shuffled by a hash of path and seed."""
    found: dict[str, dict[str, Path]] = {domain: {} for domain in DOMAINS}
    for _, distribution in installed():
        for file in distribution.files or []:
            name = file.as_posix()
            domain = domain_of(name)
            if domain:
                found[domain].setdefault(name, Path(str(distribution.locate_file(file))))
    return {
        domain: [files[name] for name in sorted(files, key=lambda name: _order(name, seed))]
        for domain, files in found.items()
    }


def excerpt(text: str, limit: int) -> str:
    r"""The first whole lines of `text` that fit in `limit` bytes of UTF-8.

    Example:
        >>> excerpt("one\ntwo\nthree\n", 9)
        'one\ntwo\n'
    """
    data = text.encode("utf-8")
    if len(data) <= limit:
        return text
    return data[: data.rfind(b"\n", 0, limit) + 1].decode("utf-8")


def docstrings(source: str) -> str:
    r"""The docstrings of a Python source in order, an empty line between; "" where it is broken.

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
    """A file's text for its domain, cut to `limit` bytes; "" where it makes no sensible document.

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


class NoveltyFilter:
    """Passes on new texts and drops repeats: equal ones, or mostly of lines met before.

    Packages share much text: one vendors another, licences differ by a name. A test document that
    stands all but word for word in the training text would measure memory.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = texts
        self.dropped = 0
        self.kept: list[str] = []

    def __iter__(self) -> Iterator[str]:
        seen: set[str] = set()
        for text in self.texts:
            lines = {line for row in text.split("\n") if len(line := row.strip()) >= 20}
            if 2 * len(lines & seen) >= len(lines):
                self.dropped += 1
                continue
            seen |= lines
            self.kept.append(text)
            yield text


def fill(texts: Iterable[str], budgets: Mapping[str, int], pieces: int = 1) -> dict[str, list[str]]:
    r"""Fill one split after the other with documents, up to its budget of UTF-8 bytes.

    A document takes at most `1 / pieces` of its split's budget, so that a small split still has
    several; what is cut off it goes to no split.

    Example:
        >>> splits = fill(["a\n" * 500] * 9, {"test": 800, "train": 1200}, pieces=4)
        >>> [[len(text) for text in texts] for texts in splits.values()]
        [[200, 200, 200, 200], [300, 300, 300, 300]]
    """
    stream = iter(texts)
    splits: dict[str, list[str]] = {}
    for split, budget in budgets.items():
        splits[split] = []
        left = budget
        while left >= MIN_DOCUMENT_BYTES and (text := next(stream, None)) is not None:
            text = excerpt(text, min(left, max(budget // pieces, MIN_DOCUMENT_BYTES)))
            if len(text) >= MIN_DOCUMENT_BYTES:
                splits[split].append(text)
                left -= _size(text)
    return splits


def select(
    domain: str, texts: Iterable[str], budgets: Mapping[str, int]
) -> tuple[dict[str, list[str]], int]:
    """Fill a domain's splits with its new texts; scales the budgets down where there are too few.

    Returns:
        `documents[split]`, and the number of repeats dropped.

    Raises:
        InputError: there is not even one document for each split.
    """
    new = NoveltyFilter(texts)
    splits = fill(new, budgets, pieces=4)
    if not _is_full(splits, budgets):
        # new.kept now holds every text of the domain; whole documents go further than pieces.
        splits = fill(new.kept, budgets)
    if not _is_full(splits, budgets):
        have, wanted = sum(map(_size, new.kept)), sum(budgets.values())
        share = min(1.0, have / wanted)
        splits = fill(new.kept, {split: int(share * size) for split, size in budgets.items()})
        if not all(splits.values()):
            raise InputError(
                f"domain {domain!r} finds {have} bytes of text in the installed packages, too "
                "little for its three splits; install more packages."
            )
        sizes = ", ".join(f"{split} {sum(map(_size, texts))}" for split, texts in splits.items())
        warnings.warn(
            f"domain {domain!r} finds {have} bytes of text in the installed packages where "
            f"{wanted} are asked for; its splits are smaller, in bytes: {sizes}.",
            stacklevel=2,
        )
    return splits, new.dropped


class EnvironmentCorpus(PackedTextDataModule):
    """Blocks of tokens from the files of the installed Python packages, in seven domains.

    `python` (source, tests left out), `cpp` (C, C++ and CUDA headers), `docstrings` (of other
    files than `python`), `stubs` (`.pyi`), `javascript` (JavaScript, JSON, HTML and CSS),
    `readmes` (long descriptions in package metadata) and `licences`. A sample is
    `{"input_ids": LongTensor[block_size]}`.

    Files are taken in the order of a hash of their path. The test split is filled first, then
    target, then train, so both presets share their test and target text. Repeats, also those that
    differ in a few lines, are dropped. The same versions of the same packages give the same text.

    Args:
        preset: `"restricted"`, 15 kB to 1.5 MB of training text a domain, where small domains are
            repeated many times in training; or `"abundant"`, 80 kB to 3 MB.
        train_bytes: domain -> bytes of training text, in place of the preset's.
        target_bytes: bytes of target text a domain.
        test_bytes: bytes of test text a domain.
        max_document_bytes: a longer file gives its first lines up to this many bytes.
        split_seed: decides which files are taken and where they fall.
        tokenizer: `"bytes"`, or a saved tokenizer's folder or `tokenizer.json`.
        block_size: tokens a sample.
        cache_dir: folder of the caches; by default see `default_cache_dir`.
        batching: see `ConfiguredDataModule`.

    Raises:
        InputError: an unknown preset or domain, a size that is not positive, and, when the cache
            is built, a domain with hardly any text on this machine.

    Example:
        >>> EnvironmentCorpus("abundant", train_bytes={"licences": 50_000}).train_bytes["licences"]
        50000
    """

    def __init__(
        self,
        preset: Literal["restricted", "abundant"] = "restricted",
        train_bytes: dict[str, int] | None = None,
        target_bytes: int = 30_000,
        test_bytes: int = 60_000,
        max_document_bytes: int = 16_000,
        split_seed: int = 0,
        tokenizer: str = "bytes",
        block_size: int = 128,
        cache_dir: str | None = None,
        **batching: Any,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            block_size=block_size,
            cache_dir=cache_dir,
            **batching,
        )
        if preset not in PRESETS:
            raise InputError(f"preset is {preset!r}; give one of {', '.join(map(repr, PRESETS))}.")
        unknown = [domain for domain in train_bytes or {} if domain not in DOMAINS]
        if unknown:
            raise InputError(
                f"train_bytes names the unknown domain {unknown[0]!r}; the domains are "
                f"{', '.join(DOMAINS)}."
            )
        self.preset = preset
        self.train_bytes = {**PRESETS[preset], **(train_bytes or {})}
        self.target_bytes = target_bytes
        self.test_bytes = test_bytes
        self.max_document_bytes = max_document_bytes
        self.split_seed = split_seed
        sizes = {f"train_bytes[{domain!r}]": size for domain, size in self.train_bytes.items()}
        sizes |= {"target_bytes": target_bytes, "test_bytes": test_bytes}
        sizes["max_document_bytes"] = max_document_bytes
        for key, size in sizes.items():
            if size < MIN_DOCUMENT_BYTES:
                raise InputError(f"{key} is {size}; give at least {MIN_DOCUMENT_BYTES} bytes.")

    def settings(self) -> dict[str, Any]:
        """The options that decide the splits, and the installed versions."""
        return {
            "train_bytes": self.train_bytes,
            "target_bytes": self.target_bytes,
            "test_bytes": self.test_bytes,
            "max_document_bytes": self.max_document_bytes,
            "split_seed": self.split_seed,
            "installed": {name: distribution.version for name, distribution in installed()},
        }

    def documents(self) -> tuple[SplitDocuments, dict[str, int]]:
        """Choose the documents of every split; reads only as many files as the sizes need."""
        documents: SplitDocuments = {split: {} for split in SPLITS}
        dropped: dict[str, int] = {}
        files = list_candidates(self.split_seed)
        for domain in tqdm(DOMAINS, desc="choosing text", unit=" domains", delay=1):
            budgets = {
                "test": self.test_bytes,
                "target": self.target_bytes,
                "train": self.train_bytes[domain],
            }
            texts = (
                text
                for path in files[domain]
                if (text := read_candidate(domain, path, self.max_document_bytes))
            )
            chosen, dropped[domain] = select(domain, texts, budgets)
            for split in SPLITS:
                documents[split][domain] = iter(chosen[split])
        return documents, dropped


def _order(path: str, seed: int) -> bytes:
    return hashlib.blake2b(path.encode(), digest_size=16, key=str(seed).encode()).digest()


def _size(text: str) -> int:
    return len(text.encode("utf-8"))


def _is_full(splits: Mapping[str, list[str]], budgets: Mapping[str, int]) -> bool:
    last = list(budgets)[-1]
    return sum(map(_size, splits[last])) >= 0.9 * budgets[last]
