"""The built-in tokenizer of bytes as one of `transformers`, to save beside a network."""

from __future__ import annotations

from typing import Any


def byte_tokenizer() -> Any:
    """Return a tokenizer that gives the ids of `ByteTokenizer`: UTF-8 bytes, and 256 ends a text.

    >>> tokenizer = byte_tokenizer()
    >>> tokenizer("né").input_ids, tokenizer.eos_token_id
    ([110, 195, 169], 256)
    >>> tokenizer.decode([110, 195, 169])
    'né'
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: byte for byte, letter in enumerate(_letters())}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",  # gets the first free id
        split_special_tokens=True,  # what spells it in a text is bytes
        clean_up_tokenization_spaces=False,
    )


def _letters() -> list[str]:
    """Return the letter that `ByteLevel` shows each byte as: itself if it is printable."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]
