r"""Turn conversations into tokens, and mark the tokens with a loss.

Plain rendering, without a chat template, puts every message that is not the assistant's into a
prompt template (`"{prompt}\n"`) and an end-of-text token after every response.

Only responses have a loss: the assistant's turns with the token that ends them.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tandem_pl.checks import check_choice
from tandem_pl.datamodules.text.tokenization import HuggingFaceTokenizer, Tokenizer
from tandem_pl.errors import InputError
from tandem_pl.files import read_text

from .messages import Message

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


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
    Special tokens that are spelled in a message become special tokens.

    In plain rendering a sample starts with a begin-of-text token if the tokenizer adds one.

    Args:
        tokenizer: makes the tokens.
        chat_template: a Jinja template or its path; None for the tokenizer's own, or plain
            rendering if it has none.
        prompt_template: of plain rendering; has `{prompt}` in it.
        turns: whether every response has a loss, or only the `"last"`.

    Raises:
        InputError: a template that cannot be used.

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
            return self._plain(messages)
        assert isinstance(self.tokenizer, HuggingFaceTokenizer)
        text, spans = render(self.tokenizer.tokenizer, self.template, messages, where)
        if self.turns == "last":
            spans = spans[-1:]
        return encode_spans(self.tokenizer.tokenizer, text, spans, where)

    def _plain(self, messages: Sequence[Message]) -> Rendered:
        texts = [
            m["content"]
            if m["role"] == "assistant"
            else self.prompt_template.replace("{prompt}", m["content"])
            for m in messages
        ]
        last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
        parts, masks = [self.start], [np.zeros(len(self.start), dtype=bool)]
        encoded = self.tokenizer.encode_batch(texts)
        for number, (message, ids) in enumerate(zip(messages, encoded, strict=True)):
            is_response = message["role"] == "assistant"
            if is_response:
                ids = np.append(ids.astype(np.int64), self.tokenizer.eos_token_id)
            has_loss = is_response and (self.turns == "all" or number == last)
            parts.append(ids)
            masks.append(np.full(len(ids), has_loss))
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


def render(
    tokenizer: Any, template: str, messages: Sequence[Message], where: str
) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of a conversation, and the character spans `(start, stop)` of its responses.

    Raises:
        InputError: the template raises an error, or renders the messages before a response
            differently once the response is there.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    marked = GENERATION.search(template) is not None

    def apply(some: Sequence[Message], prompt: bool = False) -> tuple[str, Any]:
        try:
            texts, spans = render_jinja_template(
                conversations=[list(some)],
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
        return texts[0], spans[0] if marked else None

    text, spans = apply(messages)
    if marked:
        if not spans:
            raise InputError(
                f"{where} has no text inside the chat template's {{% generation %}}; put the "
                "assistant's content there."
            )
        return text, [(int(start), int(stop)) for start, stop in spans]
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, _ = apply(messages[:number], prompt=True)
        after, _ = apply(messages[: number + 1])
        if not (after.startswith(before) and text.startswith(after.rstrip())):
            raise InputError(
                f"{where}: the chat template renders the messages before turn {number + 1} "
                "differently once it is there, so its response cannot be found; put "
                "{% generation %} ... {% endgeneration %} around the response in the template, and "
                "give it as chat_template."
            )
        spans.append((len(before), len(after.rstrip())))
    return text, spans


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
