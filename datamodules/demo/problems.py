"""`ProblemCorpus`: mixture problems from installed text whose good domains are known or unusual."""

from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from tandem_pl.checks import check_at_least, check_choice, check_positive
from tandem_pl.datamodules.text.block_folder import Documents
from tandem_pl.datamodules.text.documents import with_split_codes
from tandem_pl.errors import InputError

from .environment import fill, select
from .installed_corpus import InstalledTextCorpus
from .installed_text import (
    MIN_DOCUMENT_BYTES,
    NoveltyFilter,
    list_candidates,
    list_packages,
    read_candidates,
)
from .made_text import MADE, make_text


class Problem(NamedTuple):
    """Training domains with their bytes of text, and the domains with target and test text."""

    train: dict[str, int]
    target: tuple[str, ...]


COPIES, CLEAN = "copies", "clean"
ORIGINAL_BYTES = 20_000  # of the text that `copies` repeats
PROBLEMS = {
    "distractors": Problem(
        {
            "python": 900_000,
            "readmes": 30_000,
            "stubs": 30_000,
            "javascript": 100_000,
            "noise": 1_500_000,
            "numbers": 1_000_000,
        },
        ("python", "readmes", "stubs"),
    ),
    "foreign": Problem(
        {
            "python": 500_000,
            "cpp": 500_000,
            "docstrings": 500_000,
            "javascript": 100_000,
            "readmes": 250_000,
            "licences": 80_000,
        },
        ("stubs",),
    ),
    "duplicated": Problem({CLEAN: 300_000, COPIES: 1_200_000}, (CLEAN,)),
    "packages": Problem({}, ()),  # the installed ones decide
}
MOST_PACKAGES, FEWEST_PACKAGES = 24, 20
MOST_PACKAGE_BYTES = 1_000_000
TRAIN_SHARE = 0.5  # of a package's text at most; some of it repeats, or is cut off


