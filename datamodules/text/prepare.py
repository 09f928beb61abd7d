"""Prepare a corpus: from raw text to a folder of packed blocks that `fit` takes.

The text is read several times, a batch of documents at a time, so that memory does not grow with
it: once for the documents' keys, which decide splits and duplicates; twice for near-duplicates;
once to train a tokenizer, where asked; and once to write the blocks.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from tandem_pl.datamodules.sources.domains import check_given, open_domains
from tandem_pl.errors import InputError

from .byte_level_bpe import train_bpe as train_byte_level_bpe
from .corpus import Corpus, drop_near_duplicates
from .documents import DROPPED, SPLIT_CODES, TRAIN, assign_splits, check_fractions, document_keys
from .near_duplicates import choose_shift
from .packing import (
    MANIFEST,
    SPLITS,
    BlockWriter,
    blocks_path,
    check_blocks,
    encode_documents,
    new_folder,
    read_manifest,
    write_manifest,
)
from .tokenization import ByteTokenizer, HuggingFaceTokenizer, Tokenizer, load_tokenizer
from .workers import Workers, default_workers

FORMAT = 1
BPE_CHARACTERS = 50_000_000  # text that a tokenizer is trained on, at most
CHECKED_DOCUMENTS = 200  # decoded again, to see whether the tokenizer keeps all text


def prepare_corpus(
    out: str,
    domains: dict[str, str | list[str] | dict[str, Any]] | None = None,
    dataset: str | dict[str, Any] | None = None,
    domain_column: str = "domain",
    text_column: str = "text",
    tokenizer: str | None = None,
    train_bpe: int | None = None,
    block_size: int = 128,
    target_fraction: float = 0.05,
    test_fraction: float = 0.05,
    split_seed: int = 0,
    near_duplicate: float | None = 0.5,
    encoding_errors: Literal["raise", "replace"] = "raise",
    corrupt: Literal["stop", "skip"] = "stop",
    workers: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Tokenize and split text into a folder of packed blocks, for `PreparedTextDataModule`.

    The same documents and options give the same folder to the bit, whatever `workers` is. Nothing
    is written to `out` before all is done.

    Args:
        out: the folder to make: `manifest.yaml`, `train/`, `target/` and `test/` with an Arrow file
            a domain, and the tokenizer.
        domains: domain -> a path, folder, glob pattern or list of these (text, source code, JSON
            lines, Parquet, CSV); or a map with `path` or `dataset`, and `config`, `split` and
            `column`. Give this or `dataset`.
        dataset: one data set with a domain column: a folder written by `save_to_disk`, JSON lines,
            Parquet or CSV, or a name on the Hugging Face hub; or a map with `dataset`, `config`,
            `split` and `column`.
        domain_column: column of `dataset` that names a document's domain.
        text_column: column of the text, where a domain does not name its own.
        tokenizer: `bytes` (the default), a folder written by `save_pretrained`, a `tokenizer.json`,
            or a name on the Hugging Face hub. Give this or `train_bpe`.
        train_bpe: train a byte-level BPE with so many tokens on the training documents, with
            the same amount of text from every domain that has so much.
        block_size: tokens a sample.
        target_fraction: share of every domain's documents for the target split.
        test_fraction: share for the test split.
        split_seed: decides which documents fall in which split.
        near_duplicate: share of a document's windows of 50 bytes found in another split from which
            it is dropped; null keeps near-duplicates. Exact duplicates always go.
        encoding_errors: `raise` or `replace`, for text files that are not UTF-8.
        corrupt: `stop` or `skip`, for rows that cannot be read.
        workers: processes; null for one a core.
        overwrite: whether a corpus in `out` is replaced, once the new one is whole.

    Returns:
        The manifest: `tokenizer`, `settings`, `sources`, `duplicates_dropped`,
        `near_duplicates_dropped`, `rows_skipped`, `block_size`, `vocab_size`, `fingerprint`, and
        under `splits` the counts of `packing.BlockWriter` by split and domain.

    Raises:
        InputError: options that do not go together, a source that cannot be read, a domain or split
            with too little text, an `out` that exists, or a full disk.
    """
    check_given(domains, dataset)
    check_fractions(target_fraction, test_fraction)
    _check(out, tokenizer, train_bpe, block_size, near_duplicate, overwrite)
    loaded = None if train_bpe else load_tokenizer(tokenizer or "bytes", hub=True)
    sources = open_domains(domains, dataset, domain_column, encoding_errors, corrupt)
    digests = {domain: source.digest() for domain, source in sources.items()}
    corpus = Corpus(sources, text_column)
    folder = Path(out).expanduser()
    with Workers(workers or default_workers()) as pool, new_folder(folder, overwrite) as scratch:
        characters, samples = _split(corpus, pool, target_fraction, test_fraction, split_seed)
        duplicates = {domain: int((row == DROPPED).sum()) for domain, row in corpus.codes.items()}
        skipped = {domain: source.skipped for domain, source in sources.items()}
        examples = {d: s.first_skipped for d, s in sources.items() if s.first_skipped}
        near = {domain: dict.fromkeys(SPLITS, 0) for domain in sources}
        if near_duplicate is not None:
            shift = choose_shift(characters, target_fraction + test_fraction)
            near = drop_near_duplicates(corpus, pool, near_duplicate, shift)
        saved = scratch / "tokenizer"
        if train_bpe:
            train_byte_level_bpe(_bpe_texts(corpus, samples), train_bpe, saved)
            loaded = load_tokenizer(str(saved))
        assert loaded is not None
        if isinstance(loaded, HuggingFaceTokenizer) and not train_bpe:
            loaded.tokenizer.save_pretrained(str(saved))
        splits = write_splits(corpus, pool, loaded, block_size, scratch)
        manifest = {
            "format": FORMAT,
            "fingerprint": _fingerprint(splits, loaded, block_size),
            "tokenizer": {
                "name": tokenizer or (f"bpe-{train_bpe}" if train_bpe else "bytes"),
                "folder": "tokenizer" if saved.exists() else None,
                "lossless": _is_lossless(corpus, loaded),
            },
            "settings": {
                "domains": domains,
                "dataset": dataset,
                "domain_column": domain_column if dataset else None,
                "text_column": text_column,
                "target_fraction": target_fraction,
                "test_fraction": test_fraction,
                "split_seed": split_seed,
                "near_duplicate": near_duplicate,
                "encoding_errors": encoding_errors,
                "corrupt": corrupt,
            },
            "sources": digests,
            "rows_skipped": skipped,
            "first_skipped": examples,
            "duplicates_dropped": duplicates,
            "near_duplicates_dropped": near,
            "block_size": block_size,
            "vocab_size": loaded.vocab_size,
            "splits": splits,
        }
        for domain, source in sources.items():
            if source.digest() != digests[domain]:
                raise InputError(
                    f"domain {domain!r} changed while it was read; leave its files alone and start "
                    "again."
                )
        write_manifest(scratch, manifest)
    return read_manifest(folder)


