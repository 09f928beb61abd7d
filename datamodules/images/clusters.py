"""Cluster the training images of a domain into domains."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tandem_pl.datamodules.clusters.build import SAMPLE
from tandem_pl.datamodules.clusters.embedders import to_unit
from tandem_pl.datamodules.clusters.grouping import (
    choose_number,
    fit_centres,
    merge_small,
    merging_remarks,
    nearest,
    smallest_size,
)
from tandem_pl.datamodules.clusters.naming import name_clusters
from tandem_pl.datamodules.clusters.options import RULE, ClusterOptions
from tandem_pl.datamodules.clusters.page import render_page
from tandem_pl.datamodules.clusters.targets import Target, target_remarks
from tandem_pl.errors import InputError
from tandem_pl.files import csv_bytes, write_atomically
from tandem_pl.run_files import LISTING, PAGE

from .batches import ImageSet
from .features import embed_images

SHEET = 20  # images of a cluster on the page
COLUMNS = 10
COLUMNS_OF_LISTING = ("document", "given_domain", "domain", "similarity")
SIDE = 64  # pixels of each


def cluster_images(
    sets: Mapping[str, ImageSet],
    target_sets: Mapping[str, ImageSet],
    classes: Sequence[str],
    options: ClusterOptions,
    threads: int,
    cache_dir: Path,
) -> tuple[dict[str, ImageSet], dict[str, dict[str, float]], str]:
    """Return the clusters of each domain's images as domains, the largest of a domain first.

    Each domain is clustered by itself, since sources such as real and generated images are worth
    telling apart; names begin with the domain if there are several, and one of several domains that
    cannot be divided stays one. A page with a sheet of images of each cluster, and a listing of all
    images, are written to a folder in `cache_dir`, and a warning names the page.

    Args:
        sets: domain -> training images.
        target_sets: target domain -> images, which stay as they are.
        classes: names of the classes; those that a cluster has most of are its name.
        options: how to cluster.
        threads: how many decode images.
        cache_dir: folder of features and pages.

    Returns:
        The domains; target domain -> the share of its images that each is nearest to; and the
        folder of the page and the listing, as an absolute path.

    Raises:
        InputError: fewer images than clusters, or a network that cannot be loaded.
    """
    from threadpoolctl import threadpool_limits

    found: dict[str, ImageSet] = {}
    rows: list[dict[str, Any]] = []
    lines: list[tuple[str, ...]] = []  # of the listing
    parts: list[np.ndarray] = []  # centres of each domain's clusters
    similar: list[np.ndarray] = []  # of each image to its centre
    made = limit = 0  # clusters before small ones are merged, and the images that one must have
    for domain, data in sets.items():
        vectors = embed_images(data, options.embedder, threads, cache_dir)
        with threadpool_limits(1):
            number, smallest, labels, centres = _cluster(vectors, options, domain, len(sets) == 1)
        made, limit = made + number, max(limit, smallest)
        terms = _telling_classes(data.labels, labels, classes)
        names = name_clusters(terms, [f"{domain}/" if len(sets) > 1 else ""] * len(terms))
        names = names if len(names) > 1 else [domain]
        names = [f"{domain}/{name}" if name in found else name for name in names]
        parts.append(to_unit(centres))
        similar.append(np.einsum("nd,nd->n", vectors, parts[-1][labels]))
        lines += _list_images(domain, data, [names[label] for label in labels], similar[-1])
        cosines = parts[-1] @ parts[-1].T
        for cluster, name in enumerate(names):
            numbers = np.flatnonzero(labels == cluster)
            found[name] = replace(data, rows=data.rows[numbers], labels=data.labels[numbers])
            near = [int(i) for i in np.argsort(-cosines[cluster], kind="stable") if i != cluster]
            best = numbers[np.argsort(-(vectors[numbers] @ centres[cluster]), kind="stable")]
            rows.append(
                {
                    "name": name,
                    "documents": len(numbers),
                    "terms": terms[cluster],
                    "neighbours": [(names[i], float(cosines[cluster, i])) for i in near[:3]],
                    "sheet": _sheet(data, best[:SHEET]),
                }
            )
    targets = {
        name: _locate(
            embed_images(data, options.embedder, threads, cache_dir),
            np.concatenate(parts),
            float(np.quantile(np.concatenate(similar), 0.05)),
        )
        for name, data in target_sets.items()
    }
    merged = merging_remarks(options.cluster, made, len(found), limit, "images")
    for name, target in targets.items():
        nearest_names = [list(found)[cluster] for cluster in target.clusters]
        lines += _list_images(name, target_sets[name], nearest_names)
    folder = _cluster_folder(found, target_sets, options, cache_dir)
    if not (folder / PAGE).exists():
        write_atomically(folder / LISTING, csv_bytes(COLUMNS_OF_LISTING, lines))
        _write_page(folder / PAGE, rows, targets, options, merged)
    shares = {name: target.shares(list(found)) for name, target in targets.items()}
    return found, shares, os.path.abspath(folder)


def _list_images(
    given: str, data: ImageSet, names: Sequence[str], similarity: np.ndarray | None = None
) -> list[tuple[str, ...]]:
    """Return a line of the listing for each image; similarities of target images are left out."""
    similar = [""] * len(data) if similarity is None else [f"{some:.3f}" for some in similarity]
    places = [data.source.place(int(row)) for row in data.rows]
    return [(place, given, *pair) for place, *pair in zip(places, names, similar, strict=True)]


def _locate(vectors: np.ndarray, centres: np.ndarray, usual: float) -> Target:
    """Return how close target images are to each cluster, of any domain."""
    cosines = vectors @ centres.T
    median = float(np.median(cosines.max(axis=1)))
    return Target([], cosines.argmax(axis=1), median, cosines.mean(axis=0), round(usual, 4))


def _cluster(
    vectors: np.ndarray, options: ClusterOptions, domain: str, alone: bool
) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Return the cluster of each image, numbered by size, and the mean of each cluster.

    Before these, the number of clusters before small ones are merged, and the images that one must
    have. There may be a single one, unless the domain is `alone`.
    """
    drawn = np.random.default_rng(options.seed).permutation(len(vectors))[:SAMPLE]
    sample = vectors[drawn]
    number = options.cluster
    if not isinstance(number, int):
        few = len(sample) + 1 if alone else 1
        number = choose_number(sample, options.seed) if len(sample) > 3 else few
    if len(sample) < number:
        raise InputError(
            f"cluster={options.cluster} needs more images than the {len(sample)} of domain "
            f"{domain!r}; give fewer clusters, or leave the domain out."
        )
    centres = fit_centres(sample, number, options.seed)
    labels = nearest(vectors, centres)
    sizes = np.bincount(labels, minlength=number)
    smallest = options.smallest or smallest_size(len(vectors), number)
    labels = merge_small(centres, sizes, smallest, least=2 if alone else 1)[labels]
    order = np.argsort(-np.bincount(labels), kind="stable")
    labels = np.argsort(order)[labels]
    means = np.stack([vectors[labels == c].mean(axis=0) for c in range(len(order))])
    return number, smallest, labels, means


