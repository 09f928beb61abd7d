import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tandem_pl.datamodules.sources.domains import open_domains, open_source
from tandem_pl.datamodules.sources.file_listing import list_files
from tandem_pl.errors import InputError


def texts(source, column="text"):
    return [row[column] for _, row in source.rows([column])]


def read(path, **options):
    return texts(open_source("d", str(path), **options))


def save(folder, **columns):
    import datasets

    datasets.Dataset.from_dict(columns).save_to_disk(folder)
    return str(folder)


def test_every_kind_of_file_in_sorted_order(tmp_path):
    (tmp_path / "b.md").write_bytes(b"line\r\nline\r\n")
    (tmp_path / "a.py").write_text("print()")
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "id": 3}\n')
    pq.write_table(pa.table({"text": ["three", "four"]}), tmp_path / "d.parquet")
    (tmp_path / "e.csv").write_text('id,text\n1,five\n2,"six\nlines, two"\n')
    (tmp_path / "f.tsv").write_text("text\tid\nseven\t3\n")
    with gzip.open(tmp_path / "g.jsonl.gz", "wt") as file:
        file.write('{"text": "eight"}\n')
    expected = ["print()", "line\r\nline\r\n", "one", "two", "three", "four", "five"]
    expected += ["six\nlines, two", "seven", "eight"]
    source = open_source("d", str(tmp_path))
    assert texts(source) == expected
    assert texts(source) == expected, "every pass is a fresh one"


def test_rows_say_where_they_stand_and_hold_the_named_columns_only(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{"q": 1, "r": [2], "s": 3}\n')
    pq.write_table(pa.table({"q": [4, 5], "r": [[6], []], "s": ["", ""]}), tmp_path / "b.parquet")
    found = list(open_source("d", str(tmp_path)).rows(["r", "q"]))
    assert found == [
        (f"{tmp_path}/a.jsonl, line 2", {"r": [2], "q": 1}),
        (f"{tmp_path}/b.parquet, row 1", {"r": [6], "q": 4}),
        (f"{tmp_path}/b.parquet, row 2", {"r": [], "q": 5}),
    ]
    (tmp_path / "c.csv").write_text('q,r\n1,"a\nb"\n2,c\n')
    rows = list(open_source("d", str(tmp_path / "c.csv")).rows(["r"]))
    assert [where[-6:] for where, _ in rows] == ["line 2", "line 4"]


def test_a_folder_is_read_without_hidden_cached_and_binary_files(tmp_path):
    for name in ("b/2.txt", "a/1.txt", ".git/no.txt", "__pycache__/no.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    (tmp_path / "a" / "image.png").write_bytes(b"\x89PNG\0\0")
    files = list_files("d", [str(tmp_path), str(tmp_path / "a" / "1.txt")])
    assert read(tmp_path) == ["a/1.txt", "b/2.txt"]
    assert list_files("d", str(tmp_path / "[ab]" / "*.txt")) == files


def test_a_source_that_matches_nothing(tmp_path):
    with pytest.raises(InputError, match=r"domain 'wiki': '.*\*\.txt' matches no file; give an"):
        open_source("wiki", str(tmp_path / "*.txt"))
    with pytest.raises(InputError, match="domain 'wiki' has an empty list of sources"):
        open_source("wiki", [])
    with pytest.raises(InputError, match="domain 'wiki' has the source 3"):
        open_source("wiki", 3)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_missing_column(tmp_path, name):
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"body": ["x"], "id": [1]}), path)
    else:
        path.write_text('{"body": "x", "id": 1}\n' if name == "a.jsonl" else "body,id\nx,1\n")
    message = rf"{name}.* has no column 'text'; it has 'body', 'id'"
    with pytest.raises(InputError, match=message):
        read(path)
    source = open_source("d", str(path), corrupt="skip")
    assert (texts(source), source.skipped) == ([], 1)
    with pytest.raises(InputError, match=message):
        raise InputError(source.first_skipped)
    source = open_source("d", {"path": str(path), "column": "body"})
    assert (texts(source, source.column), source.column) == (["x"], "body")


