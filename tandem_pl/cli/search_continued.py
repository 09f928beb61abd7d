"""`tandem search cmr` and `dcpt`: how much of a new domain to continue a checkpoint on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .search_outputs import PROPOSAL, out_folder, print_end

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tandem_pl.search.continued import Continued

EPILOG = """examples:
  tandem search cmr runs.csv --epsilon 0.05 --tokens 2e10 --domain finance --general general.yaml
  tandem search dcpt runs.csv --size 1.8e9 --tokens 1e10 --epsilon 0.05
  tandem search dcpt runs.csv --size 1.8e9 --domain_tokens 5e9
  tandem fit --config train.yaml --data.weights proposal.yaml
"""


def search_cmr(
    runs: str,
    epsilon: float = 0.05,
    tokens: float | None = None,
    size: float | None = None,
    start_loss: float | None = None,
    out: str = ".",
    domain: str = "domain",
    general: str | None = None,
    share: str | None = None,
    general_loss: str | None = None,
    domain_loss: str | None = None,
) -> None:
    """The largest share of a domain whose general loss rises by at most epsilon (CMR law).

    Args:
        runs: CSV or Parquet file with a row for each run and checkpoint, in columns ratio (share of
            the domain), tokens (since the checkpoint), general_loss, and perhaps domain_loss and
            size.
        epsilon: how much the general loss may rise.
        tokens: length of the run, such as 2e10, by default that of the longest in the table.
        size: parameters of the network, if the table has several.
        start_loss: general loss of the checkpoint; by default from a row of 0 tokens.
        out: folder for proposal.yaml, shares.csv and shares.png.
        domain: name of the domain in proposal.yaml.
        general: mixture file whose ratios the rest of proposal.yaml has; by default one domain
            "general".
        share: column with the share of the domain, if it is not called ratio or share.
        general_loss: column with the general loss.
        domain_loss: column with the domain's loss.
    """
    from tandem_pl.search.continued import critical_ratios
    from tandem_pl.search.continued.plots import draw_critical_ratios

    folder = out_folder(out)
    table = _read(runs, share, domain_loss, general_loss)
    found = critical_ratios(table, epsilon, size, start_loss)
    ratio = found.at(tokens)
    length = float(found.tokens[-1]) if tokens is None else tokens
    rows = []
    for number, one in enumerate(found.tokens.tolist()):
        law = found.laws[number]
        rows.append([one, found.ratios[number], *law.coefficients, law.error])
    header = ["tokens", "critical ratio", "alpha", "s", "beta", "residual"]
    _print_table(header, rows)
    if found.over_tokens is not None:
        alpha, power, beta = found.over_tokens.coefficients
        print(f"\ncritical ratio of T tokens: {alpha:.6g} T^{power:.6g} + {beta:.6g}")
    elif tokens is not None and found.measured(tokens) is None:
        print("\nfrom each share's general losses, extrapolated by two powers of the tokens")
    print(
        f"\nlargest share of {domain} at {length:.4g} tokens: {ratio:.4f} (general loss at most "
        f"{found.start:.4f} + {epsilon:g})"
    )
    place = len(found.tokens) - 1 if tokens is None else found.measured(tokens)
    if found.domain_laws and place is not None and ratio > 0:
        loss = float(found.domain_laws[place].predict(ratio))
        print(f"{domain} loss there: {loss:.4f}")
    picture = draw_critical_ratios(found, table.of_size(size), tokens)
    about: dict[str, Any] = {"method": "cmr", "epsilon": epsilon, "tokens": length}
    weights = _mixture(domain, general, ratio)
    _write(folder, weights, about, picture, (header, rows), found.doubts(tokens))


def search_dcpt(
    runs: str,
    size: float | None = None,
    tokens: float | None = None,
    domain_tokens: float | None = None,
    epsilon: float | None = None,
    general_weight: float = 0.0,
    start_loss: float | None = None,
    out: str = ".",
    domain: str = "domain",
    general: str | None = None,
    share: str | None = None,
    general_loss: str | None = None,
    domain_loss: str | None = None,
    seed: int = 0,
) -> None:
    """The best share of a domain at a size of the network and a number of tokens (D-CPT law).

    Args:
        runs: CSV or Parquet file with a row for each run and checkpoint, in columns ratio (share of
            the domain), tokens (since the checkpoint), domain_loss, and perhaps general_loss and
            size.
        size: parameters of the network, if the table has several.
        tokens: length of the run, such as 1e10; may be left out with domain_tokens.
        domain_tokens: tokens of the domain that there are, with repeats; the run ends with them.
        epsilon: how much the general loss may rise.
        general_weight: weight of the general loss beside the domain's, from 0 to 1.
        start_loss: general loss of the checkpoint; by default from a row of 0 tokens.
        out: folder for proposal.yaml, shares.csv and shares.png.
        domain: name of the domain in proposal.yaml.
        general: mixture file whose ratios the rest of proposal.yaml has; by default one domain
            "general".
        share: column with the share of the domain, if it is not called ratio or share.
        general_loss: column with the general loss.
        domain_loss: column with the domain's loss.
        seed: of the starts of the fits.
    """
    import numpy as np

    from tandem_pl.errors import InputError
    from tandem_pl.search.continued import best_share, fit_dcpt
    from tandem_pl.search.continued.plots import draw_shares
    from tandem_pl.search.continued.shares import Outlook, find_doubts

    folder = out_folder(out)
    table = _read(runs, share, domain_loss, general_loss)
    start = start_loss if epsilon is None else table.start_loss(size, start_loss)
    laws = {"domain": fit_dcpt(table.size, table.tokens, table.share, table.losses("domain"), seed)}
    if table.general is not None:
        laws["general"] = fit_dcpt(table.size, table.tokens, 1 - table.share, table.general, seed)
    elif epsilon is not None or general_weight:
        key = "general_weight" if epsilon is None else "epsilon"
        raise InputError(f"--{key} needs the general loss: name its column by --general_loss.")
    outlook = Outlook(laws["domain"], laws.get("general"), size, tokens, domain_tokens, start)
    best = best_share(outlook, general_weight, epsilon)
    for name, law in laws.items():
        print(f"{name} loss: {', '.join(f'{k} {v:.4g}' for k, v in law.raw_parameters.items())}")
    print()
    numbers = [[law.r_squared, law.error, law.error_unseen] for law in laws.values()]
    _print_table(["loss", "R²", "Huber", "error on unseen shares"], numbers, list(laws))
    shares = np.unique(np.append(np.linspace(0.05, 0.95, 19), best))
    columns = {"share": shares, "tokens": outlook.length(shares)}
    columns["domain_loss"] = outlook.domain_loss(shares)
    if "general" in laws:
        columns["general_loss"] = outlook.general_loss(shares)
    here = np.array([best])
    length = float(outlook.length(here)[0])
    print(
        f"\nbest share of {domain} at {length:.4g} tokens: {best:.4f}\n"
        f"{domain} loss there: {outlook.domain_loss(here)[0]:.4f}"
    )
    if "general" in laws:
        print(f"general loss there: {outlook.general_loss(here)[0]:.4f}")
    about = {"method": "dcpt", "size": size, "tokens": length, "domain_tokens": domain_tokens}
    about |= {"epsilon": epsilon, "general_weight": general_weight, "seed": seed}
    content = list(columns), np.stack(list(columns.values())).T.tolist()
    weights, picture = _mixture(domain, general, best), draw_shares(outlook, best)
    _write(folder, weights, about, picture, content, find_doubts(outlook, best))


def _read(path: str, share: str | None, domain: str | None, general: str | None) -> Continued:
    """Return the table; print what was noticed in it."""
    from tandem_pl.search.continued import read_continued

    table = read_continued(path, share, domain=domain, general=general)
    for note in table.notes:
        print(f"tandem: note: {note}", file=sys.stderr)
    return table


def _print_table(
    header: Sequence[str], rows: Sequence[Sequence[float]], names: Sequence[str] = ()
) -> None:
    from tandem_pl.text_tables import text_table

    cells = [[f"{value:.6g}" for value in row] for row in rows]
    if names:
        cells = [[name, *row] for name, row in zip(names, cells, strict=True)]
    print(text_table(header, cells))


def _mixture(domain: str, general: str | None, share: float) -> dict[str, float]:
    """Return the domain's share and those of the general data.

    Raises:
        InputError: the general data has a domain of this name.
    """
    from tandem_pl.errors import InputError
    from tandem_pl.mixture import Mixture

    rest = {"general": 1.0} if general is None else Mixture.load(general, "general").average
    if domain in rest:
        raise InputError(
            f"--domain {domain} is also a domain of the general data: name another, or take it out "
            "of the mixture of --general."
        )
    return {domain: share} | {name: (1.0 - share) * part for name, part in rest.items()}


def _write(
    folder: Path,
    weights: dict[str, float],
    about: dict[str, Any],
    picture: Figure,
    table: tuple[Sequence[str], Sequence[Sequence[float]]],
    doubts: Sequence[str],
) -> None:
    """Write the mixture, the table and the picture, and print what is doubtful."""
    from tandem_pl.files import csv_bytes, png_bytes, write_atomically
    from tandem_pl.mixture import Mixture

    Mixture(weights, about=about).save(folder / PROPOSAL)
    write_atomically(folder / "shares.csv", csv_bytes(*table))
    write_atomically(folder / "shares.png", png_bytes(picture))
    print_end(folder, doubts, "shares.csv", "shares.png")
