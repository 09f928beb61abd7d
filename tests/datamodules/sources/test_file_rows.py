"""Files that are broken, or odd but right."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tandem_pl.datamodules.sources.domains import open_source
from tandem_pl.errors import InputError


def texts(source):
    return [row["text"] for _, row in source.rows(["text"])]


def read(path, **options):
    return texts(open_source("d", str(path), **options))


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("a.jsonl", '{"text": "cut', r"a\.jsonl, line 2 is not valid JSON"),
        ("a.jsonl", '["text"]', r"a\.jsonl, line 2 is not a JSON object"),
        ("a.jsonl", r'{"text": "\ud800"}', r"a\.jsonl, line 2 is not UTF-8 text"),
        ("a.jsonl", '{"text": "n\xe9"}', r"a\.jsonl, line 2 is not UTF-8 text \(byte 11\)"),
        ("a.csv", "1,2,3", r"a\.csv, line 3 has 3 fields but the header has 1"),
        ("a.csv", '"a"b', r"a\.csv, line 3 is not valid CSV"),
        ("a.csv", "n\xe9", r"a\.csv, line 3 is not UTF-8 text \(byte 1\)"),
    ],
)
def test_a_corrupt_row_is_named_or_skipped(tmp_path, name, line, message):
    first, last = ('{"text": "1"}', '{"text": "2"}') if "json" in name else ("text\n1", "2")
    (tmp_path / name).write_bytes(f"{first}\n{line}\n{last}\n".encode("latin-1"))
    with pytest.raises(InputError, match=message):
        read(tmp_path)
    source = open_source("d", str(tmp_path), corrupt="skip")
    for _ in range(2):
        assert texts(source) == ["1", "2"]
        assert source.skipped == 1
    with pytest.raises(InputError, match=message):
        raise InputError(source.first_skipped)


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "latin.txt").write_bytes("né".encode("latin-1"))
    with pytest.raises(InputError, match=r'latin\.txt is not UTF-8 text \(byte 1\).*"replace"'):
        read(tmp_path)
    assert read(tmp_path, encoding_errors="replace") == ["n\ufffd"]
    assert read(tmp_path, corrupt="skip") == []
    with pytest.raises(InputError, match="encoding_errors='ignore'"):
        read(tmp_path, encoding_errors="ignore")
    with pytest.raises(InputError, match="corrupt='ignore'"):
        read(tmp_path, corrupt="ignore")


def test_files_that_are_not_what_their_name_says(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"a\.parquet is not a Parquet file"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", gzip.compress(json.dumps({"text": "x"}).encode(), mtime=0)[:-9]),
        ("a.jsonl.gz", b"plain"),
        ("a.txt.zst", b"plain"),
    ],
)
def test_a_broken_file_is_named_or_skipped(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "b.txt").write_text("whole")
    with pytest.raises(InputError, match=rf'{name} cannot be read \(.*"skip"'):
        read(tmp_path)
    source = open_source("d", str(tmp_path), corrupt="skip")
    assert texts(source)[-1] == "whole"
    assert source.skipped == 1


def test_a_parquet_file_with_broken_pages(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [str(i) * 40 for i in range(3000)]}), path)
    data = bytearray(path.read_bytes())
    data[200:900] = bytes(700)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.parquet cannot be read"):
        read(path)


def test_the_header_of_a_csv_file(tmp_path):
    (tmp_path / "a.csv").write_text("\n\ntext,id\none,1\n")
    assert read(tmp_path) == ["one"]
    (tmp_path / "a.csv").write_text('"te"xt,id\none,1\n')
    with pytest.raises(InputError, match=r"a\.csv has a header that is not valid CSV"):
        read(tmp_path)


def test_a_long_field_of_a_csv_file(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "x" * 300_000)  # the default limit is 131072
    assert len(read(tmp_path)[0]) == 300_000
