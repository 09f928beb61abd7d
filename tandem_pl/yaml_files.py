"""YAML in which names are read as they are typed.

YAML readers guess the type of an unquoted key: `no` is False, `010` is 8, `1_000` and `1e3` are one
number, and of a key that is given twice the last one wins without a word. Keys are names here, of
domains above all, so they are put in quotes before any reader sees them. Values keep their types,
but paths and names in the sources of domains are text too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from .errors import InputError
from .files import read_text

# Ten times as fast, if libyaml is installed.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
TextLoader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

#: Keys whose lists hold names, and keys whose value is one, unless it is null.
NAME_LISTS = ("classes", "hold_out", "methods")
NAME_VALUES = (
    *("baseline", "dataset", "domain_column"),
    *("text_column", "prompt_column", "response_column", "messages_column"),
)
#: Keys of maps of sources, and what is text in the map of one source.
SOURCE_MAPS = ("domains", "train", "target", "test")
SOURCE_TEXTS = ("path", "dataset", "config", "split", "column", "image", "label")
MERGE, NULL = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:null"
# What some reader of YAML 1.1 or 1.2 takes for another thing than text.
GUESSED = re.compile(
    r"[-+.\d~=<].*|(y|n|yes|no|on|off|true|false|null|nan|inf|)$", re.IGNORECASE | re.DOTALL
)


def read_yaml(path: str | os.PathLike[str], texts: bool = False) -> Any:
    """Return the content of a YAML file.

    Args:
        path: the file.
        texts: whether values are texts as they are typed, too.

    Raises:
        InputError: a key is given twice in one map; names both lines.
        OSError, UnicodeDecodeError, yaml.YAMLError: the file cannot be read.
    """
    return parse_yaml(read_text(path), str(path), texts)


def parse_yaml(text: str, where: str = "", texts: bool = False) -> Any:
    """Return the content of YAML text; see `read_yaml` and `quote_names`."""
    return yaml.load(quote_names(text, where), TextLoader if texts else Loader)


def dump_yaml(content: Mapping[str, Any], width: int = 80) -> str:
    r"""Return YAML in the order of `content`, whose texts every reader reads back as the same.

    Example:
        >>> dump_yaml({"no": 1, "on time": "1e3"})
        "'no': 1\non time: '1e3'\n"
    """
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)


def quote_names(text: str, where: str = "") -> str:
    """Return YAML text with the names in it in quotes; lines keep their numbers.

    Args:
        text: names are the keys of all maps, the values of `NAME_LISTS` and `NAME_VALUES`, and
            those of `SOURCE_TEXTS` in `SOURCE_MAPS`; in `domains` also a path without a key.
        where: the file, for messages.

    Raises:
        InputError: a key is given twice in one map.
        yaml.YAMLError: the text is not YAML.

    Example:
        >>> quote_names("weights: {no: 0.3, en: 0.7}")
        "weights: {'no': 0.3, en: 0.7}"
    """
    text = text.removeprefix("\ufeff")
    if ":" not in text and "{" not in text:
        return text
    quoted, end = [], 0
    names = {node.start_mark.index: node for node in _names(yaml.compose(text, Loader), where)}
    for _, node in sorted(names.items()):
        start = node.end_mark.index - len(node.value)
        # A style is given to what is in quotes already. A name behind an anchor or over several
        # lines is found by its end, or left as it is.
        if not node.style and GUESSED.match(node.value) and text[start:].startswith(node.value):
            quoted += [text[end:start], "'", node.value.replace("'", "''"), "'"]
            end = start + len(node.value)
    return "".join([*quoted, text[end:]])


def _names(root: Any, where: str) -> Iterator[yaml.ScalarNode]:
    """Yield the nodes of all names, each map's after a check that no key is twice in it."""
    left, seen = [root], set()
    while left:
        node = left.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        first: dict[str, Any] = {}
        for key, value in node.value:
            left.append(value)
            if not isinstance(key, yaml.ScalarNode) or (key.tag == MERGE and not key.style):
                continue
            if key.value in first:
                raise InputError(_twice(key.value, first[key.value], key.start_mark, where))
            first[key.value] = key.start_mark
            yield key
            listed = value.value if isinstance(value, yaml.SequenceNode) else [value]
            wanted = NAME_LISTS if listed is value.value else NAME_VALUES
            if key.value in wanted:
                names = (item for item in listed if isinstance(item, yaml.ScalarNode))
                yield from (item for item in names if item is not value or item.tag != NULL)
            if key.value in SOURCE_MAPS and isinstance(value, yaml.MappingNode):
                for _, source in value.value:
                    yield from _texts_of_source(source, key.value == "domains")


def _texts_of_source(source: Any, path: bool) -> Iterator[yaml.ScalarNode]:
    """Yield the values that are text in a domain's source; `path`: also a path without a key."""
    given = [source] if path else []
    if isinstance(source, yaml.MappingNode):
        given = [value for key, value in source.value if key.value in SOURCE_TEXTS]
    for value in given:
        for item in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(item, yaml.ScalarNode) and item.tag != NULL:
                yield item


def _twice(name: str, first: Any, second: Any, where: str) -> str:
    lines = f"in lines {first.line + 1} and {second.line + 1}"
    if first.line == second.line:
        lines = f"in line {first.line + 1}, at columns {first.column + 1} and {second.column + 1}"
    return f"{where or 'a map'} has the key {name!r} twice, {lines}; keep one, or rename it."


class _Dumper(SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: Any, text: str) -> yaml.ScalarNode:
    style = None if text.isprintable() else '"'  # whose escapes hold any character
    style = "'" if style is None and GUESSED.match(text) else style
    node: yaml.ScalarNode = dumper.represent_scalar("tag:yaml.org,2002:str", text, style)
    return node


_Dumper.add_representer(str, _represent_text)
