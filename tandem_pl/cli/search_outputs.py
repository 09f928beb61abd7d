"""What the verbs of `tandem search` write and say at their end."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tandem_pl.errors import InputError

if TYPE_CHECKING:
    from tandem_pl.search.proposal import Proposal

PROPOSAL = "proposal.yaml"


def out_folder(out: str) -> Path:
    """Return the folder that `--out` names; raise an error if it is a file."""
    if Path(out).exists() and not Path(out).is_dir():
        raise InputError(f"--out {out} is a file: give a folder.")
    return Path(out)


def out_file(out: str) -> Path:
    """Return the file that `--out` names; raise an error if it is a folder."""
    if Path(out).is_dir():
        raise InputError(f"--out {out} is a folder: give a file.")
    return Path(out)


def write_proposal(proposal: Proposal, folder: Path, *others: str) -> None:
    """Write proposal.yaml and proposal.png, and say what is doubtful and where they are.

    Args:
        proposal: the mixture.
        folder: where the files go.
        others: files that the verb has written there.
    """
    proposal.save(folder / PROPOSAL)
    proposal.draw(folder / "proposal.png")
    print_end(folder, proposal.warnings, "proposal.png", *others)


def print_end(folder: Path, doubts: Iterable[str], *others: str) -> None:
    """Print what is doubtful to standard error, then where proposal.yaml and the others are.

    >>> print_end(Path("out"), [], "a.csv", "a.png")
    written to out/proposal.yaml (use it: --data.weights out/proposal.yaml), a.csv and a.png
    """
    for doubt in doubts:
        print(f"tandem: warning: {doubt}", file=sys.stderr)
    path = folder / PROPOSAL
    *first, last = others
    beside = "".join(f", {name}" for name in first) + f" and {last}"
    print(f"written to {path} (use it: --data.weights {path}){beside}")
