"""`EnvironmentCorpus`: a mixture of seven domains from the files of the installed packages.

Enough to see a mixture being learned, and the same text wherever the same versions are installed.
"""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from tandem_pl.checks import check_at_least, check_choice
from tandem_pl.datamodules.text.block_folder import Documents
from tandem_pl.datamodules.text.documents import with_split_codes
from tandem_pl.errors import InputError

from .installed_corpus import InstalledTextCorpus
from .installed_text import (
    DOMAINS,
    MIN_DOCUMENT_BYTES,
    NoveltyFilter,
    excerpt,
    list_candidates,
    read_candidates,
)

#: Training text a domain, in bytes of UTF-8. "restricted" has two large domains and five
#: small ones, as web corpora do.
PRESETS: dict[str, dict[str, int]] = {
    preset: dict(zip(DOMAINS, sizes, strict=True))
    for preset, sizes in {
        "restricted": (1_500_000, 750_000, 36_000, 30_000, 24_000, 20_000, 15_000),
        "abundant": (3_000_000, 1_640_000, 900_000, 490_000, 100_000, 268_000, 80_000),
    }.items()
}


def fill(texts: Iterable[str], budgets: Mapping[str, int], pieces: int = 1) -> dict[str, list[str]]:
    r"""Fill one split after the other with documents, up to its budget of UTF-8 bytes.

    A document takes at most `1 / pieces` of its split's budget, so that a small split still has
    several; the rest of it goes to no split.

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
                left -= _size([text])
    return splits


def select(
    domain: str, texts: Iterable[str], budgets: Mapping[str, int]
) -> tuple[dict[str, list[str]], int]:
    """Fill a domain's splits with its new texts; scale the budgets down if there are too few.

    Returns:
        `documents[split]`, and the number of repeats dropped.

    Raises:
        InputError: there is not even one document for each split.
    """
    new = NoveltyFilter(texts)
    last = list(budgets)[-1]
    splits = fill(new, budgets, pieces=4)
    if _size(splits[last]) < 0.9 * budgets[last]:
        # new.kept now holds every text of the domain; whole documents go further than pieces.
        splits = fill(new.kept, budgets)
    if _size(splits[last]) < 0.9 * budgets[last]:
        have, wanted = _size(new.kept), sum(budgets.values())
        share = min(1.0, have / wanted)
        splits = fill(new.kept, {split: int(share * size) for split, size in budgets.items()})
        if not all(splits.values()):
            raise InputError(
                f"domain {domain!r} finds {have} bytes of text in the installed packages, too "
                "little for its three splits; install more packages."
            )
        sizes = ", ".join(f"{split} {_size(texts)}" for split, texts in splits.items())
        warnings.warn(
            f"domain {domain!r} finds {have} bytes of text in the installed packages but {wanted} "
            f"are asked for; its splits are smaller, in bytes: {sizes}.",
            stacklevel=2,
        )
    return splits, new.dropped


class EnvironmentCorpus(InstalledTextCorpus):
    """Blocks of tokens from the files of the installed Python packages, in seven domains.

    `python` (source, tests left out), `cpp` (C, C++ and CUDA headers), `docstrings` (of other
    files than `python`), `stubs` (`.pyi`), `javascript` (JavaScript, JSON, HTML and CSS),
    `readmes` (long descriptions in package metadata) and `licences`. A sample is
    `{"input_ids": LongTensor[block_size]}`.

    Files are taken in the order of a hash of their path. The test split is filled first, then
    target, then train, so both presets share their test and target text. Repeats, also those that
    differ in a few lines, are dropped. The same versions of the same packages give the same text.

    Args:
        preset: `"restricted"`, 15 kB to 1.5 MB of training text a domain, so that small domains are
            repeated many times in training; or `"abundant"`, 80 kB to 3 MB.
        train_bytes: domain -> bytes of training text, in place of the preset's.
        target_bytes: bytes of target text a domain.
        test_bytes: bytes of test text a domain.
        max_document_bytes: a longer file gives its first lines up to this many bytes.
        split_seed: decides which files are taken and in which split they fall.
        cluster: makes training domains of clusters of the training documents, without their labels:
            a number, or `auto`; target and test data keep their domains.
        packing: tokenizer, block_size, cache_dir and the options of batches, see
            `CachedTextDataModule`.

    Raises:
        InputError: an unknown preset or domain, a size that is too small, and, when the cache is
            built, a domain with hardly any text on this machine.

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
        cluster: int | str | None = None,
        **packing: Any,
    ) -> None:
        super().__init__(cluster, split_seed, **packing)
        check_choice("preset", preset, tuple(PRESETS))
        for domain in train_bytes or {}:
            if domain not in DOMAINS:
                raise InputError(
                    f"train_bytes names the unknown domain {domain!r}; the domains are "
                    f"{', '.join(DOMAINS)}."
                )
        self.preset = preset
        self.train_bytes = {**PRESETS[preset], **(train_bytes or {})}
        self.target_bytes = target_bytes
        self.test_bytes = test_bytes
        self.max_document_bytes = max_document_bytes
        sizes = {f"train_bytes[{domain!r}]": size for domain, size in self.train_bytes.items()}
        sizes |= {"target_bytes": target_bytes, "test_bytes": test_bytes}
        sizes["max_document_bytes"] = max_document_bytes
        for key, size in sizes.items():
            check_at_least(key, size, MIN_DOCUMENT_BYTES)

    def settings(self) -> dict[str, Any]:
        """Return the options that decide the splits, and the installed versions."""
        return {
            "train_bytes": self.train_bytes,
            "target_bytes": self.target_bytes,
            "test_bytes": self.test_bytes,
            "max_document_bytes": self.max_document_bytes,
            **super().settings(),
        }

    def documents(self) -> tuple[Documents, dict[str, int]]:
        """Choose the documents of every domain and split, and count the repeats dropped.

        Reads only as many files as the sizes need.
        """
        documents: dict[str, tuple[list[str], np.ndarray]] = {}
        dropped: dict[str, int] = {}
        files = list_candidates(self.split_seed)
        for domain in tqdm(DOMAINS, desc="choosing text", unit=" domains", delay=1):
            budgets = {"test": self.test_bytes, "target": self.target_bytes}
            budgets["train"] = self.train_bytes[domain]
            texts = read_candidates(domain, files[domain], self.max_document_bytes)
            splits, dropped[domain] = select(domain, texts, budgets)
            documents[domain] = with_split_codes(splits)
        return documents, dropped


def _size(texts: Iterable[str]) -> int:
    return sum(len(text.encode("utf-8")) for text in texts)
