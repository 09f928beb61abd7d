import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tandem_pl.datamodules.documents import list_files, read_documents, read_saved_dataset
from tandem_pl.errors import InputError


def read(tmp_path, pattern="*", **options):
    return list(read_documents(list_files("d", str(tmp_path / pattern)), **options))


def test_every_kind_of_file_in_sorted_order(tmp_path):
    (tmp_path / "b.md").write_bytes(b"line\r\nline\r\n")
    (tmp_path / "a.py").write_text("print()")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "id": 3}\n')
    pq.write_table(pa.table({"text": ["three", "four"]}), tmp_path / "d.parquet")
    assert read(tmp_path) == ["print()", "line\r\nline\r\n", "one", "two", "three", "four"]


def test_a_folder_is_read_recursively_without_hidden_files(tmp_path):
    for name in ("b/2.txt", "a/1.txt", ".git/no.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    files = list_files("d", [str(tmp_path), str(tmp_path / "a" / "1.txt")])
    assert list(read_documents(files)) == ["a/1.txt", "b/2.txt"]
    assert list_files("d", str(tmp_path / "**" / "*.txt")) == files


def test_a_source_that_matches_nothing(tmp_path):
    with pytest.raises(InputError, match=r"domain 'wiki': '.*\*\.txt' matches no file; give an"):
        list_files("wiki", str(tmp_path / "*.txt"))
    with pytest.raises(InputError, match="domain 'wiki' has an empty list of sources"):
        list_files("wiki", [])


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "latin.txt").write_bytes("né".encode("latin-1"))
    with pytest.raises(InputError, match=r'latin\.txt is not UTF-8 text \(byte 1\).*"replace"'):
        read(tmp_path)
    assert read(tmp_path, encoding_errors="replace") == ["n\ufffd"]
    with pytest.raises(InputError, match="encoding_errors is 'ignore'"):
        read(tmp_path, encoding_errors="ignore")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', r"a\.jsonl, line 2, is not valid JSON"),
        ('["text"]', r"a\.jsonl, line 2, is not a JSON object"),
        ('{"body": "x", "id": 1}', r"a\.jsonl, line 2, has no column 'text'; it has 'body', 'id'"),
        ('{"text": null}', r"a\.jsonl, line 2, has a 'text' of type NoneType"),
        (r'{"text": "\ud800"}', r"a\.jsonl, line 2, is not UTF-8 text"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "good"}) + "\n" + line + "\n")
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_bad_parquet_files(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet has no column 'text'; it has 'body'"):
        read(tmp_path)
    assert read(tmp_path, text_column="body") == ["x"]
    pq.write_table(pa.table({"text": ["x", None]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet has a value of type NoneType"):
        read(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"a\.parquet is not a Parquet file"):
        read(tmp_path)


def test_a_saved_dataset_gives_its_domains(tmp_path):
    import datasets

    data = datasets.Dataset.from_dict(
        {"text": ["a", "b", " ", "c"], "domain": ["y", "x", "x", "y"]}
    )
    data.save_to_disk(tmp_path / "saved")
    readers = read_saved_dataset(str(tmp_path / "saved"))
    assert {name: list(reader()) for name, reader in readers.items()} == {
        "x": ["b"],
        "y": ["a", "c"],
    }
    assert list(readers["y"]()) == ["a", "c"], "a reader starts anew every time"
    with pytest.raises(InputError, match="has no column 'source'; it has 'text', 'domain'"):
        read_saved_dataset(str(tmp_path / "saved"), domain_column="source")


def test_folders_that_are_no_saved_dataset(tmp_path):
    import datasets

    with pytest.raises(InputError, match="is not a folder"):
        read_saved_dataset(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="is not a saved dataset"):
        read_saved_dataset(str(tmp_path))
    data = datasets.Dataset.from_dict({"text": ["a"], "domain": ["x"]})
    datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match="holds the splits train; give the folder of one"):
        read_saved_dataset(str(tmp_path / "saved"))
