"""`InstructionMixtureDataModule`: your own prompts and responses, or chats, as a mixture."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from tandem_pl.checks import check_fractions
from tandem_pl.datamodules.clusters.cached import cached_clusters
from tandem_pl.datamodules.clusters.options import ClusterOptions, open_given
from tandem_pl.datamodules.clusters.prepared import advise_merging
from tandem_pl.datamodules.clusters.small import SmallClusters
from tandem_pl.datamodules.sources.domains import (
    Source,
    SourceMap,
    Sources,
    check_given,
    open_sources,
)
from tandem_pl.datamodules.sources.reading import OptionalColumn
from tandem_pl.datamodules.text.documents import (
    DROPPED,
    SPLIT_CODES,
    Part,
    document_keys,
    domains_of,
    parts_of,
)
from tandem_pl.errors import InputError

from .messages import Chat, from_columns, from_messages, prompt_of, text_of
from .prompt_splits import split_by_prompt
from .responses import Conversation, ResponseDataModule

SPLIT_OF = {code: split for split, code in SPLIT_CODES.items()}


class InstructionMixtureDataModule(ResponseDataModule):
    r"""Prompts with responses, or chats, from your own files; a domain is a task family.

    A batch is `{"input_ids", "labels", "attention_mask"}`, LongTensor[B, L] each, padded at the end
    to the longest sample; labels are -100 outside responses. A token ends every response, and has a
    loss too. Shares of domains are of samples, not of tokens.

    Samples are split by their prompt: all samples of a prompt are in one split, also if two domains
    have the prompt. Repeated samples are dropped, and the first domain keeps its own.

    Args:
        domains: domain -> a path, folder, glob pattern or list of these with JSON lines, Parquet or
            CSV; or a map with `path` or `dataset`, see `sources.open_source`. Give this or
            `dataset`.
        dataset: folder of a data set written by `Dataset.save_to_disk`, JSON lines, Parquet or CSV,
            or a name on the Hugging Face hub, with a domain column; or a map with `dataset`,
            `config` and `split`.
        domain_column: column of `dataset` that names a sample's domain.
        prompt_column: column of the prompt; of a list of columns, those that are not empty are
            joined by an empty line.
        response_column: column of the response.
        messages_column: column of chats in place of the two above: lists of
            `{"role": ..., "content": ...}` with at least one turn of the role "assistant". The chat
            template gets the messages as they are, with `tool_calls`, `tool_call_id`,
            `reasoning_content`, `name` and whatever else they have. A turn with `weight` 0 has no
            loss; a turn that renders to nothing cannot be used.
        tools_column: column of the tools of a chat, which the chat template gets too; rows may
            lack it. None to leave tools out.
        target: name -> source in the same forms, for a target of other data; by default some
            prompts of every domain are held out as the target. With it the target split has these
            sources only, less a share `test_fraction` of each one's prompts that becomes test data
            under its name. The name may be that of a domain or a new one. Training samples whose
            prompts the target has are dropped.
        target_fraction: share of every domain's prompts for the target split; not used with
            `target`.
        test_fraction: share for the test split.
        split_seed: decides which prompts are in which split; `seed` only orders the batches.
        encoding_errors: `"raise"` or `"replace"`, for files that are not UTF-8.
        corrupt: `"stop"` at a row that cannot be used, or `"skip"` and count it.
        cluster: a number of clusters that become the domains, `auto`, or a folder with clusters,
            see `prepare_corpus`; they are made of prompts and responses. `dataset` then needs no
            domain column.
        cluster_within: whether to cluster each given domain by itself.
        smallest_cluster: samples below which a cluster is merged into the nearest.
        embedder: what clusters are made of.
        sampling: options of `ResponseDataModule` and `ConfiguredDataModule`.

    Raises:
        InputError: neither or both of `domains` and `dataset`, a bad setting, and, when the cache
            is built, a source that cannot be read, a row that cannot be used, or a domain with too
            few prompts.

    Example:
        >>> data = InstructionMixtureDataModule({"maths": "maths.jsonl", "poems": "poems.jsonl"})
        >>> data.vocab_size
        257
    """

    def __init__(
        self,
        domains: dict[str, str | list[str] | SourceMap] | None = None,
        dataset: str | SourceMap | None = None,
        domain_column: str = "domain",
        prompt_column: str | list[str] = "prompt",
        response_column: str = "response",
        messages_column: str | None = None,
        tools_column: str | None = "tools",
        target: dict[str, str | list[str] | SourceMap] | None = None,
        target_fraction: float = 0.05,
        test_fraction: float = 0.05,
        split_seed: int = 0,
        encoding_errors: str = "raise",
        corrupt: Literal["stop", "skip"] = "stop",
        cluster: int | str | None = None,
        cluster_within: bool = False,
        smallest_cluster: int | None = None,
        embedder: str | None = None,
        **sampling: Any,
    ) -> None:
        super().__init__(**sampling)
        check_given(domains, dataset)
        check_fractions(target_fraction, test_fraction)
        self.clusters = ClusterOptions.checked(
            cluster, cluster_within, embedder, smallest_cluster, split_seed
        )
        self.small_clusters = SmallClusters(self.clusters, bool(target))
        self.domains, self.dataset, self.domain_column = domains, dataset, domain_column
        self.target = target or {}
        self.encoding_errors, self.corrupt = encoding_errors, corrupt
        self.target_fraction, self.test_fraction = target_fraction, test_fraction
        self.split_seed = split_seed
        self.messages_column = messages_column
        self.tools_column = None if messages_column is None else tools_column
        self.has_chats = messages_column is not None
        prompts = [prompt_column] if isinstance(prompt_column, str) else prompt_column
        self.columns = [*prompts, response_column] if messages_column is None else [messages_column]
        self._sources: dict[Part, Source] = {}
        self._splits: dict[str, set[int]] = {}  # codes of those that each domain has samples in
        self._find_clusters: Callable[[], tuple[Sources, dict[str, Any]]] | None = None

    def prepare_data(self) -> None:
        """Build the cache if it does not exist."""
        with advise_merging(self.clusters):
            self.small_clusters.build(super().prepare_data)

    def settings(self) -> dict[str, Any]:
        """Return the options that decide the samples and splits, and a digest of every source."""
        reading = (self.encoding_errors, self.corrupt)
        sources = open_given(
            self.clusters, self.domains, self.dataset, self.domain_column, *reading
        )
        target = open_sources(self.target, "target", *reading)
        self._sources = parts_of(sources, target)
        pairs = self.messages_column is None
        whole = {} if pairs else {"messages": "whole", "tools_column": self.tools_column}
        settings: dict[str, Any] = {
            "sources": {d: source.digest(self.columns) for d, source in sources.items()},
            "domain_column": self.domain_column if self.dataset else None,
            "prompt_columns": self.columns[:-1] if pairs else None,
            "response_column": self.columns[-1] if pairs else None,
            "messages_column": self.messages_column,
            "target_fraction": self.target_fraction,
            "test_fraction": self.test_fraction,
            "split_seed": self.split_seed,
            "encoding_errors": self.encoding_errors,
            "corrupt": self.corrupt,
            **whole,
        }
        if target:
            settings["target"] = list(target)
            settings["target_sources"] = {d: s.digest(self.columns) for d, s in target.items()}
        if self.clusters:
            settings["clusters"] = self.clusters.identity()
            self._find_clusters = partial(
                cached_clusters,
                self.cache_dir,
                settings,
                sources,
                target,
                self._read_to_cluster,
                self.clusters,
                self.small_clusters,
            )
        return settings

    def conversations(self) -> tuple[Mapping[str, Iterator[Conversation]], dict[str, int]]:
        """Read every source once to decide the splits; the iterators read it again."""
        if self._find_clusters:
            target = {part.domain: s for part, s in self._sources.items() if part.is_target}
            clusters, self.cluster_summary = self._find_clusters()
            self._sources = parts_of(clusters, target)
        prompts: dict[Part, np.ndarray] = {}
        samples: dict[Part, np.ndarray] = {}
        for part, source in self._sources.items():
            keys = [
                document_keys((prompt_of(chat), chat.key()), self.split_seed)
                for _, chat in tqdm(
                    self._read(source), desc=f"reading {part.domain}", unit=" samples", delay=1
                )
            ]
            if not keys and source.skipped:
                raise InputError(
                    f"domain {part.domain!r} has no sample that can be used ({source.skipped} "
                    f"skipped; the first: {source.first_skipped})."
                )
            stacked = np.stack(keys) if keys else np.empty((0, 2, 2), np.uint64)
            prompts[part], samples[part] = stacked[:, 0], stacked[:, 1]
        fractions = (self.target_fraction, self.test_fraction)
        codes = split_by_prompt(prompts, samples, *fractions, self.small_clusters.train_only)
        dropped = dict.fromkeys(domains_of(codes), 0)
        chosen: dict[str, Iterator[Conversation]] = {domain: iter(()) for domain in dropped}
        self._splits = {domain: set() for domain in dropped}
        for part, source in self._sources.items():
            self._splits[part.domain] |= set(codes[part].tolist())
            dropped[part.domain] += int((codes[part] == DROPPED).sum())
            items = self._choose(source, codes[part])
            chosen[part.domain] = chain(chosen[part.domain], items)
        return chosen, dropped

    def splits_of(self, domain: str) -> Sequence[str]:
        """Return the splits in which a domain has samples."""
        return [split for split, code in SPLIT_CODES.items() if code in self._splits[domain]]

    def refuse(self, domain: str, error: InputError) -> None:
        """Raise the error, or leave the conversation out if `corrupt` is "skip"."""
        # the domain's part that is read first, because a pass over a source begins a new count
        self._sources[next(p for p in self._sources if p.domain == domain)].refuse(str(error))

    def skipped(self) -> dict[str, tuple[int, str | None]]:
        """Return the counts of the last pass."""
        counts: dict[str, tuple[int, str | None]] = {}
        for part, source in self._sources.items():
            count, first = counts.get(part.domain, (0, None))
            counts[part.domain] = count + source.skipped, first or source.first_skipped
        return counts

    def _choose(self, source: Source, codes: np.ndarray) -> Iterator[Conversation]:
        number = 0
        for number, (where, messages) in enumerate(self._read(source), start=1):
            if number <= len(codes) and codes[number - 1] != DROPPED:
                yield SPLIT_OF[int(codes[number - 1])], where, messages
        if number != len(codes):
            raise InputError(
                f"domain {source.domain!r} changed while it was read; leave its files alone and "
                "start again."
            )

    def _read(self, source: Source) -> Iterator[tuple[str, Chat]]:
        """Yield the conversations of a source in order, without those that cannot be used."""
        return ((where, chat) for where, _, chat in self._read_rows(source, ()))

    def _read_to_cluster(
        self, source: Source, columns: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, Any], str]]:
        for where, row, chat in self._read_rows(source, columns):
            yield where, row, "\n\n".join(map(text_of, chat))

    def _read_rows(
        self, source: Source, columns: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, Any], Chat]]:
        tools = [] if self.tools_column is None else [OptionalColumn(self.tools_column)]
        for where, row in source.rows([*self.columns, *tools, *columns]):
            try:
                if self.messages_column is None:
                    chat = from_columns(row, where, self.columns)
                else:
                    chat = from_messages(row, where, self.messages_column, self.tools_column)
            except InputError as error:
                source.refuse(f'{str(error)[:-1]}; or set corrupt to "skip".')
            else:
                yield where, row, chat
