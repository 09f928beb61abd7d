"""The content of a file says what it is: byte order marks, forms of JSON, tabs and quotes."""

import bz2
import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tandem_pl.datamodules.sources import json_lines
from tandem_pl.datamodules.sources.domains import open_source
from tandem_pl.errors import InputError

ROWS = [{"text": f"né {n}", "day": "2024-01-31", "n": n} for n in range(4)]
TEXTS = [row["text"] for row in ROWS]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
FORMS = {
    "lines": (LINES, "JSON lines"),
    "lines without an end": (LINES.rstrip(), "JSON lines"),
    "blank lines": (f"\n \n{LINES}\n\n{LINES}"[: len(LINES) + 4], "JSON lines"),
    "array on a line": (json.dumps(ROWS), "JSON array"),
    "array on lines": (json.dumps(ROWS, indent=2), "JSON array"),
    "array, compact": (json.dumps(ROWS, separators=(",", ":")), "JSON array"),
    "objects on lines": ("\n".join(json.dumps(row, indent=1) for row in ROWS), "JSON objects"),
}


def texts(source, column="text"):
    return [row[column] for _, row in source.rows([column])]


def read(path, column="text", **options):
    return texts(open_source("d", str(path), **options), column)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.JSON", "a.ndjson", "a.txt", "rows"])
