"""Options in YAML, on the command line and in `--config` files, with names as they are typed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml
from jsonargparse import get_loader, set_dumper, set_loader

from tandem_pl.errors import InputError
from tandem_pl.public_names import with_whole_paths
from tandem_pl.yaml_files import NAME_LISTS, NAME_VALUES, dump_yaml, quote_names

MODE = "omegaconf+"  # the parsers' mode: references between keys follow the command line
NAMES = re.compile(rf"--(?:[^=]*\.)?({'|'.join((*NAME_LISTS, *NAME_VALUES))})\+?(=.*)?", re.DOTALL)


class OptionError(Exception):
    """Carries an `InputError` through jsonargparse, which takes a `ValueError` for another type."""


def keep_names(mode: str, load: Callable[[str], Any]) -> None:
    """Let the parsers of a mode read and write YAML by `yaml_files`; `load` gives values a type."""

    def load_names(text: str, path: Any = "") -> Any:
        try:
            quoted = quote_names(text, str(path) if path else repr(text))
        except InputError as error:
            raise OptionError from error
        value = with_whole_paths(load(quoted))
        # A sentence such as "{no, on}" or "no:" is text, as jsonargparse takes "{a, b}" and "a:".
        names_alone = isinstance(value, dict) and all(v is None for v in value.values())
        return text if names_alone and quoted != text and ":" not in text.rstrip(": \n") else value

    set_loader(mode, load_names, exceptions=(yaml.YAMLError,))
    set_dumper(mode, dump_yaml)


def quote_named_values(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments; values that are names, as of `--data.hold_out`, are put in quotes.

    Example:
        >>> list(quote_named_values(["--data.hold_out", "[no, en]", "--data.weights", "uniform"]))
        ['--data.hold_out', "['no', en]", '--data.weights', 'uniform']
    """
    key = ""
    for argument in arguments:
        option = NAMES.fullmatch(argument)
        if option and option[2]:
            value = _quoted(option[1], option[2][1:])
            argument = f"{argument[: option.start(2)]}={value}"
        elif key:
            argument = _quoted(key, argument)
        key = option[1] if option and not option[2] else ""
        yield argument


def _quoted(key: str, value: str) -> str:
    try:
        return quote_names(f"{key}: {value}").removeprefix(f"{key}: ")
    except yaml.YAMLError:
        return value  # the parser will say


_load = get_loader("yaml")
for _mode in ("yaml", MODE):
    keep_names(_mode, _load)
