"""Embedders that are not the default: a model in a folder, or embeddings computed elsewhere."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tandem_pl.datamodules.sources.file_listing import walk_files
from tandem_pl.errors import InputError

from .hashed import HashedEmbedder

COLUMN, FILE = "column:", ".npy"
HASHED, GIVEN, MODEL = "hashed words", "embeddings computed elsewhere", "a model in a folder"
MODEL2VEC, SENTENCES = "model2vec", "sentence-transformers"


class Embedder(Protocol):
    """Turns excerpts of documents into vectors."""

    name: str

    def fit(self, texts: Sequence[str], seed: int) -> None:
        """Learn what it needs from a sample."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 of shape `[documents, dimensions]`."""

    def state(self) -> dict[str, np.ndarray]:
        """Return what was learned."""

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what was learned."""


class FolderEmbedder:
    """A model2vec or sentence-transformers model in a folder.

    Raises:
        InputError: the folder is missing or cannot be loaded, or its library is not installed.
    """

    def __init__(self, folder: str) -> None:
        path = Path(folder).expanduser()
        self.folder = path.absolute()
        self.name = str(self.folder)
        kinds = _kinds_of(path)
        if not kinds:
            raise InputError(
                f"embedder={folder!r} is no folder of a model2vec or sentence-transformers model; "
                f"give one, an .npy file, or {COLUMN}NAME."
            )
        self._encode = _load(path, folder, kinds)

    def fit(self, texts: Sequence[str], seed: int) -> None:
        """Learn nothing: the model is given."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return embeddings of length 1, float32 of shape `[documents, dimensions]`.

        Raises:
            InputError: the model gives no finite vector for each text.
        """
        given = self._encode(list(texts))
        try:
            vectors = np.asarray(given, np.float32)
        except (TypeError, ValueError):  # lists of several lengths
            vectors = np.empty(0, np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise InputError(
                f"embedder={self.name!r}: the model in this folder does not give a vector of "
                f"finite numbers for each of {len(texts)} texts (the shape is {vectors.shape}); "
                "give another model."
            )
        return to_unit(vectors)

    def digest(self) -> str:
        """Return what changes with the files' content, but not with their folder."""
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(path for path in walk_files(self.folder) if path.is_file()):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "blake2b").hexdigest()
            digest.update(f"{path.relative_to(self.folder)}\0{content}\n".encode())
        return digest.hexdigest()

    def state(self) -> dict[str, np.ndarray]:
        """Return nothing."""
        return {}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore nothing."""


class GivenEmbeddings:
    """Embeddings computed elsewhere: in a column of the data, or an `.npy` with a row for each row.

    Args:
        spec: `column:NAME`, or the file.

    Raises:
        InputError: no column is named; the file is missing or is no array of numbers with two
            dimensions.
    """

    def __init__(self, spec: str) -> None:
        self.name = spec
        self.dimensions: int | None = None  # of the first embedding
        self.column = spec.removeprefix(COLUMN) if spec.startswith(COLUMN) else None
        self.array: np.ndarray | None = None
        if self.column == "":
            raise InputError(f"embedder={spec!r} names no column; give {COLUMN}NAME.")
        if self.column is None:
            try:
                array = np.load(Path(spec).expanduser(), mmap_mode="r", allow_pickle=False)
                if not isinstance(array, np.ndarray):
                    array.close()
                    raise ValueError("it is an .npz archive")
                self.array = array
            except (OSError, ValueError, EOFError) as error:
                raise InputError(
                    f"embedder={spec!r} cannot be read as an .npy file ({error})."
                ) from error
            if self.array.ndim != 2 or self.array.dtype.kind not in "fiu":
                raise InputError(
                    f"embedder={spec!r} holds {self.array.dtype} of shape {self.array.shape}; it "
                    "must hold numbers, of shape [rows, dimensions]."
                )

    def vector(self, row: Mapping[str, Any], number: int, where: str) -> np.ndarray:
        """Return the embedding of a row, of length 1.

        Args:
            row: the row, with the column.
            number: the row's number among all rows of all sources that are not skipped, for a
                file.
            where: what messages call the row.
        """
        if self.array is not None:
            if number >= len(self.array):
                raise InputError(
                    f"embedder={self.name!r} has {len(self.array)} rows, and the data have more: "
                    f"the first without one is {where}; give a row for each row of the data."
                )
            value: Any = self.array[number]
        else:
            value = row[str(self.column)]
        try:
            vector = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            vector = np.empty(0, np.float32)
        if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
            raise InputError(
                f"{where}: the embedding of {self.name!r} is no list of finite numbers; correct it."
            )
        self.dimensions = self.dimensions or len(vector)
        if len(vector) != self.dimensions:
            raise InputError(
                f"{where}: the embedding of {self.name!r} has {len(vector)} numbers and the first "
                f"one {self.dimensions}; give all rows embeddings of one model."
            )
        return to_unit(vector[None])[0]

    def for_others(self, what: str) -> "GivenEmbeddings":
        """Return itself, for other data than those that are clustered.

        Raises:
            InputError: the embeddings are in a file, which has no rows for them.
        """
        if self.column is None:
            raise InputError(
                f"embedder={self.name!r} has no rows for the {what}; put the embeddings into a "
                f"column of the data and give embedder={COLUMN}NAME."
            )
        return self

    def check_rows(self, rows: int, skipped: int = 0) -> None:
        """Raise an error if the file has more rows than the data without those skipped."""
        if self.array is not None and len(self.array) != rows:
            without = f" without the {skipped} skipped" if skipped else ""
            raise InputError(
                f"embedder={self.name!r} has {len(self.array)} rows and the data have {rows}"
                f"{without}; give a row for each of these, in the same order."
            )


def open_embedder(spec: str | None) -> Embedder | GivenEmbeddings:
    """Open the embedder that a user names.

    Args:
        spec: None for hashed features; a model's folder; an `.npy` file; or `column:NAME`.
    """
    if spec is None or kind_of(spec) == HASHED:
        return HashedEmbedder()
    return GivenEmbeddings(spec) if kind_of(spec) == GIVEN else FolderEmbedder(spec)


def kind_of(spec: str) -> str:
    """Return what an embedder that a user names makes vectors of, for messages.

    >>> kind_of("column:vector"), kind_of("models/static")
    ('embeddings computed elsewhere', 'a model in a folder')
    """
    if spec == HashedEmbedder.name:
        return HASHED
    return GIVEN if spec.startswith(COLUMN) or is_file(spec) else MODEL


def is_file(spec: str | None) -> bool:
    """Return whether an embedder is a file, whose rows belong to some documents alone."""
    return spec is not None and spec.endswith(FILE) and not spec.startswith(COLUMN)


def to_unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _kinds_of(path: Path) -> list[str]:
    """Return the libraries that read a folder, the one that wrote it first."""
    static = (path / "model.safetensors").exists()
    modules = path / "modules.json"
    if not modules.exists():
        return [MODEL2VEC] if static else []
    # model2vec writes modules.json too, so that sentence-transformers can read its models
    if static and "StaticEmbedding" in modules.read_text(encoding="utf-8", errors="replace"):
        return [MODEL2VEC, SENTENCES]
    return [SENTENCES]


def _load(path: Path, folder: str, kinds: Sequence[str]) -> Callable[[list[str]], Any]:
    missing: ImportError | None = None
    for kind in kinds:
        try:
            return _load_model2vec(path) if kind == MODEL2VEC else _load_sentences(path)
        except ImportError as error:
            missing = missing or error
        except Exception as error:  # whatever a library raises at a damaged file
            reason = " ".join(str(error).split())
            raise InputError(
                f"embedder={folder!r} cannot be loaded as a {kind} model ({reason}); save it again."
            ) from error
    raise InputError(
        f"embedder={folder!r} needs {kinds[0]}, which is not installed: pip install {kinds[0]}."
    ) from missing


def _load_model2vec(path: Path) -> Callable[[list[str]], Any]:
    from model2vec import StaticModel

    return StaticModel.from_pretrained(str(path)).encode


def _load_sentences(path: Path) -> Callable[[list[str]], Any]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(path), local_files_only=True)
    return lambda texts: model.encode(texts, show_progress_bar=False)
