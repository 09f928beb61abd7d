"""Render conversations by a chat template, and find the assistant's turns in the text."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tandem_pl.errors import InputError

from .messages import Chat, Message, text_of

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

#: Start and stop of characters.
Span = tuple[int, int]


class Turn(NamedTuple):
    """What a message of the assistant is in the text: its number, counted from 0, and its spans."""

    number: int
    spans: list[Span]


def render(
    tokenizer: Any, template: str, messages: Sequence[Message], where: str
) -> tuple[str, list[Turn]]:
    """Return the text of a conversation, and the assistant's turns in it.

    Raises:
        InputError: the template raises an error, or renders the messages before a response
            differently once the response is there.
    """
    text, marked = _apply(tokenizer, template, messages, where)
    if marked is not None:
        return text, _marked_turns(tokenizer, template, messages, where, marked)
    turns = []
    for number in _numbers(messages):
        before, _ = _apply(tokenizer, template, _first(messages, number), where, prompt=True)
        after, _ = _apply(tokenizer, template, _first(messages, number + 1), where)
        if not (after.startswith(before) and text.startswith(after.rstrip())):
            raise InputError(
                f"{where}: the chat template renders the messages before turn {number + 1} "
                "differently once it is there, so its response cannot be found; put "
                "{% generation %} ... {% endgeneration %} around the response in the template, and "
                "give it as chat_template."
            )
        turns.append(Turn(number, [(len(before), len(after.rstrip()))]))
    return text, turns


def check_not_empty(
    tokenizer: Any,
    template: str,
    messages: Sequence[Message],
    where: str,
    text: str,
    turns: Sequence[Turn],
) -> None:
    """Raise an error if nothing is rendered of one of these turns, but perhaps its end token.

    Raises:
        InputError: such a turn.
    """
    for turn in turns:
        message = messages[turn.number]
        rendered = "".join(text[start:stop] for start, stop in turn.spans).strip()
        if rendered and not text_of(message).strip():
            # No content: it may have tool calls that the template does not render.
            for token in tokenizer.added_tokens_decoder.values():
                rendered = rendered.replace(token.content, "")
            before = _first(messages, turn.number)
            empty = Chat([*before, {"role": "assistant", "content": ""}], before.tools)
            with_it, _ = _apply(tokenizer, template, _first(messages, turn.number + 1), where)
            without, _ = _apply(tokenizer, template, empty, where)
            if with_it.split() == without.split():
                rendered = ""
        if not rendered.strip():
            fields = ", ".join(key for key in message if key not in ("role", "weight"))
            raise InputError(
                f"{where}: the chat template renders nothing of message {turn.number + 1}, a turn "
                f"of the assistant with the fields {fields}; set chat_template to one that does, "
                "or weight 0 on that turn."
            )


def _marked_turns(
    tokenizer: Any, template: str, messages: Sequence[Message], where: str, spans: Sequence[Span]
) -> list[Turn]:
    """Return which spans that the template marks are of which turn."""
    if not spans:
        raise InputError(
            f"{where} has no text inside the chat template's {{% generation %}}; put the "
            "assistant's content there."
        )
    numbers = _numbers(messages)
    if len(spans) == len(numbers):
        return [Turn(number, [span]) for number, span in zip(numbers, spans, strict=True)]
    turns, used = [], 0
    for number in numbers:
        _, found = _apply(tokenizer, template, _first(messages, number + 1), where)
        count = len(found or ())
        turns.append(Turn(number, list(spans[used:count])))
        used = count
    if used != len(spans):
        raise InputError(
            f"{where}: the chat template's {{% generation %}} marks {len(spans)} texts, and not "
            "the same ones once later messages are there; put it around each response once."
        )
    return turns


def _apply(
    tokenizer: Any, template: str, messages: Sequence[Message], where: str, prompt: bool = False
) -> tuple[str, list[Span] | None]:
    """Return the text, and the spans that the template marks; None if it marks none."""
    from transformers.utils.chat_template_utils import render_jinja_template

    marked = GENERATION.search(template) is not None
    try:
        texts, spans = render_jinja_template(
            conversations=[list(messages)],
            tools=messages.tools if isinstance(messages, Chat) else None,
            chat_template=template,
            return_assistant_tokens_mask=marked,
            add_generation_prompt=prompt,
            **tokenizer.special_tokens_map,
        )
    except Exception as error:  # a template can raise any exception
        raise InputError(
            f"{where} cannot be rendered by the chat template ({type(error).__name__}: "
            f"{error}); correct the chat or set chat_template to another."
        ) from error
    return texts[0], [(int(start), int(stop)) for start, stop in spans[0]] if marked else None


def _first(messages: Sequence[Message], count: int) -> Chat:
    tools = messages.tools if isinstance(messages, Chat) else None
    return Chat(messages[:count], tools)


def _numbers(messages: Sequence[Message]) -> list[int]:
    return [number for number, m in enumerate(messages) if m["role"] == "assistant"]
