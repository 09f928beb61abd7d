"""A hundred small tasks on the text of the installed packages, in six categories."""

import ast
import random
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from tandem_pl.datamodules.chat.sample_cache import Conversation, ResponseDataModule
from tandem_pl.datamodules.chat.templates import pair
from tandem_pl.datamodules.text.documents import SPLITS, document_key
from tandem_pl.errors import InputError

from .environment_tasks import CATEGORIES, TASKS, Example, Piece, Task
from .installed_text import (
    DOMAINS,
    MAX_FILE_BYTES,
    NoveltyFilter,
    installed,
    list_candidates,
    read_candidate,
)

#: Training samples a category. Three have plenty of samples, the others repeat in training.
TRAIN_SAMPLES = {
    "completion": 8000,
    "transformation": 4000,
    "extraction": 2000,
    "classification": 500,
    "description": 250,
    "naming": 125,
}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
PIECES = 40  # of a file, at most
FILES = 400  # of a kind and split, at most: what is rare in them stays rare
A_FILE = 4  # examples that one task takes from a file
PIECE_LINES, PIECE_CHARACTERS = 3, 130

#: `examples[category][split]`, prompts all different.
Examples = dict[str, dict[str, list[Example]]]


def split_files(files: list[Path]) -> dict[str, list[Path]]:
    """A sixth of the files for the test split, a sixth for target and the rest for train.

    Example:
        >>> {split: len(files) for split, files in split_files([Path("a")] * 13).items()}
        {'test': 3, 'target': 2, 'train': 8}
    """
    return {
        "test": files[::6],
        "target": files[1::6],
        "train": [file for i, file in enumerate(files) if i % 6 > 1],
    }


def pieces(
    kind: str, text: str, package: str, rng: random.Random, parse: bool = False
) -> dict[str, list[Piece]]:
    r"""Pieces of a file by unit: runs of lines, and, parsed, functions and classes of Python.

    Example:
        >>> rows = pieces("readmes", "one\ntwo\n\nthree\nfour\n", "demo", random.Random(0))
        >>> sorted(piece.text for piece in rows["lines"])
        ['four', 'one\ntwo\n\nthree']
    """
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
    texts = [joined for run in runs if (joined := "\n".join(run).strip("\n")).strip()]
    rng.shuffle(texts)
    found = {"lines": [Piece(text, kind, None, package) for text in texts[:PIECES]]}
    if parse:
        nodes = [node for node in tree_of(text) if isinstance(node, DEFINITIONS)]
        rng.shuffle(nodes)
        public = [node for node in nodes if not node.name.startswith("_")]
        functions = [node for node in public if not isinstance(node, ast.ClassDef)]
        classes = [node for node in public if isinstance(node, ast.ClassDef)]
        found["function"] = [Piece("", kind, node, package) for node in functions[:PIECES]]
        found["class"] = [Piece("", kind, node, package) for node in classes[:PIECES]]
    return found


