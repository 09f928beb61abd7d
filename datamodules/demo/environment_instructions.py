"""`EnvironmentInstructions`: small tasks on the text of the installed packages, by category."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tandem_pl.datamodules.chat.messages import pair
from tandem_pl.datamodules.chat.responses import Conversation, ResponseDataModule
from tandem_pl.datamodules.clusters.options import ClusterOptions
from tandem_pl.errors import InputError

from .installed_text import installed
from .line_tasks import Example
from .task_examples import make_examples
from .tasks import CATEGORIES, TASKS, Task
from .without_labels import cluster_texts

#: Training samples a category. Three have plenty of samples, the others repeat in training.
TRAIN_SAMPLES = {
    "completion": 8000,
    "transformation": 4000,
    "extraction": 2000,
    "classification": 500,
    "description": 250,
    "naming": 125,
}


class EnvironmentInstructions(ResponseDataModule):
    """Instructions with responses on the text of the installed Python packages, by category.

    Six categories are the domains: completion, transformation, extraction, classification,
    description and naming. Each has 6 to 26 tasks, see `tasks`; a task is a rule that makes a
    prompt (an instruction and up to 110 characters of a file) and a response of up to 40. The
    files are those of `EnvironmentCorpus`; test, target and training samples come from different
    files, and repeated files and prompts are left out. The same versions of the same packages give
    the same samples.

    Args:
        train_samples: category -> training samples, in place of `TRAIN_SAMPLES`.
        target_samples: target samples a category.
        test_samples: test samples a category.
        split_seed: decides which files are taken and where they fall.
        max_length: most tokens of a sample; 192 hold nearly all in bytes.
        cluster: makes training domains of clusters of the training samples, without their
            categories: a number, or `auto`; target and test samples keep theirs.
        sampling: options of `ResponseDataModule` and `ConfiguredDataModule`.

    Raises:
        InputError: an unknown category, a size below 1, and, when the cache is built, a category
            that finds hardly any text on this machine.

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
        max_length: int = 192,
        cluster: int | str | None = None,
        **sampling: Any,
    ) -> None:
        super().__init__(max_length=max_length, **sampling)
        self.clusters = ClusterOptions.checked(
            cluster, False, None, None, split_seed, folders=False
        )
        self._splits: dict[str, list[str]] = {}  # of each domain, if training data are clustered
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
        """Return all tasks, with name, category, kind of file and instruction."""
        return TASKS

    def settings(self) -> dict[str, Any]:
        """Return the sizes, and the installed versions."""
        return {
            "sizes": self.sizes,
            "split_seed": self.split_seed,
            "installed": {name: distribution.version for name, distribution in installed()},
            **({"clusters": self.clusters.identity()} if self.clusters else {}),
        }

    def splits_of(self, domain: str) -> Sequence[str]:
        """Return the splits in which a domain has samples."""
        return self._splits.get(domain) or super().splits_of(domain)

    def conversations(self) -> tuple[Mapping[str, Iterator[Conversation]], dict[str, int]]:
        """Make the examples; warn if there are fewer than asked for."""
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
        if self.clusters:
            examples = self._cluster(examples, self.clusters)
            self._splits = {domain: list(splits) for domain, splits in examples.items()}
            repeats = {domain: repeats.get(domain, 0) for domain in examples}
        return {category: _conversations(splits) for category, splits in examples.items()}, repeats

    def _cluster(
        self, examples: Mapping[str, Mapping[str, list[Example]]], options: ClusterOptions
    ) -> dict[str, dict[str, list[Example]]]:
        train = [example for splits in examples.values() for example in splits["train"]]
        target = {c: ["\n\n".join(e) for e in splits["target"]] for c, splits in examples.items()}
        found, self.cluster_summary = cluster_texts(
            ["\n\n".join(e) for e in train], target, options, held_out=examples
        )
        clusters: dict[str, dict[str, list[Example]]] = {}
        for cluster, example in zip(found, train, strict=True):
            clusters.setdefault(cluster, {"train": []})["train"].append(example)
        held_out = {
            category: {split: some for split, some in splits.items() if split != "train"}
            for category, splits in examples.items()
        }
        return clusters | held_out


def _conversations(splits: Mapping[str, list[Example]]) -> Iterator[Conversation]:
    for split, examples in splits.items():
        for prompt, response in examples:
            yield split, f"a task on {prompt!r}", pair(prompt, response)
