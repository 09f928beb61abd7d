import warnings

import pytest

pytest.importorskip("sklearn")

from sklearn.metrics import normalized_mutual_info_score

from tandem_pl.datamodules import EnvironmentCorpus
from tandem_pl.datamodules.clusters.grouping import fit_centres, nearest
from tandem_pl.datamodules.clusters.hashed import HashedEmbedder, excerpt
from tandem_pl.datamodules.demo.installed_text import DOMAINS


def test_the_kinds_of_installed_text_are_found_without_labels():
    data = EnvironmentCorpus(train_bytes=dict.fromkeys(DOMAINS, 40_000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few licences
        documents, _ = data.documents()
    texts = [excerpt(text) for some, _ in documents.values() for text in some]
    kinds = [kind for kind, (some, _) in documents.items() for _ in some]
    embedder = HashedEmbedder()
    embedder.fit(texts, 0)
    vectors = embedder.embed(texts)
    found = nearest(vectors, fit_centres(vectors, 7, 0))
    assert normalized_mutual_info_score(kinds, found) >= 0.6
