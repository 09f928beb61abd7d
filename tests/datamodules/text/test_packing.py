import errno
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tandem_pl.datamodules.text import packing
from tandem_pl.datamodules.text.packed_blocks import PackedBlocks, open_blocks
from tandem_pl.datamodules.text.packing import (
    BlockWriter,
    batches,
    blocks_path,
    build_blocks,
    encode_documents,
    new_folder,
    read_manifest,
    write_blocks,
)
from tandem_pl.datamodules.text.tokenization import ByteTokenizer
from tandem_pl.errors import InputError

TOKENIZER = ByteTokenizer()
TEXTS = [f"document {i}: " + "word " * (i % 7) for i in range(60)]


def build(folder, texts=("some text", "more"), block_size=4):
    documents = {split: {"d": list(texts)} for split in packing.SPLITS}
    return build_blocks(folder, documents, TOKENIZER, block_size, {"name": "né"})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text()), st.integers(1, 9), st.integers(1, 20), st.integers(1, 30))
def test_packed_tokens_give_the_documents_back(texts, block_size, characters, batch_tokens):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(packing, "BATCH_CHARACTERS", characters)
        patch.setattr(packing, "BATCH_TOKENS", batch_tokens)
        path = Path(folder) / "a.arrow"
        counts = write_blocks(path, texts, TOKENIZER, block_size)
        data = PackedBlocks(path)
        stream = [i for block in data.__getitems__(range(len(data))) for i in block["input_ids"]]
    expected = [i for text in texts for i in [*text.encode(), TOKENIZER.eos_token_id]]
    assert counts["dropped_tokens"] == len(expected) % block_size
    assert stream == expected[: len(expected) - counts["dropped_tokens"]]
    assert counts["documents"] == len(texts)
    assert counts["longest_document"] == max((len(t.encode()) + 1 for t in texts), default=0)


def test_batches_hold_all_documents_in_order_and_little_more_than_their_size(monkeypatch):
    monkeypatch.setattr(packing, "BATCH_CHARACTERS", 100)
    found = list(batches([*TEXTS, "x" * 5000, "y"]))
    assert [text for batch in found for text in batch] == [*TEXTS, "x" * 5000, "y"]
    assert all(sum(map(len, batch[:-1])) < 100 for batch in found)


def test_written_blocks_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "BATCH_TOKENS", 150)  # several record batches
    monkeypatch.setattr(packing, "BATCH_CHARACTERS", 100)
    counts = write_blocks(tmp_path / "a.arrow", iter(TEXTS), TOKENIZER, 16)
    stream = [i for text in TEXTS for i in [*text.encode(), 256]]
    digest = counts.pop("digest")
    assert write_blocks(tmp_path / "b.arrow", TEXTS, TOKENIZER, 16)["digest"] == digest
    assert write_blocks(tmp_path / "b.arrow", TEXTS[::-1], TOKENIZER, 16)["digest"] != digest
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

    write_blocks(tmp_path / "a.arrow", TEXTS, TOKENIZER, 16)
    data = datasets.Dataset.from_file(str(tmp_path / "a.arrow"))
    assert data[3]["input_ids"] == PackedBlocks(tmp_path / "a.arrow")[3]["input_ids"].tolist()
    assert data.features["input_ids"].feature.dtype == "uint16"


def test_blocks_are_pickled_by_path_and_fetched_by_workers(tmp_path):
    write_blocks(tmp_path / "a.arrow", TEXTS * 50, TOKENIZER, 64)
    data = PackedBlocks(tmp_path / "a.arrow")
    assert len(pickle.dumps(data)) < 1000
    loader = DataLoader(data, batch_size=32, num_workers=1, multiprocessing_context="spawn")
    fetched = torch.cat([batch["input_ids"] for batch in loader])
    assert torch.equal(fetched, torch.stack([data[i]["input_ids"] for i in range(len(data))]))


def test_a_build_holds_every_split_and_a_manifest(tmp_path):
    manifest = build(tmp_path / "cache")
    assert manifest == read_manifest(tmp_path / "cache")
    assert len(open_blocks(tmp_path / "cache", manifest)["test"]["d"]) == 3
    assert (manifest["name"], manifest["block_size"], manifest["vocab_size"]) == ("né", 4, 257)
    expected = {"documents": 2, "tokens": 15, "blocks": 3, "dropped_tokens": 3}
    expected["longest_document"] = 10
    for split in packing.SPLITS:
        assert len(manifest["splits"][split]["d"].pop("digest")) == 32
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


def test_a_full_disk_leaves_nothing(tmp_path):
    # /dev/full takes no byte: the error is the operating system's own.
    writer = None

    def fill():
        nonlocal writer
        with new_folder(tmp_path / "out") as scratch:
            (scratch / "part").write_text("x")
            writer = BlockWriter(Path("/dev/full"), 257, 4)
            for _ in range(3):
                writer.write(*encode_documents(["x" * 1_000_000], TOKENIZER))
            writer.close()

    with pytest.raises(InputError, match="out cannot be written: no space is left on its device"):
        fill()
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_while_overwriting_keeps_the_old_folder(tmp_path, number):
    build(tmp_path / "cache")
    before = read_manifest(tmp_path / "cache")
    kind = InputError if number == errno.ENOSPC else OSError
    with pytest.raises(kind), new_folder(tmp_path / "cache", overwrite=True):
        raise OSError(number, "failed")
    assert read_manifest(tmp_path / "cache") == before
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_overwriting_replaces_the_folder(tmp_path):
    build(tmp_path / "cache")
    with new_folder(tmp_path / "cache", overwrite=True) as scratch:
        (scratch / "new").write_text("x")
        assert (tmp_path / "cache" / packing.MANIFEST).exists(), "the old one stays till the end"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(InputError, match=r"cannot be written \(Not a directory"),
        new_folder(tmp_path / "file" / "out"),
    ):
        pass


def test_blocks_that_were_cut_short_are_not_opened(tmp_path):
    manifest = build(tmp_path / "cache", texts=["some text"] * 50)
    path = blocks_path(tmp_path / "cache", "target", "d")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"d\.arrow cannot be read"):
        open_blocks(tmp_path / "cache", manifest)
    path.unlink()
    with pytest.raises(InputError, match=r"d\.arrow cannot be read"):
        open_blocks(tmp_path / "cache", manifest)
    write_blocks(path, ["other text"], TOKENIZER, 4)
    with pytest.raises(InputError, match=r"has 2 blocks where the manifest says 125"):
        open_blocks(tmp_path / "cache", manifest)
