"""Parsers of the command line that say what is wrong in one line, without printing every option."""

import argparse
from typing import Any, NoReturn

from tandem_pl.errors import InputError

from . import yaml_options  # noqa: F401  (jsonargparse reads names as they are typed)


class Parser(argparse.ArgumentParser):
    """For verbs with a handful of options; `cli` prints what it raises.

    >>> Parser(prog="tandem report").parse_args(["--nope"])
    Traceback (most recent call last):
    ...
    tandem_pl.errors.InputError: unrecognized arguments: --nope: see `tandem report --help`.
    """

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage."""
        raise InputError(f"{message}: see `{self.prog} --help`.")


class OneLineErrors:
    """Put before a parser of jsonargparse, which must exit by itself."""

    def error(self, message: str, *rest: Any) -> NoReturn:
        """Exits with code 2."""
        parser: Any = self
        if parser.exit_on_error:
            parser.exit(2, f"tandem: error: {message}\nsee: {parser.prog} --help\n")
        super().error(message, *rest)  # type: ignore[misc]
        raise RuntimeError(message)  # not reached: that raises