def tree_of(source: str) -> list[ast.AST]:
    """The nodes of a Python source; none where it is broken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as invalid escapes in others' code
            return list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):
        return []


def package_of(path: Path) -> str:
    """The top folder of an installed file, or the name of its distribution."""
    folders = ("site-packages", "dist-packages")
    start = max((i + 1 for i, part in enumerate(path.parts) if part in folders), default=-2)
    return path.parts[start].split("-")[0]


def make_examples(sizes: Mapping[str, Mapping[str, int]], seed: int) -> tuple[Examples, dict]:
    """Make the examples of every category and split.

    Every task of a category has the same share of it, as far as the files go; what one lacks goes
    to the others. Files are read in the order of a hash, only as many as needed.

    Args:
        sizes: split -> category -> samples wanted.
        seed: decides which files are read, where they fall, and what is taken of them.

    Returns:
        `examples[category][split]`, and the repeated prompts dropped a category.
    """
    made: dict[tuple[str, str], list[Example]] = {
        (task.name, split): [] for task in TASKS for split in SPLITS
    }
    seen: set[str] = set()
    repeats = dict.fromkeys(CATEGORIES, 0)
    files = list_candidates(seed)
    for kind in tqdm(DOMAINS, desc="making tasks", unit=" kinds of text", delay=1):
        _fill_kind(kind, files[kind], sizes, seed, made, seen, repeats)
    examples: Examples = {}
    for category in CATEGORIES:
        tasks = [task for task in TASKS if task.category == category]
        examples[category] = {
            split: take_evenly([made[task.name, split] for task in tasks], sizes[split][category])
            for split in SPLITS
        }
    return examples, repeats


def _fill_kind(
    kind: str,
    files: list[Path],
    sizes: Mapping[str, Mapping[str, int]],
    seed: int,
    made: dict[tuple[str, str], list[Example]],
    seen: set[str],
    repeats: dict[str, int],
) -> None:
    tasks = [task for task in TASKS if task.kind == kind]
    members = {c: sum(task.category == c for task in TASKS) for c in CATEGORIES}
    path = Path()
    split = ""
    quotas: dict[str, int] = {}

    def wanted() -> list[Task]:
        return [task for task in tasks if len(made[task.name, split]) < quotas[task.category]]

    def texts() -> Iterator[str]:
        nonlocal path, split, quotas
        for split, paths in split_files(files).items():
            # Twice a task's share: some stands in for tasks that the files hardly hold.
            quotas = {c: 2 * -(-sizes[split][c] // members[c]) for c in CATEGORIES}
            for path in paths[:FILES]:
                if not wanted():
                    break
                if text := read_candidate(kind, path, MAX_FILE_BYTES):
                    yield text

    for text in NoveltyFilter(texts()):  # steps with texts(), so path and split are the text's
        rng = random.Random(document_key(text, seed))
        parse = any(task.unit != "lines" for task in wanted())
        units = pieces(kind, text, package_of(path), rng, parse)
        for task in wanted():
            taken = 0
            for piece in units.get(task.unit, ()):
                example = task.example(piece, rng)
                if example is None:
                    continue
                if example[0] in seen:
                    repeats[task.category] += 1
                    continue
                seen.add(example[0])
                made[task.name, split].append(example)
                taken += 1
                if taken == A_FILE:
                    break


def take_evenly(rows: list[list[Example]], size: int) -> list[Example]:
    """The first of every row, then the second of every row and so on, up to `size` in all.

    Example:
        >>> [a for a, _ in take_evenly([[("a", ""), ("b", "")], [("c", "")], []], 3)]
        ['a', 'c', 'b']
    """
    depth = max(map(len, rows), default=0)
    return [row[i] for i in range(depth) for row in rows if i < len(row)][:size]


class EnvironmentInstructions(ResponseDataModule):
    """Instructions with responses on the text of the installed Python packages, by category.

    Six categories are the domains: completion, transformation, extraction, classification,
    description and naming. Each has 6 to 26 tasks, see `tasks`; a task is a rule that makes a
    prompt (an instruction and up to 110 characters of a file) and a response of up to 40. The
    files are those of `EnvironmentCorpus`; test, target and training samples come from different
    files, and files that repeat others are left out, as are prompts met before. The same versions
    of the same packages give the same samples.

    A batch is `{"input_ids", "labels", "attention_mask"}`, see `InstructionMixtureDataModule`.
    Shares of categories are of samples.

    Args:
        train_samples: category -> training samples, in place of `TRAIN_SAMPLES`.
        target_samples: target samples a category.
        test_samples: test samples a category.
        split_seed: decides which files are taken and where they fall.
        tokenizer: `"bytes"`, or a saved tokenizer's folder or `tokenizer.json`.
        chat_template: a Jinja template or its path; None: the tokenizer's own, if it has one.
        prompt_template: what stands before a response where there is no chat template.
        max_length: most tokens of a sample; 192 hold nearly all in bytes.
        too_long: `"cut"` or `"drop"`, see `InstructionMixtureDataModule`.
        pad_to_multiple_of: a batch is padded to a multiple of so many tokens.
        cache_dir: folder of the caches; by default see `default_cache_dir`.
        batching: see `ConfiguredDataModule`.

    Raises:
        InputError: an unknown category, a size below 1, and, when the cache is built, a category
            that hardly any text on this machine suits.

    Example:
        >>> len(EnvironmentInstructions.tasks())
        101
    """

    def __init__(
        self,
        train_samples: dict[str, int] | None = None,
        target_samples: int = 150,
        test_samples: int = 300,
        split_seed: int = 0,
        tokenizer: str = "bytes",
        chat_template: str | None = None,
        prompt_template: str = "{prompt}\n",
        max_length: int = 192,
        too_long: Literal["cut", "drop"] = "cut",
        pad_to_multiple_of: int = 8,
        cache_dir: str | None = None,
        **batching: Any,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            chat_template=chat_template,
            prompt_template=prompt_template,
            max_length=max_length,
            too_long=too_long,
            pad_to_multiple_of=pad_to_multiple_of,
            cache_dir=cache_dir,
            **batching,
        )
        for category in train_samples or {}:
            if category not in CATEGORIES:
                raise InputError(
                    f"train_samples names the unknown category {category!r}; the categories are "
                    f"{', '.join(CATEGORIES)}."
                )
        self.sizes = {
            "train": {**TRAIN_SAMPLES, **(train_samples or {})},
            "target": dict.fromkeys(CATEGORIES, target_samples),
            "test": dict.fromkeys(CATEGORIES, test_samples),
        }
        for split, sizes in self.sizes.items():
            if min(sizes.values()) < 1:
                raise InputError(f"{split}_samples has a size below 1; give at least 1.")
        self.split_seed = split_seed

    @staticmethod
    def tasks() -> tuple[Task, ...]:
        """All tasks, with name, category, kind of file and instruction."""
        return TASKS

    def settings(self) -> dict[str, Any]:
        """The sizes, and the installed versions."""
        return {
            "sizes": self.sizes,
            "split_seed": self.split_seed,
            "installed": {name: distribution.version for name, distribution in installed()},
        }

    def conversations(self) -> tuple[Mapping[str, Iterator[Conversation]], dict[str, int]]:
        """Make the examples; warns where the files give fewer than asked for."""
        examples, repeats = make_examples(self.sizes, self.split_seed)
        for category, splits in examples.items():
            for split, found in splits.items():
                asked = self.sizes[split][category]
                if len(found) < asked:
                    warnings.warn(
                        f"category {category!r} finds {len(found)} {split} samples in the "
                        f"installed packages where {asked} are asked for.",
                        stacklevel=2,
                    )
        return {category: _conversations(splits) for category, splits in examples.items()}, repeats


def _conversations(splits: Mapping[str, list[Example]]) -> Iterator[Conversation]:
    for split, examples in splits.items():
        for prompt, response in examples:
            yield split, f"a task on {prompt!r}", pair(prompt, response)
