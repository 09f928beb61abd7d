"""`clusters.html`: a page in one file with the size, terms, neighbours and examples of clusters."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tandem_pl.files import write_atomically

from .build import Clustering
from .embedders import to_unit
from .targets import Target, target_remarks

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
EXAMPLES = 5
NEIGHBOURS = 3
CHARACTERS = 250  # of an example: the first piece of an excerpt


def write_page(
    path: Path, clustering: Clustering, targets: Mapping[str, Target], title: str
) -> None:
    """Write the page.

    Args:
        path: the file.
        clustering: the clusters.
        targets: target name -> how close it is.
        title: of the page.
    """
    model = clustering.model
    summaries = {name: target.summary(model.names) for name, target in targets.items()}
    facts = (
        f"{len(clustering.clusters):,} documents in {len(clustering.sources)} clusters; "
        f"embedder: {model.embedder.name}."
    )
    rows = describe_clusters(clustering, targets)
    content = render_page(title, facts, rows, "documents", list(targets), target_remarks(summaries))
    write_atomically(path, content)


def render_page(
    title: str,
    facts: str,
    rows: Sequence[Mapping[str, Any]],
    unit: str,
    targets: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> bytes:
    """Return the page.

    Args:
        title: of the page.
        facts: a sentence below it.
        rows: of each cluster `name`, `documents`, `terms`, `neighbours`, and if there are some
            `given`, `examples`, `targets`, see `describe_clusters`, or `sheet`, a PNG in base64.
        unit: what is clustered.
        targets: names of target data.
        warnings: sentences.
    """
    most = max(row["documents"] for row in rows)
    total = sum(row["documents"] for row in rows)
    clusters = [
        {
            "given": [],
            "examples": [],
            "targets": [],
            "sheet": None,
            **row,
            "share": row["documents"] / total,
            "width": 100 * row["documents"] / most,
        }
        for row in sorted(rows, key=lambda row: -row["documents"])
    ]
    text = TEMPLATES.get_template("clusters.html.jinja").render(
        title=title, facts=facts, clusters=clusters, unit=unit, targets=targets, warnings=warnings
    )
    return text.encode()


def describe_clusters(
    clustering: Clustering, targets: Mapping[str, Target]
) -> list[dict[str, Any]]:
    """Return what the page says of each cluster that has documents.

    Keys: `name`, `documents`, `terms`, `given` (given domain and share), `neighbours`
    (name and cosine), `examples` (where and text), `targets` (for each target, its share of
    documents and the similarity).
    """
    model = clustering.model
    sizes = np.bincount(clustering.clusters, minlength=len(model.names))
    centres = to_unit(np.stack([model.centre_of(c) for c in range(len(model.names))]))
    cosines = centres @ centres.T
    given = _given(clustering)
    rows = []
    for cluster in np.flatnonzero(sizes).tolist():
        near = [
            i for i in np.argsort(-cosines[cluster], kind="stable") if i != cluster and sizes[i]
        ]
        rows.append(
            {
                "name": model.names[cluster],
                "documents": int(sizes[cluster]),
                "terms": model.terms[cluster],
                "given": given[cluster] if len(clustering.given_names) > 1 else [],
                "neighbours": [
                    (model.names[i], float(cosines[cluster, i])) for i in near[:NEIGHBOURS]
                ],
                "examples": _examples(clustering, cluster),
                "targets": [
                    (
                        target.shares(model.names).get(model.names[cluster], 0.0),
                        target.closeness[cluster],
                    )
                    for target in targets.values()
                ],
            }
        )
    return rows


def _given(clustering: Clustering) -> dict[int, Sequence[tuple[str, float]]]:
    """Return the given domains of each cluster's documents, the largest first, with shares."""
    names = clustering.given_names
    pairs = Counter(zip(clustering.clusters.tolist(), clustering.given.tolist(), strict=True))
    found: dict[int, list[tuple[str, int]]] = {}
    for (cluster, place), count in pairs.most_common():
        found.setdefault(cluster, []).append((names[place], count))
    totals = {cluster: sum(count for _, count in row) for cluster, row in found.items()}
    return {c: [(name, n / totals[c]) for name, n in row[:5]] for c, row in found.items()}


def _examples(clustering: Clustering, cluster: int) -> list[tuple[str, str]]:
    """Return the documents of the sample that are most similar to the cluster's centre."""
    found = [
        (float(similarity[i]), sample.where[i], sample.texts[i])
        for sample, clusters, similarity in clustering.samples
        for i in np.flatnonzero(clusters == cluster)
    ]
    found.sort(key=lambda item: (-item[0], item[2]))
    return [(where, text[:CHARACTERS].strip()) for _, where, text in found[:EXAMPLES]]
