"""Text of your own as a mixture: one source a domain, or one data set with a domain column."""

from functools import partial
from typing import Any, Literal

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
from tandem_pl.machine import count_cores

from .block_folder import Documents
from .cached import CachedTextDataModule
from .corpus import Corpus
from .documents import digest_texts, parts_of, read_text_rows


class TextMixtureDataModule(CachedTextDataModule):
    """Blocks of tokens from your own text, split by document into train, target and test.

    A sample is `{"input_ids": LongTensor[block_size]}`. A document falls in one split whole, the
    same one whenever the documents, fractions and `split_seed` are the same; texts met twice are
    dropped, in and across domains (the first domain keeps them).

    Args:
        domains: domain -> a path, folder, glob pattern or list of these: plain text (every file a
            document), `.jsonl`, `.parquet` or `.csv`; or a map with `path` or `dataset`, and
            `column`, see `sources.domains.open_source`. Give this or `dataset`.
        dataset: folder of a data set written by `Dataset.save_to_disk`, JSON lines, Parquet or CSV,
            or a name on the Hugging Face hub, with a domain column; or a map with `dataset`,
            `config` and `split`.
        domain_column: column of `dataset` that names a document's domain.
        text_column: column of `dataset`, JSON lines, Parquet and CSV files that holds the text.
        target: name -> source in the same forms, for a target of other data; by default some
            documents of every domain are held out as the target. With it the target split has these
            sources only, less a share `test_fraction` of each that becomes test data under its
            name. The name may be that of a domain or a new one. Training documents that repeat
            those of the target are dropped.
        target_fraction: share of every domain's documents for the target split; not used with
            `target`.
        test_fraction: share for the test split.
        split_seed: decides which documents fall in which split; `seed` only orders the batches, so
            runs of several seeds share one split and one cache.
        encoding_errors: `"raise"` or `"replace"`, for text files that are not UTF-8.
        corrupt: `"stop"` or `"skip"`, for rows that cannot be read; skipped ones are counted in a
            warning.
        cluster: a number of clusters that become the domains, `auto`, or a folder with clusters,
            see `prepare_corpus`; `dataset` then needs no domain column.
        cluster_within: whether to cluster each given domain by itself.
        smallest_cluster: documents below which a cluster is merged into the nearest.
        embedder: what clusters are made of.
        packing: tokenizer, block_size, cache_dir and the options of batches, see
            `CachedTextDataModule`.

    Raises:
        InputError: neither or both of `domains` and `dataset`, a bad fraction, and, when the cache
            is built, a source that cannot be read or has too few documents.

    Example:
        >>> data = TextMixtureDataModule({"books": "books/*.txt", "code": ["src", "lib"]})
        >>> data.vocab_size
        257
    """

    def __init__(
        self,
        domains: dict[str, str | list[str] | SourceMap] | None = None,
        dataset: str | SourceMap | None = None,
        domain_column: str = "domain",
        text_column: str = "text",
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
        **packing: Any,
    ) -> None:
        super().__init__(**packing)
        check_given(domains, dataset)
        check_fractions(target_fraction, test_fraction)
        self._clusters = ClusterOptions.checked(
            cluster, cluster_within, embedder, smallest_cluster, split_seed
        )
        self.small_clusters = SmallClusters(self._clusters, bool(target))
        self._open = partial(
            open_given,
            self._clusters,
            domains,
            dataset,
            domain_column,
            encoding_errors,
            corrupt,
        )
        self._open_target = partial(open_sources, target or {}, "target", encoding_errors, corrupt)
        self._split = (target_fraction, test_fraction, split_seed)
        self._text_column = text_column
        self._settings = {
            "domain_column": domain_column if dataset else None,
            "text_column": text_column,
            "target_fraction": target_fraction,
            "test_fraction": test_fraction,
            "split_seed": split_seed,
            "encoding_errors": encoding_errors,
            "corrupt": corrupt,
        }

    def prepare_data(self) -> None:
        """Build the cache if it is not there yet."""
        sources, target = self._open(), self._open_target()
        settings = {**self._content(sources), **self._settings}
        if target:
            settings["target"] = list(target)
            settings |= {f"target_{key}": value for key, value in self._content(target).items()}
        if self._clusters:
            settings["clusters"] = self._clusters.identity()
        with advise_merging(self._clusters):
            self.small_clusters.build(
                lambda: self.build_once(
                    settings, lambda: self._split_documents(sources, target, settings)
                )
            )

    def _content(self, sources: dict[str, Source]) -> dict[str, Any]:
        return {
            "sources": digest_texts(sources, self._text_column),
            "columns": {domain: source.column for domain, source in sources.items()},
        }

    def _split_documents(
        self, sources: Sources, target: Sources, settings: dict[str, Any]
    ) -> tuple[Documents, dict[str, int]]:
        if self._clusters:
            read = partial(read_text_rows, text_column=self._text_column)
            sources, self.cluster_summary = cached_clusters(
                self.cache_dir, settings, sources, target, read, self._clusters, self.small_clusters
            )
        parts = parts_of(sources, target)
        corpus = Corpus(parts, self._text_column, count_cores())
        corpus.assign_splits(*self._split, self.small_clusters.train_only)
        for part, source in parts.items():
            source.warn_of_skipped(part.domain)
        return corpus.documents(), corpus.duplicates()
