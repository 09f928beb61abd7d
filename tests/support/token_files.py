"""Writers of token files: by the real library where it is installed, else by its documentation."""

import json
import tempfile
from functools import cache
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from programs import exit_codes, start

MEGATRON = """
import json, sys
import numpy, torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
prefix, dtype = sys.argv[1:]
documents = json.load(open(prefix + ".json"))
builder = IndexedDatasetBuilder(prefix + ".bin", dtype=getattr(numpy, dtype))
for document in documents:
    builder.add_document(torch.tensor(document), [len(document)])
builder.finalize(prefix + ".idx")
"""


def write_megatron(prefix, documents, dtype="uint16"):
    """By megatron-core, in a process of its own: its import changes what torch loads."""
    pytest.importorskip("megatron")
    pair = megatron_pair(json.dumps([list(map(int, document)) for document in documents]), dtype)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    for suffix, data in zip(("bin", "idx"), pair, strict=True):
        Path(f"{prefix}.{suffix}").write_bytes(data)
    return prefix


@cache
def megatron_pair(documents, dtype):
    """The bytes of both files."""
    with tempfile.TemporaryDirectory() as folder:
        program, output = Path(folder, "write.py"), Path(folder, "output.txt")
        program.write_text(MEGATRON)
        Path(folder, "x.json").write_text(documents)
        codes = exit_codes([start([str(program), f"{folder}/x", dtype], output)])
        assert codes == [0], output.read_text()
        return tuple(Path(folder, f"x.{suffix}").read_bytes() for suffix in ("bin", "idx"))


def write_litdata(folder, items, tokens=True, **options):
    """By litdata's writer, which `litdata.optimize` uses."""
    item_loader = pytest.importorskip("litdata.streaming.item_loader")
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir(parents=True)
    loader = item_loader.TokensLoader() if tokens else None
    options = options or {"chunk_size": 20 if tokens else 3}
    writer = BinaryWriter(str(folder), item_loader=loader, **options)
    for number, item in enumerate(items):
        writer[number] = item
    writer.done()
    writer.merge()
    return folder


def write_nanogpt(path, tokens, dtype="uint16", magic=None):
    """As nanoGPT's and llm.c's scripts do."""
    data = np.asarray(tokens).astype(dtype).tobytes()
    if magic is not None:
        header = np.zeros(256, np.int32)
        header[:3] = magic, {20240520: 1, 20240801: 7}[magic], len(tokens)
        data = header.tobytes() + data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_saved(folder, rows, features=None, **options):
    """By Hugging Face's `datasets`."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(folder, **options)
    return folder


CODES = {"uint8": 8, "uint16": 16, "int32": 33, "uint32": 32, "int64": 65, "uint64": 64}


def encode_mds(encoding, value):
    """A column of a sample as MosaicML Streaming encodes it."""
    kind, dtype, shape = [*encoding.split(":"), "", ""][:3]
    if kind == "str":
        return value.encode()
    if kind == "int":
        return np.int64(value).tobytes()
    if kind == "bytes":
        return value.tobytes()
    if kind != "ndarray":
        return np.asarray(value, kind).tobytes()
    head = b"" if dtype else bytes([CODES[value.dtype.name]])
    if not shape:
        size = 0 if max(value.shape) < 256 else 1 if max(value.shape) < 1 << 16 else 2
        head += bytes([value.ndim << 2 | size])
        head += np.array(value.shape, ["<u1", "<u2", "<u4"][size]).tobytes()
    return head + value.tobytes()


def fixed_size(encoding):
    kind, dtype, shape = [*encoding.split(":"), "", ""][:3]
    if kind == "ndarray":
        return int(shape) * np.dtype(dtype).itemsize if dtype and shape else None
    return {"int": 8}.get(kind)


def write_mds(folder, columns, samples, per_shard=3, compression=None):
    """As `MDSWriter` of MosaicML Streaming does, which is not installed; see test_formats."""
    folder.mkdir(parents=True)
    names = sorted(columns)
    sizes = [fixed_size(columns[name]) for name in names]
    shards = []
    for first in range(0, len(samples), per_shard):
        rows = []
        for sample in samples[first : first + per_shard]:
            parts = [encode_mds(columns[name], sample[name]) for name in names]
            free = [len(p) for p, size in zip(parts, sizes, strict=True) if size is None]
            rows.append(np.array(free, "<u4").tobytes() + b"".join(parts))
        config = json.dumps({"column_names": names, "format": "mds", "version": 2}).encode()
        head = 4 + 4 * (len(rows) + 1) + len(config)
        offsets = np.cumsum([head, *map(len, rows)]).astype("<u4")
        data = np.uint32(len(rows)).tobytes() + offsets.tobytes() + config + b"".join(rows)
        name = f"shard.{len(shards):05}.mds"
        if compression is None:
            (folder / name).write_bytes(data)
        raw = {"basename": name, "bytes": len(data), "hashes": {}}
        shards.append(
            {
                "column_encodings": [columns[name] for name in names],
                "column_names": names,
                "column_sizes": sizes,
                "compression": compression,
                "format": "mds",
                "hashes": [],
                "raw_data": raw,
                "samples": len(rows),
                "size_limit": 1 << 26,
                "version": 2,
                "zip_data": raw | {"basename": f"{name}.zstd"} if compression else None,
            }
        )
    (folder / "index.json").write_text(json.dumps({"shards": shards, "version": 2}))
    return Path(folder)


def write_arrays(kind, folder, rows):
    """Write rows, column -> int64 array, as "huggingface", "litdata" or "mds"."""
    if kind == "huggingface":
        return write_saved(folder, [{k: v.tolist() for k, v in row.items()} for row in rows])
    if kind == "litdata":
        items = [{key: torch.tensor(value) for key, value in row.items()} for row in rows]
        return write_litdata(folder, items, tokens=False)
    return write_mds(folder, dict.fromkeys(rows[0], "ndarray:int64"), rows)
