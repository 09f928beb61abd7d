"""Tables of target samples' log-likelihoods under several experts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tandem_pl.domain_names import check_known, list_names
from tandem_pl.errors import InputError
from tandem_pl.files import write_atomically
from tandem_pl.simplex import Array

from .columns import NAMES
from .read import read_numbers, read_table
from .runs import Indices

MARK = "expert/"  # how an expert's column begins
SAMPLE, DOMAIN = "sample", "domain"


@dataclass(frozen=True, eq=False)
class Likelihoods:
    """What experts give target samples.

    Attributes:
        experts: [K] domain that each was trained on.
        values: [n, K] log-likelihoods over the samples' lengths, or of single tokens.
        samples: [n] number of the sample that a row is of.
        domains: [n] domain of the sample, or None.
    """

    experts: tuple[str, ...]
    values: Array
    samples: Indices
    domains: tuple[str, ...] | None = None

    def of_targets(self, targets: Sequence[str] | None) -> Likelihoods:
        """Return the rows of some domains; None for all.

        Raises:
            InputError: a domain that no row has, or rows without domains.
        """
        if not targets:
            return self
        if self.domains is None:
            raise InputError("--target needs a column 'domain' in the table of likelihoods.")
        check_known(targets, dict.fromkeys(self.domains), "target")
        rows = np.flatnonzero(np.isin(self.domains, list(targets)))
        kept = tuple(self.domains[row] for row in rows)
        return Likelihoods(self.experts, self.values[rows], self.samples[rows], kept)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV file, which `read_likelihoods` reads."""
        frame = pd.DataFrame({SAMPLE: self.samples})
        if self.domains is not None:
            frame[DOMAIN] = self.domains
        for number, name in enumerate(self.experts):
            frame[MARK + name] = self.values[:, number]
        write_atomically(path, frame.to_csv(index=False).encode())


def read_likelihoods(path: str | os.PathLike[str]) -> Likelihoods:
    """Return a table of log-likelihoods (CSV or Parquet), a row for each sample or token.

    Columns that begin with "expert/" are the experts; without such, all numbers except `sample`,
    which says which sample a token is of, and the number of the row. A column `domain` has the
    domain of the sample.

    Raises:
        InputError: no such file, fewer than two experts, a row without a sample, or losses, which
            are above 0.
    """
    frame = read_table(path)
    columns = [str(name) for name in frame.columns]
    experts = [name for name in columns if name.startswith(MARK)]
    if not experts:
        experts = [
            name
            for name in columns
            if name not in (SAMPLE, DOMAIN)
            and name.lower() not in NAMES
            and pd.api.types.is_numeric_dtype(frame[name])
        ]
    if len(experts) < 2:
        raise InputError(
            f"{path} needs a column of log-likelihoods for each of two experts or more; its "
            f"columns are {list_names(columns)}."
        )
    rows = [f"in row {row}" for row in range(1, len(frame) + 1)]
    values = np.column_stack([read_numbers(frame[name], name, rows) for name in experts])
    if (values > 0).all():
        raise InputError(
            f"{path} has numbers above 0 only, such as losses: give log-likelihoods, which are "
            "minus the losses."
        )
    samples = np.arange(len(frame))
    if SAMPLE in columns:
        samples = pd.factorize(frame[SAMPLE])[0]
        if (samples < 0).any():
            raise InputError(f"{path} has rows without a sample: fill in the column 'sample'.")
    domains = tuple(frame[DOMAIN].astype(str)) if DOMAIN in columns else None
    return Likelihoods(
        tuple(name.removeprefix(MARK) for name in experts),
        values,
        samples.astype(np.int64),
        domains,
    )