def write_splits(
    corpus: Corpus, workers: Workers, tokenizer: Tokenizer, block_size: int, folder: Path
) -> dict[str, dict[str, dict[str, Any]]]:
    """Tokenize every domain once and write its three splits.

    Returns:
        What `BlockWriter.close` gives, by split and domain.
    """
    encode = partial(encode_documents, tokenizer=getattr(tokenizer, "light", None) or tokenizer)
    splits: dict[str, dict[str, dict[str, Any]]] = {split: {} for split in SPLITS}
    for domain, codes in corpus.codes.items():
        left = codes[codes != DROPPED]
        with ExitStack() as stack:
            writers = {}
            for split in SPLITS:
                path = blocks_path(folder, split, domain)
                writers[split] = BlockWriter(path, tokenizer.vocab_size, block_size)
                stack.callback(writers[split].abandon)
            for tokens, lengths in corpus.map(workers, encode, domain, codes != DROPPED, "packing"):
                batch, left = left[: len(lengths)], left[len(lengths) :]
                for split, code in SPLIT_CODES.items():
                    chosen = batch == code
                    writers[split].write(tokens[np.repeat(chosen, lengths)], lengths[chosen])
            for split in SPLITS:
                counts = writers[split].close()
                check_blocks(domain, split, counts, block_size)
                splits[split][domain] = counts
    return splits


