"""Chats, chat templates and a tokenizer for tests."""

import json
import warnings
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tandem_pl.datamodules.text.tokenization import HuggingFaceTokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
)
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "How do you say two in French?"},
    {"role": "assistant", "content": "deux"},
    {"role": "user", "content": "And three, élève?"},
    {"role": "assistant", "content": "C'est trois."},
]


def bpe(template=None, metaspace=False):
    backend = Backend(models.BPE())
    if metaspace:
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [m["content"] for m in CHAT] * 20 + ["user assistant system the of and\n\n. "] * 30
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    tokenizer.chat_template = template
    return HuggingFaceTokenizer(tokenizer, "test")


def parts(encoder, sample):
    """The texts of the runs of tokens with a loss."""
    decode = encoder.tokenizer.tokenizer.decode
    runs = np.flatnonzero(np.diff(sample.response, prepend=False, append=False)).reshape(-1, 2)
    return [decode(sample.ids[a:b].tolist(), skip_special_tokens=False) for a, b in runs]


def write_lines(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def said(data, *stages: str) -> list[str]:
    """Return the warnings of `setup`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for stage in stages or ("fit",):
            data.setup(stage)
    return [str(warning.message) for warning in caught]
