"""Every format gives the tokens that its library wrote, in order, without a copy."""

import json
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from token_files import (
    write_arrays,
    write_litdata,
    write_mds,
    write_megatron,
    write_nanogpt,
    write_saved,
)

from tandem_pl.datamodules.tokens.sources import open_tokens
from tandem_pl.errors import InputError

RANDOM = np.random.default_rng(0)
DOCUMENTS = [RANDOM.integers(0, 50_000, size=size) for size in (5, 1, 7, 300, 2, 64, 9)]
STREAM = np.concatenate(DOCUMENTS).tolist()


def stream_of(tokens):
    assert not tokens.rows
    assert tokens.labels is None
    return tokens.ids.read(0, len(tokens.ids)).tolist()


def is_mapped(tokens):
    """Whether all tokens are views of memory-mapped files."""
    arrays = [buffer.data for buffer in tokens.ids.buffers]
    while any(a.base is not None and isinstance(a.base, np.ndarray) for a in arrays):
        arrays = [a.base if isinstance(a.base, np.ndarray) else a for a in arrays]
    return not any(a.flags.owndata for a in arrays)


def write(kind, folder, documents=DOCUMENTS):
    """A source of a kind, and the spec of it."""
    if kind == "megatron":
        return str(write_megatron(folder / "web.v2_text_document", documents))
    if kind == "megatron int32":
        return str(write_megatron(folder / "web_text_document", documents, "int32"))
    if kind == "nanogpt":
        return str(write_nanogpt(folder / "train.bin", np.concatenate(documents)))
    if kind == "nanogpt uint32":
        path = write_nanogpt(folder / "train.bin", np.concatenate(documents), "uint32")
        return {"path": str(path), "dtype": "uint32"}
    if kind == "llm.c":
        return str(write_nanogpt(folder / "a.bin", np.concatenate(documents), magic=20240520))
    if kind == "llm.c llama":
        path = write_nanogpt(folder / "a.bin", np.concatenate(documents), "uint32", 20240801)
        return str(path)
    if kind == "huggingface":
        return str(write_saved(folder / "saved", [{"input_ids": d.tolist()} for d in documents]))
    if kind == "litdata":
        return str(write_litdata(folder / "lit", [torch.tensor(d) for d in documents]))
    if kind == "litdata uint16":
        items = [d.astype(np.uint16) for d in documents]
        return str(write_litdata(folder / "lit", items, chunk_bytes=200))
    if kind == "litdata tree":
        items = [{"id": n, "input_ids": torch.tensor(d)} for n, d in enumerate(documents)]
        return str(write_litdata(folder / "lit", items, tokens=False))
    columns = {"tokens": "bytes", "id": "str"}
    samples = [{"tokens": d.astype(np.int64), "id": "x" * n} for n, d in enumerate(documents)]
    if kind == "mds int32":
        columns = {"id": "int", "input_ids": "ndarray:int32", "z": "str"}
        samples = [{"id": 3, "input_ids": d.astype(np.int32), "z": "end"} for d in documents]
    if kind == "mds ndarray":
        columns = {"a": "str", "input_ids": "ndarray"}
        samples = [{"a": "text", "input_ids": d.astype(np.uint16)} for d in documents]
    return str(write_mds(folder / "mds", columns, samples))


