"""`tandem init`: a configuration for one's own data, to edit."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from string import Template

from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.files import write_atomically

from .arguments import run_verb
from .second_stage import second_stage

TEMPLATES = Path(__file__).parent / "templates"
LANGUAGE = ("run", "language_model")
KINDS = {  # kind -> what it is for, and the files it is made of
    "text": ("your own text, split by document", (*LANGUAGE, "data_text")),
    "tokens": ("text that is already tokenised", (*LANGUAGE, "data_tokens")),
    "instructions": ("prompts and responses, or chats", (*LANGUAGE, "data_instructions")),
    "images": ("labelled images", ("run", "image_model", "data_images")),
    "compare": ("methods and seeds under one budget", ("compare",)),
}
TRAIN = "train"  # the kind that needs a run
VALUES = {  # of placeholders, if they are not 257 and 128
    "tokens": {"vocab_size": "50257"},
    "instructions": {"length": "256"},
}
EPILOG = "kinds:\n" + "\n".join(f"  {kind:14}{about}" for kind, (about, _) in KINDS.items())
EPILOG += f"\n  {TRAIN:14}a fresh network at the weights that a run has learned: --run RUN"


def init(
    kind: str, run: str | None = None, out: str | None = None, overwrite: bool = False
) -> None:
    """Write a configuration into the current folder: for your own data, to edit, or of a run.

    Args:
        kind: text (the default), tokens, instructions, images, compare or train.
        run: folder of a run that learned weights, for the kind train.
        out: file to write; by default KIND.yaml.
        overwrite: replace a file that exists.
    """
    kinds = [*KINDS, TRAIN]
    if kind not in kinds:
        hint = did_you_mean(kind, kinds)
        raise InputError(f"tandem init {kind}: {hint}use one of {', '.join(kinds)}.")
    if (kind == TRAIN) != (run is not None):
        raise InputError(f"--run RUN goes with `tandem init {TRAIN}`, which needs it.")
    path = Path(out or f"{kind}.yaml")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists: give --out FILE for another, or --overwrite.")
    if run is not None:
        text = second_stage(Path(run), path.stem)
        write_atomically(path, text.encode())
        command = f"tandem fit --config {shlex.quote(str(path))}"
        print(f"written to {path}: a fresh network at the average of {run}\nnext: {command}")
        return
    about, parts = KINDS[kind]
    verb, key = ("compare", "base") if kind == "compare" else ("fit", "data")
    command = f"tandem {verb} --config {shlex.quote(str(path))}"
    title = f"# {about.capitalize()}: edit what {key!r} says, then type\n#   {command}\n\n"
    text = fill(parts, name=path.stem, **VALUES.get(kind, {}))
    write_atomically(path, (title + text).encode())
    print(f"written to {path}: edit what {key!r} says\nnext: {command}")


def fill(parts: Sequence[str], **values: str) -> str:
    """Return a configuration from its parts, which are files of the folder `templates`."""
    text = "".join((TEMPLATES / f"{part}.yaml").read_text(encoding="utf-8") for part in parts)
    return Template(text).safe_substitute({"vocab_size": "257", "length": "128", **values})


def main(arguments: Sequence[str]) -> None:
    """Run the verb; `arguments[0]` is its name."""
    rest = list(arguments[1:])
    if not rest or (rest[0].startswith("--") and rest[0] != "--help"):
        rest.insert(0, "text")
    run_verb(init, rest, positional=True, epilog=EPILOG)
