"""Byte-level BPE, the tokenizers of GPT-2, Llama 3 and Qwen: training one, and encoding fast.

Text is first cut into words by a regular expression, and every word becomes tokens by itself. Words
repeat, so `WordEncoder` keeps the tokens of each: about 2.5 times as fast a core as `tokenizers`
alone, which gives the tokens of every new word, so that they are the same.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tandem_pl.errors import InputError

END_OF_TEXT = "<|endoftext|>"
#: How GPT-2 cuts text into words; `tokenizers` has it built in as ByteLevel(use_regex=True).
GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
#: The same for text in ASCII, where the standard library's expressions do, twice as fast.
ASCII_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
CACHED_WORDS = 200_000  # about 30 MB; then the cache starts anew
LONGEST_CACHED = 64  # characters


def train_bpe(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE on `texts` and save it as a folder that transformers loads.

    The same texts give the same tokenizer. Every text can be encoded and decoded, since all 256
    bytes are tokens; `<|endoftext|>` is the end-of-text token.

    Args:
        texts: what to train on.
        vocab_size: tokens in all, at least 257.
        folder: is made, with `tokenizer.json` and `tokenizer_config.json`.

    Raises:
        InputError: a `vocab_size` below 257.
    """
    if vocab_size < 257:
        raise InputError(
            f"train_bpe is {vocab_size}; give at least 257 tokens (256 bytes and the end of text)."
        )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT)
    tokenizer.save_pretrained(str(folder))


class WordEncoder:
    """Token ids of a text by way of its words, exactly as the `tokenizers` object gives them.

    Args:
        backend: a `tokenizers.Tokenizer` for which `word_pattern` is not None.
    """

    def __init__(self, backend: Any) -> None:
        import regex

        pattern = word_pattern(json.loads(backend.to_str()))
        if pattern is None:
            raise ValueError("the words of this tokenizer are not known")
        self._find = regex.compile(pattern).findall
        self._find_ascii = self._find
        if pattern == GPT2_WORDS:
            self._find_ascii = re.compile(ASCII_WORDS, re.ASCII).findall
        self._words = _Words(backend.model)
        self._apart = [
            token.content
            for token in backend.get_added_tokens_decoder().values()
            if not token.special
        ]

    def encode(self, text: str) -> np.ndarray | None:
        """Token ids, uint32 of shape `[tokens]`; None for a text that only the backend can cut.

        Those are texts with an added token that is not special in them, or with characters that
        the pattern leaves out.
        """
        if any(token in text for token in self._apart):
            return None
        words = self._find_ascii(text) if text.isascii() else self._find(text)
        if sum(map(len, words)) != len(text):
            return None
        return np.frombuffer(b"".join(map(self._words.__getitem__, words)), dtype=np.uint32)


def word_pattern(state: dict[str, Any]) -> str | None:
    """The expression that cuts text into words, from the JSON of a tokenizer.

    Returns:
        None where the tokenizer is no byte-level BPE, or does more to a text than cutting it.

    Example:
        >>> state = {"model": {"type": "BPE"}, "normalizer": None, "pre_tokenizer": {
        ...     "type": "ByteLevel", "add_prefix_space": False, "use_regex": True}}
        >>> word_pattern(state) == GPT2_WORDS
        True
    """
    model, pre = state["model"], state["pre_tokenizer"] or {}
    plain = model["type"] == "BPE" and not model.get("dropout") and state["normalizer"] is None
    suffixes = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if not plain or any(model.get(key) for key in suffixes):
        return None
    if _is_byte_level(pre, use_regex=True):
        return GPT2_WORDS
    steps = pre.get("pretokenizers", [])
    if (
        pre.get("type") == "Sequence"
        and len(steps) == 2
        and steps[0]["type"] == "Split"
        and steps[0]["behavior"] == "Isolated"
        and not steps[0]["invert"]
        and "Regex" in steps[0]["pattern"]
        and _is_byte_level(steps[1], use_regex=False)
    ):
        # findall would give groups in place of words
        pattern = str(steps[0]["pattern"]["Regex"])
        return pattern if _has_no_groups(pattern) else None
    return None


class _Words(dict[str, bytes]):
    """Word -> its token ids as bytes of uint32, from the model the first time it is met."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._letters = dict(_byte_letters())

    def __missing__(self, word: str) -> bytes:
        letters = word.encode("utf-8").decode("latin-1").translate(self._letters)
        ids = [token.id for token in self._model.tokenize(letters)]
        data = np.asarray(ids, dtype=np.uint32).tobytes()
        if len(word) <= LONGEST_CACHED:
            if len(self) >= CACHED_WORDS:
                self.clear()
            self[word] = data
        return data


def _byte_letters() -> Iterator[tuple[int, str]]:
    # The printable character that byte-level tokenizers write for each byte.
    unprintable = 0
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            yield byte, chr(byte)
        else:
            yield byte, chr(256 + unprintable)
            unprintable += 1


def _is_byte_level(step: dict[str, Any], use_regex: bool) -> bool:
    return (
        step.get("type") == "ByteLevel"
        and not step.get("add_prefix_space")
        and step.get("use_regex", True) == use_regex
    )


def _has_no_groups(pattern: str) -> bool:
    import regex

    try:
        return bool(regex.compile(pattern).groups == 0)
    except regex.error:
        return False
