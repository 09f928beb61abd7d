"""Prepare a corpus: from raw text to a folder of packed blocks that `fit` takes.

The text is read several times, a batch of documents at a time, so that memory does not grow with
it: once for the documents' keys, which decide splits and duplicates; twice for near-duplicates;
once to train a tokenizer, if asked; and once to write the blocks.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

from tqdm import tqdm

from tandem_pl.checks import check_at_least, check_fractions
from tandem_pl.datamodules.clusters.options import ClusterOptions, open_given
from tandem_pl.datamodules.clusters.prepared import ClusteredText, advise_merging
from tandem_pl.datamodules.sources.domains import (
    SourceMap,
    check_given,
    open_sources,
)
from tandem_pl.errors import InputError
from tandem_pl.files import new_folder
from tandem_pl.machine import count_cores
from tandem_pl.text_tables import text_table

from .block_folder import MANIFEST, read_manifest, write_manifest, write_splits
from .byte_level_bpe import LEAST_TOKENS
from .byte_level_bpe import train_bpe as train_byte_level_bpe
from .corpus import Corpus, count_skipped
from .documents import SPLITS, TRAIN, TooLittleTextError, digest_texts, parts_of
from .near_duplicates import drop_near_duplicates
from .tokenization import HuggingFaceTokenizer, Tokenizer, load_tokenizer

FORMAT = 1
CHECKED_DOCUMENTS = 200  # decoded again, to see whether the tokenizer keeps all text


def prepare_corpus(
    out: str,
    domains: dict[str, str | list[str] | SourceMap] | None = None,
    dataset: str | SourceMap | None = None,
    domain_column: str = "domain",
    text_column: str = "text",
    target: dict[str, str | list[str] | SourceMap] | None = None,
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
    cluster: int | str | None = None,
    cluster_within: bool = False,
    smallest_cluster: int | None = None,
    embedder: str | None = None,
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
        text_column: column of the text, if a domain does not name its own.
        target: name -> source in the forms of `domains`, for a target of other data; null holds out
            some documents of every domain. With it the target split has these sources only, less a
            share `test_fraction` of each that becomes test data under its name, which may be a
            domain's or a new one. Training documents that repeat those of the target are dropped.
        tokenizer: `bytes` (the default), a folder written by `save_pretrained`, a `tokenizer.json`,
            or a name on the Hugging Face hub. Give this or `train_bpe`.
        train_bpe: train a byte-level BPE with so many tokens on the training documents, with
            the same amount of text from every domain that has so much.
        block_size: tokens in a sample.
        target_fraction: share of every domain's documents for the target split; not used with
            `target`.
        test_fraction: share for the test split.
        split_seed: decides which documents fall in which split.
        near_duplicate: share of a document's windows of 50 bytes found in another split from which
            it is dropped; null keeps near-duplicates. Exact duplicates are always dropped.
        encoding_errors: `raise` or `replace`, for text files that are not UTF-8.
        corrupt: `stop` or `skip`, for rows that cannot be read.
        workers: threads; null for one a core.
        overwrite: whether to replace a corpus in `out`, once the new one is complete.
        cluster: make domains of the documents by their content: a number of clusters, `auto`, or a
            folder that was prepared with clusters, for the same ones. `dataset` then needs no
            domain column, unless they are within given domains. `out` also gets `clusters.html`,
            `clusters.csv` and `clusters/`.
        cluster_within: whether to cluster each given domain by itself, into `web/TERMS`.
        smallest_cluster: documents below which a cluster is merged into the nearest; null for a
            twentieth of the mean size.
        embedder: what clusters are made of: null for hashed words and characters, the folder of a
            model2vec or sentence-transformers model, an `.npy` file with a row for each row of the
            sources in order (not those that `corrupt` skips, and not for a `dataset` whose given
            domains are kept), or `column:NAME` of the data.

    Returns:
        The manifest: `tokenizer`, `settings`, `sources`, `read_as`, `duplicates_dropped`,
        `near_duplicates_dropped`, `rows_skipped`, `rows_without_domain`, `block_size`,
        `vocab_size`, `fingerprint`, and under `splits` the `BlockWriter.counts` by split and
        domain. With a `target` also `target_sources` and `target_read_as`; with `cluster` also
        `clusters`, see `clusters.prepared.ClusteredText.summary`.

    Raises:
        InputError: options that do not go together, a source that cannot be read, a domain or split
            with too little text, an `out` that exists, or a full disk.
    """
    check_given(domains, dataset)
    check_fractions(target_fraction, test_fraction)
    check_at_least("block_size", block_size, 2)
    threads = workers or count_cores()
    check_at_least("workers", threads, 1)
    folder = Path(out).expanduser()
    _check_out(folder, out, overwrite)
    if tokenizer and train_bpe:
        raise InputError(
            f"give either tokenizer ({tokenizer!r}) or train_bpe ({train_bpe}), not both."
        )
    if train_bpe is not None:
        check_at_least("train_bpe", train_bpe, LEAST_TOKENS)
    if near_duplicate is not None and not 0 < near_duplicate <= 1:
        raise InputError(f"near_duplicate is {near_duplicate}; give a share up to 1, or null.")
    loaded = None if train_bpe else load_tokenizer(tokenizer or "bytes", hub=True)
    options = ClusterOptions.checked(
        cluster, cluster_within, embedder, smallest_cluster, split_seed
    )
    sources = open_given(options, domains, dataset, domain_column, encoding_errors, corrupt)
    digests = digest_texts(sources, text_column)
    target_sources = open_sources(target or {}, "target", encoding_errors, corrupt)
    target_digests = digest_texts(target_sources, text_column)
    new = new_folder(folder, overwrite, done=MANIFEST)
    with new as scratch, advise_merging(options):
        clustered, saved = None, scratch / "tokenizer"
        if options:
            clustered = ClusteredText(
                scratch, sources, target_sources, text_column, options, threads
            )
        while True:
            used = clustered.sources if clustered else sources
            corpus = Corpus(parts_of(used, target_sources), text_column, threads)
            try:
                small = clustered.small.train_only if clustered else None
                corpus.assign_splits(target_fraction, test_fraction, split_seed, small)
                duplicates = corpus.duplicates()
                skipped, examples = count_skipped(parts_of(sources, target_sources))
                read_as = {domain: source.summary() for domain, source in sources.items()}
                target_read_as = {name: source.summary() for name, source in target_sources.items()}
                near = {domain: dict.fromkeys(SPLITS, 0) for domain in corpus.codes}
                if near_duplicate is not None:
                    near = drop_near_duplicates(corpus, near_duplicate)
                encoder = _train_bpe(corpus, train_bpe, saved) if loaded is None else loaded
                splits = write_splits(scratch, corpus.documents(), encoder, block_size, threads)
                break
            except TooLittleTextError as error:
                if clustered is None or not clustered.settle(error.domains):
                    raise
                for split in SPLITS:  # files of clusters that are no more
                    rmtree(scratch / split, ignore_errors=True)
        if isinstance(loaded, HuggingFaceTokenizer):
            loaded.tokenizer.save_pretrained(str(saved))
        content = json.dumps([encoder.fingerprint, block_size, splits]).encode()
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "fingerprint": hashlib.blake2b(content, digest_size=16).hexdigest(),
            "tokenizer": {
                "name": tokenizer or (f"bpe-{train_bpe}" if train_bpe else "bytes"),
                "folder": "tokenizer" if saved.exists() else None,
                "lossless": _is_lossless(corpus, encoder),
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
            "read_as": read_as,
            "rows_without_domain": sources.skipped,
            "rows_skipped": skipped,
            "first_skipped": examples,
            "duplicates_dropped": duplicates,
            "near_duplicates_dropped": near,
            "block_size": block_size,
            "vocab_size": encoder.vocab_size,
            "splits": splits,
        }
        if target:
            manifest["settings"]["target"] = target
            manifest |= {"target_sources": target_digests, "target_read_as": target_read_as}
        if clustered and options:
            manifest["settings"] |= options.settings()
            manifest["clusters"] = clustered.summary(splits)
            clustered.write(corpus.codes, f"Clusters of {folder.name}")
        for opened, before in ((sources, digests), (target_sources, target_digests)):
            for domain, digest in digest_texts(opened, text_column).items():
                if digest != before[domain]:
                    raise InputError(
                        f"domain {domain!r} changed while it was read; leave its files alone and "
                        "start again."
                    )
        write_manifest(scratch, manifest)
    return read_manifest(folder)


