"""Options of clusters, checked, and the sources that they cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tandem_pl.checks import AUTO, check_at_least, check_count
from tandem_pl.datamodules.sources.domains import (
    WITHOUT_DOMAINS,
    SourceSpec,
    check_given,
    open_domains,
    open_sources,
)
from tandem_pl.datamodules.sources.file_listing import walk_files
from tandem_pl.datamodules.sources.reading import digest_files
from tandem_pl.datamodules.sources.source import Sources
from tandem_pl.errors import InputError

from .embedders import COLUMN, is_file, open_embedder
from .model import ClusterModel, has_pools

RULE = 4  # raise it if the same documents and options give other clusters


class ClusterOptions(NamedTuple):
    """How documents are clustered; the fields are options of `prepare_corpus`."""

    cluster: int | str
    within: bool = False
    embedder: str | None = None
    smallest: int | None = None
    seed: int = 0

    def given_folder(self) -> str | None:
        """Return the folder of clusters that are taken as they are, if there is one."""
        given = isinstance(self.cluster, str) and self.cluster != AUTO
        return str(self.cluster) if given else None

    def keeps_domains(self) -> bool:
        """Return whether documents take clusters of their own given domain only."""
        folder = self.given_folder()
        return self.within if folder is None else has_pools(folder)

    def given_model(self) -> ClusterModel | None:
        """Return the clusters of the folder that is given, for other documents."""
        folder = self.given_folder()
        return ClusterModel.load(folder, self.embedder, new=True) if folder else None

    def settings(self) -> dict[str, Any]:
        """Return the options by the names that users give them."""
        return {
            "cluster": self.cluster,
            "cluster_within": self.within,
            "embedder": self.embedder,
            "smallest_cluster": self.smallest,
        }

    @classmethod
    def checked(
        cls,
        cluster: int | str | None,
        within: bool,
        embedder: str | None,
        smallest: int | None,
        seed: int,
        folders: bool = True,
    ) -> ClusterOptions | None:
        """Return the options; None if the user asks for no clusters.

        `folders` is whether `cluster` may name the folder of other clusters.

        Raises:
            InputError: values that cannot be used, or scikit-learn is not installed.
        """
        cluster, smallest = _whole(cluster), _whole(smallest)
        seed %= 2**32  # what scikit-learn takes
        options = cls(0 if cluster is None else cluster, within, embedder, smallest, seed)
        if cluster is None:
            for key, value in options.settings().items():
                if value:
                    raise InputError(f"{key}={value!r} is used only with cluster; give that too.")
            return None
        if isinstance(cluster, int):
            check_at_least("cluster", cluster, 2)
        elif cluster != AUTO and not folders:
            raise InputError(
                f"cluster={cluster!r} is neither a number nor auto; give one of these."
            )
        elif cluster != AUTO:
            options._check_folder(cluster)
        if smallest is not None:
            check_count("smallest_cluster", smallest)
        if not isinstance(embedder, str | None):
            raise InputError(f"embedder={embedder!r} is no text; give it in quotes.")
        try:
            import sklearn  # noqa: F401
        except ImportError as error:
            raise InputError(
                "cluster needs scikit-learn, which is not installed: pip install "
                "tandem_pl[cluster]."
            ) from error
        return options

    def _check_folder(self, folder: str) -> None:
        if not isinstance(folder, str) or not folder or not Path(folder).expanduser().is_dir():
            raise InputError(
                f"cluster={folder!r} is no number, not auto, and no folder that `tandem prepare "
                "--cluster` wrote; give one of these."
            )
        for key, value in (("cluster_within", self.within), ("smallest_cluster", self.smallest)):
            if value:
                raise InputError(
                    f"{key}={value!r} does not go with the clusters of a folder (cluster="
                    f"{folder!r}), which stay as they are; leave it out."
                )

    def identity(self) -> dict[str, Any]:
        """Return all that decides the clusters besides the documents, as JSON values."""
        found = {**self.settings(), "seed": self.seed, "rule": RULE}
        if model := self.given_model():
            found["cluster"] = model.fingerprint()
        if self.embedder and not self.embedder.startswith(COLUMN):
            path = Path(self.embedder).expanduser()
            if path.exists():
                files = sorted(walk_files(path)) if path.is_dir() else [path]
                found["embedder"] = digest_files(files)
            else:
                open_embedder(self.embedder)  # raises the error that says what is missing
        return found


def _whole(value: Any) -> Any:
    """Return the number that a text of digits stands for, and other values as they are."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def open_given(
    options: ClusterOptions | None,
    domains: Mapping[str, SourceSpec] | None,
    dataset: str | Mapping[str, Any] | None,
    domain_column: str,
    encoding_errors: str,
    corrupt: Literal["stop", "skip"],
) -> Sources:
    """Open the given domains; a data set that is clustered whole needs no domain column.

    Raises:
        InputError: what `open_domains` raises, or an `.npy` file for a data set whose domains are
            kept, since its rows are read by domain and not in their order.
    """
    check_given(domains, dataset)
    if options is None or not dataset:
        return open_domains(domains, dataset, domain_column, encoding_errors, corrupt)
    if options.keeps_domains():
        if is_file(options.embedder):
            raise InputError(
                f"embedder={options.embedder!r} does not go with a dataset whose domains are kept, "
                "since its rows are read by domain; put the embeddings into a column of the data "
                f"and give embedder={COLUMN}NAME."
            )
        try:
            return open_domains(domains, dataset, domain_column, encoding_errors, corrupt)
        except InputError as error:
            advice = "leave cluster_within out" if options.within else "give other clusters"
            raise InputError(str(error).replace(WITHOUT_DOMAINS, f", or {advice}")) from error
    spec = {"dataset": dataset} if isinstance(dataset, str) else dataset
    return open_sources({"documents": spec}, "dataset", encoding_errors, corrupt)
