"""`tandem export`: a mixture for another trainer, or the trained network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tandem_pl.errors import InputError
from tandem_pl.export.formats import FORMATS
from tandem_pl.export.mixture import export_mixture
from tandem_pl.files import write_atomically

from .arguments import run_verb
from .run_folder import read_config
from .yaml_options import quote_named_values

FORMAT_LINES = "\n".join(f"  {name:11}  {form.about}" for name, form in FORMATS.items())
EPILOG = f"""formats:
{FORMAT_LINES}

Weights are shares of samples of equal length. Examples:
  tandem export runs/quickstart/version_0 --to huggingface
  tandem export mixture.yaml --to megatron --paths 'data/{{domain}}_text_document'
  tandem export runs/quickstart/version_0 --network exported
"""


def export(
    run: str,
    domain_paths: dict[str, str],
    to: str | None = None,
    which: str | None = None,
    out: str | None = None,
    paths: str | None = None,
    network: str | None = None,
    checkpoint: str | None = None,
    overwrite: bool = False,
) -> None:
    """A mixture for another trainer, or the trained network.

    Args:
        run: a run's folder, or a mixture file.
        domain_paths: domain -> path, from `--paths.DOMAIN PATH`.
        to: one of the formats below.
        which: weights: average (over the second half of the run, the default), last or trajectory;
            network: proxy (the default), reference or average.
        out: file to write; by default standard output.
        paths: data of each domain, for mosaicml, megatron and nemo: a template such as
            's3://bucket/{domain}', or a YAML map; --paths.DOMAIN PATH gives that of one domain.
        network: folder to write the network to, instead of a mixture.
        checkpoint: checkpoint of the network; by default last.ckpt of the run.
        overwrite: replace a network that was exported before.
    """
    if bool(to) == bool(network):
        raise InputError(
            "give either --to FORMAT, for the mixture, or --network FOLDER, for the trained "
            f"network; the formats are {', '.join(FORMATS)}."
        )
    wrong: dict[str, Any] = {"out": out, "paths": paths or domain_paths}
    if to:
        wrong = {"checkpoint": checkpoint, "overwrite": overwrite}
    for key, value in wrong.items():
        if value:
            use = ("--network FOLDER", f"--to {to}") if to else ("--to FORMAT", "--network")
            raise InputError(f"--{key} is for {use[0]}, not for {use[1]}.")
    if network:
        read_config(Path(run))  # before the imports
        from transformers.utils.logging import disable_progress_bar

        from tandem_pl.export.checkpoint import export_run

        disable_progress_bar()
        lines = export_run(Path(run), network, checkpoint, which or "proxy", overwrite)
        print(*lines, sep="\n")
    elif to:
        text, notes = export_mixture(run, to, which or "average", paths, domain_paths)
        for note in notes:
            print(f"tandem: note: {note}", file=sys.stderr)
        if out is None:
            print(text, end="")
        else:
            write_atomically(out, text.encode())
            print(f"written to {out}")


def take_paths(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split off `--paths.DOMAIN PATH` and `--paths.DOMAIN=PATH`; a domain may have any name.

    >>> take_paths(["run", "--paths.web", "s3://web", "--paths.a.b=c", "--to", "json"])
    (['run', '--to', 'json'], {'web': 's3://web', 'a.b': 'c'})
    """
    rest, paths = [], {}
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith("--paths."):
            rest.append(argument)
            continue
        name, equals, path = argument.removeprefix("--paths.").partition("=")
        if not equals:
            path = next(remaining, "")
        if not path or path.startswith("--"):
            raise InputError(f"--paths.{name} needs the path of the domain's data.")
        paths[name] = path
    return rest, paths


def main(arguments: Sequence[str]) -> None:
    """Run the verb; `arguments[0]` is its name."""
    rest, paths = take_paths(list(quote_named_values(arguments[1:])))
    run_verb(export, rest, positional=True, epilog=EPILOG, fixed={"domain_paths": paths})
