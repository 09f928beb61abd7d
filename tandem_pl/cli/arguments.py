"""One command-line style: a typed function is a verb, and a mistake is one sentence."""

from __future__ import annotations

import ast
import inspect
import json
import re
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.yaml_files import SOURCE_MAPS

from .yaml_options import quote_named_values  # whose import sets the reader of YAML


class Parser(ArgumentParser):
    """Raise an `InputError` of one sentence where jsonargparse prints the usage and exits.

    >>> Parser(prog="tandem report").parse_args(["--nope"])
    Traceback (most recent call last):
    ...
    tandem_pl.errors.InputError: unknown option --nope: see `tandem report --help`.
    """

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Parse; in parsers of nested values, read None as null.

        jsonargparse reads `--model.network.pretrained null` as None and hands it to the parser of
        `network` as the text "None"; of a map or a list likewise.
        """
        if args is not None and not self.exit_on_error:
            args = [f"{key}{equals}{as_yaml(value)}" for key, equals, value in map(_split, args)]
        return super().parse_args(args, *more, **options)

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


def _split(argument: str) -> tuple[str, str, str]:
    return argument.partition("=")


def as_yaml(value: str) -> str:
    """Return the YAML of what Python prints for a value; other texts stay.

    >>> as_yaml("None"), as_yaml("{'a': None, 'no': [1e-05, 'x y']}"), as_yaml("[web, code]")
    ('null', '{"a": null, "no": [1e-05, "x y"]}', '[web, code]')
    """
    if value == "None":
        return "null"
    if value[:1] not in ("{", "["):
        return value
    try:
        content = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    return json.dumps(content, ensure_ascii=False)  # whose texts are in quotes


def one_sentence(message: str) -> str:
    r"""Shorten what jsonargparse says of a value: its key, what was expected, what was given.

    >>> one_sentence('Parser key "tokens":\n  Errors:\n    - Expected a <class \'float\'>\n'
    ...              "  Given value type: <class 'str'>\n  Given value: many")
    '--tokens: expected float, given: many'
    """
    keys: list[str] = []
    owner, expected = "", []
    for line in (line.strip(" -") for line in message.splitlines()):
        keys += re.findall(r'Parser key "([^"]+)"', line)
        where = f"--{'.'.join(keys)}"
        if found := re.search(r"Problem with given class_path '([^']+)'", line):
            owner = found[1]
        elif found := re.search(r"Option '([^']+)' is not accepted", line):
            return f"{where}: {owner} has no option {found[1]!r}"
        elif found := re.search(r"Expected (?:an? )?(.+?)(?:[.,] Got value: (.*))?$", line):
            if not re.match("path but|dot import|<class 'NoneType'|.*Subclass types", found[1]):
                kind = _type_name(found[1])
                of_sources = kind == "dict" and where.rpartition(".")[2].lstrip("-") in SOURCE_MAPS
                expected.append(f"{where}.NAME FILE" if of_sources else kind)
                if found[2]:
                    return f"{where}: expected {expected[-1]}, given: {found[2]}"
        elif (found := re.match(r"Given value: (.*?)(\. Got value: .*)?$", line)) and expected:
            return f"{where}: expected {' or '.join(dict.fromkeys(expected))}, given: {found[1]}"
        elif re.search("has no attribute|No module|does not correspond|No known", line):
            return f"{where}: {line}".rstrip(".")
    text = " ".join(line.strip(" -") for line in message.splitlines())
    return re.sub(r'Parser key "([^"]+)":', r"--\1:", text).rstrip(".")


def _type_name(text: str) -> str:
    text = re.sub(r"(?:typing\.)?Literal\[(.*?)\]", r"\1", text)
    return re.sub(r"<class '(?:.*\.)?(\w+)'>|typing\.", r"\1", text)


def make_parser(
    function: Callable[..., None],
    positional: bool = False,
    config: bool = False,
    epilog: str | None = None,
    fixed: Mapping[str, Any] = {},
) -> Parser:
    """Return the parser of a verb.

    Args:
        function: named as the verb (`search_fit` for two words); its arguments are the options, its
            docstring describes them.
        positional: whether arguments without a default come without `--`.
        config: whether `--config FILE` gives options in YAML.
        epilog: text after the help.
        fixed: arguments of the function that are not options.
    """
    parser = Parser(
        prog=f"tandem {function.__name__.replace('_', ' ')}",
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
