"""The files that a comparison writes beside its cells."""

from __future__ import annotations

from pathlib import Path

from tandem_pl.files import png_bytes, write_atomically

from .config import Comparison
from .plots import draw_differences, draw_mixtures
from .results import Runs
from .tables import markdown, results_csv, summary_csv

PICTURES = {"comparison.png": "Differences to the baseline", "mixtures.png": "The mixtures"}


def write_results(comparison: Comparison, runs: Runs) -> tuple[str, list[Path]]:
    """Write tables, and pictures if there is something to draw; return the page and the paths."""
    page = markdown(comparison, runs)
    figures = {
        "comparison.png": draw_differences(comparison, runs),
        "mixtures.png": draw_mixtures(runs),
    }
    drawn = {name: png_bytes(figure) for name, figure in figures.items() if figure is not None}
    links = "".join(f"\n![{PICTURES[name]}]({name})\n" for name in drawn)
    contents = {
        "comparison.md": (page + links).encode(),
        **drawn,
        "results.csv": results_csv(runs),
        "summary.csv": summary_csv(comparison, runs),
    }
    for name, content in contents.items():
        write_atomically(comparison.folder / name, content)
    return page, [comparison.folder / name for name in contents]
