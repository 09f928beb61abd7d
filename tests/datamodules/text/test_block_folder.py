import errno
from pathlib import Path

import numpy as np
import pytest

from tandem_pl.datamodules.text import block_folder
from tandem_pl.datamodules.text.block_folder import (
    MANIFEST,
    batches,
    blocks_path,
    open_blocks,
    read_manifest,
    write_manifest,
    write_splits,
)
from tandem_pl.datamodules.text.blocks import BlockWriter, encode_documents
from tandem_pl.datamodules.text.documents import SPLITS
from tandem_pl.datamodules.text.packed_blocks import PackedBlocks
from tandem_pl.datamodules.text.tokenization import ByteTokenizer
from tandem_pl.errors import InputError
from tandem_pl.files import new_folder

TOKENIZER = ByteTokenizer()
TEXTS = [f"document {i}: " + "word " * (i % 7) for i in range(60)]


def build(folder, texts=("some text", "more"), block_size=4):
    """A folder with one domain and the same texts in every split."""
    codes = np.repeat(np.arange(len(SPLITS)), len(texts))
    return build_from(folder, list(texts) * len(SPLITS), codes, block_size)


def build_from(folder, texts, codes, block_size=4, name="né"):
    with new_folder(folder, done=MANIFEST) as scratch:
        splits = write_splits(scratch, {"d": (texts, codes)}, TOKENIZER, block_size, 1)
        sizes = {"block_size": block_size, "vocab_size": TOKENIZER.vocab_size}
        write_manifest(scratch, {"name": name, **sizes, "splits": splits})
    return read_manifest(folder)


def test_batches_hold_all_documents_in_order_and_little_more_than_their_size(monkeypatch):
    monkeypatch.setattr(block_folder, "BATCH_CHARACTERS", 100)
    found = list(batches([*TEXTS, "x" * 5000, "y"], "test"))
    assert [text for batch in found for text in batch] == [*TEXTS, "x" * 5000, "y"]
    assert all(sum(map(len, batch[:-1])) < 100 for batch in found)


def test_a_build_holds_every_split_and_a_manifest(tmp_path):
    manifest = build(tmp_path / "cache")
    assert manifest == read_manifest(tmp_path / "cache")
    assert len(open_blocks(tmp_path / "cache", manifest)["test"]["d"]) == 3
    assert (manifest["name"], manifest["block_size"], manifest["vocab_size"]) == ("né", 4, 257)
    expected = {"documents": 2, "tokens": 15, "blocks": 3, "dropped_tokens": 3}
    expected["longest_document"] = 10
    for split in SPLITS:
        assert len(manifest["splits"][split]["d"].pop("digest")) == 32
    assert manifest["splits"] == {split: {"d": expected} for split in SPLITS}
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_names_of_domains_need_not_be_names_of_files(tmp_path):
    for name in ("wiki/en", "..", "a\\b:c", "né"):
        path = blocks_path(tmp_path, "train", name)
        assert path.parent == tmp_path / "train"
        with BlockWriter(path, 257, 16) as writer:
            writer.write(*encode_documents(TEXTS, TOKENIZER))
        assert writer.counts["blocks"] == len(PackedBlocks(path))


@pytest.mark.parametrize(
    "names",
    [["中" * 30, "中" * 31], ["books", "Books", "BOOKS"], ["CON", ".", "..", "", "a/b", " "]],
)
def test_any_names_have_blocks_of_their_own(names, tmp_path):
    documents = {
        name: ([f"{number} in a text of its own"] * 3, np.arange(3))
        for number, name in enumerate(names)
    }
    with new_folder(tmp_path / "cache") as scratch:
        splits = write_splits(scratch, documents, TOKENIZER, 8, threads=1)
        write_manifest(scratch, {"splits": splits})
    manifest = read_manifest(tmp_path / "cache")
    assert list(manifest["splits"]["train"]) == names
    for sets in open_blocks(tmp_path / "cache", manifest).values():
        for number, name in enumerate(names):
            assert TOKENIZER.decode(sets[name][0]["input_ids"])[0] == str(number)
    files = {path.name.lower() for path in (tmp_path / "cache" / "train").iterdir()}
    assert len(files) == len(names)


@pytest.mark.parametrize("name", ["CON", "Books", ".."])
def test_folders_with_names_of_before_are_opened(name, tmp_path):
    manifest = build(tmp_path / "cache")
    manifest["splits"] = {s: {"books": c["d"], name: c["d"]} for s, c in manifest["splits"].items()}
    for split in SPLITS:
        data = blocks_path(tmp_path / "cache", split, "d").read_bytes()
        for file in ("books", name):
            (tmp_path / "cache" / split / f"{file}.arrow").write_bytes(data)
    assert len(open_blocks(tmp_path / "cache", manifest)["train"][name]) == 3


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def texts():
        yield "enough for a block"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_from(tmp_path / "cache", texts(), np.arange(3))
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
        yield from ("second", "second")

    manifest = build_from(tmp_path / "cache", texts(), np.arange(3), name="second")
    assert manifest["name"] == "né"
    assert [path.name for path in Path(tmp_path).iterdir()] == ["cache"]


def test_a_full_disk_leaves_nothing(tmp_path):
    # /dev/full takes no byte: the error is the operating system's own.
    def fill():
        with new_folder(tmp_path / "out") as scratch:
            (scratch / "part").write_text("x")
            with BlockWriter(Path("/dev/full"), 257, 4) as writer:
                for _ in range(3):
                    writer.write(*encode_documents(["x" * 1_000_000], TOKENIZER))

    with pytest.raises(InputError, match="out cannot be written: no space is left on its device"):
        fill()
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
        assert (tmp_path / "cache" / MANIFEST).exists(), "the old one stays till the end"
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
    with BlockWriter(path, 257, 4) as writer:
        writer.write(*encode_documents(["other text"], TOKENIZER))
    with pytest.raises(InputError, match=r"has 2 blocks but the manifest says 125"):
        open_blocks(tmp_path / "cache", manifest)
