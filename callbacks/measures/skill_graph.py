"""Skill-it's graph of skills, and the weights that follow from it (arXiv 2307.14430)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from tandem_pl.domain_names import check_domains, check_texts
from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.files import read_text
from tandem_pl.simplex import Array, exponentiated_step
from tandem_pl.yaml_files import read_yaml

LEARN = "learn"  # in place of a graph


def skill_it_weights(graph: Array, losses: Array, learning_rate: float) -> Array:
    """Return p_i proportional to exp(eta sum_t sum_j A_ij L_j(t)), over the window's evaluations t.

    The earlier weights have no influence beyond this window. With `losses` of ones it is the
    method's start, p proportional to exp(eta A 1).

    A is `graph` [M, M'], what training on domain i does for target domain j; L is `losses` [w, M']
    in nats, one evaluation a row; eta is `learning_rate` in nat^-1.

    Source: Chen et al. 2023, arXiv 2307.14430, and its code, which sums over the window too.

    >>> skill_it_weights(np.array([[0.5], [0.0]]), np.array([[2.0]]), 1.0).round(3).tolist()
    [0.731, 0.269]
    """
    even = np.full(len(graph), 1.0 / len(graph))
    return exponentiated_step(even, -(graph @ losses.sum(axis=0)), learning_rate)


def learned_graph(start: Array, ends: Array) -> Array:
    """Return A_ij = max(0, (L_j(start) - L_j(end of training on i)) / L_j(start)).

    `start` are losses [M'] before, `ends` [M, M'] after a short training on each domain alone. An
    entry is 0 if its losses are not finite or the start is not positive.

    >>> learned_graph(np.array([2.0]), np.array([[1.0], [3.0]])).tolist()
    [[0.5], [0.0]]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        graph = (start - ends) / start
    return np.where(np.isfinite(graph) & (start > 0), np.maximum(graph, 0.0), 0.0)


def damped_graph(graph: Array, domains: Sequence[str], targets: Sequence[str]) -> Array:
    """Replace entries of exactly 1 between different domains by 0.5, as the official code does.

    >>> damped_graph(np.ones((2, 2)), ["a", "b"], ["a", "b"]).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    same = np.array([[one == other for other in targets] for one in domains])
    return np.where((graph == 1.0) & ~same, 0.5, graph)


def read_graph(given: Any, domains: Sequence[str], targets: Sequence[str]) -> Array:
    """Return a user's graph as [M, M'].

    Args:
        given: rows of numbers in the order of the data; or a map domain -> target domain -> number;
            or the path of a YAML file with either, or of a CSV file with numbers alone, or with
            names too (a header of target domains, and the domain first in each row), or of a NumPy
            file of rows, as the authors publish. [M, M] rows whose columns are the training domains
            will do too if the targets are some of these; then only their columns count, as by the
            authors' target mask.
        domains: training domains, the rows.
        targets: target domains, the columns.

    Raises:
        InputError: wrong size, unknown names, or entries that are not finite numbers.

    >>> read_graph({"a": {"t": 1}, "b": {"t": 0.25}}, ["b", "a"], ["t"]).tolist()
    [[0.25], [1.0]]
    """
    name = f"graph={given!r}" if isinstance(given, str) else "graph"
    content = _read_file(given) if isinstance(given, str) else given
    if isinstance(content, Mapping):
        check_domains(check_texts(content, name), domains, name)
        for row, values in content.items():
            if not isinstance(values, Mapping):
                raise InputError(f"{name}[{row!r}] must be a map of target domain to number.")
            check_domains(check_texts(values, f"{name}[{row!r}]"), targets, f"{name}[{row!r}]")
        content = [[dict(content[row])[column] for column in targets] for row in domains]
    try:
        graph = np.array(content, np.float64)
    except (TypeError, ValueError):
        graph = np.full(0, np.nan)
    size = len(domains), len(targets)
    if graph.shape == (len(domains),) * 2 and set(targets) < set(domains):
        graph = graph[:, [domains.index(name) for name in targets]]
    if graph.shape != size:
        shape = " x ".join(map(str, graph.shape)) if graph.size else "no table of numbers"
        raise InputError(
            f"{name} is {shape} and must be {size[0]} x {size[1]}: a row for each training domain "
            f"({', '.join(domains)}), a column for each target domain ({', '.join(targets)})."
        )
    if not np.isfinite(graph).all():
        raise InputError(f"{name} must be of finite numbers; it has {graph.tolist()}.")
    return graph


def _read_file(path: str) -> Any:
    """Return rows, or a map of maps if a CSV file has names or a YAML file has maps."""
    try:
        if path.lower().endswith(".npy"):
            return np.load(path, allow_pickle=False)
        if not path.lower().endswith(".csv"):
            return read_yaml(path)
        lines = read_text(path).splitlines()
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if row]
        try:
            return [[float(cell) for cell in row] for row in rows]
        except ValueError:  # it has names
            (_, *names), *body = rows
            _check_once(path, names)
            _check_once(path, [row[0] for row in body])
            return {name: dict(zip(names, map(float, row), strict=True)) for name, *row in body}
    except InputError:
        raise
    except (OSError, EOFError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"graph={path!r} cannot be read ({reason}): {did_you_mean(path, [LEARN])}give 'learn', "
            "rows of numbers, or the path of a CSV, YAML or NumPy file."
        ) from None


def _check_once(path: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"graph={path!r} names {name!r} twice; keep one.")
