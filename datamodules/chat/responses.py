"""`ResponseDataModule`: base of data modules of prompts and responses."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from tqdm import tqdm

from tandem_pl.checks import check_at_least, check_choice
from tandem_pl.datamodules.batching import ConfiguredDataModule
from tandem_pl.datamodules.clusters.small import SmallClusters
from tandem_pl.datamodules.clusters.targets import cached_folder, shares_of_clusters
from tandem_pl.datamodules.text.block_folder import (
    MANIFEST,
    blocks_path,
    every_domain,
    find_blocks,
    read_manifest,
    write_manifest,
)
from tandem_pl.datamodules.text.caching import corpus_folder
from tandem_pl.datamodules.text.documents import SPLITS, TooLittleTextError
from tandem_pl.datamodules.text.tokenization import load_tokenizer
from tandem_pl.errors import InputError
from tandem_pl.files import file_names, new_folder

from .messages import Message
from .samples import COUNTS, PadToLongest, SampleWriter, TokenizedSamples
from .templates import ConversationEncoder

CACHE_FORMAT = 2  # raise it if the same settings give other samples

#: `(split, where, messages)`; error messages name the conversation by `where`.
Conversation = tuple[str, str, Sequence[Message]]


class ResponseDataModule(ConfiguredDataModule):
    """Samples of different lengths in which only responses have a loss.

    A batch is `{"input_ids", "labels", "attention_mask"}`, padded at the end to its longest sample
    (see `PadToLongest`); labels are -100 outside responses.

    A subclass defines `conversations` and `settings`. The samples are tokenized once, into a cache
    folder that is named by a digest of the settings and the tokenizer; its `manifest.yaml` has
    the settings and counts.

    Args:
        tokenizer: `"bytes"`, or a saved tokenizer's folder or `tokenizer.json`.
        chat_template: a Jinja template or its path; None for the tokenizer's own, or plain
            rendering if it has none, see `ConversationEncoder`.
        prompt_template: text before a response in plain rendering, with `{prompt}` in it.
        turns: whether all turns of the assistant have a loss, or only the `"last"`.
        max_length: most tokens of a sample.
        too_long: `"cut"` keeps the first `max_length` tokens of a longer sample, so that its
            response loses its end; `"drop"` leaves the sample out. A sample without a token of a
            response is dropped. `summary` counts both, and so do a warning a split and the
            manifest (`lengths`).
        pad_to_multiple_of: a batch is padded to a multiple of this many tokens, which some kernels
            need to be fast; never above `max_length`.
        cache_dir: folder of the caches; by default see `default_cache_dir`.
        like: folder of a run, to use its samples although files or packages changed since.
        batching: see `ConfiguredDataModule`.

    Attributes:
        vocab_size: ids are in `[0, vocab_size)`; the network's `vocab_size` must be no smaller.
    """

    def __init__(
        self,
        tokenizer: str = "bytes",
        chat_template: str | None = None,
        prompt_template: str = "{prompt}\n",
        turns: Literal["all", "last"] = "all",
        max_length: int = 1024,
        too_long: Literal["cut", "drop"] = "cut",
        pad_to_multiple_of: int = 8,
        cache_dir: str | None = None,
        like: str | None = None,
        **batching: Any,
    ) -> None:
        super().__init__(**batching)
        check_at_least("max_length", max_length, 2)
        check_at_least("pad_to_multiple_of", pad_to_multiple_of, 1)
        check_choice("too_long", too_long, ("cut", "drop"))
        self.tokenizer = load_tokenizer(tokenizer)
        self.tokenizer_name = tokenizer
        self.vocab_size = self.tokenizer.vocab_size
        self.encoder = ConversationEncoder(self.tokenizer, chat_template, prompt_template, turns)
        self.max_length = max_length
        self.too_long: Literal["cut", "drop"] = too_long
        self.cache_dir, self.like = cache_dir, like
        self.cache_folder: Path | None = None
        self.cluster_summary: dict[str, Any] = {}  # for the manifest, see `cached_clusters`
        self.small_clusters = SmallClusters(None)
        self._unused: Counter[str] = Counter()  # field -> conversations with it
        self._said = False
        self.collate_fn = PadToLongest(self.tokenizer.eos_token_id, pad_to_multiple_of, max_length)

    has_chats = False  # whether conversations may have more than a prompt and its response

    # ---- what a subclass defines ----

    def settings(self) -> dict[str, Any]:
        """Return all that decides which samples are in which split, as plain JSON values."""
        raise NotImplementedError

    def conversations(self) -> tuple[Mapping[str, Iterator[Conversation]], dict[str, int]]:
        """Return the conversations of every domain, and the duplicates dropped a domain."""
        raise NotImplementedError

    def splits_of(self, domain: str) -> Sequence[str]:
        """Return the splits in which a domain has samples."""
        return SPLITS

    def refuse(self, domain: str, error: InputError) -> None:
        """Handle a conversation that cannot be tokenized: raise the error, or leave it out."""
        raise error

    def skipped(self) -> dict[str, tuple[int, str | None]]:
        """Return how many rows of each domain were left out, and the first one's error message."""
        return {}

    # ---- building and opening ----

    def prepare_data(self) -> None:
        """Build the cache if it does not exist."""
        settings = {
            "format": CACHE_FORMAT,
            "kind": type(self).__name__,
            "tokenizer": self.tokenizer.fingerprint,
            "chat_template": self.encoder.template,
            "prompt_template": self.encoder.prompt_template,
            "turns": self.encoder.turns,
            "max_length": self.max_length,
            "too_long": self.too_long,
            **self.settings(),
        }
        folder = corpus_folder(self.cache_dir, settings, self.like)
        if not (folder / MANIFEST).exists():
            with new_folder(folder, done=MANIFEST) as scratch:
                self._build(scratch, settings)
        self.cache_folder = folder

    def setup(self, stage: str | None = None) -> None:
        """Open the samples of every split and domain, and build them if they do not exist."""
        self.prepare_data()
        assert self.cache_folder is not None
        self.corpus = str(self.cache_folder)
        self.manifest = read_manifest(self.cache_folder)
        self.target_clusters = shares_of_clusters(self.manifest)
        self.cluster_folder = cached_folder(self.manifest)
        names = file_names(every_domain(self.manifest))
        for split, sets in zip(SPLITS, ("train_sets", "target_sets", "test_sets"), strict=True):
            opened = {
                domain: TokenizedSamples(find_blocks(self.cache_folder, split, domain, names))
                for domain in self.manifest["splits"][split]
            }
            setattr(self, sets, opened)
        for sentence in () if self._said else self._sentences():
            rank_zero_warn(sentence)
        self._said = True  # once, and not in every stage
        super().setup(stage)

    def summary(self) -> list[dict[str, Any]]:
        """Return one row a domain: `domain`, `duplicates_dropped`, `skipped`, and counts of splits.

        The counts are those of `SampleWriter`, with names such as `train_samples`,
        `train_response_tokens`, `target_cut` and `test_longest`.
        """
        self.prepare_data()
        assert self.cache_folder is not None
        manifest = read_manifest(self.cache_folder)
        rows = []
        for domain in every_domain(manifest):
            row = {key: manifest[key][domain] for key in ("duplicates_dropped", "skipped")}
            for split in SPLITS:
                counts = manifest["splits"][split].get(domain, dict.fromkeys(COUNTS, 0))
                row |= {f"{split}_{name}": count for name, count in counts.items()}
            rows.append({"domain": domain, **row})
        return rows

    def _sentences(self) -> Iterator[str]:
        """Yield what a user should know of the rendering and of what `max_length` cuts away."""
        if self.has_chats and self.encoder.template is None:
            yield (
                f"chats are rendered without a chat template, as tokenizer {self.tokenizer_name!r} "
                f"has none: prompt_template {self.encoder.prompt_template!r} for every message "
                "that is not the assistant's, and an end-of-text token after every response; set "
                "chat_template to that of your model."
            )
        for field, count in self.manifest.get("unused_fields", {}).items():
            yield (
                f"{field!r}, which {count} conversations have, is not rendered; set chat_template "
                "to one that uses it."
            )
        for split, counts in count_lengths(self.manifest["splits"]).items():
            if counts["dropped"] or counts["cut"]:
                yield (
                    f"{split} split: {counts['dropped']} samples were dropped, as no token of a "
                    f"response is left of them by max_length={self.max_length} and too_long="
                    f"{self.too_long!r}, {counts['cut']} were cut and {counts['kept']} kept, cut "
                    "ones included; set a larger max_length to lose nothing."
                )

    def _identity(self) -> dict[str, Any]:
        # With the folder's name, because equal numbers of samples may have other text.
        assert self.cache_folder is not None
        return {**super()._identity(), "cache": self.cache_folder.name}

    def _build(self, folder: Path, settings: dict[str, Any]) -> None:
        conversations, duplicates = self.conversations()
        splits: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
        names = file_names(conversations)
        with tqdm(desc="tokenizing", unit=" samples", delay=1) as bar:
            for domain, items in conversations.items():
                for split, counts in self._write(folder, domain, names, items, bar).items():
                    splits[split][domain] = counts
        skipped = self.skipped()
        for domain, (count, first) in skipped.items():
            if count:
                said = f"domain {domain!r}: {count} unfit rows were left out; the first: {first}"
                warnings.warn(said, stacklevel=2)
        manifest = {
            "tokenizer_name": self.tokenizer_name,
            "vocab_size": self.vocab_size,
            "settings": settings,
            "duplicates_dropped": duplicates,
            "skipped": {domain: skipped.get(domain, (0, None))[0] for domain in conversations},
            "splits": splits,
            "lengths": count_lengths(splits),
            "unused_fields": dict(self._unused),
        }
        if self.cluster_summary:
            manifest["clusters"] = self.cluster_summary | self.small_clusters.say(splits)
        write_manifest(folder, manifest)

    def _write(
        self,
        folder: Path,
        domain: str,
        names: Mapping[str, str],
        items: Iterator[Conversation],
        bar: Any,
    ) -> dict[str, dict[str, int]]:
        """Tokenize and write one domain; return the counts of each split."""
        options = (self.vocab_size, self.max_length, self.too_long)
        writers = {
            split: SampleWriter(blocks_path(folder, split, domain, names), *options)
            for split in self.splits_of(domain)
        }
        with ExitStack() as stack:
            for writer in writers.values():
                stack.enter_context(writer)
            for split, where, messages in items:
                bar.update()
                try:
                    sample = self.encoder(messages, where)
                    self._unused.update(self.encoder.unused_fields(messages))
                except InputError as error:
                    self.refuse(domain, error)
                    continue
                writers[split].write(sample)
        for split, writer in writers.items():
            if writer.counts["samples"] == 0:
                raise TooLittleTextError(
                    f"domain {domain!r} has no sample in its {split} split ("
                    f"{writer.counts['dropped_long']} dropped as longer than max_length "
                    f"{self.max_length}, {writer.counts['dropped_empty']} without a response left)"
                    "; give it more samples, a larger max_length, or leave the domain out.",
                    [domain] if "train" in writers else [],
                )
        return {split: dict(writer.counts) for split, writer in writers.items()}


def count_lengths(
    splits: Mapping[str, Mapping[str, Mapping[str, int]]],
) -> dict[str, dict[str, int]]:
    """Return how many samples of each split were `dropped`, `cut` and `kept` (cut ones as well).

    Args:
        splits: split -> domain -> counts of `SampleWriter`.

    Example:
        >>> counts = {"dropped_long": 0, "dropped_empty": 20, "cut": 5, "samples": 20}
        >>> count_lengths({"train": {"sums": counts}})
        {'train': {'dropped': 20, 'cut': 5, 'kept': 20}}
    """
    return {
        split: {
            "dropped": sum(c["dropped_long"] + c["dropped_empty"] for c in domains.values()),
            "cut": sum(c["cut"] for c in domains.values()),
            "kept": sum(c["samples"] for c in domains.values()),
        }
        for split, domains in splits.items()
    }
