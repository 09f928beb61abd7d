"""Make the examples of all tasks out of the installed files."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from tandem_pl.datamodules.text.documents import SPLITS, document_key

from .installed_text import DOMAINS, MAX_FILE_BYTES, NoveltyFilter, list_candidates, read_candidate
from .line_tasks import Example
from .pieces import Piece, cut_pieces
from .tasks import CATEGORIES, TASKS, Task

FILES = 400  # of a kind and split, at most: what is rare in them stays rare
PER_FILE = 4  # examples that one task takes from a file

#: `examples[category][split]`, prompts all different.
Examples = dict[str, dict[str, list[Example]]]


def make_examples(
    sizes: Mapping[str, Mapping[str, int]], seed: int
) -> tuple[Examples, dict[str, int]]:
    """Make the examples of every category and split.

    Every task of a category has the same share of it, as far as the files have examples; other
    tasks make up for what one lacks. Files are read in the order of a hash, and only as many as
    needed.

    Args:
        sizes: split -> category -> samples wanted.
        seed: decides which files are read, which split each is in, and which pieces are used.

    Returns:
        `examples[category][split]`, and the repeated prompts dropped a category.
    """
    collection = _Collection(sizes)
    files = list_candidates(seed)
    for kind in tqdm(DOMAINS, desc="making tasks", unit=" kinds of text", delay=1):
        for split, path, text in _new_texts(kind, files[kind], collection):
            rng = random.Random(document_key(text, seed))
            wanted = collection.wanted(kind, split)
            parse = any(task.unit != "lines" for task in wanted)
            units = cut_pieces(kind, text, package_of(path), rng, parse)
            for task in wanted:
                collection.add(task, split, units.get(task.unit, []), rng)
    examples: Examples = {category: {} for category in CATEGORIES}
    for category in CATEGORIES:
        for split in SPLITS:
            rows = [
                collection.made[task.name, split] for task in TASKS if task.category == category
            ]
            examples[category][split] = take_evenly(rows, sizes[split][category])
    return examples, collection.repeats


class _Collection:
    """The examples made so far, by task and split."""

    def __init__(self, sizes: Mapping[str, Mapping[str, int]]) -> None:
        self.made: dict[tuple[str, str], list[Example]] = {
            (task.name, split): [] for task in TASKS for split in SPLITS
        }
        self.prompts: set[str] = set()
        self.repeats = dict.fromkeys(CATEGORIES, 0)
        tasks = Counter(task.category for task in TASKS)
        # Twice a task's share, to make up for tasks that the files hardly have examples of.
        self.quotas = {
            (category, split): 2 * -(-sizes[split][category] // tasks[category])
            for category in CATEGORIES
            for split in SPLITS
        }

    def wanted(self, kind: str, split: str) -> list[Task]:
        """Return the tasks on a kind of file that have too few examples."""
        return [
            task
            for task in TASKS
            if task.kind == kind
            and len(self.made[task.name, split]) < self.quotas[task.category, split]
        ]

    def add(self, task: Task, split: str, pieces: list[Piece], rng: random.Random) -> None:
        """Add the examples of one task on one file."""
        taken = 0
        for piece in pieces:
            example = task.example(piece, rng)
            if example is None:
                continue
            if example[0] in self.prompts:
                self.repeats[task.category] += 1
                continue
            self.prompts.add(example[0])
            self.made[task.name, split].append(example)
            taken += 1
            if taken == PER_FILE:
                return


def _new_texts(
    kind: str, files: list[Path], collection: _Collection
) -> Iterator[tuple[str, Path, str]]:
    """Yield split, path and text of files that repeat no other, while examples are wanted."""
    origin: dict[str, tuple[str, Path]] = {}

    def texts() -> Iterator[str]:
        for split, paths in split_files(files).items():
            for path in paths[:FILES]:
                if not collection.wanted(kind, split):
                    break
                if text := read_candidate(kind, path, MAX_FILE_BYTES):
                    origin.setdefault(text, (split, path))
                    yield text

    for text in NoveltyFilter(texts()):
        yield *origin[text], text


def split_files(files: list[Path]) -> dict[str, list[Path]]:
    """Return a sixth of the files for the test split, a sixth for target and the rest for train.

    Example:
        >>> {split: len(files) for split, files in split_files([Path("a")] * 13).items()}
        {'test': 3, 'target': 2, 'train': 8}
    """
    return {
        "test": files[::6],
        "target": files[1::6],
        "train": [file for i, file in enumerate(files) if i % 6 > 1],
    }


def package_of(path: Path) -> str:
    """Return the top folder of an installed file, or the name of its distribution."""
    folders = ("site-packages", "dist-packages")
    start = max((i + 1 for i, part in enumerate(path.parts) if part in folders), default=-2)
    return path.parts[start].split("-")[0]


def take_evenly(rows: list[list[Example]], size: int) -> list[Example]:
    """Return the first of every row, then the second of every row and so on, up to `size` in all.

    Example:
        >>> [a for a, _ in take_evenly([[("a", ""), ("b", "")], [("c", "")], []], 3)]
        ['a', 'c', 'b']
    """
    depth = max(map(len, rows), default=0)
    return [row[i] for i in range(depth) for row in rows if i < len(row)][:size]