KINDS = [
    *("megatron", "megatron int32", "nanogpt", "nanogpt uint32", "llm.c", "llm.c llama"),
    *("huggingface", "litdata", "litdata uint16", "litdata tree"),
    *("mds", "mds int32", "mds ndarray"),
]
NAMES = {"llm.c": "nanogpt"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_stream_of_a_format(kind, tmp_path):
    spec = write(kind, tmp_path)
    tokens = open_tokens("train['web']", spec)
    assert stream_of(tokens) == STREAM
    first = kind.split()[0]
    assert tokens.kinds == (NAMES.get(first, first),)
    assert is_mapped(tokens)
    for start, stop in ((0, 1), (3, 9), (5, 320), (len(STREAM) - 2, len(STREAM)), (7, 7)):
        assert tokens.ids.read(start, stop).tolist() == STREAM[start:stop]
    assert tokens.ids.largest() == max(STREAM)
    data = pickle.dumps(tokens)
    assert len(data) < 2000, "a copy opens the files again"
    assert stream_of(pickle.loads(data)) == STREAM  # noqa: S301


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_may_be_named(kind, tmp_path):
    spec = write(kind, tmp_path)
    spec = spec if isinstance(spec, dict) else {"path": spec}
    name = NAMES.get(kind.split()[0], kind.split()[0])
    assert stream_of(open_tokens("t", {**spec, "kind": name})) == STREAM


def test_the_library_reads_the_same_blocks(tmp_path):
    litdata = pytest.importorskip("litdata")
    folder = write_litdata(tmp_path / "lit", [torch.tensor(d) for d in DOCUMENTS], chunk_size=10**6)
    loader = litdata.TokensLoader(block_size=8)
    theirs = litdata.StreamingDataset(str(folder), item_loader=loader)
    ours = open_tokens("t", str(folder)).ids
    assert [block.tolist() for block in theirs] == [
        ours.read(8 * n, 8 * n + 8).tolist() for n in range(len(STREAM) // 8)
    ]


def test_mds_that_mosaicml_streaming_wrote():
    """By its `MDSWriter`, version 0.13.0: columns tokens: ndarray, id: str, size_limit 400."""
    tokens = open_tokens("t", str(Path(__file__).parent / "mds_by_streaming"))
    documents = [range(100 * n, 100 * n + 5 + n) for n in range(12)]
    assert stream_of(tokens) == [token for document in documents for token in document]
    assert tokens.kinds == ("mds",)
    assert is_mapped(tokens)


def test_megatron_by_any_of_its_names(tmp_path):
    prefix = write_megatron(tmp_path / "web [1]_text_document", DOCUMENTS)
    write_megatron(tmp_path / "other", DOCUMENTS[:2])
    for path in (
        prefix,
        f"{prefix}.bin",
        f"{prefix}.idx",
        tmp_path / "web*",
        tmp_path / "web*.bin",
    ):
        assert stream_of(open_tokens("t", str(path))) == STREAM
    both = np.concatenate(DOCUMENTS[:2]).tolist() + STREAM
    assert stream_of(open_tokens("t", str(tmp_path))) == both
    assert stream_of(open_tokens("t", [str(tmp_path / "other"), str(prefix)])) == both


def test_megatron_with_sequences_out_of_order(tmp_path):
    prefix = write_megatron(tmp_path / "web", DOCUMENTS)
    index = bytearray((tmp_path / "web.idx").read_bytes())
    count = len(DOCUMENTS)
    lengths = np.array([len(d) for d in DOCUMENTS], "<i4")
    starts = (np.cumsum(lengths) - lengths).astype("<i8") * 2
    index[34 : 34 + 4 * count] = lengths[::-1].tobytes()
    index[34 + 4 * count : 34 + 12 * count] = starts[::-1].tobytes()
    (tmp_path / "web.idx").write_bytes(index)
    expected = np.concatenate(DOCUMENTS[::-1]).tolist()
    assert stream_of(open_tokens("t", str(prefix))) == expected


def test_megatron_that_is_broken(tmp_path):
    prefix = write_megatron(tmp_path / "web", DOCUMENTS)
    data, index = ((tmp_path / f"web.{suffix}").read_bytes() for suffix in ("bin", "idx"))
    for suffix, content, message in (
        ("bin", data[:-2], r"web\.bin has 774 bytes and must have 776; it was cut short"),
        ("idx", index[:60], r"web\.idx has 60 bytes and must have"),
        ("idx", b"TNTIDX" + index[6:], r"web\.idx is no index of Megatron-LM"),
        ("idx", index[:9] + b"\2" + index[10:], "version 2"),
        ("idx", index[:17] + b"\6" + index[18:], "tokens of type f8, which is none of integers"),
    ):
        (tmp_path / "web.bin").write_bytes(data)
        (tmp_path / "web.idx").write_bytes(index)
        (tmp_path / f"web.{suffix}").write_bytes(content)
        with pytest.raises(InputError, match=message):
            open_tokens("t", str(prefix))
    (tmp_path / "web.bin").unlink()
    (tmp_path / "web.idx").write_bytes(index)
    with pytest.raises(InputError, match=r"web\.bin cannot be read"):
        open_tokens("t", str(prefix))


def test_shards_of_bins(tmp_path):
    for number, document in enumerate(DOCUMENTS):
        magic = 20240520 if number % 2 else None
        write_nanogpt(tmp_path / "data" / f"web_train_{number:06}.bin", document, magic=magic)
    assert stream_of(open_tokens("t", str(tmp_path / "data"))) == STREAM
    assert stream_of(open_tokens("t", str(tmp_path / "data" / "*_train_*.bin"))) == STREAM
    write_nanogpt(tmp_path / "data" / "web_val_000000.bin", [1, 2])
    with pytest.raises(InputError, match="holds files of train and val data; give one of them"):
        open_tokens("t", str(tmp_path / "data"))
    assert stream_of(open_tokens("t", str(tmp_path / "data" / "*_train_*.bin"))) == STREAM


def test_bins_whose_type_is_not_said(tmp_path):
    path = write_nanogpt(tmp_path / "a.bin", STREAM, "uint32")
    with pytest.raises(InputError, match=r"a\.bin looks like tokens of 32 bits.* dtype: uint32"):
        open_tokens("t", str(path))
    assert len(open_tokens("t", {"path": str(path), "dtype": "uint16"}).ids) == 2 * len(STREAM)
    path.write_bytes(b"\1\2\3")
    with pytest.raises(InputError, match="3 bytes, no multiple of the 2 of a token"):
        open_tokens("t", str(path))
    with pytest.raises(InputError, match="tokens of type float32, which is none of integers"):
        open_tokens("t", {"path": str(path), "dtype": "float32"})
    with pytest.raises(InputError, match="tokens of type uint33"):
        open_tokens("t", {"path": str(path), "dtype": "uint33"})
    whole = write_nanogpt(path, STREAM, magic=20240520).read_bytes()
    path.write_bytes(whole[:-2])
    with pytest.raises(InputError, match="it was cut short"):
        open_tokens("t", str(path))
    path.write_bytes(whole + b"\0\0")
    with pytest.raises(InputError, match="but its header says 388 tokens of 2 bytes"):
        open_tokens("t", str(path))
    path.write_bytes(b"")
    assert stream_of(open_tokens("t", str(path))) == []


@pytest.mark.parametrize(
    "feature",
    [
        datasets.List(datasets.Value("int32")),
        datasets.LargeList(datasets.Value("uint16")),
        datasets.List(datasets.Value("int64")),
    ],
)
def test_a_saved_data_set_in_several_files(feature, tmp_path):
    rows = [{"text": "x", "input_ids": d.tolist()} for d in DOCUMENTS]
    features = datasets.Features({"text": datasets.Value("string"), "input_ids": feature})
    path = write_saved(tmp_path / "saved", rows, features, num_shards=3)
    tokens = open_tokens("t", str(path))
    assert stream_of(tokens) == STREAM
    assert is_mapped(tokens)


def test_a_saved_data_set_of_blocks_and_a_split(tmp_path):
    blocks = np.arange(24).reshape(6, 4)
    features = datasets.Features({"input_ids": datasets.List(datasets.Value("int32"), length=4)})
    data = datasets.Dataset.from_dict({"input_ids": blocks.tolist()}, features=features)
    both = {"train": data, "rest": data.select([1, 3])}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "both")
    spec = {"path": str(tmp_path / "both"), "split": "rest"}
    assert stream_of(open_tokens("t", spec)) == [4, 5, 6, 7, 12, 13, 14, 15]
    assert stream_of(open_tokens("t", str(tmp_path / "both" / "train"))) == list(range(24))
    with pytest.raises(InputError, match="holds the splits train, rest"):
        open_tokens("t", str(tmp_path / "both"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], "has no column 'input_ids' of tokens; it has 'text': name one of these"),
        ([{"input_ids": "a"}], "the type string; every row must be a list of token ids"),
        ([{"input_ids": [1.5]}], "tokens of type double, which is none of integers"),
        ([{"input_ids": [1]}, {"input_ids": None}], "rows that are null"),
        ([{"input_ids": [1, None]}], "token ids that are null"),
        ([{"input_ids": [1, 2], "labels": [1]}], "rows whose labels have another length"),
        (
            [{"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}],
            "rows with hidden tokens between others",
        ),
    ],
)
def test_saved_data_that_cannot_be_used(rows, message, tmp_path):
    path = write_saved(tmp_path / "saved", rows)
    with pytest.raises(InputError, match=message):
        open_tokens("t", str(path))


def test_a_column_of_another_name(tmp_path):
    path = write_saved(tmp_path / "saved", [{"ids": d.tolist()} for d in DOCUMENTS])
    assert stream_of(open_tokens("t", {"path": str(path), "column": "ids"})) == STREAM


@pytest.mark.parametrize("side", ["right", "left", "both"])
@pytest.mark.parametrize("kind", ["huggingface", "litdata", "mds"])
def test_padding_is_left_out(kind, side, tmp_path, monkeypatch):
    from tandem_pl.datamodules.tokens.pieces import Pieces

    groups = Pieces.groups
    monkeypatch.setattr(Pieces, "groups", lambda self: groups(self, most=100))
    rows = []
    for number, document in enumerate(DOCUMENTS):
        left = {"right": 0, "left": 3, "both": number % 3}[side]
        right = {"right": 3, "left": 0, "both": 3 - number % 3}[side]
        ids = np.pad(document, (left, right), constant_values=7)
        mask = np.pad(np.ones(len(document), np.int64), (left, right))
        rows.append({"input_ids": ids, "attention_mask": mask})
    rows.append({"input_ids": np.array([7, 7]), "attention_mask": np.array([0, 0])})
    path = write_arrays(kind, tmp_path / "x", rows)
    assert stream_of(open_tokens("t", str(path))) == STREAM
    with pytest.warns(UserWarning, match="t: 1 rows without a token were left out"):
        rows = open_tokens("t", {"path": str(path), "rows": True})
    assert [rows.ids.row(n).tolist() for n in range(7)] == [d.tolist() for d in DOCUMENTS]


def test_a_mask_of_truth_values(tmp_path):
    rows = [{"input_ids": [1, 2, 3], "attention_mask": [True, True, False]}] * 3
    assert stream_of(open_tokens("t", str(write_saved(tmp_path / "saved", rows)))) == [1, 2] * 3


@pytest.mark.parametrize("kind", ["huggingface", "litdata", "mds"])
def test_labels_make_rows_samples(kind, tmp_path):
    rows = [{"input_ids": d, "labels": np.where(d % 2, d, -100)} for d in DOCUMENTS]
    path = write_arrays(kind, tmp_path / "x", rows)
    tokens = open_tokens("t", str(path))
    assert tokens.rows
    for number, row in enumerate(rows):
        assert tokens.ids.row(number).tolist() == row["input_ids"].tolist()
        assert tokens.labels.row(number).tolist() == row["labels"].tolist()
    stream = open_tokens("t", {"path": str(path), "rows": False})
    assert stream.ids.read(3, 99).tolist() == STREAM[3:99]
    expected = np.concatenate([row["labels"] for row in rows])
    assert stream.labels.read(3, 99).tolist() == expected[3:99].tolist()


@pytest.mark.parametrize(
    ("columns", "make"),
    [
        ({"tokens": "ndarray:uint16:4"}, lambda n: {"tokens": np.arange(4, dtype=np.uint16) + n}),
        ({"input_ids": "uint32"}, lambda n: {"input_ids": np.arange(4) + n}),
        ({"tokens": "bytes"}, lambda n: {"tokens": np.arange(4, dtype=np.int64) + n}),
        ({"tokens": "ndarray"}, lambda n: {"tokens": np.arange(4, dtype=np.uint32)[None] + n}),
    ],
)
def test_encodings_of_mds(columns, make, tmp_path):
    path = write_mds(tmp_path / "mds", columns, [make(n) for n in range(5)])
    expected = [i + n for n in range(5) for i in range(4)]
    assert stream_of(open_tokens("t", str(path))) == expected


def test_bytes_of_mds_of_another_type(tmp_path):
    samples = [{"tokens": d.astype(np.uint16)} for d in DOCUMENTS]
    path = write_mds(tmp_path / "mds", {"tokens": "bytes"}, samples)
    with pytest.raises(InputError, match="bytes are no multiple of the 8 of int64; give its type"):
        open_tokens("t", str(path))
    assert stream_of(open_tokens("t", {"path": str(path), "dtype": "uint16"})) == STREAM


def test_a_long_array_of_mds(tmp_path):
    long = np.arange(70_000, dtype=np.uint32)
    path = write_mds(tmp_path / "mds", {"input_ids": "ndarray:uint32"}, [{"input_ids": long}] * 2)
    assert stream_of(open_tokens("t", str(path))) == long.tolist() * 2


def test_mds_and_litdata_that_cannot_be_mapped(tmp_path):
    samples = [{"tokens": d} for d in DOCUMENTS]
    path = write_mds(tmp_path / "zip", {"tokens": "bytes"}, samples, compression="zstd")
    with pytest.raises(InputError, match="only in compressed form"):
        open_tokens("t", str(path))
    path = write_mds(tmp_path / "cut", {"tokens": "bytes"}, samples)
    data = (path / "shard.00001.mds").read_bytes()
    (path / "shard.00001.mds").write_bytes(data[:-8])
    with pytest.raises(InputError, match=r"shard\.00001\.mds has .* it was cut short"):
        open_tokens("t", str(path))
    path = write_mds(tmp_path / "text", {"tokens": "str"}, [{"tokens": "text"}])
    with pytest.raises(InputError, match="tokens of type str, which is none of integers"):
        open_tokens("t", str(path))
    items = [{"input_ids": d.tolist()} for d in DOCUMENTS]
    path = write_litdata(tmp_path / "lists", items, tokens=False)
    with pytest.raises(InputError, match="is stored as json; optimize it again with tensors"):
        open_tokens("t", str(path))
    path = write_litdata(tmp_path / "lit", [torch.tensor(d) for d in DOCUMENTS])
    index = json.loads((path / "index.json").read_text())
    index["config"]["compression"] = "zstd"
    (path / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="is compressed or encrypted"):
        open_tokens("t", str(path))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", "train: 'nowhere' matches nothing; give the path of a"),
        ([], "has an empty list of paths"),
        ({"kind": "nanogpt"}, "train has no path"),
        ({"path": "x", "kind": "parquet"}, r"train\.kind='parquet' must be one of 'megatron'"),
        ({"path": "x", "type": "uint16"}, "train has the unknown key 'type'; use path, kind"),
        (".", "holds no tokens in a known format; the formats are megatron, nanogpt"),
    ],
)
def test_specs_that_cannot_be(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        open_tokens("train", spec)


def test_labels_in_some_paths_only(tmp_path):
    plain = write_saved(tmp_path / "a", [{"input_ids": [1]}])
    labelled = write_saved(tmp_path / "b", [{"input_ids": [1], "labels": [1]}])
    with pytest.raises(InputError, match="has labels in some of its paths only"):
        open_tokens("t", [str(plain), str(labelled)])


def test_paths_of_several_formats_are_one_stream(tmp_path):
    paths = [
        write(kind, tmp_path / kind.replace(" ", "")) for kind in ("nanogpt", "litdata", "mds")
    ]
    tokens = open_tokens("t", paths)
    assert stream_of(tokens) == STREAM * 3
    assert tokens.kinds == ("nanogpt", "litdata", "mds")
