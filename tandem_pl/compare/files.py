"""The files that a comparison writes beside its cells."""

from __future__ import annotations

from pathlib import Path

from tandem_pl.files import png_bytes, write_atomically

from .config import Comparison
from .plots import draw_differences, draw_mixtures
from .results import Runs
from .tables import markdown, results_csv, summary_csv

PICTURES = "\n![Differences to the baseline](comparison.png)\n\n![The mixtures](mixtures.png)\n"


def write_results(comparison: Comparison, runs: Runs) -> tuple[str, list[Path]]:
    """Write tables and pictures; return the page to print, and the paths."""
    page = markdown(comparison, runs)
    contents = {
        "comparison.md": (page + PICTURES).encode(),
        "comparison.png": png_bytes(draw_differences(comparison, runs)),
        "mixtures.png": png_bytes(draw_mixtures(runs)),
        "results.csv": results_csv(runs),
        "summary.csv": summary_csv(comparison, runs),
    }
    for name, content in contents.items():
        write_atomically(comparison.folder / name, content)
    return page, [comparison.folder / name for name in contents]
