"""What `mixture.yaml` says of the data, and the check of a later run against it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn

from .errors import InputError
from .mixture import Mixture

if TYPE_CHECKING:
    from .episode import MixtureData

OF_THE_RUN = (  # not content
    *("domains", "target domains", "batch_size", "seed", "allocation"),
    *("final_samples", "the run's samples"),
)
# Settings of a corpus that were found, not asked for.
OPEN = ("installed", "sources", "columns", "target_sources", "target_columns")


def data_record(
    data: object,
    identity: Mapping[str, Any],
    folder: str | None,
    digests: Mapping[str, str] | None = None,
    clusters: str | None = None,
) -> dict[str, Any]:
    """Return what the data are, as plain Python.

    Args:
        data: the data module.
        identity: what must be the same to resume, with pairs (domain, samples) at "domains".
        folder: of the corpus on disk, if there is one that a later run can open.
        digests: of each domain's training data, if the data module knows them.
        clusters: folder with the listing of the clusters that the domains are, in a cache.

    Returns:
        `class`; `samples` of each domain; `fingerprint` of the digests, or else of the rest of the
        identity (files with their times, settings), if there is any; `folder`; `clusters`.
    """
    rest = {key: value for key, value in identity.items() if key not in OF_THE_RUN}
    content = digests or rest
    record: dict[str, Any] = {"class": type(data).__name__, "samples": dict(identity["domains"])}
    if content:
        text = json.dumps([identity["domains"], content], default=str, sort_keys=True)
        record["fingerprint"] = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    if folder is not None:
        record["folder"] = os.path.abspath(folder)
    if clusters is not None:
        record["clusters"] = os.path.abspath(clusters)
    return record


def with_target(data: MixtureData) -> dict[str, Any]:
    """Return the record of the data, with the share of each target domain as `target`, if any."""
    if data.target_shares is None:
        return data.record
    names, shares = data.domain_names("validate"), data.target_shares.tolist()
    return {**data.record, "target": dict(zip(names, shares, strict=True))}


def warn_if_other_data(mixture: Mixture, here: Mapping[str, Any], spec: Any) -> None:
    """Warn in one sentence if a mixture was learned on other data than a run has.

    Args:
        mixture: read from a file, with its `about`; others are not checked.
        here: `data_record` of the run.
        spec: how the user named the mixture.
    """
    there = mixture.about.get("data")
    if not isinstance(there, Mapping):
        return  # not from a file, or from a file without a record
    before, now = there.get("samples", {}), here["samples"]
    marks = there.get("fingerprint"), here.get("fingerprint")
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        name = changed[0]
        difference = f"domain {name!r} has {before.get(name)} samples there and {now[name]} here"
        if len(changed) > 1:
            difference += f", and {len(changed) - 1} more domains differ"
    elif all(marks) and marks[0] != marks[1]:
        difference = "the sizes are equal, but files, packages or settings changed"
    else:
        return
    hint = ""
    if there.get("folder") and there.get("class") == here["class"]:
        hint = "; to train on the data of that run, set data.like to its folder"
    rank_zero_warn(f"weights={str(spec)!r} was learned on other data: {difference}{hint}.")


def folder_of_run(run: str, manifest: str) -> Path:
    """Return the folder of the corpus that a run was trained on, for `data.like`.

    Args:
        run: folder of the run, or its `mixture.yaml`.
        manifest: name of the file that a complete corpus has.

    Raises:
        InputError: no such run, no record of its corpus, or the corpus is gone.
    """
    path = Path(run).expanduser()
    path = path / "mixture.yaml" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"like={run!r} is no run: give the folder of a run, with mixture.yaml.")
    record = Mixture.load(path, "like").about.get("data")
    if not isinstance(record, Mapping) or "folder" not in record:
        raise InputError(
            f"like={run!r}: {path} does not say where its corpus is (an older version wrote it, or "
            "its data are not kept in a folder); leave like out."
        )
    folder = Path(record["folder"])
    if not (folder / manifest).is_file():
        raise InputError(
            f"like={run!r}: the corpus of that run was in {folder} and is not there any more; "
            "leave like out to build one from today's data."
        )
    return folder


def check_same_settings(run: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise an error if a run's corpus was built with other settings than are asked for.

    What was found and not asked for, such as the installed packages, may differ.
    """
    for key in {**here, **there}:  # one of them may have no target of its own
        if key not in OPEN and there.get(key) != here.get(key):
            raise InputError(
                f"like={run!r}: the corpus of that run was built with {key}={there.get(key)!r} and "
                f"this run asks for {key}={here.get(key)!r}; give the same, or leave like out."
            )
