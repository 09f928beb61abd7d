import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tandem_pl.datamodules.text import block_folder, blocks
from tandem_pl.datamodules.text.block_folder import batches
from tandem_pl.datamodules.text.blocks import BlockWriter, encode_documents
from tandem_pl.datamodules.text.packed_blocks import PackedBlocks
from tandem_pl.datamodules.text.tokenization import ByteTokenizer

TOKENIZER = ByteTokenizer()
TEXTS = [f"document {i}: " + "word " * (i % 7) for i in range(60)]


def write_blocks(path, texts, block_size):
    """Write a file of blocks; returns the counts."""
    with BlockWriter(path, TOKENIZER.vocab_size, block_size) as writer:
        for batch in batches(texts, "test"):
            writer.write(*encode_documents(batch, TOKENIZER))
    return writer.counts


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text()), st.integers(1, 9), st.integers(1, 20), st.integers(1, 30))
def test_packed_tokens_give_the_documents_back(texts, block_size, characters, batch_tokens):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(block_folder, "BATCH_CHARACTERS", characters)
        patch.setattr(blocks, "BATCH_TOKENS", batch_tokens)
        path = Path(folder) / "a.arrow"
        counts = write_blocks(path, texts, block_size)
        data = PackedBlocks(path)
        stream = [i for block in data.__getitems__(range(len(data))) for i in block["input_ids"]]
    expected = [i for text in texts for i in [*text.encode(), TOKENIZER.eos_token_id]]
    assert counts["dropped_tokens"] == len(expected) % block_size
    assert stream == expected[: len(expected) - counts["dropped_tokens"]]
    assert counts["documents"] == len(texts)
    assert counts["longest_document"] == max((len(t.encode()) + 1 for t in texts), default=0)


def test_written_blocks_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BATCH_TOKENS", 150)  # several record batches
    monkeypatch.setattr(block_folder, "BATCH_CHARACTERS", 100)
    counts = write_blocks(tmp_path / "a.arrow", iter(TEXTS), 16)
    stream = [i for text in TEXTS for i in [*text.encode(), 256]]
    digest = counts.pop("digest")
    assert write_blocks(tmp_path / "b.arrow", TEXTS, 16)["digest"] == digest
    assert write_blocks(tmp_path / "b.arrow", TEXTS[::-1], 16)["digest"] != digest
    assert counts == {
        "longest_document": max(map(len, TEXTS)) + 1,
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

    write_blocks(tmp_path / "a.arrow", TEXTS, 16)
    data = datasets.Dataset.from_file(str(tmp_path / "a.arrow"))
    assert data[3]["input_ids"] == PackedBlocks(tmp_path / "a.arrow")[3]["input_ids"].tolist()
    assert data.features["input_ids"].feature.dtype == "uint16"


def test_blocks_are_pickled_by_path_and_fetched_by_workers(tmp_path):
    write_blocks(tmp_path / "a.arrow", TEXTS * 50, 64)
    data = PackedBlocks(tmp_path / "a.arrow")
    assert len(pickle.dumps(data)) < 1000
    loader = DataLoader(data, batch_size=32, num_workers=1, multiprocessing_context="spawn")
    fetched = torch.cat([batch["input_ids"] for batch in loader])
    assert torch.equal(fetched, torch.stack([data[i]["input_ids"] for i in range(len(data))]))
