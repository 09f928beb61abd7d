"""`tandem export`: a mixture for another trainer, or the trained network."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from tandem_pl.errors import InputError
from tandem_pl.export.formats import FORMATS, Blend, Schedule, placeholder, without_zeros
from tandem_pl.files import write_atomically
from tandem_pl.mixture import Mixture, check_domains
from tandem_pl.yaml_files import read_yaml

from .arguments import Parser

MIXTURES = ("average", "last", "trajectory")
NETWORKS = ("proxy", "reference", "average")


def parser() -> Parser:
    """The options, with a line for each format."""
    width = max(map(len, FORMATS))
    formats = "\n".join(f"  {name:{width}}  {row.about}" for name, row in FORMATS.items())
    made = Parser(
        prog="tandem export",
        description="A mixture for another trainer, or the trained network.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog=(
            f"formats:\n{formats}\n\n"
            "Weights are shares of samples of equal length. Examples:\n"
            "  tandem export runs/quickstart/version_0 --to huggingface\n"
            "  tandem export mixture.yaml --to megatron --paths 'data/{domain}_text_document'\n"
            "  tandem export runs/quickstart/version_0 --network exported\n"
        ),
    )
    made.add_argument("source", metavar="RUN", help="a run's folder, or a mixture file")
    made.add_argument("--to", metavar="FORMAT", help="one of the formats below")
    made.add_argument(
        "--which",
        help=f"weights: {', '.join(MIXTURES)} (average: the mean over the second half of the run); "
        f"network: {' or '.join(NETWORKS)}; the first of each unless given",
    )
    made.add_argument("--out", metavar="FILE", help="where to write; standard output unless given")
    made.add_argument(
        "--paths",
        metavar="WHERE",
        help="data of each domain: a template such as 's3://bucket/{domain}', or a YAML map",
    )
    made.add_argument("--paths.DOMAIN", metavar="PATH", help="data of one domain")
    made.add_argument("--network", metavar="FOLDER", help="write the network there instead")
    made.add_argument(
        "--checkpoint", metavar="FILE", help="of the network; last.ckpt of the run unless given"
    )
    made.add_argument(
        "--overwrite", action="store_true", help="replace a network that was exported before"
    )
    return made


def main(arguments: Sequence[str]) -> None:
    """Runs `tandem export ...`; `arguments[0]` is the verb."""
    rest, given = take_paths(arguments[1:])
    options = parser().parse_args(rest)
    if bool(options.to) == bool(options.network):
        raise InputError(
            "give either --to FORMAT, for the mixture, or --network FOLDER, for the trained "
            f"network; the formats are {', '.join(FORMATS)}."
        )
    if options.network:
        for key, value in (("out", options.out), ("paths", options.paths or given)):
            if value:
                raise InputError(f"--{key} is for --to FORMAT, not for --network.")
        from transformers.utils.logging import disable_progress_bar

        from tandem_pl.export.network import export_run

        disable_progress_bar()
        which = _choice("which", options.which, NETWORKS)
        for line in export_run(
            Path(options.source), options.network, options.checkpoint, which, options.overwrite
        ):
            print(line)
        return
    for key in ("checkpoint", "overwrite"):
        if getattr(options, key):
            raise InputError(f"--{key} is for --network FOLDER, not for --to {options.to}.")
    text, notes = export_mixture(
        options.source, options.to, options.which, read_paths(options.paths), given
    )
    for note in notes:
        print(f"tandem: note: {note}", file=sys.stderr)
    if options.out is None:
        print(text, end="")
    else:
        write_atomically(options.out, text.encode())
        print(f"written to {options.out}")


def export_mixture(
    source: str,
    to: str,
    which: str | None = None,
    paths: str | dict[str, str] | None = None,
    more_paths: dict[str, str] | None = None,
) -> tuple[str, list[str]]:
    """The text of one format, and notes for the user.

    Args:
        source: a run's folder, or a mixture file.
        to: a name of `FORMATS`.
        which: "average" (None), "last" or "trajectory".
        paths: a template with `{domain}`, or domain -> path.
        more_paths: domain -> path, before those.

    Raises:
        InputError: an unknown name, no mixture there, or a trajectory for a format without one.
    """
    form = FORMATS[_choice("to", to, FORMATS)]
    which = _choice("which", which, MIXTURES)
    file = Path(source) / "mixture.yaml" if Path(source).is_dir() else Path(source)
    if not file.is_file():
        raise InputError(
            f"{source} has no mixture.yaml: give the folder of a run, or a mixture file."
            if Path(source).is_dir()
            else f"{source} does not exist: give the folder of a run, or a mixture file."
        )
    mixture = Mixture.load(file)
    schedule = None
    if which == "trajectory":
        if not form.schedule:
            able = ", ".join(name for name, row in FORMATS.items() if row.schedule)
            raise InputError(
                f"{to} takes one mixture, not a trajectory: use --which average or last, or one "
                f"of {able}."
            )
        schedule = _schedule(file.parent / "trajectory.csv", mixture)
    weights = mixture.weights if which == "last" else mixture.average
    notes = []
    if not form.zeros:
        weights, zeros = without_zeros(weights)
        if zeros:
            notes.append(f"left out for their weight of 0: {_names(zeros)}.")
    where = _places(mixture, paths, more_paths or {})
    missing = [name for name in weights if name not in where]
    if form.paths and missing:
        notes.append(
            f"no path for {_names(missing)}: replace {placeholder(missing[0])!r}, or give --paths."
        )
    where |= {name: placeholder(name) for name in missing}
    origin = f"the {which}{'' if which == 'trajectory' else ' weights'} of {source}"
    text = form.write(Blend(weights, where, schedule, origin))
    return text, notes


def take_paths(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Takes `--paths.DOMAIN PATH` and `--paths.DOMAIN=PATH` out; a domain's name may be anything.

    >>> take_paths(["run", "--paths.web", "s3://web", "--paths.a.b=c", "--to", "json"])
    (['run', '--to', 'json'], {'web': 's3://web', 'a.b': 'c'})
    """
    rest, paths = [], {}
    left = iter(arguments)
    for argument in left:
        if not argument.startswith("--paths."):
            rest.append(argument)
            continue
        name, equals, path = argument.removeprefix("--paths.").partition("=")
        if not equals:
            path = next(left, "")
        if not path or path.startswith("--"):
            raise InputError(f"--paths.{name} needs the path of the domain's data.")
        paths[name] = path
    return rest, paths


