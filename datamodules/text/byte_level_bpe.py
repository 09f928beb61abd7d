"""Train a byte-level BPE, the tokenizers of GPT-2, Llama 3 and Qwen."""

from collections.abc import Iterable
from pathlib import Path

from tandem_pl.checks import check_at_least

END_OF_TEXT = "<|endoftext|>"
LEAST_TOKENS = 257  # 256 bytes and the end of text


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
    check_at_least("train_bpe", vocab_size, LEAST_TOKENS)
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
