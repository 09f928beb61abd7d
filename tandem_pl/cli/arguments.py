"""One command-line style: a typed function is a verb, and a mistake is one sentence."""

from __future__ import annotations

import inspect
import re
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from tandem_pl.errors import InputError, did_you_mean

from .yaml_options import quote_named_values  # whose import sets the reader of YAML

# Lines in jsonargparse's errors that do not help a user.
NOISE = re.compile(
    "Does not validate|Subtypes:|Errors:|Given value type:|Given value: NestedArg|"
    "Expected (a )?(<class ')?NoneType"
)


class Parser(ArgumentParser):
    """Raise an `InputError` of one sentence where jsonargparse prints the usage and exits.

    >>> Parser(prog="tandem report").parse_args(["--nope"])
    Traceback (most recent call last):
    ...
    tandem_pl.errors.InputError: unknown option --nope: see `tandem report --help`.
    """

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the error; parsers of nested values leave it to the outer parser."""
        if not self.exit_on_error:
            super().error(message, ex)
        unknown = re.match(r"unrecognized arguments: (--[^ =]+)", message)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            text = f"unknown option {unknown[1]}: {did_you_mean(unknown[1], options)}"
        else:
            text = f"{one_sentence(message)}: "
        raise InputError(f"{text}see `{self.prog.replace(' [options]', '')} --help`.") from ex


class Help(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Help with types and defaults; the lines of an epilog stay as they are."""


def one_sentence(message: str) -> str:
    r"""Shorten what jsonargparse says of a value.

    >>> one_sentence('Parser key "tokens":\n  Errors:\n    - Expected a <class \'float\'>\n'
    ...              "  Given value type: <class 'str'>\n  Given value: many")
    '--tokens: expected float, given: many'
    """
    lines = (line.strip(" -") for line in message.splitlines())
    text = " ".join(line for line in lines if line and not NOISE.match(line))
    text = re.sub(r"Expected (?:an? )?(?:<class '|typing\.)?([\w.]+)'?>?", r"expected \1", text)
    text = re.sub(r"\.? (?:Given|Got) value:", ", given:", text)
    return re.sub(r'Parser key "([^"]+)":', r"--\1:", text).rstrip(".")


def make_parser(
    function: Callable[..., None],
    positional: bool = False,
    config: bool = False,
    epilog: str | None = None,
    fixed: Mapping[str, Any] = {},
) -> Parser:
    """Return the parser of a verb.

    Args:
        function: named as the verb; its arguments are the options, its docstring describes them.
        positional: whether arguments without a default come without `--`.
        config: whether `--config FILE` gives options in YAML.
        epilog: text after the help.
        fixed: arguments of the function that are not options.
    """
    parser = Parser(
        prog=f"tandem {function.__name__}",
        description=(inspect.getdoc(function) or "").partition("\n\n")[0],
        epilog=epilog,
        formatter_class=Help,
        allow_abbrev=False,
    )
    if config:
        parser.add_argument("--config", action="config", help="a YAML file of these options")
    parser.add_function_arguments(
        function, as_group=False, as_positional=positional, skip=set(fixed)
    )
    return parser


def run_verb(
    function: Callable[..., None],
    arguments: Sequence[str],
    fixed: Mapping[str, Any] = {},
    **options: Any,
) -> None:
    """Call a verb's function with the options in `arguments`; for the rest see `make_parser`.

    Raises:
        InputError: an option is unknown, missing or of the wrong type.
    """
    parser = make_parser(function, fixed=fixed, **options)
    spelled = quote_named_values(list(spell_out(parser, arguments)))
    given = parser.parse_args(list(spelled)).as_dict()
    if options.get("config"):
        given.pop("config")
    function(**given, **fixed)


def spell_out(parser: Parser, arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments as jsonargparse spells them.

    - `--train-bpe 8` becomes `--train_bpe 8`; the domain in `--domains.my-text` stays.
    - `--overwrite` becomes `--overwrite=true`.
    - `--seeds 0 1` becomes `--seeds+=0 --seeds+=1`.
    """
    flags: set[str] = set()
    lists: set[str] = set()
    for action in parser._actions:
        if isinstance(action.default, bool):
            flags.update(action.option_strings)
        lists.update(o for o in action.option_strings if f"{o}+" in action.option_strings)
    option = ""  # the last one
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=False):
        if not argument.startswith("--"):
            yield f"{option}+={argument}" if option in lists else argument
            continue
        argument = re.sub("(?<=^--)[^.=]+", lambda name: name[0].replace("-", "_"), argument)
        option, equals, value = argument.partition("=")
        if option in lists and equals:
            yield f"{option}+={value}"
        elif argument in flags and following.lower() not in ("true", "false"):
            yield f"{argument}=true"
        elif option not in lists or following.startswith("--"):
            yield argument
