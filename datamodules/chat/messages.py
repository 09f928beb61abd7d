"""Conversations: lists of messages `{"role": ..., "content": ...}` with whatever else they have.

A prompt and its response are a conversation of two messages. To read another format of chats, add a
function such as `from_messages`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tandem_pl.errors import InputError

Message = Mapping[str, Any]

ARROW_ROW = re.compile(r", row \d+$")  # how rows of Parquet and data sets are named
NO_CONTENT = {"role", "content", "name", "weight", "tool_call_id"}  # never a message by themselves


class Chat(list[Message]):
    """The messages of a conversation.

    Args:
        messages: the messages.
        tools: the tools that the assistant may call, as chat templates take them.
    """

    def __init__(
        self, messages: Iterable[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        super().__init__(messages)
        self.tools = tools

    def key(self) -> str:
        """Return a text that identifies the conversation."""
        whole = list(self) if self.tools is None else [list(self), self.tools]
        return json.dumps(whole, default=str)


def text_of(message: Message) -> str:
    """Return the content of a message as a text; empty if it has none.

    Example:
        >>> text_of({"role": "user", "content": [{"type": "text", "text": "Hi"}]})
        '[{"type": "text", "text": "Hi"}]'
    """
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    return json.dumps(content, default=str)


def from_columns(row: Mapping[str, Any], where: str, columns: Sequence[str]) -> Chat:
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
    return Chat(pair(prompt, values[-1]))


def from_messages(
    row: Mapping[str, Any], where: str, column: str, tools_column: str | None = None
) -> Chat:
    """Return the conversation in a column: a list of messages, or the JSON of one.

    Messages are kept whole, with all their keys. In Parquet and data sets (`ARROW_ROW`) all maps
    have the same keys, so there a null inside a message is a missing key.

    Args:
        row: column -> value.
        where: the row's name in error messages.
        column: the column of the messages.
        tools_column: a column of a list of tools, or of the JSON of one; it may be missing.

    Raises:
        InputError: no JSON, messages that `check_messages` refuses, or tools that are no maps.
    """
    messages = check_messages(_read_json(row, where, column), where)
    tools = _read_json(row, where, tools_column) if row.get(tools_column or "") else None
    if tools is not None and not (_is_list(tools) and all(isinstance(t, Mapping) for t in tools)):
        raise InputError(f"{where} has a {tools_column!r} that is no list of maps; give one.")
    return Chat(messages, tools)


def _read_json(row: Mapping[str, Any], where: str, column: str | None) -> Any:
    value = row[column or ""]
    if isinstance(value, str):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise InputError(f"{where} has a {column!r} that is no JSON ({error.msg}).") from error
    return _without_nulls(value) if ARROW_ROW.search(where) else value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None or k == "content"}
    return [_without_nulls(item) for item in value] if _is_list(value) else value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def check_messages(messages: Any, where: str) -> list[Message]:
    """Return the messages of a conversation if they are well formed, role and content first.

    Raises:
        InputError: no list of messages with `role` and `content` texts, a `weight` that is neither
            0 nor 1, or no message by the assistant. A message with other fields, such as
            `tool_calls`, needs no content; it may be a list of maps too, for a template that knows
            such parts.

    Example:
        >>> check_messages([{"role": "user", "content": "Hi"}], "chats.jsonl, line 3")
        Traceback (most recent call last):
        ...
        tandem_pl.errors.InputError: chats.jsonl, line 3 has no turn of the role "assistant" (its \
roles are 'user'); every chat needs one, since only responses have a loss.
    """
    if not _is_list(messages) or not messages:
        raise InputError(
            f"{where} has messages of type {type(messages).__name__}; give a list of "
            '{"role": ..., "content": ...}.'
        )
    for number, message in enumerate(messages, start=1):
        for key, is_good in (("role", _has_role), ("content", _has_content)):
            if not (isinstance(message, Mapping) and is_good(message)):
                raise InputError(
                    f"{where} has no text {key!r} in message {number}; give messages as "
                    '{"role": ..., "content": ...}.'
                )
        if message.get("weight") not in (None, 0, 1):
            raise InputError(
                f"{where} has the weight {message['weight']!r} in message {number}; give 0, for no "
                "loss, or 1."
            )
    if not any(message["role"] == "assistant" for message in messages):
        roles = ", ".join(sorted({repr(message["role"]) for message in messages}))
        raise InputError(
            f'{where} has no turn of the role "assistant" (its roles are {roles}); every chat '
            "needs one, since only responses have a loss."
        )
    return [
        {key: message[key] for key in ("role", "content") if key in message} | dict(message)
        for message in messages
    ]


def _has_role(message: Message) -> bool:
    return isinstance(message.get("role"), str)


def _has_content(message: Message) -> bool:
    content = message.get("content")
    if content is None:
        return any(message[key] for key in message.keys() - NO_CONTENT)
    is_parts = _is_list(content) and all(isinstance(part, Mapping) for part in content)
    return isinstance(content, str) or is_parts


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
    plain = ([m["role"], " ".join(text_of(m).split()).casefold()] for m in messages[:first])
    return json.dumps(list(plain))
