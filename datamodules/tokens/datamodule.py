"""Tokens that other trainers' tools wrote, as a mixture of domains."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem_pl.checks import check_at_least
from tandem_pl.datamodules.batching import ConfiguredDataModule
from tandem_pl.datamodules.chat.samples import PadToLongest
from tandem_pl.datamodules.sources.domains import SourceMap
from tandem_pl.datamodules.text.tokenization import load_tokenizer
from tandem_pl.domain_names import check_texts
from tandem_pl.errors import InputError

from .samples import TokenSamples, count_samples, hold_out
from .sources import Tokens, TokenSpec, open_tokens

LARGEST_VOCABULARY = 1 << 24  # ids beyond it are read as another type than they are
SPLITS = ("train", "target", "test")


class TokenMixtureDataModule(ConfiguredDataModule):
    """Blocks of tokens from data that is already tokenised; it is memory-mapped, nothing is copied.

    A source is a path; its content decides the format:

    - Megatron-LM: the prefix of a `.bin` and its `.idx`;
    - nanoGPT, llm.c, modded-nanogpt: a `.bin`, a pattern or a folder of these, with a header or
      without (then `dtype`, uint16 unless given);
    - a Hugging Face data set written by `save_to_disk`, with `input_ids` (and `labels`,
      `attention_mask`);
    - a folder of litdata, or of MosaicML Streaming (MDS), with a column of tokens.

    A domain's tokens are one stream, cut into blocks of `block_size` as they come: documents and
    end-of-text tokens stay where they are, and padding is left out. If there are labels, each row
    is a sample, and batches are padded at their end to the longest.

    A sample is `{"input_ids": LongTensor[block_size]}`; where a domain has labels, samples of all
    have `labels` too, and a batch an `attention_mask`. In a configuration:

        data:
          class_path: tandem_pl.datamodules.TokenMixtureDataModule
          init_args:
            train:
              web: data/web_text_document            # Megatron-LM: web_text_document.bin and .idx
              code: {path: code/*.bin, dtype: uint32}
              books: books                           # a folder of litdata
            block_size: 1024
            vocab_size: 50257

    Args:
        train: domain -> a path, a pattern or a list of these; or a map with `path` and optionally
            `kind` ("megatron", "nanogpt", "huggingface", "litdata", "mds"), `dtype`, `column`,
            `split` and `rows`, see `sources.open_tokens`.
        target: the same of target data.
        test: the same of test data.
        block_size: tokens in a sample.
        vocab_size: ids lie in `[0, vocab_size)`. None: that of the tokenizer if it is given, else
            one more than the largest id, for which all tokens are read once.
        tokenizer: the tokenizer that made the tokens: a folder or a `tokenizer.json`; it goes into
            an export. None if it is not at hand.
        target_fraction: share of the blocks of each training domain that becomes target data, in
            contiguous pieces, if neither `target` nor `test` is given; 0 for none.
        test_fraction: the same for test data.
        split_seed: decides where the held-out pieces lie.
        batching: see `ConfiguredDataModule`.

    Raises:
        InputError: a bad setting; by `setup`, a source that cannot be opened or is too small.

    Example:
        >>> data = TokenMixtureDataModule({"web": "web_text_document"}, block_size=256)
        >>> data.block_size
        256
    """

    def __init__(
        self,
        train: dict[str, str | list[str] | SourceMap],
        target: dict[str, str | list[str] | SourceMap] | None = None,
        test: dict[str, str | list[str] | SourceMap] | None = None,
        block_size: int = 128,
        vocab_size: int | None = None,
        tokenizer: str | None = None,
        target_fraction: float = 0.05,
        test_fraction: float = 0.05,
        split_seed: int = 0,
        **batching: Any,
    ) -> None:
        super().__init__(**batching)
        check_at_least("block_size", block_size, 2)
        if vocab_size is not None:
            check_at_least("vocab_size", vocab_size, 1)
        elif tokenizer is not None:
            vocab_size = load_tokenizer(tokenizer).vocab_size
        for key, share in (("target_fraction", target_fraction), ("test_fraction", test_fraction)):
            if not 0 <= share < 1:
                raise InputError(f"{key}={share} must be 0 or more and below 1.")
        self.specs: dict[str, dict[str, TokenSpec]] = {
            split: dict(specs or {})
            for split, specs in zip(SPLITS, (train, target, test), strict=True)
        }
        for split, specs in self.specs.items():
            check_texts(specs, split)
        self.block_size = block_size
        self.tokenizer_name = tokenizer
        self.fractions = {"target": target_fraction, "test": test_fraction}
        self.split_seed = split_seed
        self._vocab_size = vocab_size
        self._tokens: dict[str, dict[str, Tokens]] | None = None

    @property
    def tokens(self) -> dict[str, dict[str, Tokens]]:
        """Split -> domain -> its tokens, opened when they are first asked for."""
        if self._tokens is None:
            self._tokens = {
                split: {
                    name: open_tokens(f"{split}[{name!r}]", spec) for name, spec in specs.items()
                }
                for split, specs in self.specs.items()
            }
        return self._tokens

    @property
    def vocab_size(self) -> int:
        """Ids lie in `[0, vocab_size)`; the network's `vocab_size` must be no smaller."""
        if self._vocab_size is None:
            largest = 0
            for split, opened in self.tokens.items():
                for name, tokens in opened.items():
                    found = tokens.ids.largest()
                    if found >= LARGEST_VOCABULARY:
                        raise InputError(
                            f"{split}[{name!r}] has the token {found}; give the type of its "
                            "tokens as dtype, or vocab_size if that is right."
                        )
                    largest = max(largest, found)
            self._vocab_size = largest + 1
        return self._vocab_size

    def setup(self, stage: str | None = None) -> None:
        """Open the sources, and hold out target and test data if there is none."""
        opened = self.tokens
        labelled = any(
            t.labels is not None or t.rows for row in opened.values() for t in row.values()
        )
        if labelled:
            self.collate_fn = PadToLongest(0, 1, self.block_size)
        sets: dict[str, dict[str, TokenSamples]] = {split: {} for split in SPLITS}
        held_out = not (self.specs["target"] or self.specs["test"])
        fractions = self.fractions if held_out else {}
        for split, domains in opened.items():
            for name, tokens in domains.items():
                where = f"{split}[{name!r}]"
                count = count_samples(where, tokens, self.block_size)
                if not count:
                    raise InputError(
                        f"{where} has {len(tokens.ids):,} tokens, fewer than a block of block_size "
                        f"{self.block_size:,}; give it more, or a smaller block_size."
                    )
                parts: dict[str, NDArray[np.int64] | None] = {split: None}
                if split == "train":
                    parts = dict(hold_out(count, fractions, self.split_seed, where))
                for part, ranges in parts.items():
                    if ranges is None or len(ranges):
                        sets[part][name] = TokenSamples(
                            where, tokens, self.block_size, ranges, labelled, self._vocab_size
                        )
        self.train_sets = dict(sets["train"])
        self.target_sets = dict(sets["target"])
        self.test_sets = dict(sets["test"])
        super().setup(stage)

    def summary(self) -> list[dict[str, Any]]:
        """Return one row a source: split, domain, kind, tokens, samples, dropped_tokens.

        The last are those at the end of a stream that make no block.
        """
        return [
            {
                "split": split,
                "domain": name,
                "kind": ", ".join(tokens.kinds),
                "tokens": len(tokens.ids),
                "samples": count_samples(f"{split}[{name!r}]", tokens, self.block_size),
                "dropped_tokens": 0 if tokens.rows else len(tokens.ids) % self.block_size,
            }
            for split, opened in self.tokens.items()
            for name, tokens in opened.items()
        ]

    def _identity(self) -> dict[str, Any]:
        # Equal numbers of blocks may hold other tokens, or be divided in another way.
        digest = hashlib.blake2b(digest_size=16)
        for split, opened in self.tokens.items():
            for name, tokens in opened.items():
                digest.update(f"{split} {name} {len(tokens.ids)} ".encode())
                digest.update(_ends(tokens))
        settings = (self.block_size, self.fractions, self.split_seed)
        digest.update(repr(settings).encode())
        return {**super()._identity(), "tokens": digest.hexdigest()}


def _ends(tokens: Tokens) -> bytes:
    """Return the first and last tokens, which identify a file without reading all of it."""
    size, most = len(tokens.ids), 1 << 15
    parts = [tokens.ids.read(0, min(size, most)), tokens.ids.read(max(size - most, 0), size)]
    return np.concatenate(parts).tobytes()