def read_paths(paths: str | None) -> str | dict[str, str] | None:
    """A template as it is; else the map in a YAML file.

    Raises:
        InputError: neither of them.
    """
    if paths is None or "{domain}" in paths:
        return paths
    try:
        content = read_yaml(paths, texts=True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise InputError(
            f"--paths={paths!r} is neither a template with {{domain}} nor a YAML file with a map "
            "of domain to path."
        )
    return {name: str(path) for name, path in content.items()}


def _places(
    mixture: Mixture, paths: str | dict[str, str] | None, more: dict[str, str]
) -> dict[str, str]:
    where = dict(paths) if isinstance(paths, dict) else {}
    if isinstance(paths, str):
        where = {name: paths.replace("{domain}", name) for name in mixture.domains}
    where |= more
    unknown = {name: 0 for name in where if name not in mixture.domains}
    if unknown:
        check_domains(unknown, mixture.domains, "paths")
    return where


def _schedule(path: Path, mixture: Mixture) -> Schedule:
    from tandem_pl.run_files import read_trajectory

    domains, steps, rows = read_trajectory(path)
    check_domains(domains, mixture.domains, str(path))
    return [
        (step, dict(zip(domains, row, strict=True)))
        for step, row in zip(steps, rows.tolist(), strict=True)
    ]


def _choice(key: str, given: str | None, known: Iterable[str]) -> str:
    known = list(known)
    if given is None:
        return known[0]
    if given not in known:
        near = difflib.get_close_matches(given, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"--{key} {given} is unknown: {hint}it must be one of {', '.join(known)}.")
    return given


def _names(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
