"""`tandem report`: one page on a run, for deciding what to train with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture, check_domains
from tandem_pl.yaml_files import read_yaml

from .arguments import Parser

FORMATS = ("html", "md")


def parser() -> Parser:
    """The options."""
    made = Parser(
        prog="tandem report",
        description="One page on a run: its weights, why they moved, and how settled they are.",
        allow_abbrev=False,
    )
    made.add_argument("run", metavar="RUN", help="the run's folder")
    made.add_argument(
        "--tokens", type=float, help="length of the final run, such as 1e9, for its epochs"
    )
    made.add_argument(
        "--samples", type=float, help="the same in samples, for data that is not tokens"
    )
    made.add_argument(
        "--tokens_per_domain",
        metavar="FILE",
        help="what the final run has of each domain, where it is not this run's data: a corpus "
        "folder, its manifest.yaml, or a YAML map of domain to tokens",
    )
    made.add_argument(
        "--seeds", metavar="RUN", nargs="+", default=[], help="runs that repeat this one"
    )
    made.add_argument("--format", default=None, help="html (one file) or md (pictures beside it)")
    made.add_argument("--out", metavar="FILE", help="RUN/report.html unless given")
    return made


def main(arguments: Sequence[str]) -> None:
    """Runs `tandem report ...`; `arguments[0]` is the verb."""
    options = parser().parse_args(arguments[1:])
    out = Path(options.out) if options.out else None
    form = options.format or (out.suffix.lstrip(".") if out and out.suffix else "html")
    form = {"htm": "html", "markdown": "md"}.get(form, form)
    if form not in FORMATS:
        raise InputError(f"--format {form} is unknown: use one of {', '.join(FORMATS)}.")
    if options.tokens is not None and options.samples is not None:
        raise InputError("--tokens and --samples both give the final run's length: keep one.")
    if options.tokens_per_domain and options.tokens is None:
        raise InputError("--tokens_per_domain needs --tokens, the length of the final run.")
    from tandem_pl.report.page import build_page, write_page
    from tandem_pl.report.run import domain_rows, read_run
    from tandem_pl.report.words import number

    run = read_run(Path(options.run))
    sizes = read_tokens(options.tokens_per_domain, run.mixture)
    others = [read_run(Path(folder)).mixture for folder in options.seeds]
    rows = domain_rows(run, options.tokens, sizes, options.samples, others)
    length = f"{number(options.tokens)} tokens" if options.tokens else None
    length = f"{number(options.samples)} samples" if options.samples else length
    page = build_page(run, rows, length, 1 + len(others))
    out = out or run.folder / f"report.{form}"
    files = write_page(run, rows, page, out, form)
    print("\n".join([page.headline, page.verdict, *page.warnings]))
    print(f"written to {files[0]}")


def read_tokens(path: str | None, mixture: Mixture) -> dict[str, float] | None:
    """Domain -> training tokens, of a corpus's manifest or a map of domain to tokens.

    Raises:
        InputError: not such a file, or one of other domains.
    """
    if path is None:
        return None
    file = Path(path) / "manifest.yaml" if Path(path).is_dir() else Path(path)
    try:
        content = read_yaml(file)
        if isinstance(content, dict) and isinstance(content.get("splits"), dict):
            content = {name: row["tokens"] for name, row in content["splits"]["train"].items()}
        sizes = {name: float(tokens) for name, tokens in content.items()}
    except InputError:
        raise
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--tokens_per_domain={path!r} cannot be read: {reason}.") from None
    except (TypeError, ValueError):
        raise InputError(
            f"--tokens_per_domain={path!r} is neither a corpus's manifest.yaml nor a map of domain "
            "to a number of tokens, such as web: 1.0e+9."
        ) from None
    known = {name: size for name, size in sizes.items() if name in mixture.domains}
    check_domains(known, mixture.domains, f"--tokens_per_domain={path}")
    return known
