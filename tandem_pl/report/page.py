"""The page of `tandem report`, as HTML in one file or as Markdown with pictures beside it."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tandem_pl.files import png_bytes, write_atomically
from tandem_pl.mixture import Mixture
from tandem_pl.plots import MOST_DOMAINS, draw_mixture, draw_signal
from tandem_pl.run_files import PAGE, folder_of_clusters
from tandem_pl.text_tables import counted
from tandem_pl.yaml_files import read_yaml

from .domains import EPOCHS_LIMIT, DomainSummary
from .run import Run
from .sentences import agreement, explain, headline, percent, plus_minus, verdict
from .statistics import stability

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


class Page(NamedTuple):
    """What the page says, in plain text without the marks of HTML or Markdown.

    A cell of the table that ends with "!" is above the limit of epochs.
    """

    title: str
    headline: str
    verdict: str
    facts: str
    warnings: list[str]
    header: list[str]
    table: list[list[str]]
    between: str  # of the rows left out, or nothing
    reasons: list[tuple[str, str]]  # domain and sentence
    notes: list[str]


def build_page(
    run: Run, domains: Sequence[DomainSummary], length: str | None = None, runs: int = 1
) -> Page:
    """Return the words and numbers of the page.

    Args:
        run: see `read_run`.
        domains: see `summarize_domains`.
        length: how long the final run is, as "1e9 tokens"; None for no such columns.
        runs: number of runs, this one and its repetitions.
    """
    order = sorted(domains, key=lambda domain: -domain.average)
    shown, between = order, ""
    if len(order) > 2 * MOST_DOMAINS:
        shown = order[:MOST_DOMAINS] + order[-MOST_DOMAINS:]
        share = percent(sum(domain.average for domain in order[MOST_DOMAINS:-MOST_DOMAINS]))
        between = (
            f"The {MOST_DOMAINS} largest and the {MOST_DOMAINS} smallest domains; "
            f"{len(order) - len(shown)} between them share {share}, see mixture.yaml."
        )
    header = ["domain", "start", "average", "last", "change", "sd", "drift"]
    if run.signal is not None:
        header.append("Δ − mean (nats)")
    header += [f"{runs} runs, ± sd"] if runs > 1 else []
    header.append("epochs here")
    if length:
        header.append(f"epochs in {length}")
    return Page(
        f"Mixture of {'/'.join(run.folder.resolve().parts[-2:])}",
        headline(domains),
        verdict(stability(run), run) + (f" {agreement(domains, runs)}" if runs > 1 else ""),
        _facts(run),
        _warnings(domains, length),
        header,
        [_cells(domain, length) for domain in shown],
        between,
        [(domain.name, explain(domain, run)) for domain in shown],
        _notes(run, length),
    )


def write_page(
    run: Run, domains: Sequence[DomainSummary], page: Page, out: Path, form: str
) -> list[Path]:
    """Write the page, and for Markdown its pictures; return the files, the page first.

    Args:
        run: see `read_run`.
        domains: see `summarize_domains`.
        page: see `build_page`.
        out: the file.
        form: "html" or "md".
    """
    pictures = {"weights": _draw_weights(run)}
    if run.signal is not None:
        late = np.array([domain.late for domain in domains], np.float64)
        pictures["signal"] = draw_signal(run.mixture.domains, late[:, 0], late[:, 1])
    content = {out.with_name(f"{out.stem}_{k}.png"): png_bytes(v) for k, v in pictures.items()}
    if form == "html":
        write_atomically(out, to_html(page, list(content.values())).encode())
        return [out]
    for path, picture in content.items():
        write_atomically(path, picture)
    write_atomically(out, to_markdown(page, [path.name for path in content]).encode())
    return [out, *content]


def _draw_weights(run: Run) -> Any:
    return draw_mixture(run.mixture.domains, run.steps, run.weights, run.mixture.average_array)


def to_html(page: Page, pictures: Sequence[bytes]) -> str:
    """Return one file without scripts or links: the style and the PNG pictures are inside."""
    inside = [base64.b64encode(picture).decode() for picture in pictures]
    return TEMPLATES.get_template("page.html.jinja").render(page=page, pictures=inside)


def to_markdown(page: Page, pictures: Sequence[str]) -> str:
    """Return Markdown with links to the pictures' files."""
    return TEMPLATES.get_template("page.md.jinja").render(page=page, pictures=pictures)


