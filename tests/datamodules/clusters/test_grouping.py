import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

from tandem_pl.datamodules.clusters.embedders import to_unit
from tandem_pl.datamodules.clusters.grouping import (
    choose_number,
    fit_centres,
    largest_near_best,
    merge_small,
    merging_remarks,
    nearest,
    smallest_size,
)
from tandem_pl.errors import InputError


def blobs(number, each=60, noise=0.05):
    draw = np.random.default_rng(0)
    centres = np.eye(number, dtype=np.float32)
    labels = draw.permutation(np.repeat(np.arange(number), each))
    return to_unit(centres[labels] + noise * draw.normal(size=(len(labels), number))), labels


@pytest.mark.parametrize("exact", [64, 1])
def test_separate_groups_are_found(exact, monkeypatch):
    monkeypatch.setattr("tandem_pl.datamodules.clusters.grouping.MOST_EXACT", exact)
    vectors, labels = blobs(5)
    found = nearest(vectors, fit_centres(vectors, 5, seed=0))
    assert len(set(zip(found, labels, strict=True))) == 5


@pytest.mark.parametrize("number", [2, 4, 6])
def test_auto_finds_the_number_of_separate_groups(number):
    assert choose_number(blobs(number)[0], seed=0) == number


def test_auto_finds_several_groups_of_few_documents():
    assert choose_number(blobs(7, each=12)[0], seed=0) == 7


def test_auto_takes_the_largest_number_near_the_best():
    """The first are silhouettes of the demo corpus `distractors`: 4 clusters merge three kinds."""
    vague = {2: 0.308, 4: 0.408, 8: 0.262, 12: 0.197, 16: 0.242, 20: 0.252, 24: 0.24}
    assert largest_near_best(vague) == 20
    between = {2: 0.38, 3: 0.49, 4: 0.514, 5: 0.46, 6: 0.45, 7: 0.42, 8: 0.324}  # 0.75 counts
    assert largest_near_best(between) == 7
    assert largest_near_best({2: 0.7, 3: 0.66, 4: 0.668, 5: 0.6}) == 4  # 0.95 of the best counts
    assert largest_near_best({2: -0.1, 3: -1.0}) == largest_near_best({}) == 2


def test_a_small_cluster_is_merged_into_the_nearest():
    angles = np.radians([0, 10, 90, 180])
    centres = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert merge_small(centres, np.array([50, 3, 40, 60]), 10).tolist() == [0, 0, 1, 2]
    # the merged group of 0 and 10 degrees still is below 60, and 90 degrees is nearer than 180
    assert merge_small(centres, np.array([50, 3, 80, 60]), 60).tolist() == [0, 0, 0, 1]
    assert merge_small(centres, np.array([5, 5, 5, 0]), 1).tolist() == [0, 1, 2, 2]
    with pytest.raises(InputError, match="smallest_cluster"):
        merge_small(centres, np.array([5, 5, 5, 5]), 100)
    assert merge_small(centres, np.array([5, 5, 5, 5]), 100, least=1).tolist() == [0, 0, 0, 0]


def test_a_cluster_of_repeats_is_merged_into_the_nearest():
    """It cannot have a document in each split."""
    angles = np.radians([0, 10, 90, 180])
    centres = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    sizes, different = np.array([50, 90, 40, 60]), np.array([50, 2, 3, 60])
    assert merge_small(centres, sizes, 10, different).tolist() == [0, 0, 1, 2]


def test_the_default_size_leaves_clusters_of_equal_size_alone():
    for documents, number in ((4, 2), (40, 4), (1000, 7), (10**6, 1000)):
        assert 1 <= smallest_size(documents, number) <= documents / number


def test_identical_vectors_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_centres(np.ones((20, 2), np.float32), 3, seed=0).shape == (3, 2)


def test_fewer_clusters_than_were_asked_for_are_said():
    assert merging_remarks("auto", 30, 20, 12, "documents") == []
    assert merging_remarks(30, 30, 30, 12, "documents") == []
    (some,) = merging_remarks(30, 30, 20, 12, "documents")
    assert some == (
        "30 clusters were asked for; 10 with fewer than 12 documents or 3 different ones were "
        "merged into the nearest"
    )
    (one,) = merging_remarks(30, 30, 29, 1, "documents")
    assert "1 with fewer than 3 different documents was merged" in one


def test_a_smaller_smallest_cluster_is_advised_only_if_it_can_help():
    with pytest.raises(InputError, match=r"\); give another cluster or more documents"):
        merge_small(np.eye(2), np.array([9, 2]), 8, np.array([9, 2]))
    with pytest.raises(InputError, match="give a smaller smallest_cluster, another"):
        merge_small(np.eye(2), np.array([9, 3]), 4, np.array([9, 3]))
