r"""Turn conversations into tokens, and mark the tokens with a loss.

Plain rendering, without a chat template, puts every message that is not the assistant's into a
prompt template (`"{prompt}\n"`) and an end-of-text token after every response.

Only responses have a loss: the assistant's turns with the token that ends them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tandem_pl.checks import check_choice
from tandem_pl.datamodules.text.tokenization import HuggingFaceTokenizer, Tokenizer
from tandem_pl.errors import InputError
from tandem_pl.files import read_text

from .messages import Chat, Message
from .rendering import check_not_empty
from .rendering import render as render

REASONING = {"reasoning_content", "thinking", "reasoning"}


class Rendered(NamedTuple):
    """A tokenized sample.

    Args:
        ids: [T] int64 token ids.
        response: [T] bool, whether the token has a loss.
    """

    ids: np.ndarray
    response: np.ndarray


class ConversationEncoder:
    r"""Tokenizes conversations with a chat template, or plainly.

    With a chat template the whole conversation is rendered and tokenized as one text. The template
    marks responses by `{% generation %}`. If it does not, a response is what an assistant's turn
    adds to the conversation before it (rendered with the generation prompt), without white space
    at its end. A special token right after a response ends it and has a loss. If the text ends with
    a response and no special token, the end-of-text token replaces the white space at the end.
    Special tokens that are spelled in a message become special tokens. The template gets messages
    and tools as they are. A turn with `weight` 0 has no loss.

    In plain rendering a sample starts with a begin-of-text token if the tokenizer adds one.

    Args:
        tokenizer: makes the tokens.
        chat_template: a Jinja template or its path; None for the tokenizer's own, or plain
            rendering if it has none.
        prompt_template: of plain rendering; has `{prompt}` in it.
        turns: whether every response has a loss, or only the `"last"`.

    Raises:
        InputError: a template that cannot be used; in a call, a conversation that cannot be
            rendered, or a turn with a loss that renders to nothing.

    Example:
        >>> from tandem_pl.datamodules.chat.messages import pair
        >>> from tandem_pl.datamodules.text.tokenization import ByteTokenizer
        >>> encode = ConversationEncoder(ByteTokenizer(), prompt_template="Q {prompt} A ")
        >>> sample = encode(pair("2+2", "4"), "here")
        >>> ByteTokenizer().decode(sample.ids), sample.ids[sample.response].tolist()
        ('Q 2+2 A 4', [52, 256])
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat_template: str | None = None,
        prompt_template: str = "{prompt}\n",
        turns: Literal["all", "last"] = "all",
    ) -> None:
        if "{prompt}" not in prompt_template:
            raise InputError(
                f"prompt_template is {prompt_template!r}; it must have {{prompt}} in place of the "
                "prompt."
            )
        check_choice("turns", turns, ("all", "last"))
        self.tokenizer = tokenizer
        self.prompt_template = prompt_template
        self.turns = turns
        self.template = load_template(tokenizer, chat_template)
        self.start = begin_of_text(tokenizer)

    def __call__(self, messages: Sequence[Message], where: str) -> Rendered:
        """Return tokens and loss mask; error messages name the conversation by `where`."""
        if self.template is None:
            return self._plain(messages, where)
        assert isinstance(self.tokenizer, HuggingFaceTokenizer)
        text, turns = render(self.tokenizer.tokenizer, self.template, messages, where)
        turns = [turn for turn in turns if turn.number in self._trained(messages)]
        check_not_empty(self.tokenizer.tokenizer, self.template, messages, where, text, turns)
        spans = [span for turn in turns for span in turn.spans]
        return encode_spans(self.tokenizer.tokenizer, text, spans, where)

    def _trained(self, messages: Sequence[Message]) -> list[int]:
        """Return the numbers of the messages with a loss."""
        numbers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        chosen = numbers if self.turns == "all" else numbers[-1:]
        return [number for number in chosen if messages[number].get("weight") != 0]

    def unused_fields(self, messages: Sequence[Message]) -> set[str]:
        """Return the fields of the messages, and "tools", that the rendering does not use.

        Those that the template does not name.
        """
        fields = {key for message in messages for key, value in message.items() if value}
        fields |= {"tools"} if isinstance(messages, Chat) and messages.tools else set()
        fields -= {"role", "content", "weight"}
        if self.template is None:
            return fields
        template = self.template
        if any(name in template for name in REASONING):
            fields -= REASONING  # transformers gives each of them by the other names too
        return {field for field in fields if field not in template}

    def _plain(self, messages: Sequence[Message], where: str) -> Rendered:
        trained = self._trained(messages)
        texts = []
        for number, message in enumerate(messages):
            content = message.get("content") or ""
            if not isinstance(content, str):
                raise InputError(
                    f"{where} has content in parts in message {number + 1}, which only a chat "
                    "template can render; set chat_template, or give texts."
                )
            if number in trained and not content.strip():
                raise InputError(
                    f"{where} has a turn of the assistant without content in message {number + 1}, "
                    "and there is no chat template to render other fields; set chat_template, or "
                    "weight 0 on that turn."
                )
            is_response = message["role"] == "assistant"
            prompt = self.prompt_template.replace("{prompt}", content)
            texts.append(content if is_response else prompt)
        parts, masks = [self.start], [np.zeros(len(self.start), dtype=bool)]
        encoded = self.tokenizer.encode_batch(texts)
        for number, (message, ids) in enumerate(zip(messages, encoded, strict=True)):
            is_response = message["role"] == "assistant"
            if is_response:
                ids = np.append(ids.astype(np.int64), self.tokenizer.eos_token_id)
            parts.append(ids)
            masks.append(np.full(len(ids), number in trained))
        return Rendered(np.concatenate(parts).astype(np.int64), np.concatenate(masks))


