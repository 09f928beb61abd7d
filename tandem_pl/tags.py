"""What the curves of domains are called."""

from collections.abc import Iterable


def domain_tags(names: Iterable[str]) -> tuple[str, ...]:
    """The last parts of the tags of domains: their names, as far as loggers can show them.

    TensorBoard's custom charts lose curves with a parenthesis in their tags, so these become
    brackets; signs that do not print become spaces. Ordinary names stay as they are; a
    changed name that another domain has is given a number.

    >>> domain_tags(["c++", "news/uk", "web (2024)", "web [2024]"])
    ('c++', 'news/uk', 'web [2024] 2', 'web [2024]')
    """
    names = list(names)
    taken = {name for name in names if _cleaned(name) == name}
    tags = []
    for name in names:
        tag = cleaned = _cleaned(name)
        number = 2
        while tag != name and tag in taken:
            tag, number = f"{cleaned} {number}", number + 1
        taken.add(tag)
        tags.append(tag)
    return tuple(tags)


def _cleaned(name: str) -> str:
    name = name.replace("(", "[").replace(")", "]")
    return name if name.isprintable() else "".join(c if c.isprintable() else " " for c in name)