@pytest.mark.parametrize("form", FORMS)
def test_rows_in_json_whatever_the_name(name, form, tmp_path):
    text, kind = FORMS[form]
    (tmp_path / name).write_text(text, encoding="utf-8")
    source = open_source("d", str(tmp_path))
    assert texts(source) == TEXTS
    assert source.read_as == {kind: (1, 4)}
    assert texts(source, "day") == ["2024-01-31"] * 4
    assert texts(source, "n") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "name", ["a.json.gz", "a.json.bz2", "a.json.zst", "a.jsonl.gz", "a.txt.gz"]
)
@pytest.mark.parametrize("form", ["lines", "array on lines"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_rows_in_compressed_json(name, form, encoding, tmp_path):
    data = FORMS[form][0].encode(encoding)
    if name.endswith(".zst"):
        with pa.output_stream(str(tmp_path / name), compression="zstd") as file:
            file.write(data)
    else:
        compress = bz2.compress if name.endswith("bz2") else gzip.compress
        (tmp_path / name).write_bytes(compress(data))
    assert read(tmp_path) == TEXTS
    (tmp_path / name).rename(tmp_path / "part-0")
    assert read(tmp_path / "part-0") == TEXTS, "compression is told by the content, too"


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "package", "version": "1.0"}',
        '{\n  "compilerOptions": {}\n}\n',
        "[1, 2, 3]",
        '["text", "text"]',
        '[{"name": 1}, {"name": 2}]',
        '{"name": 1}\n{"name": 2}\n',
        '{"text": "cut',
        "{}",
        "[]",
        "{ not JSON }",
        "",
        "  \n",
    ],
)
def test_a_document_in_json_is_a_document(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    source = open_source("d", str(tmp_path))
    assert texts(source) == [text]
    assert source.read_as == {"text": (1, 1)}


def test_one_object_with_the_column_is_a_row(tmp_path):
    (tmp_path / "a.json").write_text('{\n "text": "one",\n "id": 1\n}')
    (tmp_path / "b.json").write_text('{"text": "two"}')
    (tmp_path / "c.jsonl").write_text('{"text": "three"}')
    assert read(tmp_path) == ["one", "two", "three"]


@pytest.mark.parametrize(
    "text",
    ['{"text": "x"} is how JSON looks', '{"text": "x"}\nand more', "{% if text %}", "[text](link)"],
)
def test_text_that_begins_like_json_is_text(text, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    assert read(tmp_path) == [text]


def test_columns_of_instructions_in_json(tmp_path):
    rows = [{"prompt": "p", "response": "r"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    found = [row for _, row in open_source("d", str(tmp_path)).rows(["prompt", "response"])]
    assert found == rows
    (tmp_path / "a.json").write_text('[{"prompt": "p"}]')
    with pytest.raises(InputError, match=r"a\.json, line 1 has no column 'response'; it has 'pro"):
        list(open_source("d", str(tmp_path)).rows(["prompt", "response"]))


def test_rows_of_an_array_are_named_by_their_line(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "CHUNK", 7)  # rows go on in the next chunk
    rows = [{"text": "a\n" * n, "deep": [{"x": [n]}]} for n in range(5)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    found = list(open_source("d", str(tmp_path)).rows(["text"]))
    assert [row["text"] for _, row in found] == [row["text"] for row in rows]
    assert [where.rsplit(" ", 1)[1] for where, _ in found] == ["2", "12", "22", "32", "42"]
    (tmp_path / "a.json").write_text(json.dumps(rows) + "\n" + json.dumps(rows))
    assert len(read(tmp_path)) == 10


@pytest.mark.parametrize(
    ("text", "message", "left"),
    [
        ('[{"text": "a"}, 3, {"text": "b"}]', "line 1 is not a JSON object", ["a", "b"]),
        ('[{"text": "a"},\n{"tex": 1},\n{"text": "b"}]', "line 2 has no column", ["a", "b"]),
        ('[{"text": "a"},\n{"text": "b"}', "line 2 is not valid JSON", ["a", "b"]),
        ('[{"text": "a"},\n{"text": oops}, {"text": "b"}]', "line 2 is not valid JSON", ["a"]),
        ('[{"text": "a"}, {"text": "\\ud800"}, {"text": "b"}]', "is not UTF-8 text", ["a", "b"]),
    ],
)
def test_broken_arrays(text, message, left, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=rf"a\.json, {message}|a\.json, line 1 {message}"):
        read(tmp_path)
    source = open_source("d", str(tmp_path), corrupt="skip")
    assert (texts(source), source.skipped) == (left, 1)


ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"]


def encoded(text, encoding):
    return (("\ufeff" if encoding.endswith("be") else "") + text).encode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "né\r\nline", ["né\r\nline"]),
        ("a.py", "# né", ["# né"]),
        ("a.jsonl", LINES, TEXTS),
        ("a.csv", '"text","n"\n"né","1"\nb,2\n', ["né", "b"]),
        ("a.csv", "text\nné\n", ["né"]),
        ("a.tsv", "text\tn\nné\t1\n", ["né"]),
        ("a.json", json.dumps(ROWS), TEXTS),
    ],
)
def test_a_byte_order_mark_is_no_text(encoding, name, text, expected, tmp_path):
    (tmp_path / name).write_bytes(encoded(text, encoding))
    assert read(tmp_path) == expected
    (tmp_path / name).rename(tmp_path / f"{name}.gz")
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(encoded(text, encoding)))
    assert read(tmp_path) == expected


def test_joined_files_with_marks(tmp_path):
    data = LINES.encode("utf-8-sig")
    (tmp_path / "a.jsonl").write_bytes(data + data)
    assert read(tmp_path) == TEXTS * 2


def test_utf_16_that_is_cut(tmp_path):
    (tmp_path / "a.txt").write_bytes("né".encode("utf-16")[:-1])
    (tmp_path / "b.txt").write_text("whole")
    with pytest.raises(InputError, match=r"a\.txt is not UTF-16.* text, as it begins"):
        read(tmp_path)
    assert read(tmp_path, encoding_errors="replace") == ["n\ufffd", "whole"]
    source = open_source("d", str(tmp_path), corrupt="skip")
    assert (texts(source), source.skipped) == (["whole"], 1)


def test_tabs_have_no_quotes(tmp_path):
    lines = [f'{n}\t"' + ("open" if n % 4 == 0 else f'closed" {n}') for n in range(40)]
    path = tmp_path / "a.tsv"
    path.write_text("id\ttext\n" + "\n".join(lines) + "\n")
    source = open_source("d", str(path))
    assert texts(source) == [line.split("\t")[1] for line in lines]
    assert source.read_as == {"TSV": (1, 40)}


def test_quotes_of_tabs_are_asked_for_and_rows_they_take_are_said(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\n1\t"one\n2\ttwo"\n3\t"t\tt"\n4\tfour\n')
    source = open_source("d", {"path": str(path), "quotes": True})
    with pytest.warns(UserWarning, match=r"a\.tsv has 1 lines more than rows, since quoted"):
        assert texts(source) == ["one\n2\ttwo", "t\tt", "four"]
    with pytest.raises(InputError, match=r"line 4 has 3 fields .* set quotes to true"):
        read(path)
    path.write_text('id\ttext\n1\t"one"\n2\t"two"\n')
    with pytest.warns(UserWarning, match=r"a\.tsv has 2 rows with fields in quotes"):
        assert read(path) == ['"one"', '"two"']
    path.write_text('\ufeff"id"\t"text"\n"1"\t"one"\n')
    with pytest.raises(InputError, match=r"a\.tsv has a header in quotes: set quotes to true"):
        read(path)
    assert texts(open_source("d", {"path": str(path), "quotes": True})) == ["one"]


def test_quotes_of_commas_can_be_turned_off(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"one\n2,two"\n')
    with pytest.warns(UserWarning, match="1 lines more than rows"):
        assert read(path) == ["one\n2,two"]
    assert texts(open_source("d", {"path": str(path), "quotes": False})) == ['"one', 'two"']


def test_a_column_twice(tmp_path):
    (tmp_path / "a.csv").write_text("text,id,text\na,1,b\n")
    with pytest.raises(InputError, match=r"a\.csv has the column 'text' twice"):
        read(tmp_path)
    assert read(tmp_path, "id") == ["1"]


def test_values_are_as_in_the_file(tmp_path):
    values = [
        "007",
        "7",
        "1.0",
        "NA",
        "None",
        "N/A",
        "null",
        "",
        "2024-01-31",
        "1e3",
        "True",
        "nan",
    ]
    (tmp_path / "a.csv").write_text("id,text\n" + "".join(f"1,{value}\n" for value in values))
    (tmp_path / "a.tsv").write_text("id\ttext\n" + "".join(f"1\t{value}\n" for value in values))
    rows = "".join(json.dumps({"text": value}) + "\n" for value in values)
    (tmp_path / "a.jsonl").write_text(rows)
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        assert read(tmp_path / name) == values


@pytest.mark.parametrize("data", [b"", b"PAR1", b"text"])
def test_a_parquet_that_is_none_is_skipped(data, tmp_path):
    for name in ("a.parquet", "c.parquet"):
        pq.write_table(pa.table({"text": [name]}), tmp_path / name)
    (tmp_path / "b.parquet").write_bytes(data)
    with pytest.raises(InputError, match=r"b\.parquet is not a Parquet file"):
        read(tmp_path)
    source = open_source("d", str(tmp_path), corrupt="skip")
    assert (texts(source), source.skipped) == (["a.parquet", "c.parquet"], 1)
    assert "b.parquet" in source.first_skipped


def test_a_row_that_lacks_the_column_is_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n{}\n{"text": "c"}\n')
    (tmp_path / "b.csv").write_text("body\nx\n")
    pq.write_table(pa.table({"body": ["y"]}), tmp_path / "c.parquet")
    (tmp_path / "d.csv").write_text("text\nd\n")
    with pytest.raises(InputError, match=r"a\.jsonl, line 2 has no column 'text'; it has 'body'"):
        read(tmp_path)
    source = open_source("d", str(tmp_path), corrupt="skip")
    assert (texts(source), source.skipped) == (["a", "c", "d"], 4)
    assert source.first_skipped.startswith(f"{tmp_path}/a.jsonl, line 2 has no column 'text'")


def test_a_parquet_without_a_suffix(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "part-0")
    source = open_source("d", str(tmp_path))
    assert (texts(source), source.read_as) == (["a"], {"Parquet": (1, 1)})


def test_the_digest_says_when_a_file_is_read_in_another_way(tmp_path):
    def digest(name, data):
        (tmp_path / name).write_bytes(data)
        os.utime(tmp_path / name, (1, 1))
        return open_source("d", str(tmp_path / name)).digest()

    plain = {name: digest(name, b"abcdefgh") for name in ("a.txt", "a.jsonl", "a.json", "a.csv")}
    assert len(set(plain.values())) == 4
    assert digest("a.txt", b"\xef\xbb\xbfabcde") != plain["a.txt"]
    assert digest("a.json", b'{"a": 1}') == plain["a.json"], "a document, as before"
    assert digest("a.jsonl", b'{"a": 1}') == plain["a.jsonl"]
    before = open_source("d", {"path": str(tmp_path / "a.csv"), "quotes": False}).digest()
    assert before != plain["a.csv"]
    longer = digest("a.json", b'{"text": "rows now"}')
    assert longer != digest("a.json", b'{"tent": "document"}')