def test_a_plain_text_file_has_one_column(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    source = open_source("d", str(tmp_path))
    assert texts(source, "body") == ["x"]
    with pytest.raises(InputError, match=r"a\.txt is a plain text file, which has one column"):
        list(source.rows(["prompt", "response"]))


def test_the_digest_follows_the_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    digests = {open_source("d", str(path)).digest(), open_source("e", str(tmp_path)).digest()}
    assert len(digests) == 1
    path.write_text("more")
    digests.add(open_source("d", str(path)).digest())
    os.utime(path, (1, 1))
    digests.add(open_source("d", str(path)).digest())
    (tmp_path / "b.txt").write_text("two")
    digests.add(open_source("d", str(tmp_path)).digest())
    assert len(digests) == 4


def test_a_saved_dataset_as_a_domain(tmp_path):
    import datasets

    folder = save(tmp_path / "saved", body=["a", "b"], id=[1, 2])
    source = open_source("d", {"dataset": folder, "column": "body"})
    assert list(source.rows(["body"]))[1] == (f"dataset {folder!r}, row 2", {"body": "b"})
    with pytest.raises(InputError, match="has no column 'text'; it has 'body', 'id'"):
        texts(source)
    data = datasets.load_from_disk(folder)
    datasets.DatasetDict({"train": data, "rest": data.select([1])}).save_to_disk(tmp_path / "both")
    both = {"dataset": str(tmp_path / "both")}
    assert texts(open_source("d", {**both, "split": "rest"}), "body") == ["b"]
    with pytest.raises(InputError, match="holds the splits train, rest; give the folder of one"):
        open_source("d", both)
    with pytest.raises(InputError, match="holds the splits train, rest and not 'test'"):
        open_source("d", {**both, "split": "test"})


def test_a_dataset_with_a_domain_column(tmp_path):
    names = [f"k{i * i % 3}" for i in range(1000)]
    folder = save(tmp_path / "saved", text=[f"text {i}" for i in range(1000)], domain=names)
    domains = open_domains(dataset=folder)
    assert list(domains) == ["k0", "k1"]
    for name, source in domains.items():
        expected = [f"text {i}" for i in range(1000) if names[i] == name]
        assert texts(source) == expected
        assert source.domain == name
    where, row = list(domains["k0"].rows(["text"]))[1]
    assert (where, row) == (f"dataset {folder!r}, row 4", {"text": "text 3"})
    said = (
        "has no column 'source'; it has 'text', 'domain': name one of these as domain_column, or "
    )
    with pytest.raises(InputError, match=f"{said}give cluster"):
        open_domains(dataset=folder, domain_column="source")
    folder = save(tmp_path / "none", text=["a", "b"], domain=["x", None])
    with pytest.raises(InputError, match="row 2 of the data set has no value in column 'domain'"):
        open_domains(dataset=folder)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": "x", "dataset": "y"}, "both path and dataset"),
        ({"column": "y"}, "neither path nor dataset"),
        ({"path": "x", "colum": "y"}, "unknown key 'colum'; use path, dataset"),
        ({"path": "x", "split": "train"}, "has split, which goes with dataset"),
        ({"dataset": "/absent"}, "'/absent' is neither a folder"),
        ({"dataset": "data/absent.jsonl"}, "'data/absent.jsonl' matches no file"),
        ({"dataset": "."}, "is not a saved dataset"),
    ],
)
def test_maps_that_cannot_be(source, message):
    with pytest.raises(InputError, match=message):
        open_source("d", source)


def test_names_of_the_hub(tmp_path, monkeypatch):
    import datasets

    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        if name == "org/unreachable":
            raise ConnectionError("Couldn't reach the Hub")
        if name == "org/absent":
            raise datasets.exceptions.DatasetNotFoundError("doesn't exist\nmore lines")
        data = datasets.Dataset.from_dict({"text": ["a", "b"]})
        return data if split else datasets.DatasetDict({"train": data})

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = open_source("d", {"dataset": "org/name", "config": "en", "split": "train"})
    assert texts(source) == ["a", "b"]
    assert asked == [("org/name", "en", "train")]
    with pytest.raises(InputError) as error:
        open_source("d", {"dataset": "org/unreachable", "config": "en"})
    assert "the Hugging Face hub cannot be reached" in str(error.value)
    advice = "datasets.load_dataset('org/unreachable', 'en', split='train').save_to_disk(FOLDER)"
    assert advice in str(error.value)
    with pytest.raises(InputError, match=r"\(DatasetNotFoundError: doesn't exist\)"):
        open_source("d", {"dataset": "org/absent"})
    with pytest.raises(InputError, match="holds the splits train; name one of them as split"):
        open_source("d", {"dataset": "org/name"})
    asked.clear()
    for source in ("org/name", {"path": "org/name"}, {"dataset": "./org/name"}):
        with pytest.raises(InputError):
            open_source("d", source)
    assert asked == [], "only a map's dataset asks the hub"


def test_either_domains_or_a_dataset(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert list(open_domains({"b": str(tmp_path), "a": str(tmp_path)})) == ["b", "a"]
    for options, word in (({}, "neither"), ({"domains": {"a": "x"}, "dataset": "y"}, "both")):
        with pytest.raises(InputError, match=f"not {word}"):
            open_domains(**options)
    with pytest.raises(InputError, match="dataset has the unknown key 'name'"):
        open_domains(dataset={"name": "x"})


def test_json_columns_of_any_kind(tmp_path):
    chat = [{"role": "user", "content": "né \u2028"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    assert texts(open_source("d", str(tmp_path)), "messages") == [chat]


def test_a_domain_may_be_a_field_inside_a_column(tmp_path):
    import datasets

    rows = [{"text": f"{n}", "meta": {"set": "ab"[n % 2]}} for n in range(6)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    sources = open_domains(dataset=str(tmp_path / "saved"), domain_column="meta.set")
    texts = {
        domain: [row["text"] for _, row in source.rows(["text"])]
        for domain, source in sources.items()
    }
    assert texts == {"a": ["0", "2", "4"], "b": ["1", "3", "5"]}
    with pytest.raises(InputError, match=r"'meta\.sett'"):
        open_domains(dataset=str(tmp_path / "saved"), domain_column="meta.sett")


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "csv", "tsv"])
def test_one_file_with_a_domain_column(kind, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"text": f"number {n}, é", "source": "ab"[n % 2]} for n in range(6)]
    path = tmp_path / f"all.{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "jsonl":
        path.write_bytes(lines)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        mark = "," if kind == "csv" else "\t"
        quoted = [f'"{row["text"]}"{mark}{row["source"]}' for row in rows]
        path.write_text("\n".join([f"text{mark}source", *quoted]))
    dataset = {"dataset": str(path), "quotes": True} if kind == "tsv" else str(path)
    sources = open_domains(dataset=dataset, domain_column="source")
    assert [texts(source) for source in sources.values()] == [
        [row["text"] for row in rows[start::2]] for start in (0, 1)
    ]
    assert list(sources) == ["a", "b"]


def test_a_broken_file_with_a_domain_column(tmp_path):
    (tmp_path / "all.jsonl").write_text('{"text": "a", "domain": "x"}\n{"text": \n')
    with pytest.raises(InputError, match=r"all\.jsonl, line 2 is not valid JSON"):
        open_domains(dataset=str(tmp_path / "all.jsonl"))