def _split(
    corpus: Corpus, workers: Workers, target_fraction: float, test_fraction: float, seed: int
) -> tuple[int, dict[str, np.ndarray]]:
    # Sets corpus.codes; gives the corpus's characters, and which documents a BPE is trained on.
    keys: dict[str, np.ndarray] = {}
    characters: dict[str, int] = {}
    look = partial(_keys_and_characters, seed=seed)
    for domain, source in corpus.sources.items():
        parts = [np.empty((0, 2), np.uint64)]
        characters[domain] = 0
        for found, count in corpus.map(workers, look, domain, None, "reading"):
            parts.append(found)
            characters[domain] += count
        keys[domain] = np.concatenate(parts)
        if not len(keys[domain]):
            skipped = f" ({source.skipped} skipped: {source.first_skipped})"
            raise InputError(
                f"domain {domain!r} has no documents{skipped if source.skipped else ''}; give it "
                "some text or leave it out."
            )
    corpus.codes = assign_splits(keys, target_fraction, test_fraction)
    quota = BPE_CHARACTERS / len(keys)
    samples = {
        # The second half of a key is as good as a random number.
        domain: keys[domain][:, 1] < 2.0**64 * min(1.0, quota / characters[domain])
        for domain in keys
    }
    return sum(characters.values()), samples


def _keys_and_characters(texts: list[str], seed: int) -> tuple[np.ndarray, int]:
    return document_keys(texts, seed), sum(map(len, texts))


def _bpe_texts(corpus: Corpus, samples: Mapping[str, np.ndarray]) -> Iterator[str]:
    for domain, codes in corpus.codes.items():
        wanted = (codes == TRAIN) & samples[domain]
        if not wanted.any():
            wanted = codes == TRAIN
        yield from tqdm(
            corpus.texts(domain, wanted),
            desc=f"BPE from {domain}",
            total=int(wanted.sum()),
            unit=" documents",
            delay=1,
        )


def _is_lossless(corpus: Corpus, tokenizer: ByteTokenizer | HuggingFaceTokenizer) -> bool:
    # Whether decoding gives back some first documents of every domain.
    for domain in corpus.sources:
        texts = list(islice(corpus.texts(domain), CHECKED_DOCUMENTS // len(corpus.sources) + 1))
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            if tokenizer.decode(ids.tolist()) != text:
                return False
    return True


def _fingerprint(
    splits: Mapping[str, Mapping[str, Mapping[str, Any]]], tokenizer: Tokenizer, block_size: int
) -> str:
    content = [tokenizer.fingerprint, block_size, splits]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def _check(
    out: str,
    tokenizer: str | None,
    train_bpe: int | None,
    block_size: int,
    near_duplicate: float | None,
    overwrite: bool,
) -> None:
    folder = Path(out).expanduser()
    if folder.exists() and not overwrite:
        raise InputError(f"out={out!r} exists; give another folder, or --overwrite to replace it.")
    if folder.exists() and not (folder / MANIFEST).exists():
        raise InputError(
            f"out={out!r} exists and holds no prepared corpus, so overwrite leaves it alone; give "
            "another folder."
        )
    if tokenizer and train_bpe:
        raise InputError(
            f"give either tokenizer ({tokenizer!r}) or train_bpe ({train_bpe}), not both."
        )
    if train_bpe is not None and train_bpe < 257:
        raise InputError(f"train_bpe is {train_bpe}; give at least 257 tokens.")
    if block_size < 2:
        raise InputError(f"block_size is {block_size}; give at least 2 tokens.")
    if near_duplicate is not None and not 0 < near_duplicate <= 1:
        raise InputError(f"near_duplicate is {near_duplicate}; give a share up to 1, or null.")
