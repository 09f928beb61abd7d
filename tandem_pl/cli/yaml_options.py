"""Options in YAML, on the command line and in `--config` files, with names as they are typed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml
from jsonargparse import get_loader, set_dumper, set_loader

from tandem_pl.errors import InputError
from tandem_pl.public_names import with_whole_paths
from tandem_pl.yaml_files import NAME_LISTS, NAME_VALUES, SOURCE_MAPS, dump_yaml, quote_names

MODE = "omegaconf+"  # the parsers' mode: references between keys follow the command line
KEYS = "|".join((*NAME_LISTS, *NAME_VALUES, *SOURCE_MAPS))
NAMES = re.compile(rf"--(?:[^=]*\.)?({KEYS})\+?(=.*)?", re.DOTALL)
MAPS = "|".join((*SOURCE_MAPS, "paths", "weights", "target_weights", "caps"))
# One entry of a map from domain names, such as --data.domains.web=FILE or --paths.web FILE.
ENTRY = re.compile(rf"(--(?:[^=]*\.)?({MAPS})\.[^=]+)(=.*)?", re.DOTALL)


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

    Raises:
        InputError: an entry of a map from domain names is given twice.

    Example:
        >>> list(quote_named_values(["--data.hold_out", "[no, en]", "--data.weights", "uniform"]))
        ['--data.hold_out', "['no', en]", '--data.weights', 'uniform']
    """
    _check_once(arguments)
    start = ""  # YAML of the option's key, before its value
    for argument in arguments:
        option, entry = NAMES.fullmatch(argument), ENTRY.fullmatch(argument)
        name, equals, value = argument.partition("=")
        if option or entry:
            start = f"{option[1]}: " if option else f"{entry[2]}:\n  x: " if entry else ""
        elif start:
            argument = _quoted(start, argument)
        if equals and (option or entry):
            argument = f"{name}={_quoted(start, value)}"
        if equals or not (option or entry):
            start = ""
        yield argument


def _quoted(start: str, value: str) -> str:
    if value[:1] not in ("[", "{"):
        return value  # a text, which the parser takes as it is typed
    try:
        return quote_names(start + value).removeprefix(start)
    except (InputError, yaml.YAMLError):
        return value  # the parser will say


def _check_once(arguments: Sequence[str]) -> None:
    given: dict[str, str] = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        entry = ENTRY.fullmatch(argument)
        if entry and not entry[1].endswith("+"):
            value = entry[3][1:] if entry[3] else following
            if entry[1] in given:
                raise InputError(
                    f"{entry[1]} is given twice, as {given[entry[1]]!r} and {value!r}; keep one, "
                    "or rename it."
                )
            given[entry[1]] = value


_load = get_loader("yaml")
for _mode in ("yaml", MODE):
    keep_names(_mode, _load)
