"""Checks that a user's names of domains are those of the data."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from .errors import InputError, did_you_mean


def check_texts(names: Iterable[Any], key: str) -> tuple[str, ...]:
    """Return the names; raise an error if one is not text, as another YAML reader makes of `no`."""
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise InputError(
                f"{key} has the name {name!r}, which is no text: put names in quotes, since YAML "
                "reads unquoted ones such as no, 010 or 1e3 as something else."
            )
    return names


def check_domains(given: Iterable[str], expected: Iterable[str], key: str) -> None:
    """Raise an error unless both name the same domains, saying which to add or take out."""
    given, expected = list(given), list(expected)
    check_known(given, expected, key)
    known = set(given)
    missing = [name for name in expected if name not in known]
    if missing:
        raise InputError(
            f"{key} says nothing of {list_names(missing)}: give every domain of "
            f"{list_names(expected)} a weight (0 leaves it out)."
        )


def check_known(given: Iterable[str], expected: Iterable[str], key: str) -> list[str]:
    """Return the given names; raise an error if one is not a domain of the data."""
    given, expected = list(given), list(expected)
    known = set(expected)
    for name in given:
        if name not in known:
            raise InputError(
                f"{key} names the unknown domain {name!r}: {did_you_mean(name, expected)}"
                f"the domains are {list_names(expected)}."
            )
    return given


def list_names(names: Iterable[str], most: int = 12) -> str:
    """Return quoted names in one line; if there are many, the first ones and their number."""
    quoted = [repr(str(name)) for name in names]
    more = [f"... ({len(quoted)} in all)"] if len(quoted) > most else []
    return ", ".join(quoted[:most] + more)


def first_names(names: Sequence[str], most: int) -> str:
    """Return names without quotes; of more than `most` the first ones, and how many there are more.

    >>> first_names(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def own_domains(target: Collection[str], tested: Sequence[str]) -> list[str]:
    """Return the tested domains that are the target's, if others are tested that it does not have.

    Args:
        target: domains that have a share of the target.
        tested: domains that a network is tested on.

    >>> own_domains({"exam"}, ["web", "exam"]), own_domains({"web", "code"}, ["web", "code"])
    (['exam'], [])
    """
    own = set(target) < set(tested)
    return [name for name in tested if own and name in target]