def read_as_table(manifest: Mapping[str, Any]) -> str:
    """Return a table of what each domain's files were read as."""
    read_as = {**manifest["read_as"]}
    read_as |= {f"{d} (target)": kinds for d, kinds in manifest.get("target_read_as", {}).items()}
    rows = [
        [domain, row["read_as"], f"{row['files']:,}", f"{row['rows']:,}" if "rows" in row else ""]
        for domain, kinds in read_as.items()
        for row in kinds
    ]
    if manifest["rows_without_domain"]:
        count = manifest["rows_without_domain"]
        rows.append(["(none)", "left out: no domain", "", f"{count:,}"])
    return text_table(["domain", "read as", "files", "rows"], rows, left=2)


def _check_out(folder: Path, out: str, overwrite: bool) -> None:
    if folder.exists() and not overwrite:
        raise InputError(f"out={out!r} exists; give another folder, or --overwrite to replace it.")
    if folder.exists() and not (folder / MANIFEST).exists():
        raise InputError(
            f"out={out!r} exists and holds no prepared corpus, so overwrite leaves it alone; give "
            "another folder."
        )


def _train_bpe(corpus: Corpus, tokens: int | None, folder: Path) -> Tokenizer:
    assert tokens is not None
    train_byte_level_bpe(_bpe_texts(corpus), tokens, folder)
    return load_tokenizer(str(folder))


def _bpe_texts(corpus: Corpus) -> Iterator[str]:
    for domain, chosen in corpus.for_bpe.items():
        codes = corpus.codes[domain]
        wanted = (codes == TRAIN) & chosen
        if not wanted.any():
            wanted = codes == TRAIN
        texts, total = corpus.texts(domain, wanted), int(wanted.sum())
        yield from tqdm(texts, f"BPE from {domain}", total, unit=" documents", delay=1)


def _is_lossless(corpus: Corpus, tokenizer: Tokenizer) -> bool:
    # Whether decoding gives back some first documents of every domain.
    for domain in corpus.parts:
        texts = list(islice(corpus.texts(domain), CHECKED_DOCUMENTS // len(corpus.parts) + 1))
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            if tokenizer.decode(ids.tolist()) != text:
                return False
    return True
