import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from tandem_pl.datamodules.text.byte_level_bpe import train_bpe
from tandem_pl.datamodules.text.tokenization import ByteTokenizer, load_tokenizer
from tandem_pl.errors import InputError


def save_tokenizer(path, words=("a", "b", "<|endoftext|>")):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))


@given(st.text())
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    [ids] = tokenizer.encode_batch([text])
    assert ids.tolist() == list(text.encode())
    assert tokenizer.decode([*ids, tokenizer.eos_token_id]) == text


def test_a_tokenizer_file(tmp_path):
    save_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = load_tokenizer(str(tmp_path / "tokenizer.json"))
    assert [ids.tolist() for ids in tokenizer.encode_batch(["a b", "b", ""])] == [[0, 1], [1], []]
    assert (tokenizer.eos_token_id, tokenizer.vocab_size) == (2, 3)
    assert tokenizer.decode([1, 0, 2]) == "b a"


def test_a_tokenizer_folder_and_its_fingerprint(tmp_path):
    from transformers import PreTrainedTokenizerFast

    save_tokenizer(tmp_path / "tokenizer.json", ("a", "b", "stop", "more"))
    file = str(tmp_path / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=file, eos_token="stop").save_pretrained(tmp_path / "t")
    tokenizer = load_tokenizer(str(tmp_path / "t"))
    assert (tokenizer.eos_token_id, tokenizer.vocab_size) == (2, 4)
    same = load_tokenizer(str(tmp_path / "t" / "tokenizer.json"))
    assert (same.eos_token_id, same.fingerprint) == (2, tokenizer.fingerprint)
    save_tokenizer(tmp_path / "t" / "tokenizer.json", ("b", "a", "stop", "more"))
    assert load_tokenizer(str(tmp_path / "t")).fingerprint != tokenizer.fingerprint


def test_a_copy_in_another_process_gives_the_same_tokens(tmp_path):
    train_bpe(["the cat sat"] * 9, 270, tmp_path / "t")
    tokenizer = load_tokenizer(str(tmp_path / "t"))
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301
    texts = ["the cat", "<|endoftext|>", ""]
    for ids, expected in zip(copy.encode_batch(texts), tokenizer.encode_batch(texts), strict=True):
        assert ids.tolist() == expected.tolist()
    assert copy.eos_token_id == tokenizer.eos_token_id


def test_tokenizers_that_cannot_serve(tmp_path):
    with pytest.raises(InputError, match=r"tokenizer 'gpt2-large' does not exist; give \"bytes\""):
        load_tokenizer("gpt2-large")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path))
    save_tokenizer(tmp_path / "tokenizer.json", ("a", "b"))
    with pytest.raises(InputError, match="has no end-of-text token; set its eos_token"):
        load_tokenizer(str(tmp_path / "tokenizer.json"))


def test_a_missing_file_is_not_looked_for_on_the_hub(monkeypatch):
    import transformers

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", pytest.fail)
    with pytest.raises(InputError, match=r"'nowhere/tokenizer\.json' does not exist"):
        load_tokenizer("nowhere/tokenizer.json", hub=True)
