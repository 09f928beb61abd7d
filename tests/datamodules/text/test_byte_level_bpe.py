import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tandem_pl.datamodules.text import byte_level_bpe
from tandem_pl.datamodules.text.byte_level_bpe import WordEncoder, train_bpe, word_pattern
from tandem_pl.datamodules.text.tokenization import BackendTokenizer, load_tokenizer
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


KINDS = {"gpt2": backend(), "qwen2": backend(QWEN)}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.text(), TRICKY, ASCII))
def test_words_give_the_tokens_that_the_library_gives(kind, text):
    plain = Tokenizer.from_str(KINDS[kind].to_str())
    plain.encode_special_tokens = True
    fast = BackendTokenizer(KINDS[kind].to_str(), 0, "f")
    assert fast._words is not None
    for _ in range(2):  # the second time from the cache
        assert fast.encode_batch([text])[0].tolist() == plain.encode(text).ids


def test_a_special_token_in_a_text_is_text():
    fast = BackendTokenizer(KINDS["gpt2"].to_str(), 0, "f")
    text = "one<|endoftext|>two <tool> three"
    ids = fast.encode_batch([text])[0].tolist()
    assert 0 not in ids
    assert fast.decode([*ids, 0]) == text
    assert KINDS["gpt2"].token_to_id("<tool>") in ids, "an added token that is not special stays"


def test_the_cache_may_start_anew(monkeypatch):
    monkeypatch.setattr(byte_level_bpe, "CACHED_WORDS", 3)
    encoder = WordEncoder(KINDS["gpt2"])
    assert [encoder.encode(text).tolist() for text in TEXTS] == [
        KINDS["gpt2"].encode(text).ids for text in TEXTS
    ]
    assert len(encoder._words) <= 3


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(normalizer={"type": "Lowercase"}),
        lambda state: state["model"].update(dropout=0.1),
        lambda state: state["model"].update(type="WordPiece"),
        lambda state: state["pre_tokenizer"].update(add_prefix_space=True),
        lambda state: state["pre_tokenizer"].update(use_regex=False),
        lambda state: state.update(pre_tokenizer=None),
    ],
)
def test_other_tokenizers_go_through_the_library_alone(change):
    state = json.loads(KINDS["gpt2"].to_str())
    assert word_pattern(state)
    change(state)
    assert word_pattern(state) is None


def test_groups_in_a_pattern_are_left_to_the_library():
    state = json.loads(KINDS["qwen2"].to_str())
    assert word_pattern(state) == QWEN
    state["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"(a)|\s|\S"
    assert word_pattern(state) is None


def test_a_pattern_that_leaves_characters_out_is_left_to_the_library():
    tokenizer = backend(r"[a-z]+")
    fast = BackendTokenizer(tokenizer.to_str(), 0, "f")
    assert WordEncoder(tokenizer).encode("ab 1") is None
    assert fast.encode_batch(["ab 1"])[0].tolist() == tokenizer.encode("ab 1").ids


def test_training_gives_a_folder_that_loads(tmp_path):
    train_bpe(iter(TEXTS), 500, tmp_path / "t")
    tokenizer = load_tokenizer(str(tmp_path / "t"))
    assert (tokenizer.vocab_size, tokenizer.decode([tokenizer.eos_token_id])) == (500, "")
    text = "\x00 any text: \u2028 é 中 \U0001f600"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(np.concatenate(tokenizer.encode_batch(TEXTS))) < len("".join(TEXTS)) / 2
    code = (
        "import pathlib; from tandem_pl.datamodules.text.byte_level_bpe import train_bpe;"
        f"train_bpe({TEXTS!r}, 500, pathlib.Path({str(tmp_path / 'again')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for path in (tmp_path / "t").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    with pytest.raises(InputError, match="train_bpe is 256; give at least 257"):
        train_bpe([], 256, tmp_path / "small")
