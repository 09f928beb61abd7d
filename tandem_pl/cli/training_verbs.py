"""`tandem fit|validate|test|predict`: what is done before torch and lightning are imported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tandem_pl.errors import InputError
from tandem_pl.public_names import KEYS, PATHS

from .early_checks import check_arguments
from .help_screen import help_screen
from .run_folder import expand


def main(arguments: Sequence[str]) -> None:
    """Run the verb `arguments[0]`.

    Raises:
        InputError: the command or its input cannot be used.
    """
    verb, *rest = arguments
    if not rest or rest[0] in ("-h", "--help"):
        print(help_screen(verb, rest[1:]), end="")
        return
    folder = None
    if rest == ["--help.all"]:
        rest = ["--help"]
    else:
        if verb != "fit" and not rest[0].startswith("--"):
            folder, rest = rest[0], expand(rest[0], rest[1:])
        content = check_arguments(verb, rest)
        if verb != "fit" and not {"print_config", "untrained"} & set(content):
            check_checkpoint(verb, content.get("ckpt_path"), folder)
    rest = [argument for argument in rest if argument != "--untrained"]
    from . import lightning_cli

    lightning_cli.main([verb, *whole_paths(rest)], folder)


def check_checkpoint(verb: str, path: object, folder: str | None) -> None:
    """Raise an error if an evaluation has no checkpoint: it would use random weights."""
    if path in ("last", "best"):
        where = f"{folder}/checkpoints/" if folder else "RUN/checkpoints/"
        raise InputError(
            f"ckpt_path={path} is for `tandem fit`: type `tandem {verb} {folder or 'RUN'}` for the "
            f"last checkpoint of a run, or give another by its path, {where}NAME.ckpt."
        )
    if not path:
        raise InputError(
            f"`tandem {verb}` has no checkpoint and would use random weights: give a run's folder, "
            f"as in `tandem {verb} RUN`, or --ckpt_path FILE, or --untrained."
        )


def whole_paths(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments with the whole path of each public name.

    >>> list(whole_paths(["--data", "EnvironmentCorpus", "--model=TandemModule"]))
    ['--data', 'tandem_pl.datamodules.EnvironmentCorpus', '--model=tandem_pl.TandemModule']
    """
    key = ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if argument.startswith("--"):
            key = option.removesuffix("+").lstrip("-").rpartition(".")[2]
        if key in KEYS and equals:
            argument = f"{option}={PATHS.get(value, value)}"
        elif key in KEYS:
            argument = PATHS.get(argument, argument)
        yield argument
