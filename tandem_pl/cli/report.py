"""`tandem report`: one page on a run, for deciding what to train with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture, check_domains
from tandem_pl.yaml_files import read_yaml

from .arguments import run_verb

FORMATS = {"html": "html", "htm": "html", "md": "md", "markdown": "md"}  # suffix -> format


def report(
    run: str,
    tokens: float | None = None,
    samples: float | None = None,
    tokens_per_domain: str | None = None,
    seeds: list[str] | None = None,
    format: str | None = None,
    out: str | None = None,
) -> None:
    """One page on a run: its weights, why they moved, and how settled they are.

    Args:
        run: the run's folder.
        tokens: length of the final run in tokens, such as 1e9, to compute its epochs.
        samples: length of the final run in samples, if the data has no tokens.
        tokens_per_domain: tokens that the final run has of each domain, if its data is not this
            run's: a corpus folder, its manifest.yaml, or a YAML map of domain to tokens.
        seeds: folders of runs that repeat this one, such as `--seeds RUN2 RUN3`.
        format: html (one file) or md (pictures beside it); by default what `out` ends with.
        out: file to write; by default RUN/report.html.
    """
    suffix = format or (Path(out).suffix.lstrip(".") if out else "") or "html"
    if suffix not in FORMATS:
        raise InputError(f"--format {suffix} is unknown: use html or md.")
    if tokens is not None and samples is not None:
        raise InputError("--tokens and --samples both give the final run's length: keep one.")
    if tokens_per_domain and tokens is None:
        raise InputError("--tokens_per_domain needs --tokens, the length of the final run.")
    from tandem_pl.report.domains import summarize_domains
    from tandem_pl.report.page import build_page, write_page
    from tandem_pl.report.run import read_repetition, read_run
    from tandem_pl.report.sentences import number

    this = read_run(Path(run))
    sizes = read_tokens(tokens_per_domain, this.mixture)
    repetitions = [read_repetition(folder, this.mixture) for folder in seeds or []]
    domains = summarize_domains(this, tokens, sizes, samples, repetitions)
    length = f"{number(tokens)} tokens" if tokens else None
    length = f"{number(samples)} samples" if samples else length
    page = build_page(this, domains, length, 1 + len(repetitions))
    path = Path(out) if out else this.folder / f"report.{FORMATS[suffix]}"
    write_page(this, domains, page, path, FORMATS[suffix])
    print(page.headline, page.verdict, *page.warnings, f"written to {path}", sep="\n")


def read_tokens(path: str | None, mixture: Mixture) -> dict[str, float] | None:
    """Return domain -> training tokens, from a corpus's manifest or a map of domain to tokens.

    Raises:
        InputError: the file is neither, or has other domains.
    """
    if path is None:
        return None
    sizes = read_domain_tokens(path)
    known = {name: size for name, size in sizes.items() if name in mixture.domains}
    check_domains(known, mixture.domains, f"--tokens_per_domain={path}")
    return known


def read_domain_tokens(path: str) -> dict[str, float]:
    """Return domain -> training tokens of any domains; see `read_tokens`."""
    file = Path(path) / "manifest.yaml" if Path(path).is_dir() else Path(path)
    try:
        content = read_yaml(file)
        if isinstance(content, dict) and isinstance(content.get("splits"), dict):
            content = {name: row["tokens"] for name, row in content["splits"]["train"].items()}
        return {name: float(tokens) for name, tokens in content.items()}
    except InputError:
        raise
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"--tokens_per_domain={path!r} cannot be read as a corpus's manifest.yaml or a map of "
            f"domain to tokens, such as web: 1.0e+9: {str(error).splitlines()[0]}."
        ) from None


def main(arguments: Sequence[str]) -> None:
    """Run the verb; `arguments[0]` is its name."""
    run_verb(report, arguments[1:], positional=True)
