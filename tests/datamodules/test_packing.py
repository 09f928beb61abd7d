import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tandem_pl.datamodules import packing
from tandem_pl.datamodules.packing import (
    PackedBlocks,
    blocks_path,
    build_blocks,
    cut_blocks,
    read_manifest,
    token_streams,
    write_blocks,
)
from tandem_pl.datamodules.tokenization import ByteTokenizer
from tandem_pl.errors import InputError

TOKENIZER = ByteTokenizer()
TEXTS = [f"document {i}: " + "word " * (i % 7) for i in range(60)]


def build(folder, texts=("some text", "more"), block_size=4):
    documents = {split: {"d": list(texts)} for split in packing.SPLITS}
    return build_blocks(folder, documents, TOKENIZER, block_size, {"name": "né"})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text()), st.integers(1, 9), st.integers(1, 20))
def test_packed_tokens_give_the_documents_back(texts, block_size, batch_characters):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "BATCH_CHARACTERS", batch_characters)
        steps = list(cut_blocks(token_streams(texts, TOKENIZER), block_size))
    assert all(blocks.shape[1] == block_size for blocks, _ in steps)
    rest = steps[-1][1] if steps else np.empty(0, np.int64)
    assert len(rest) < block_size
    stream = [*np.concatenate([blocks.ravel() for blocks, _ in steps] or [[]]), *rest]
    expected = [i for text in texts for i in [*text.encode(), TOKENIZER.eos_token_id]]
    assert stream == expected


def test_written_blocks_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "BATCH_BLOCKS", 7)  # several record batches
    monkeypatch.setattr(packing, "BATCH_CHARACTERS", 100)
    counts = write_blocks(tmp_path / "a.arrow", iter(TEXTS), TOKENIZER, 16)
    stream = [i for text in TEXTS for i in [*text.encode(), 256]]
    assert counts == {
        "documents": 60,
        "tokens": len(stream),
        "blocks": len(stream) // 16,
        "dropped_tokens": len(stream) % 16,
    }
    data = PackedBlocks(tmp_path / "a.arrow")
    expected = torch.tensor(stream[: len(data) * 16]).reshape(-1, 16)
    assert len(data) == counts["blocks"]
    assert data.tokens_per_sample == 16
    assert data[0]["input_ids"].dtype == torch.int64
    assert torch.equal(torch.stack([data[i]["input_ids"] for i in range(len(data))]), expected)
    rows = [len(data) - 1, 0, 8, 8]
    samples = data.__getitems__(rows)
    assert torch.equal(torch.stack([sample["input_ids"] for sample in samples]), expected[rows])
    assert data.__getitems__([]) == []
    for index in (-1, len(data)):
        with pytest.raises(IndexError):
            data[index]


def test_the_files_open_with_datasets_too(tmp_path):
    import datasets

    write_blocks(tmp_path / "a.arrow", TEXTS, TOKENIZER, 16)
    data = datasets.Dataset.from_file(str(tmp_path / "a.arrow"))
    assert data[3]["input_ids"] == PackedBlocks(tmp_path / "a.arrow")[3]["input_ids"].tolist()
    assert data.features["input_ids"].feature.dtype == "uint16"


def test_blocks_are_pickled_by_path_and_fetched_by_workers(tmp_path):
    write_blocks(tmp_path / "a.arrow", TEXTS * 50, TOKENIZER, 64)
    data = PackedBlocks(tmp_path / "a.arrow")
    assert len(pickle.dumps(data)) < 1000
    loader = DataLoader(data, batch_size=32, num_workers=2, multiprocessing_context="spawn")
    fetched = torch.cat([batch["input_ids"] for batch in loader])
    assert torch.equal(fetched, torch.stack([data[i]["input_ids"] for i in range(len(data))]))


def test_a_build_holds_every_split_and_a_manifest(tmp_path):
    manifest = build(tmp_path / "cache")
    assert manifest == read_manifest(tmp_path / "cache")
    assert (manifest["name"], manifest["block_size"], manifest["vocab_size"]) == ("né", 4, 257)
    expected = {"documents": 2, "tokens": 15, "blocks": 3, "dropped_tokens": 3}
    assert manifest["splits"] == {split: {"d": expected} for split in packing.SPLITS}
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_names_of_domains_need_not_be_names_of_files(tmp_path):
    for name in ("wiki/en", "..", "a\\b:c", "né"):
        path = blocks_path(tmp_path, "train", name)
        assert path.parent == tmp_path / "train"
        assert write_blocks(path, TEXTS, TOKENIZER, 16)["blocks"] == len(PackedBlocks(path))


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def texts():
        yield "enough for a block"
        raise KeyboardInterrupt

    documents = {split: {"d": texts()} for split in packing.SPLITS}
    with pytest.raises(KeyboardInterrupt):
        build_blocks(tmp_path / "cache", documents, TOKENIZER, 4, {})
    assert list(tmp_path.iterdir()) == []


def test_a_split_shorter_than_a_block(tmp_path):
    message = "domain 'd' has 15 tokens in its train split, fewer than one block of block_size 99"
    with pytest.raises(InputError, match=message):
        build(tmp_path / "cache", block_size=99)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_builders_wins(tmp_path):
    def texts():
        yield "second"
        build(tmp_path / "cache")  # another process finishes meanwhile

    documents = {split: {"d": ["second"]} for split in packing.SPLITS} | {"train": {"d": texts()}}
    manifest = build_blocks(tmp_path / "cache", documents, TOKENIZER, 4, {"name": "second"})
    assert manifest["name"] == "né"
    assert [path.name for path in Path(tmp_path).iterdir()] == ["cache"]
