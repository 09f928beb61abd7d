"""Cluster embeddings: k-means, the number of clusters, and the merging of small ones."""

import warnings
from collections.abc import Mapping

import numpy as np

from tandem_pl.errors import InputError

from .embedders import to_unit

STARTS = 10  # of which the best is taken
MOST_EXACT = 64  # clusters; with more, k-means takes mini-batches
BATCH = 4096  # documents in a mini-batch
TRIED = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 40, 48)
DOCUMENTS_EACH = 20  # a cluster of `auto` has as many on average, at least
FEW, FEW_EACH = 8, 10  # so few clusters may have fewer, so that a small corpus has several
MEASURED = 3000  # documents that `auto` clusters, to measure silhouettes
SPLITS = 3  # a cluster has as many different documents, one each to train, target and test
#: `auto` takes the largest number whose silhouette is this share of the best: the first if the best
#: is at most `VAGUE`, as real text's is, the second if it is at least `CLEAR`.
NEAR_VAGUE, NEAR_CLEAR = 0.6, 0.95
VAGUE, CLEAR = 0.45, 0.6


def fit_centres(vectors: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Return the centres of `number` clusters of vectors, of length 1, `[number, dimensions]`.

    On a sample, all documents are taken in each step, which finds better clusters than
    mini-batches do: in the text of `EnvironmentCorpus`, 0.75 and not 0.65 mutual information.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    if number <= MOST_EXACT:
        kmeans = KMeans(number, n_init=STARTS, random_state=seed)
    else:
        kmeans = MiniBatchKMeans(number, n_init=STARTS, batch_size=BATCH, random_state=seed)
    with warnings.catch_warnings():
        # of fewer different vectors than clusters; those that get none are merged later
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans.fit(to_unit(vectors))
    return to_unit(kmeans.cluster_centers_.astype(np.float32))


def choose_number(vectors: np.ndarray, seed: int, most: int | None = None) -> int:
    """Return the number of clusters by the mean silhouette of a sample (Rousseeuw 1987).

    Args:
        vectors: embeddings of a sample, in random order.
        seed: decides the start of each clustering.
        most: the largest number; None for one cluster in `DOCUMENTS_EACH` vectors, or up to `FEW`
            clusters for one in `FEW_EACH`.
    """
    from sklearn.metrics import silhouette_score

    most = most or max(2, len(vectors) // DOCUMENTS_EACH, min(FEW, len(vectors) // FEW_EACH))
    measured = to_unit(vectors[:MEASURED])
    scores: dict[int, float] = {}
    for number in (n for n in TRIED if n <= most and n < len(measured)):
        labels = nearest(measured, fit_centres(measured, number, seed))
        few = not 1 < len(np.unique(labels)) < len(measured)
        scores[number] = -1.0 if few else float(silhouette_score(measured, labels))
    return largest_near_best(scores)


def largest_near_best(scores: Mapping[int, float]) -> int:
    """Return the largest number of clusters whose silhouette is near the best; 2 if none is > 0.

    If groups stand apart, near is 95 % of the best, and down to 60 % if they do not: the silhouette
    of text hardly depends on the number, or is largest where only the most unlike kinds are apart.
    If a kind of text is divided among domains, a mixture loses little; if unlike kinds are in one
    domain, it loses all that it could gain.

    >>> largest_near_best({2: 0.75, 3: 0.9, 4: 0.72})
    3
    >>> largest_near_best({2: 0.31, 4: 0.41, 7: 0.28, 12: 0.20, 20: 0.25})
    20
    """
    best = max(scores.values(), default=0.0)
    share = np.interp(best, [VAGUE, CLEAR], [NEAR_VAGUE, NEAR_CLEAR])
    near = [number for number, score in scores.items() if score >= share * best > 0]
    return max(near, default=2)


def nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the number of the centre with the largest cosine to each vector, `[documents]`."""
    return np.argmax(vectors @ centres.T, axis=1)


def smallest_size(documents: int, number: int) -> int:
    """Return the size below which a cluster is merged, if the user gives none.

    A twentieth of the mean size, but at least 10 documents; of few documents a quarter of the mean,
    but at least 3, as many as there are splits.

    >>> [smallest_size(size, 4) for size in (80_000, 1000, 80, 40, 8)]
    [1000, 12, 5, 3, 1]
    """
    mean = documents / number
    return int(max(mean / 20, min(10.0, mean / 2, max(mean / 4, 3.0)), 1))


def merging_remarks(
    cluster: int | str, made: int, left: int, smallest: int, unit: str
) -> list[str]:
    """Return a sentence if fewer clusters are left than the number that a user gives.

    Args:
        cluster: the option; "auto" asks for no number.
        made: clusters before small ones were merged.
        left: clusters after that.
        smallest: documents that a cluster must have.
        unit: what is clustered.
    """
    if not isinstance(cluster, int) or left == made:
        return []
    few = f"{SPLITS} different {unit}"
    if smallest > SPLITS:
        few = f"{smallest} {unit} or {SPLITS} different ones"
    merged = f"{made - left} with fewer than {few} {'was' if made - left == 1 else 'were'} merged"
    return [f"{made} clusters were asked for; {merged} into the nearest"]


def merge_small(
    centres: np.ndarray,
    sizes: np.ndarray,
    smallest: int,
    different: np.ndarray | None = None,
    least: int = 2,
) -> np.ndarray:
    """Merge clusters below a size into the nearest, the smallest first.

    Args:
        centres: of length 1, shape `[clusters, dimensions]`.
        sizes: documents of each.
        smallest: documents that a cluster must have.
        different: different documents of each, of which it must have `SPLITS`; None if none repeat.
        least: clusters that must be left.

    Returns:
        The number of each cluster's group, `[clusters]`, numbered from 0 without gaps.

    Raises:
        InputError: fewer than `least` are left.
    """
    groups = np.arange(len(centres))
    counts = sizes.astype(np.int64)
    kinds = np.full(len(centres), SPLITS) if different is None else different.astype(np.int64)
    sums = centres * counts[:, None].astype(np.float64)
    left = set(range(len(centres)))
    while len(left) > 1:
        small = [g for g in left if counts[g] < max(smallest, 1) or kinds[g] < SPLITS]
        if not small:
            break
        one = min(small, key=lambda g: (counts[g], g))
        left.remove(one)
        others = sorted(left)
        means = to_unit(np.where(counts[others, None] > 0, sums[others], centres[others]))
        mean = sums[one] if counts[one] else centres[one]
        into = others[int(np.argmax(means @ mean))]
        groups[groups == one] = into
        counts[into] += counts[one]
        kinds[into] += kinds[one]
        sums[into] += sums[one]
    if len(left) < min(least, len(centres)):
        fewest = 1 if different is None else SPLITS
        helps = smallest > fewest and (sizes >= fewest).sum() > 1
        smaller = "a smaller smallest_cluster, " if helps else ""
        raise InputError(
            "all clusters are merged into one, since fewer than two have "
            f"{max(smallest, fewest)} documents, {SPLITS} of them different (their sizes: "
            f"{', '.join(map(str, sorted(sizes.tolist())[::-1][:10]))}); give "
            f"{smaller}another cluster or more documents."
        )
    return np.searchsorted(sorted(left), groups)
