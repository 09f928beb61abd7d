"""A run's mixture in another trainer's format, with the paths of the domains' data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from tandem_pl.checks import check_choice
from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.mixture import Mixture, check_domains
from tandem_pl.run_files import LISTING, folder_of_clusters, read_trajectory
from tandem_pl.yaml_files import read_yaml

from .formats import FORMATS, Blend, Schedule, placeholder, without_zeros

WEIGHTS = ("average", "last", "trajectory")


def export_mixture(
    source: str,
    to: str,
    which: str = "average",
    paths: str | None = None,
    domain_paths: Mapping[str, str] = {},
) -> tuple[str, list[str]]:
    """Return the text in one format, and notes for the user.

    Args:
        source: a run's folder, or a mixture file.
        to: a name of `FORMATS`.
        which: "average", "last" or "trajectory".
        paths: a template with `{domain}`, or a YAML file with a map of domain to path.
        domain_paths: domain -> path; they win over `paths`.

    Raises:
        InputError: a name is unknown, there is no mixture, or the format takes no trajectory or no
            paths.
    """
    if to not in FORMATS:
        hint = did_you_mean(to, FORMATS)
        raise InputError(f"--to {to} is unknown: {hint}it must be one of {', '.join(FORMATS)}.")
    check_choice("--which", which, WEIGHTS)
    form = FORMATS[to]
    if (paths or domain_paths) and not form.paths:
        able = ", ".join(name for name, row in FORMATS.items() if row.paths)
        raise InputError(f"--paths is for {able}: {to} has only names and weights; leave it out.")
    file = Path(source) / "mixture.yaml" if Path(source).is_dir() else Path(source)
    if not file.is_file():
        problem = "has no mixture.yaml" if Path(source).is_dir() else "does not exist"
        raise InputError(f"{source} {problem}: give the folder of a run, or a mixture file.")
    mixture = Mixture.load(file)
    schedule = None
    if which == "trajectory":
        if not form.schedule:
            able = ", ".join(name for name, row in FORMATS.items() if row.schedule)
            raise InputError(
                f"{to} takes one mixture, not a trajectory: use --which average or last, or one "
                f"of {able}."
            )
        schedule = _read_schedule(file.parent / "trajectory.csv", mixture)
    weights = mixture.weights if which == "last" else mixture.average
    notes = []
    if folder := folder_of_clusters(mixture):
        notes.append(f"domains are clusters: {folder / LISTING} has the domain of each document.")
    if not form.zeros:
        weights, zeros = without_zeros(weights)
        if zeros:
            notes.append(f"left out for their weight of 0: {_first(zeros)}.")
    known = read_paths(paths, mixture.domains) | dict(domain_paths)
    unknown = {name: 0 for name in known if name not in mixture.domains}
    if unknown:
        check_domains(unknown, mixture.domains, "paths")
    missing = [name for name in weights if name not in known]
    if form.paths and missing:
        notes.append(
            f"no path for {_first(missing)}: replace {placeholder(missing[0])!r}, or give --paths."
        )
    known |= {name: placeholder(name) for name in missing}
    origin = f"the {which}{'' if which == 'trajectory' else ' weights'} of {source}"
    return form.write(Blend(weights, known, schedule, origin)), notes


def read_paths(paths: str | None, domains: Iterable[str]) -> dict[str, str]:
    """Return domain -> path, from a template or a YAML file; empty for None.

    Raises:
        InputError: it is neither of them.

    >>> read_paths("s3://{domain}", ["web"])
    {'web': 's3://web'}
    """
    if paths is None:
        return {}
    if "{domain}" in paths:
        return {name: paths.replace("{domain}", name) for name in domains}
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


def _read_schedule(path: Path, mixture: Mixture) -> Schedule:
    domains, steps, rows = read_trajectory(path)
    check_domains(domains, mixture.domains, str(path))
    return [
        (step, dict(zip(domains, row, strict=True)))
        for step, row in zip(steps, rows.tolist(), strict=True)
    ]


def _first(names: Sequence[str], most: int = 8) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
