"""`InstructionMixtureDataModule`: your own prompts and responses, or chats, as a mixture."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from tandem_pl.checks import check_fractions
from tandem_pl.datamodules.sources.domains import (
    Source,
    SourceMap,
    check_given,
    open_domains,
    open_sources,
)
from tandem_pl.datamodules.sources.reading import OptionalColumn
from tandem_pl.datamodules.text.documents import (
    DROPPED,
    SPLIT_CODES,
    Part,
    assign_splits,
    check_enough,
    document_keys,
    domains_of,
    parts_of,
    splits_of,
)
from tandem_pl.errors import InputError

from .messages import Chat, from_columns, from_messages, prompt_of
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
        **sampling: Any,
    ) -> None:
        super().__init__(**sampling)
        check_given(domains, dataset)
        check_fractions(target_fraction, test_fraction)
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

    def settings(self) -> dict[str, Any]:
        """Return the options that decide the samples and splits, and a digest of every source."""
        reading = (self.encoding_errors, self.corrupt)
        sources = open_domains(self.domains, self.dataset, self.domain_column, *reading)
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
        return settings

    def conversations(self) -> tuple[Mapping[str, Iterator[Conversation]], dict[str, int]]:
        """Read every source once to decide the splits; the iterators read it again."""
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
        codes = split_by_prompt(prompts, samples, self.target_fraction, self.test_fraction)
        dropped = dict.fromkeys(domains_of(codes), 0)
        chosen: dict[str, Iterator[Conversation]] = {domain: iter(()) for domain in dropped}
        for part, source in self._sources.items():
            dropped[part.domain] += int((codes[part] == DROPPED).sum())
            items = self._choose(source, codes[part])
            chosen[part.domain] = chain(chosen[part.domain], items)
        return chosen, dropped

    def splits_of(self, domain: str) -> Sequence[str]:
        """Return the splits in which a domain has samples."""
        parts = [part for part in self._sources if part.domain == domain]
        there = {split for part in parts for split in splits_of(part, bool(self.target))}
        return [split for split in SPLIT_CODES if split in there]

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
        tools = [] if self.tools_column is None else [OptionalColumn(self.tools_column)]
        for where, row in source.rows([*self.columns, *tools]):
            try:
                if self.messages_column is None:
                    yield where, from_columns(row, where, self.columns)
                else:
                    yield where, from_messages(row, where, self.messages_column, self.tools_column)
            except InputError as error:
                source.refuse(f'{str(error)[:-1]}; or set corrupt to "skip".')


def split_by_prompt(
    prompts: Mapping[Part, np.ndarray],
    samples: Mapping[Part, np.ndarray],
    target_fraction: float,
    test_fraction: float,
) -> dict[Part, np.ndarray]:
    """Assign every sample to the split of its prompt, and drop repeated samples.

    A part's prompts that no earlier part has are split as documents are, see `assign_splits`. A
    prompt of an earlier part keeps that part's split; if the earlier one is of target data and this
    one is not, the sample is dropped.

    Args:
        prompts: part -> keys of its samples' prompts as read, uint64 of shape `[samples, 2]`.
        samples: the same for whole samples.
        target_fraction: share of a part's prompts for the target split.
        test_fraction: share for the test split.

    Returns:
        part -> uint8 of shape `[samples]`: the codes of `SPLIT_CODES`, or `DROPPED`.

    Raises:
        InputError: a part has fewer prompts of its own than splits.
    """
    sizes = [len(keys) for keys in prompts.values()]
    _, first, prompt_number = np.unique(
        np.concatenate(list(prompts.values())), axis=0, return_index=True, return_inverse=True
    )
    own = np.bincount(np.repeat(np.arange(len(sizes)), sizes)[first], minlength=len(sizes))
    has_target = any(part.is_target for part in prompts)
    for part, size, count in zip(prompts, sizes, own.tolist(), strict=True):
        what = f"prompts that no other has ({size} samples read)"
        check_enough(part, splits_of(part, has_target), count, what, "add samples")
    codes = np.concatenate(list(assign_splits(prompts, target_fraction, test_fraction).values()))
    first_of = first[prompt_number.reshape(-1)]  # of each sample, the first one of its prompt
    codes = codes[first_of]
    of_target = np.repeat([part.is_target for part in prompts], sizes)
    _, kept = np.unique(np.concatenate(list(samples.values())), axis=0, return_index=True)
    repeated = np.ones(len(codes), dtype=bool)
    repeated[kept] = False
    codes[repeated | (of_target[first_of] & ~of_target)] = DROPPED
    return dict(zip(prompts, np.split(codes, np.cumsum(sizes)[:-1]), strict=True))