def _telling_classes(
    classes: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> list[list[str]]:
    """Return the classes that each cluster has more of than the others, the most telling first."""
    every = np.bincount(classes, minlength=len(names))
    terms = []
    for cluster in range(int(labels.max()) + 1):
        inside = np.bincount(classes[labels == cluster], minlength=len(names))
        p = (inside + 0.5) / (inside.sum() + 1)
        q = (every - inside + 0.5) / (every.sum() - inside.sum() + 1)
        score = np.where((inside > 0) & (p > 2 * q), p * np.log(p / q), 0)
        order = np.argsort(-score, kind="stable")
        terms.append([str(names[i]) for i in order if score[i] > 0])
    return terms


def _sheet(data: ImageSet, numbers: np.ndarray) -> str:
    """Return a PNG with some images, in base64."""
    height = -(-len(numbers) // COLUMNS) * SIDE
    sheet = Image.new("RGB", (COLUMNS * SIDE, height), "white")
    for place, number in enumerate(numbers.tolist()):
        image = data.image(number).convert("RGB").resize((SIDE - 2, SIDE - 2))
        sheet.paste(image, (place % COLUMNS * SIDE, place // COLUMNS * SIDE))
    file = io.BytesIO()
    sheet.save(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


def _cluster_folder(
    sets: Mapping[str, ImageSet],
    target_sets: Mapping[str, ImageSet],
    options: ClusterOptions,
    caches: Path,
) -> Path:
    digest = hashlib.blake2b(f"{RULE} {options}".encode(), digest_size=8)
    for name, data in [*sets.items(), *target_sets.items()]:
        digest.update(f"{name} {data.source.digest()}".encode())
        digest.update(np.ascontiguousarray(data.rows).data)
    return caches / "images" / f"clusters-{digest.hexdigest()}"


def _write_page(
    path: Path,
    rows: list[dict[str, Any]],
    targets: Mapping[str, Target],
    options: ClusterOptions,
    merged: Sequence[str],
) -> None:
    names = [row["name"] for row in rows]
    summaries = {name: target.summary(names) for name, target in targets.items()}
    remarks = target_remarks(summaries, "images")
    for number, row in enumerate(rows):
        row["targets"] = [
            (summaries[name]["shares"][row["name"]], target.closeness[number])
            for name, target in targets.items()
        ]
    total = sum(row["documents"] for row in rows)
    facts = (
        f"{total:,} images in {len(rows)} clusters; embedder: {options.embedder or 'histogram'}."
    )
    page = render_page("Clusters of images", facts, rows, "images", list(targets), remarks)
    write_atomically(path, page)
    warnings.warn(
        f"{total:,} images were clustered into {len(rows)} domains; see "
        f"{path}{''.join(f'; {some}' for some in merged)}.",
        stacklevel=2,
    )
    for remark in remarks:
        warnings.warn(f"{remark}.", stacklevel=2)