def begin_of_text(tokenizer: Tokenizer) -> np.ndarray:
    """Return the begin-of-text token if the tokenizer puts one before every text, else nothing."""
    if isinstance(tokenizer, HuggingFaceTokenizer):
        begin = tokenizer.tokenizer.bos_token_id
        if begin is not None and list(tokenizer.tokenizer("a")["input_ids"])[:1] == [begin]:
            return np.asarray([begin], dtype=np.int64)
    return np.empty(0, dtype=np.int64)


def load_template(tokenizer: Tokenizer, chat_template: str | None) -> str | None:
    """Return the text of the chat template to use, or None for plain rendering.

    Raises:
        InputError: a path that does not exist, or a template for a tokenizer without special
            tokens.
    """
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        if chat_template is not None:
            raise InputError(
                'chat_template needs a Hugging Face tokenizer, and "bytes" has no special tokens; '
                "leave chat_template out and set prompt_template, or set tokenizer to a folder."
            )
        return None
    if chat_template is None:
        own = getattr(tokenizer.tokenizer, "chat_template", None)
        return own.get("default") if isinstance(own, dict) else own
    if "{" in chat_template:
        return chat_template
    path = Path(chat_template).expanduser()
    if not path.is_file():
        raise InputError(
            f"chat_template {chat_template!r} is neither a file nor a Jinja template; give the "
            "path of a .jinja file, the template itself, or null for the tokenizer's own."
        )
    return read_text(path)


def encode_spans(
    tokenizer: Any, text: str, spans: Sequence[tuple[int, int]], where: str
) -> Rendered:
    """Tokenize a text as a whole; a token that overlaps a span has a loss.

    The end-of-text token is added if the text ends with the last span (and white space), and not
    with a special token.

    Raises:
        InputError: the tokenizer does not report the positions of its tokens in the text.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"{where}: the tokenizer is not a fast one, which chat templates need to find the "
            "responses; save it with a tokenizer.json."
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    special = np.isin(ids, [*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder])
    response = np.zeros(len(ids), dtype=bool)
    for start, stop in spans:
        # An empty token (white space that the tokenizer trimmed) counts as one character.
        ends = np.maximum(offsets[:, 1], offsets[:, 0] + 1)
        places = np.flatnonzero((offsets[:, 0] < stop) & (ends > start))
        response[places] = True
        after = places[-1] + 1 if len(places) else len(ids)
        if after < len(ids) and special[after] and not special[after - 1]:
            response[after] = offsets[after, 0] == stop
    if spans and not text[spans[-1][1] :].strip() and response.any():
        last = int(np.flatnonzero(response)[-1])
        if not special[last]:
            ids = np.append(ids[: last + 1], tokenizer.eos_token_id)
            response = np.append(response[: last + 1], True)
    return Rendered(ids, response)
