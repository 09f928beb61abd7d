"""`HashedEmbedder`: hashed words and character n-grams, TF-IDF and a truncated SVD; no download."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tandem_pl.errors import InputError

CHARACTERS = 2000  # of a document that are embedded: `PIECES` of equal length
PIECES = 8
BITS = 16  # 2^16 features of words and marks, and as many of character 3-grams
DIMENSIONS = 32
#: Words, runs of marks, and the indentation of lines, which tells code and prose apart.
TOKENS = r"\w+|[^\w\s]+|\n[ \t]*"
SVD_ITERATIONS = 5
AT_ONCE = 512  # documents whose 3-grams are in memory together
MULTIPLIERS = np.array(  # of hashes; odd, and without a pattern
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xFF51AFD7ED558CCD], np.uint64
)


def excerpt(text: str, characters: int = CHARACTERS, pieces: int = PIECES) -> str:
    r"""Return pieces from the whole length of a text, since many begin with the same header.

    Example:
        >>> excerpt("aaabbbcccddd", 4, 2)
        'aa\ndd'
    """
    if len(text) <= characters:
        return text
    size = characters // pieces
    starts = [i * (len(text) - size) // (pieces - 1) for i in range(pieces)]
    return "\n".join(text[start : start + size] for start in starts)


class HashedEmbedder:
    """Latent semantic analysis of hashed features.

    An embedding is the document's TF-IDF vector of length 1, projected on the main directions of a
    sample of documents. Its length, at most 1, is the part that the sample explains: that of a text
    in an unknown script is near 0.
    """

    name = "hashed"

    def __init__(self) -> None:
        self.inverse_frequency = np.empty(0, np.float32)
        self.directions = np.empty((0, 0), np.float32)

    def fit(self, texts: Sequence[str], seed: int) -> None:
        """Learn the frequencies of features and the main directions of a sample of excerpts.

        Raises:
            InputError: there are too few documents for any direction.
        """
        from sklearn.utils.extmath import randomized_svd

        if len(texts) < 2:
            raise InputError(f"cluster needs at least 2 different documents, not {len(texts)}.")
        counts = _count_features(texts)
        documents = np.bincount(counts.indices, minlength=counts.shape[1])
        frequency = np.log((1 + len(texts)) / (1 + documents)) + 1
        self.inverse_frequency = frequency.astype(np.float32)
        size = min(DIMENSIONS, len(texts) - 1)
        _, _, directions = randomized_svd(
            self._weigh(counts), size, n_iter=SVD_ITERATIONS, random_state=seed
        )
        self.directions = np.ascontiguousarray(directions, np.float32)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return embeddings of excerpts, float32 of shape `[documents, dimensions]`."""
        return np.asarray(self._weigh(_count_features(texts)) @ self.directions.T, np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """Return what `load_state` needs."""
        return {"inverse_frequency": self.inverse_frequency, "directions": self.directions}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `fit` learned."""
        self.inverse_frequency, self.directions = state["inverse_frequency"], state["directions"]

    def _weigh(self, counts: Any) -> Any:
        from sklearn.preprocessing import normalize

        counts = counts.copy()
        counts.data = (1 + np.log(counts.data)) * self.inverse_frequency[counts.indices]
        return normalize(counts, copy=False)


def _count_features(texts: Sequence[str]) -> Any:
    """Return counts of hashed words and of character 3-grams, sparse `[documents, features]`."""
    from scipy import sparse
    from sklearn.feature_extraction.text import HashingVectorizer

    words = HashingVectorizer(
        n_features=1 << BITS,
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
        token_pattern=TOKENS,
    )
    parts = [texts[i : i + AT_ONCE] for i in range(0, len(texts), AT_ONCE)]
    blocks = [sparse.hstack([words.transform(some), _count_trigrams(some)]) for some in parts]
    return sparse.vstack(blocks).tocsr()


def _count_trigrams(texts: Sequence[str]) -> Any:
    """Return counts of hashed character 3-grams, in lower case and with white space made one space.

    By NumPy, four times as fast as `HashingVectorizer` with the analyzer "char_wb".
    """
    from scipy import sparse

    spaced = [f" {' '.join(text.lower().split())} " for text in texts]
    ends = np.cumsum([len(text) for text in spaced])
    data = "".join(spaced).encode("utf-32-le", "surrogatepass")
    signs = np.frombuffer(data, "<u4").astype(np.uint64)
    hashes = signs[:-2] * MULTIPLIERS[0] + signs[1:-1] * MULTIPLIERS[1] + signs[2:] * MULTIPLIERS[2]
    features = ((hashes * MULTIPLIERS[3]) >> np.uint64(64 - BITS)).astype(np.int32)
    inside = np.ones(len(features), dtype=bool)
    inside[ends[:-1] - 2] = inside[ends[:-1] - 1] = False  # across two texts
    rows = np.concatenate([[0], np.cumsum([len(text) - 2 for text in spaced])])
    found = features[inside]
    counts = sparse.csr_matrix(
        (np.ones(len(found), np.float32), found, rows), shape=(len(texts), 1 << BITS)
    )
    counts.sum_duplicates()
    return counts
