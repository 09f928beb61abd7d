import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tandem_pl.datamodules.text.byte_level_bpe import train_bpe
from tandem_pl.datamodules.text.tokenization import HuggingFaceTokenizer, load_tokenizer
from tandem_pl.errors import InputError

TEXTS = [f"def name_{i}(x):\n    return x's * {i} # né 中文 it's\r\n\n" for i in range(200)]
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LETTERS = [*"abcdefx's129 \n\r\t\u00a0é中\u0301,.!_'٣|<>", "<tool>", "<|endoftext|>"]
TRICKY = st.lists(st.sampled_from(LETTERS)).map("".join)

ASCII = st.text(st.characters(max_codepoint=127))


def backend(split=None):
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    tokenizer.pre_tokenizer = byte_level
    if split:
        cut = pre_tokenizers.Split(Regex(split), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    return tokenizer


def wrapped(kind):
    fast = PreTrainedTokenizerFast(tokenizer_object=kind, eos_token="<|endoftext|>")
    return HuggingFaceTokenizer(fast, "f")


KINDS = {"gpt2": backend(), "qwen2": backend(QWEN)}
WRAPPED = {name: wrapped(kind) for name, kind in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.text(), TRICKY, ASCII))
def test_a_text_has_the_tokens_that_the_library_gives(kind, text):
    plain = Tokenizer.from_str(KINDS[kind].to_str())
    plain.encode_special_tokens = True
    assert WRAPPED[kind].encode_batch([text])[0].tolist() == plain.encode(text).ids


def test_a_special_token_in_a_text_is_text():
    tokenizer = WRAPPED["gpt2"]
    text = "one<|endoftext|>two <tool> three"
    ids = tokenizer.encode_batch([text])[0].tolist()
    assert 0 not in ids
    assert tokenizer.decode([*ids, 0]) == text
    assert KINDS["gpt2"].token_to_id("<tool>") in ids, "an added token that is not special stays"
    whole = tokenizer.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert 0 in whole, "the transformers object is not changed: chat templates need its tokens"


def test_training_gives_a_folder_that_loads(tmp_path):
    train_bpe(iter(TEXTS), 500, tmp_path / "t")
    tokenizer = load_tokenizer(str(tmp_path / "t"))
    assert (tokenizer.vocab_size, tokenizer.decode([tokenizer.eos_token_id])) == (500, "")
    text = "\x00 any text: \u2028 é 中 \U0001f600"
    assert tokenizer.decode(tokenizer.encode_batch([text])[0]) == text
    assert len(np.concatenate(tokenizer.encode_batch(TEXTS))) < len("".join(TEXTS)) / 2
    code = (
        "import pathlib; from tandem_pl.datamodules.text.byte_level_bpe import train_bpe;"
        f"train_bpe({TEXTS!r}, 500, pathlib.Path({str(tmp_path / 'again')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for path in (tmp_path / "t").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    with pytest.raises(InputError, match="train_bpe=256 must be at least 257"):
        train_bpe([], 256, tmp_path / "small")