def _escaped(text: str) -> str:
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())


TEMPLATES.filters["md"] = _escaped


def _cells(domain: DomainSummary, length: str | None) -> list[str]:
    def epochs(value: float | None) -> str:
        mark = "!" if value is not None and value > EPOCHS_LIMIT else ""
        return "?" if value is None else f"{value:.{1 if value >= 0.1 else 2}f}{mark}"

    cells = [domain.name, *map(percent, (domain.start, domain.average, domain.last))]
    cells += [_points(domain.average - domain.start), f"{100 * domain.spread:.1f}"]
    cells.append(_points(domain.drift))
    if domain.late is not None:
        cells.append(plus_minus(*domain.late))
    if domain.seeds is not None:
        cells.append(f"{100 * domain.seeds[0]:.1f} ± {100 * domain.seeds[1]:.1f}")
    cells.append(epochs(domain.epochs))
    return [*cells, epochs(domain.final_epochs)] if length else cells


def _points(share: float) -> str:
    text = f"{100 * share:+.1f}"
    return "0.0" if float(text) == 0 else text


def _facts(run: Run) -> str:
    about = run.mixture.about
    planned: Any = None
    # A run without the command line has no config.yaml.
    with contextlib.suppress(OSError, yaml.YAMLError, KeyError, TypeError):
        planned = read_yaml(run.folder / "config.yaml")["trainer"]["max_steps"]
    of_planned = f" of {planned}" if isinstance(planned, int) and planned > 0 else ""
    facts = [
        f"method {about.get('method', 'unknown')}",
        counted(len(run.mixture), "domain"),
        counted(run.updates, "update"),
        f"the last at step {run.steps[-1]}{of_planned}",
    ]
    facts += [f"{key} {_short(v)}" for key, v in run.settings.items() if v is not None]
    effective = Mixture(run.mixture.average).effective_domains()
    text = f"{', '.join(facts)}. Effective domains of the average: {effective:.1f}."
    folder = folder_of_clusters(run.mixture)
    return f"{text} Domains are clusters, see {folder / PAGE}." if folder else text


def _short(value: Any) -> str:
    """Return a setting, or the number of domains if it has a value for each of many."""
    long = isinstance(value, dict | list) and len(value) > MOST_DOMAINS
    return f"of {len(value)} domains" if long else str(value)


def _warnings(domains: Sequence[DomainSummary], length: str | None, most: int = 10) -> list[str]:
    over = [(d.final_epochs, d.name) for d in domains if (d.final_epochs or 0) > EPOCHS_LIMIT]
    if not over:
        return []
    over.sort(key=lambda pair: -(pair[0] or 0))
    names = ", ".join(f"{name} ({epochs:.1f})" for epochs, name in over[:most])
    more = f" and {len(over) - most} more" if len(over) > most else ""
    return [
        f"In {length}, more than {EPOCHS_LIMIT:g} epochs of {names}{more}. Up to about 4 epochs, "
        "repeated data is nearly as good as fresh (Muennighoff et al. 2023); beyond, it is worth "
        "less: get more of it, or cap its weight (caps of TandemReweighting)."
    ]


def _notes(run: Run, length: str | None) -> list[str]:
    """Return how to read the page, a note for each line of the template."""
    measured, few_samples = 0, ""
    if run.signal is not None:
        measured = len(run.signal.steps) * run.thinned(run.signal.name)
        if "samples" in run.signal.columns:
            samples = run.signal.values[:, run.signal.columns.index("samples")].mean(axis=0)
            few_samples = f"{samples.mean():.2g}" if samples.min() < 1 else ""
    template = TEMPLATES.get_template("notes.jinja")
    text = template.render(run=run, measured=measured, few_samples=few_samples, length=length)
    return text.splitlines()
