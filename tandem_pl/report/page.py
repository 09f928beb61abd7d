"""The page of `tandem report`: what `report` found, as HTML or Markdown in one file."""

from __future__ import annotations

import base64
import contextlib
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from tandem_pl.files import write_atomically
from tandem_pl.mixture import Mixture
from tandem_pl.plots import MOST_DOMAINS, draw_mixture, draw_signal
from tandem_pl.yaml_files import read_yaml

from .run import EPOCHS_LIMIT, Row, Run, stability
from .words import agreement, explain, headline, percent, plus_minus, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62em; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 2em; }
.first { font-size: 1.15em; font-weight: 600; } .facts, .notes { color: #555; font-size: .9em; }
.warning { background: #fff3d6; border-left: 4px solid #e0a100; padding: .5em 1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93em; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd; }
td { white-space: nowrap; }
th { vertical-align: bottom; font-weight: 600; } th:first-child, td:first-child {
  text-align: left; } td:nth-child(3) { font-weight: 600; }
.over { color: #a85500; font-weight: 600; } img { max-width: 100%; }
"""


class Page(NamedTuple):
    """Plain text, without the marks of HTML or Markdown."""

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


def build_page(run: Run, rows: Sequence[Row], length: str | None = None, runs: int = 1) -> Page:
    """Words and numbers of the page.

    Args:
        run: see `report.read_run`.
        rows: see `report.domain_rows`.
        length: how long the final run is, as "1e9 tokens"; None for no such columns.
        runs: this run and its repetitions.
    """
    order = sorted(rows, key=lambda row: -row.average)
    shown, between = order, ""
    if len(order) > 2 * MOST_DOMAINS:
        shown = order[:MOST_DOMAINS] + order[-MOST_DOMAINS:]
        share = percent(sum(row.average for row in order[MOST_DOMAINS:-MOST_DOMAINS]))
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
        headline(rows, run),
        verdict(stability(run), run) + (f" {agreement(rows, runs)}" if runs > 1 else ""),
        _facts(run),
        _warnings(rows, length),
        header,
        [_cells(row, run, length) for row in shown],
        between,
        [(row.name, explain(row, run)) for row in shown],
        _notes(run, length),
    )


def to_html(page: Page, pictures: Sequence[bytes]) -> str:
    """One file without scripts or links: the style and the pictures are inside."""
    e = html.escape
    lines = ["<!doctype html>", '<html lang="en"><head><meta charset="utf-8">']
    lines += [f"<title>{e(page.title)}</title><style>{STYLE}</style></head><body>"]
    lines += [f"<h1>{e(page.title)}</h1>", f'<p class="first">{e(page.headline)}</p>']
    lines += [f"<p>{e(page.verdict)}</p>"]
    lines += [f'<p class="warning">{e(warning)}</p>' for warning in page.warnings]
    lines += [f'<p class="facts">{e(page.facts)}</p>', "<h2>Weights</h2>"]
    lines += [_image(pictures[0], "weights over steps"), "<table><thead><tr>"]
    lines += [f"<th>{e(name)}</th>" for name in page.header] + ["</tr></thead><tbody>"]
    for row in page.table:
        cells = "".join(f"<td{_over(cell)}>{e(cell.rstrip('!'))}</td>" for cell in row[1:])
        lines.append(f"<tr><td>{e(row[0])}</td>{cells}</tr>")
    lines += ["</tbody></table>", f"<p>{e(page.between)}</p>" if page.between else ""]
    lines += [_image(picture, "hyper-gradients") for picture in pictures[1:]]
    lines += ["<h2>Domain by domain</h2><ul>"]
    lines += [f"<li><b>{e(name)}</b>: {e(text)}</li>" for name, text in page.reasons]
    lines += ['</ul><h2>How to read it</h2><ul class="notes">']
    lines += [f"<li>{e(note)}</li>" for note in page.notes] + ["</ul></body></html>"]
    return "\n".join(line for line in lines if line) + "\n"


def to_markdown(page: Page, pictures: Sequence[str]) -> str:
    """Markdown with links to pictures beside it."""
    lines = [f"# {_md(page.title)}", f"**{_md(page.headline)}**", _md(page.verdict)]
    lines += [f"> **Warning:** {_md(warning)}" for warning in page.warnings]
    lines += [_md(page.facts), "## Weights", f"![weights over steps]({pictures[0]})"]
    table = [page.header, ["---"] + ["---:"] * (len(page.header) - 1)]
    table += [[_md(row[0]), *(_bold(cell) for cell in row[1:])] for row in page.table]
    lines.append("\n".join("| " + " | ".join(row) + " |" for row in table))
    lines += [_md(page.between)] if page.between else []
    lines += [f"![hyper-gradients]({picture})" for picture in pictures[1:]]
    lines += ["## Domain by domain"]
    lines.append("\n".join(f"- **{_md(name)}**: {_md(text)}" for name, text in page.reasons))
    lines += ["## How to read it", "\n".join(f"- {_md(note)}" for note in page.notes)]
    return "\n\n".join(lines) + "\n"


def write_page(run: Run, rows: Sequence[Row], page: Page, out: Path, form: str) -> list[Path]:
    """Writes the page, and for Markdown its pictures beside it; gives the files, the page first.

    Args:
        run: see `report.read_run`.
        rows: see `report.domain_rows`.
        page: see `build_page`.
        out: the file.
        form: "html" or "md".
    """
    pictures = [_png(draw_mixture(run.mixture.domains, run.steps, run.weights))]
    if run.signal is not None:
        late = np.array([row.late for row in rows], np.float64)
        pictures.append(_png(draw_signal(run.mixture.domains, late[:, 0], late[:, 1])))
    if form == "html":
        write_atomically(out, to_html(page, pictures).encode())
        return [out]
    names = [f"{out.stem}_{kind}.png" for kind in ("weights", "signal")[: len(pictures)]]
    for name, picture in zip(names, pictures, strict=True):
        write_atomically(out.with_name(name), picture)
    write_atomically(out, to_markdown(page, names).encode())
    return [out, *(out.with_name(name) for name in names)]


def _cells(row: Row, run: Run, length: str | None) -> list[str]:
    def epochs(value: float | None) -> str:
        mark = "!" if value is not None and value > EPOCHS_LIMIT else ""
        return "?" if value is None else f"{value:.{1 if value >= 0.1 else 2}f}{mark}"

    cells = [row.name, percent(row.start), percent(row.average), percent(row.last)]
    cells += [_points(row.average - row.start), f"{100 * row.spread:.1f}", _points(row.drift)]
    if row.late is not None:
        cells.append(plus_minus(*row.late))
    if row.seeds is not None:
        cells.append(f"{100 * row.seeds[0]:.1f} ± {100 * row.seeds[1]:.1f}")
    cells.append(epochs(row.epochs))
    return [*cells, epochs(row.final_epochs)] if length else cells


def _points(share: float) -> str:
    text = f"{100 * share:+.1f}"
    return "0.0" if float(text) == 0 else text


def _facts(run: Run) -> str:
    about = run.mixture.about
    parts = [f"method {about.get('method', 'unknown')}", f"{len(run.mixture)} domains"]
    parts.append(f"{run.updates} updates")
    planned: Any = None
    # A run without the command line has no config.yaml.
    with contextlib.suppress(OSError, yaml.YAMLError, KeyError, TypeError):
        planned = read_yaml(run.folder / "config.yaml")["trainer"]["max_steps"]
    known = isinstance(planned, int) and planned > 0
    parts.append(f"the last at step {run.steps[-1]}" + (f" of {planned}" if known else ""))
    kept = {key: value for key, value in run.settings.items() if value is not None}
    parts += [f"{key} {_short(value)}" for key, value in kept.items()]
    spread = Mixture(run.mixture.average).effective_domains()
    return ", ".join(parts) + f". Effective domains of the average: {spread:.1f}."


def _short(value: Any) -> str:
    """A setting; of one with a number for each of many domains, how many there are."""
    long = isinstance(value, dict | list) and len(value) > MOST_DOMAINS
    return f"of {len(value)} domains" if long else str(value)


def _warnings(rows: Sequence[Row], length: str | None, most: int = 10) -> list[str]:
    over = [row for row in rows if (row.final_epochs or 0) > EPOCHS_LIMIT]
    if not over:
        return []
    over.sort(key=lambda row: -(row.final_epochs or 0))
    names = ", ".join(f"{row.name} ({row.final_epochs:.1f})" for row in over[:most])
    more = f" and {len(over) - most} more" if len(over) > most else ""
    return [
        f"In {length}, more than {EPOCHS_LIMIT:g} epochs of {names}{more}. Up to about 4 epochs, "
        "repeated data is nearly as good as fresh (Muennighoff et al. 2023); beyond, it is worth "
        "less: get more of it, or cap its weight (caps of TandemReweighting)."
    ]


def _notes(run: Run, length: str | None) -> list[str]:
    notes = [
        "Weights are shares of samples. average: the mean over the second half of the run, the "
        "one to train with. change: average less start, in points.",
        "sd: standard deviation of the weight over the last half; drift: its mean over the fourth "
        "quarter less that over the third; both in points.",
    ]
    if run.learned:
        notes.append(
            "Drifting: the quarters' means differ by more than 2 % of the data, and by more than "
            "the weights stray within a quarter. Noisy: they differ by more than 2 %, or stray by "
            "more than 5 %. Both are half of the sum over domains. Weights also come to rest where "
            "the proxy's learning rate has decayed, since Δ vanishes with it."
        )
    if run.signal is not None:
        notes.append(
            "Δ: loss under the reference, which also trains on target data, less that under the "
            "proxy. A shift common to all domains moves no weight, so the mean over domains is "
            "taken off; below 0, the domain is being raised. In the table and the second picture: "
            "means over the last half of the run with 95 % intervals by batch means, since "
            "neighbouring updates may be correlated; one domain in 20 lies outside of its interval "
            "by chance."
        )
        notes.append(
            "In the sentences: the mean of those Δ that made the change from the start to the "
            "average, with what noise could have summed up to if nothing pulled the weights back. "
            "That is cautious: runs with other seeds that agree are better evidence (--seeds)."
        )
        known = len(run.signal.steps) * run.thinned(run.signal.name)
        if known < run.updates:
            notes.append(
                f"Δ is known of {known} of {run.updates} updates: the others were skipped, or made "
                "by a version that did not keep it."
            )
        if "samples" in run.signal.columns:
            samples = run.signal.values[:, run.signal.columns.index("samples")].mean(axis=0)
            if samples.min() < 1:
                notes.append(
                    f"An update measured {samples.mean():.2g} samples of a domain on average. "
                    "Where it measured none, Δ counts as the mean over the domains, which moves "
                    "nothing; means over updates hold these zeros."
                )
    elif run.learned:
        notes.append("This run kept no hyper-gradients, so nothing can be said about reasons.")
    thin = {name: run.thinned(name) for name in ("trajectory", "hyper_gradient")}
    if max(thin.values()) > 1:
        notes.append(
            f"So many domains and updates are kept in part: one update in {thin['trajectory']} of "
            f"the weights, and of Δ means over {thin['hyper_gradient']} updates in a row. The "
            "average counts every update."
        )
    if length is None:
        notes.append(
            "For the epochs that a final run would see of each domain, give --tokens, its length."
        )
    else:
        notes.append(
            f"epochs in {length}: its share over the tokens (or samples) that there are of the "
            "domain: this run's training data, or --tokens_per_domain. ?: size not known, since "
            "nothing of it was drawn."
        )
    return notes


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _image(picture: bytes, about: str) -> str:
    data = base64.b64encode(picture).decode()
    return f'<img alt="{about}" src="data:image/png;base64,{data}">'


def _over(cell: str) -> str:
    return ' class="over"' if cell.endswith("!") else ""


def _bold(cell: str) -> str:
    return f"**{cell.rstrip('!')}**" if cell.endswith("!") else cell


def _md(text: str) -> str:
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())
