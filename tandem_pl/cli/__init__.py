"""The `tandem` command: a table of verbs. Heavy imports wait until a verb needs them."""

import sys
from collections.abc import Sequence
from importlib import import_module

TRAINING = "training_verbs"
VERBS = {  # verb -> module with main(arguments), and what the verb does
    "init": ("init", "write a configuration for your own data, to edit"),
    "fit": (TRAINING, "learn a mixture, or train a network on a given one"),
    "validate": (TRAINING, "losses by domain on the target data"),
    "test": (TRAINING, "losses and perplexities by domain on held-out data"),
    "predict": (TRAINING, "the loss of each held-out sample, as a CSV file"),
    "prepare": ("prepare", "tokenize and split your own text into a corpus that fit takes"),
    "compare": ("compare", "methods and seeds under one budget, with tables and pictures"),
    "search": ("search", "a mixture from many small runs, by laws of their losses"),
    "export": ("export", "a mixture for another trainer, or the trained network"),
    "report": ("report", "one page on a finished run: which weights rose or fell, and how surely"),
}


def usage() -> str:
    """Return the text of `tandem --help`."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {about}" for verb, (_, about) in VERBS.items())
    return (
        "usage: tandem VERB [ARGUMENTS]\n\n"
        f"Learn how much of each kind of data to train on.\n\nverbs:\n{verbs}\n\n"
        "Start with: tandem init text, and tandem fit --config text.yaml\n"
        "Options of a verb: tandem VERB --help\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code; an `InputError` is printed as one line."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if verb == "--version":
        from tandem_pl import __version__

        print(f"tandem_pl {__version__}")
        return 0
    from tandem_pl.errors import InputError, did_you_mean, find_input_error

    from .notes import print_own_warnings_as_notes

    try:
        if verb not in VERBS:
            known = ", ".join(VERBS)
            hint = did_you_mean(verb, VERBS)
            raise InputError(f"unknown verb {verb!r}: {hint}use one of {known}.")
        with print_own_warnings_as_notes():
            import_module(f"{__name__}.{VERBS[verb][0]}").main(arguments)
    except Exception as error:
        cause = find_input_error(error)
        if cause is None:
            raise
        print(f"tandem: error: {cause}", file=sys.stderr)
        return 2
    return 0
