"""Read runs that continued from one checkpoint."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tandem_pl.domain_names import list_names
from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.simplex import Array

from ..columns import LENGTHS, SIZES
from ..read import read_counts, read_numbers, read_table

NAMES = {  # what is read -> how its column may be called
    "share": ("ratio", "share", "domain_ratio", "domain_share"),
    "tokens": LENGTHS,
    "size": SIZES,
    "domain": ("domain_loss", "loss/domain"),
    "general": ("general_loss", "loss/general"),
}
THIRDS = "shares that are written as 0.33 or 0.67 are read as thirds."
SAME = 1e-6  # relative difference below which two numbers of tokens are one


@dataclass(frozen=True, eq=False)
class Continued:
    """n losses of networks that continued on a mixture of a domain and general data.

    Attributes:
        share: [n] of the domain.
        tokens: [n] seen since the checkpoint.
        size: [n] parameters, or None if the table has no such column.
        domain: [n] loss on the domain, or None.
        general: [n] loss on general data, or None.
        start: general loss of the checkpoint, from a row of 0 tokens, by size.
        notes: what was noticed while reading, one sentence each.
    """

    share: Array
    tokens: Array
    size: Array | None
    domain: Array | None
    general: Array | None
    start: dict[float | None, float]
    notes: tuple[str, ...] = ()

    def losses(self, which: str) -> Array:
        """Return the losses on "domain" or "general".

        Raises:
            InputError: the table has none.
        """
        found: Array | None = getattr(self, which)
        if found is None:
            raise InputError(
                f"the runs have no {which} loss: add a column {NAMES[which][0]!r}, or name the "
                f"column that has it by --{which}_loss."
            )
        return found

    def of_size(self, size: float | None) -> Continued:
        """Return the runs of one size; `size` may be None if there is only one.

        Raises:
            InputError: no run has this size, or there are several and none is given.
        """
        if self.size is None:
            return self
        sizes = np.unique(self.size)
        if size is None and len(sizes) == 1:
            size = float(sizes[0])
        near = np.isclose(self.size, size, rtol=0.01) if size is not None else None
        if near is None or not near.any():
            problem = "the runs have several sizes" if size is None else f"no run has {size:g}"
            there = ", ".join(f"{one:g}" for one in sizes)
            raise InputError(f"{problem}: give --size one of {there}.")

        def cut(column: Array | None) -> Array | None:
            return None if column is None else column[near]

        return replace(
            self,
            share=self.share[near],
            tokens=self.tokens[near],
            size=cut(self.size),
            domain=cut(self.domain),
            general=cut(self.general),
        )

    def start_loss(self, size: float | None, given: float | None = None) -> float:
        """Return the checkpoint's general loss: as given, or from the table.

        Raises:
            InputError: neither has it, or it has those of several sizes and none is given.
        """
        if given is not None:
            return given
        known = self.start.get(None)
        if size is None and len(self.start) > 1:
            raise InputError("the checkpoints have several sizes: give --size, that of the run.")
        if size is not None:
            known = next(
                (v for k, v in self.start.items() if k and abs(k / size - 1) < 0.01), known
            )
        elif len(self.start) == 1:
            known = next(iter(self.start.values()))
        if known is None:
            raise InputError(
                "the general loss of the checkpoint is not known: give it by --start_loss, or in a "
                "row of 0 tokens."
            )
        return known


def read_continued(
    path: str | os.PathLike[str],
    share: str | None = None,
    tokens: str | None = None,
    size: str | None = None,
    domain: str | None = None,
    general: str | None = None,
) -> Continued:
    """Return the losses of a table (CSV or Parquet) with a row for each run and checkpoint.

    Args:
        path: the table. A row of 0 tokens has the general loss of the checkpoint that the runs
            started from; its share may be empty.
        share: column with the domain's share; by default "ratio" or "share".
        tokens: column with the tokens seen; by default "tokens" or another name of `NAMES`.
        size: column with the parameters; by default "size", if there is one.
        domain: column with the domain's loss; by default "domain_loss".
        general: column with the general loss; by default "general_loss".

    Raises:
        InputError: no such file or column, no losses, or numbers out of range.
    """
    frame = read_table(path)
    columns = [str(name) for name in frame.columns]
    rows = [f"in row {row}" for row in range(1, len(frame) + 1)]
    chosen = {"share": share, "tokens": tokens, "size": size, "domain": domain, "general": general}
    found: dict[str, Array | None] = {}
    for key, wanted in chosen.items():
        if wanted is not None and wanted not in columns:
            raise InputError(
                f"{path} has no column {wanted!r}: {did_you_mean(wanted, columns)}its columns are "
                f"{list_names(columns)}."
            )
        name = wanted or next((n for n in columns if n.lower() in NAMES[key]), None)
        read = read_counts if key in ("tokens", "size") else read_numbers
        found[key] = None if name is None else read(frame[name], name, rows)
    part, length = found["share"], found["tokens"]
    for key, column in (("share", part), ("tokens", length)):
        if column is None:
            about = "name the one that has the share of the domain by --share"
            if key == "tokens":  # --tokens is the length of the final run
                about = "rename the one that has the tokens of each run"
            raise InputError(
                f"{path} has no column {NAMES[key][0]!r}: {about}; its columns are "
                f"{list_names(columns)}."
            )
    assert part is not None
    assert length is not None
    if found["domain"] is None and found["general"] is None:
        raise InputError(
            f"{path} has no losses: name their columns by --domain_loss and --general_loss; its "
            f"columns are {list_names(columns)}."
        )
    unknown = ~(np.isfinite(length) & (length >= 0))
    if unknown.any():
        raise InputError(
            f"the tokens {rows[int(unknown.argmax())]} of {path} are missing or below 0: fill them "
            "in (0 is the checkpoint), or remove the row."
        )
    trained = length > 0
    start = _start(~trained, found["size"], found["general"])
    wrong = trained & ~((part >= 0) & (part <= 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"the share {rows[row]} of {path} is {part[row]:g}: give the domain's share of the "
            "tokens, between 0 and 1."
        )
    for key, values in found.items():
        lost = trained & ~np.isfinite(values) if values is not None else np.zeros(1, bool)
        if lost.any():
            raise InputError(
                f"the {key} {rows[int(lost.argmax())]} of {path} is missing: fill it in, or remove "
                "the row."
            )
    kept = {key: None if values is None else values[trained] for key, values in found.items()}
    if not trained.any():
        raise InputError(f"{path} has no row with tokens above 0: add the runs.")
    sizes, of_domain, of_general = kept["size"], kept["domain"], kept["general"]
    exact = in_thirds(part[trained])
    notes = () if (exact == part[trained]).all() else (THIRDS,)
    return Continued(exact, length[trained], sizes, of_domain, of_general, start, notes)


def in_thirds(share: Array) -> Array:
    """Return shares, with those that are a rounded third as thirds.

    >>> in_thirds(np.array([0.25, 0.33, 0.667, 0.3])).round(6).tolist()
    [0.25, 0.333333, 0.666667, 0.3]
    """
    exact = share.copy()
    for third, digits in product((1 / 3, 2 / 3), range(2, 8)):
        exact[np.isclose(share, round(third, digits), rtol=0, atol=1e-9)] = third
    return exact


def _start(
    first: NDArray[np.bool_], size: Array | None, general: Array | None
) -> dict[float | None, float]:
    """Return size (None if unknown) -> general loss in the rows of 0 tokens."""
    if general is None:
        return {}
    found: dict[float | None, float] = {}
    for row in np.flatnonzero(first).tolist():
        if np.isfinite(general[row]):
            known = size is not None and np.isfinite(size[row])
            found[float(size[row]) if size is not None and known else None] = float(general[row])
    return found
