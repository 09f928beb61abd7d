"""Options of clusters that do not go together, or that are given in another form."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from cluster_texts import PREPARE, documents, write_lines

from tandem_pl.datamodules.clusters.options import ClusterOptions
from tandem_pl.datamodules.text.prepare import prepare_corpus
from tandem_pl.errors import InputError

PAIRS = documents()
pytestmark = pytest.mark.usefixtures("few_features")


def test_a_file_of_embeddings_is_refused_for_a_dataset_whose_domains_are_kept(tmp_path):
    """Its rows are read by domain, so that documents would get those of others."""
    texts = [text for _, text in PAIRS]
    path = write_lines(tmp_path / "docs.jsonl", texts, domain=["web", "books"] * 90)
    options = {**PREPARE, "dataset": path, "embedder": str(tmp_path / "e.npy")}
    np.save(options["embedder"], np.ones((180, 2)))
    match = "does not go with a dataset whose domains are kept"
    with pytest.raises(InputError, match=match):
        prepare_corpus(str(tmp_path / "o"), cluster=3, cluster_within=True, **options)
    within = {**PREPARE, "dataset": path, "cluster": 2, "cluster_within": True}
    prepare_corpus(str(tmp_path / "within"), **within)
    with pytest.raises(InputError, match=match):
        prepare_corpus(str(tmp_path / "o"), cluster=str(tmp_path / "within"), **options)
    path = write_lines(tmp_path / "plain.jsonl", texts)
    with pytest.raises(InputError, match=r"as domain_column, or give other clusters\.$"):
        prepare_corpus(
            str(tmp_path / "o"), dataset=path, cluster=str(tmp_path / "within"), **PREPARE
        )


def test_numbers_may_be_texts_of_digits():
    options = ClusterOptions.checked("3", False, None, "5", 0)
    assert (options.cluster, options.smallest) == (3, 5)


def test_auto_needs_documents_for_two_clusters(tmp_path):
    path = write_lines(tmp_path / "docs.jsonl", [text for _, text in PAIRS[:5]])
    with pytest.raises(InputError, match="least 6 different documents, not 5; give more documents"):
        prepare_corpus(str(tmp_path / "o"), dataset=path, cluster="auto", **PREPARE)
