"""Tokenizers: the built-in bytes, and Hugging Face tokenizers, saved or from the hub.

Both kinds have the few names of the `Tokenizer` protocol, which is all that packing needs.
"""

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tandem_pl.datamodules.sources.saved_datasets import HUB_NAME
from tandem_pl.errors import InputError

# A bare tokenizer.json does not say which token ends a text; these are the usual names.
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
TOKENIZER_FILES = {".json", ".txt", ".model"}


class Tokenizer(Protocol):
    """What packing needs: ids lie in `[0, vocab_size)`, and `eos_token_id` ends a document."""

    vocab_size: int
    eos_token_id: int
    #: Changes whenever the ids of a text may change.
    fingerprint: str

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of every text, one integer array each, without end-of-text token.

        What spells a special token in a text is cut like any other characters.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out."""


class ByteTokenizer:
    """One token a UTF-8 byte (ids 0 to 255), and id 256 for the end of a text.

    Example:
        >>> tokenizer = ByteTokenizer()
        >>> [ids.tolist() for ids in tokenizer.encode_batch(["né"])]
        [[110, 195, 169]]
        >>> tokenizer.decode([110, 195, 169, tokenizer.eos_token_id])
        'né'
    """

    vocab_size = 257
    eos_token_id = 256
    fingerprint = "bytes"

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of every text, see `Tokenizer`."""
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without end-of-text tokens; broken UTF-8 is U+FFFD."""
        return bytes(int(i) for i in ids if i < 256).decode("utf-8", errors="replace")


class HuggingFaceTokenizer:
    """A `transformers` tokenizer with the names of `Tokenizer`.

    Args:
        tokenizer: the loaded tokenizer, with an end-of-text token.
        fingerprint: digest of the files it was loaded from.

    Attributes:
        tokenizer: the `transformers` object, for chat templates and saving.
    """

    def __init__(self, tokenizer: Any, fingerprint: str) -> None:
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint
        self.eos_token_id = int(tokenizer.eos_token_id)
        # Ids can have gaps, so the largest one counts and not how many there are.
        self.vocab_size = 1 + max(tokenizer.get_vocab().values())
        self._backend: Any = None  # encodes about twice as fast as `transformers`
        if getattr(tokenizer, "is_fast", False):
            self._backend = copy.deepcopy(tokenizer.backend_tokenizer)
            self._backend.no_truncation()
            self._backend.no_padding()
            self._backend.encode_special_tokens = True

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of every text, see `Tokenizer`."""
        if self._backend is not None:
            found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.asarray(encoding.ids, dtype=np.uint32) for encoding in found]
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # a document may be longer than the model's context
        )
        return [np.asarray(ids, dtype=np.uint32) for ids in encoded["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out."""
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode([int(i) for i in ids], **options))

    def __reduce__(self) -> tuple[Any, ...]:  # a pickled backend loses encode_special_tokens
        return type(self), (self.tokenizer, self.fingerprint)


def load_tokenizer(name: str, hub: bool = False) -> ByteTokenizer | HuggingFaceTokenizer:
    """Load a tokenizer from its name or path.

    Args:
        name: `"bytes"`; a folder written by `save_pretrained`; or a `tokenizer.json` file. A file
            beside a `tokenizer_config.json` is loaded as that folder; on its own, its end-of-text
            token is the first of `END_OF_TEXT` in its vocabulary.
        hub: whether a name that is not a path may be one on the Hugging Face hub. Otherwise nothing
            is ever downloaded.

    Raises:
        InputError: no such path, no tokenizer there, no end-of-text token, or no network.

    Example:
        >>> load_tokenizer("bytes").vocab_size
        257
    """
    if name == "bytes":
        return ByteTokenizer()
    path = Path(name).expanduser()
    if path.exists():
        if path.is_file() and (path.parent / "tokenizer_config.json").exists():
            path = path.parent
        tokenizer, fingerprint = _load_path(name, path), _digest_path(path)
    elif hub and HUB_NAME.fullmatch(name) and path.suffix != ".json":  # a file is not a hub name
        tokenizer = _load_hub(name)
        digest = hashlib.blake2b(str(sorted(tokenizer.get_vocab().items())).encode())
        if getattr(tokenizer, "is_fast", False):
            digest.update(tokenizer.backend_tokenizer.to_str().encode())
        fingerprint = digest.hexdigest()[:32]
    else:
        raise InputError(
            f'tokenizer {name!r} does not exist; give "bytes", a folder written by '
            "save_pretrained, or a tokenizer.json file (nothing is downloaded)."
        )
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"tokenizer {name!r} has no end-of-text token; set its eos_token and save it again "
            "with save_pretrained."
        )
    return HuggingFaceTokenizer(tokenizer, fingerprint)


def _load_hub(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # no network, no such name, no tokenizer there: all raise the same
        raise InputError(
            f"tokenizer {name!r} is not a path here and cannot be loaded from the Hugging Face hub "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''});"
            f" on a machine with network run `transformers.AutoTokenizer.from_pretrained({name!r})"
            ".save_pretrained(FOLDER)`, copy FOLDER here, and give tokenizer: FOLDER."
        ) from error


def _load_path(name: str, path: Path) -> Any:
    from tokenizers import Tokenizer as Backend
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        if path.is_dir():
            return AutoTokenizer.from_pretrained(
                str(path), local_files_only=True, trust_remote_code=False
            )
        backend = Backend.from_file(str(path))
        vocabulary = backend.get_vocab()
        eos = next((token for token in END_OF_TEXT if token in vocabulary), None)
        return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos)
    except Exception as error:  # the readers of tokenizer files raise many kinds of exception
        raise InputError(
            f"tokenizer {name!r} cannot be loaded ({type(error).__name__}: {error}); "
            "give a folder written by save_pretrained or a tokenizer.json file."
        ) from error


def _digest_path(path: Path) -> str:
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        if file.suffix in TOKENIZER_FILES:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
