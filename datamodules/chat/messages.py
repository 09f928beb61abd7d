"""Conversations: lists of messages `{"role": ..., "content": ...}`.

A prompt and its response are a conversation of two messages. To read another format of chats, add a
function such as `from_messages`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tandem_pl.errors import InputError

Message = Mapping[str, Any]


def from_columns(row: Mapping[str, Any], where: str, columns: Sequence[str]) -> list[Message]:
    r"""Return the conversation of a prompt, in all but the last column, and a response.

    Raises:
        InputError: a value that is not a text, or an empty prompt or response.

    Example:
        >>> row = {"task": "Add.", "input": "1 and 2", "response": "3"}
        >>> from_columns(row, "a.jsonl, line 1", ["task", "input", "response"])[0]["content"]
        'Add.\n\n1 and 2'
    """
    values = [row[column] for column in columns]
    if len(values) > 2:  # an optional input may be missing
        values = ["" if value is None else value for value in values[:-1]] + values[-1:]
    for column, value in zip(columns, values, strict=True):
        if not isinstance(value, str):
            raise InputError(
                f"{where} has a {column!r} of type {type(value).__name__}; give a text."
            )
    prompt = "\n\n".join(value for value in values[:-1] if value.strip())
    for column, value in ((columns[0], prompt), (columns[-1], values[-1])):
        if not value.strip():
            raise InputError(f"{where} has an empty {column!r}; give a text.")
    return pair(prompt, values[-1])


def from_messages(row: Mapping[str, Any], where: str, column: str) -> list[Message]:
    """Return the conversation in a column: a list of messages, or the JSON of one.

    Raises:
        InputError: no JSON, or messages that `check_messages` refuses.
    """
    messages = row[column]
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except json.JSONDecodeError as error:
            raise InputError(f"{where} has a {column!r} that is no JSON ({error.msg}).") from error
    return [
        {"role": message["role"], "content": message["content"]}
        for message in check_messages(messages, where)
    ]


def check_messages(messages: Any, where: str) -> list[Message]:
    """Return the messages of a conversation if they are well formed.

    Raises:
        InputError: no list of messages with `role` and `content` texts, or none by the assistant.

    Example:
        >>> check_messages([{"role": "user", "content": "Hi"}], "chats.jsonl, line 3")
        Traceback (most recent call last):
        ...
        tandem_pl.errors.InputError: chats.jsonl, line 3 has no turn of the role "assistant" (its \
roles are 'user'); every chat needs one, since only responses have a loss.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InputError(
            f"{where} has messages of type {type(messages).__name__}; give a list of "
            '{"role": ..., "content": ...}.'
        )
    for number, message in enumerate(messages, start=1):
        for key in ("role", "content"):
            if not (isinstance(message, Mapping) and isinstance(message.get(key), str)):
                raise InputError(
                    f"{where} has no text {key!r} in message {number}; give messages as "
                    '{"role": ..., "content": ...}.'
                )
    if not any(message["role"] == "assistant" for message in messages):
        roles = ", ".join(sorted({repr(message["role"]) for message in messages}))
        raise InputError(
            f'{where} has no turn of the role "assistant" (its roles are {roles}); every chat '
            "needs one, since only responses have a loss."
        )
    return list(messages)


def pair(prompt: str, response: str) -> list[Message]:
    """Return the conversation of a prompt and its response."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


def prompt_of(messages: Sequence[Message]) -> str:
    """Return a text that identifies what precedes the first response, without case and spaces.

    Example:
        >>> prompt_of(pair("Hi", "A")) == prompt_of(pair("hi ", "B")) != prompt_of(pair("", ""))
        True
    """
    first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    plain = ([m["role"], " ".join(m["content"].split()).casefold()] for m in messages[:first])
    return json.dumps(list(plain))