class ProblemCorpus(InstalledTextCorpus):
    """Blocks of tokens from the files of the installed packages, as one of four problems.

    - `distractors`: large domains that teach nothing, `noise` (random characters) and `numbers`
      (tables), and `javascript`, beside `python`, `readmes` and `stubs`, which alone have target
      and test text.
    - `foreign`: all kinds of text but type stubs to train on; stubs are the target and test text.
    - `duplicated`: Python source in two domains: `clean`, and `copies`, four times as large but 60
      times the same 20 kB. Target and test text are like `clean`.
    - `packages`: the Python source of the 20 to 24 installed packages with the most of it, a domain
      each, and all of them are targets.

    The same versions of the same packages give the same text; see `EnvironmentCorpus` for how files
    are chosen.

    Args:
        problem: one of these names.
        scale: factor on the sizes of training text, for quick trials.
        target_bytes: bytes of target text a target domain.
        test_bytes: bytes of test text a target domain.
        max_document_bytes: a longer file gives its first lines up to this many bytes.
        split_seed: decides which files are taken, in which split they fall, and the made text.
        cluster: makes training domains of clusters of the training documents, without their labels:
            a number, or `auto`; target and test data keep their domains.
        packing: tokenizer, block_size, cache_dir and the options of batches, see
            `CachedTextDataModule`.

    Raises:
        InputError: an unknown problem, a size that is too small, and, when the cache is built, too
            few packages or too little text on this machine.

    Example:
        >>> ProblemCorpus("duplicated", scale=0.1).problem.train
        {'clean': 30000, 'copies': 120000}
    """

    def __init__(
        self,
        problem: Literal["distractors", "foreign", "duplicated", "packages"] = "distractors",
        scale: float = 1.0,
        target_bytes: int = 30_000,
        test_bytes: int = 30_000,
        max_document_bytes: int = 16_000,
        split_seed: int = 0,
        cluster: int | str | None = None,
        **packing: Any,
    ) -> None:
        super().__init__(cluster, split_seed, **packing)
        check_choice("problem", problem, tuple(PROBLEMS))
        check_positive("scale", scale)
        sizes = {
            "target_bytes": target_bytes,
            "test_bytes": test_bytes,
            "max_document_bytes": max_document_bytes,
        }
        for key, size in sizes.items():
            check_at_least(key, size, MIN_DOCUMENT_BYTES)
        check_at_least("split_seed", split_seed, 0)
        self.problem_name = problem
        train, target = PROBLEMS[problem]
        self.problem = Problem({name: int(scale * size) for name, size in train.items()}, target)
        self.scale = scale
        self.target_bytes = target_bytes
        self.test_bytes = test_bytes
        self.max_document_bytes = max_document_bytes

    def settings(self) -> dict[str, Any]:
        """Return the options that decide the splits, and the installed versions."""
        return {
            "problem": self.problem_name,
            "train_bytes": self.problem.train,
            "scale": self.scale,
            "target_bytes": self.target_bytes,
            "test_bytes": self.test_bytes,
            "max_document_bytes": self.max_document_bytes,
            **super().settings(),
        }

    def documents(self) -> tuple[Documents, dict[str, int]]:
        """Choose or make the documents of every domain and split, and count the repeats dropped."""
        if self.problem_name == "duplicated":
            return self._duplicated()
        if self.problem_name == "packages":
            return self._packages()
        files, train = list_candidates(self.split_seed), self.problem.train
        documents: dict[str, tuple[list[str], np.ndarray]] = {}
        dropped: dict[str, int] = {}
        domains = dict.fromkeys([*train, *self.problem.target])
        for number, domain in enumerate(tqdm(domains, desc="choosing text", delay=1)):
            if domain in MADE:
                generator = np.random.default_rng([self.split_seed, number])
                made = make_text(domain, train[domain], generator)
                documents[domain], dropped[domain] = with_split_codes({"train": made}), 0
                continue
            budgets = dict(self._held_out()) if domain in self.problem.target else {}
            if domain in train:
                budgets["train"] = train[domain]
            texts = read_candidates(domain, files[domain], self.max_document_bytes)
            splits, dropped[domain] = select(domain, texts, budgets)
            documents[domain] = with_split_codes(splits)
        return documents, dropped

    def _duplicated(self) -> tuple[Documents, dict[str, int]]:
        original = min(ORIGINAL_BYTES, self.problem.train[COPIES])
        sizes = {COPIES: original, "train": self.problem.train[CLEAN]}
        texts = read_candidates(
            "python", list_candidates(self.split_seed)["python"], self.max_document_bytes
        )
        splits, dropped = select(CLEAN, texts, {**self._held_out(), **sizes})
        copies = splits.pop(COPIES) * max(1, self.problem.train[COPIES] // original)
        documents = {CLEAN: with_split_codes(splits), COPIES: with_split_codes({"train": copies})}
        return documents, {CLEAN: dropped, COPIES: 0}

    def _packages(self) -> tuple[Documents, dict[str, int]]:
        """Take the packages with the most text, except those that repeat others."""
        found = list_packages(self.split_seed, self.max_document_bytes)
        documents: dict[str, tuple[list[str], np.ndarray]] = {}
        dropped: dict[str, int] = {}
        seen: set[str] = set()
        for name in sorted(found, key=lambda name: -found[name].size):
            size = int(self.scale * min(MOST_PACKAGE_BYTES, TRAIN_SHARE * found[name].size))
            held_out = self.target_bytes + self.test_bytes
            if len(documents) == MOST_PACKAGES or found[name].size < 2 * held_out:
                break
            new = NoveltyFilter(
                read_candidates("python", found[name].files, self.max_document_bytes), seen
            )
            splits = fill(new, {**self._held_out(), "train": size}, pieces=4)
            if sum(map(len, splits["train"])) > size / 2:
                documents[name], dropped[name] = with_split_codes(splits), new.dropped
        if len(documents) < FEWEST_PACKAGES:
            raise InputError(
                f"problem='packages' needs {FEWEST_PACKAGES} packages with enough Python source of "
                f"their own and {len(documents)} are installed: install more packages."
            )
        return {name: documents[name] for name in sorted(documents)}, dropped

    def _held_out(self) -> dict[str, int]:
        return {"test": self.test_bytes, "target": self.target_bytes}
