"""One data set with a domain column: its values are as in the file, in whatever file."""

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, List, Value

from tandem_pl.datamodules.sources.domains import open_domains, open_source
from tandem_pl.errors import InputError

#: What pandas or pyarrow take for something else than text.
NAMES = ["NA", "007", "7", "7.0", "None", "N/A", "null", "nan", "true", "1e3", "2024-01-31", "<NA>"]


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))


def texts(source, column="text"):
    return [row[column] for _, row in source.rows([column])]


def write(path, rows):
    """Rows of texts in a file of the kind that its suffix says."""
    name = path.name
    if "csv" in name or "tsv" in name:
        mark = "," if "csv" in name else "\t"
        lines = [mark.join(rows[0]), *(mark.join(row.values()) for row in rows)]
        text = "\n".join(lines)
    elif "array" in name:
        text = json.dumps(rows, indent=1)
    else:
        text = "\n".join(map(json.dumps, rows))
    encoding = "utf-8-sig" if "bom" in name else "utf-16" if "16" in name else "utf-8"
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


KINDS = ["a.csv", "a.tsv", "a.jsonl", "a.json", "array.json", "a.json.gz", "bom.csv", "utf16.tsv"]
KINDS += ["a.csv.gz", "bom.jsonl", "utf16.json", "array.json.gz"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_texts_are_as_in_the_file(kind, tmp_path):
    rows = [{"text": value, "domain": name} for name in NAMES for value in NAMES]
    write(tmp_path / kind, rows)
    sources = open_domains(dataset=str(tmp_path / kind))
    assert list(sources) == sorted(NAMES)
    for source in sources.values():
        assert texts(source) == NAMES
        ((form, (files, count)),) = source.read_as.items()
        assert (files, count) == (1, len(NAMES))
        assert (
            form == {"c": "CSV", "t": "TSV", "j": "JSON"}[kind.split(".")[1][0]] or "JSON" in form
        )
    again = open_domains(dataset=str(tmp_path / kind))
    assert texts(again["007"]) == NAMES, "from the cache"
    assert again["007"].digest() == sources["7"].digest()


def test_one_reader_for_both_routes(tmp_path):
    rows = [{"text": value, "domain": "a"} for value in NAMES]
    for kind in KINDS:
        write(tmp_path / kind, rows)
        path = str(tmp_path / kind)
        by_domain = list(open_source("d", path).rows(["text"]))
        assert list(open_domains(dataset=path)["a"].rows(["text"])) == by_domain
        assert list(open_source("d", {"dataset": path}).rows(["text"])) == by_domain


def test_several_files_by_a_pattern(tmp_path):
    for number in range(3):
        rows = [{"text": f"{number}", "domain": "ab"[i % 2]} for i in range(4)]
        write(tmp_path / f"{number}.jsonl", rows)
    write(tmp_path / "3.csv", [{"text": "3", "domain": "a"}])
    sources = open_domains(dataset=str(tmp_path / "[0-3].*"))
    assert texts(sources["a"]) == ["0", "0", "1", "1", "2", "2", "3"]
    where, _ = next(iter(sources["b"].rows(["text"])))
    assert where == f"{tmp_path}/0.jsonl, line 2"
    assert sources["b"].read_as == {}, "that pass is not over"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x"}', "line 2 has no column 'domain'; it has 'text'"),
        ('{"text": "x", "domain": null}', "line 2 has no value in column 'domain'"),
        ('{"text": "x", "domain": ""}', "line 2 has no value in column 'domain'"),
        ('{"text": "x", "domain": ["a"]}', "line 2 has a list in column 'domain'; name a field"),
        ('{"text": "x", "domain": {"a": 1}}', "line 2 has a dict in column 'domain'"),
        ('{"text": ', "line 2 is not valid JSON"),
        ("3", "line 2 is not a JSON object"),
        ('{"text": "\\ud800", "domain": "a"}', "line 2 is not UTF-8 text"),
    ],
)
def test_rows_without_a_domain(line, message, tmp_path):
    path = tmp_path / "all.jsonl"
    path.write_text(f'{{"text": "1", "domain": "a"}}\n{line}\n{{"text": "2", "domain": "a"}}\n')
    with pytest.raises(InputError, match=rf"all\.jsonl, {message}"):
        open_domains(dataset=str(path))
    for _ in range(2):
        with pytest.warns(UserWarning, match=rf"1 rows without a domain were left out.*{message}"):
            sources = open_domains(dataset=str(path), corrupt="skip")
        assert texts(sources["a"]) == ["1", "2"]
        assert sources.skipped == 1
    with pytest.raises(InputError, match=message):
        open_domains(dataset=str(path))


def test_rows_that_lack_the_text(tmp_path):
    path = tmp_path / "all.jsonl"
    path.write_text('{"text": "1", "domain": "a"}\n{"domain": "a"}\n{"text": "2", "domain": "b"}\n')
    sources = open_domains(dataset=str(path))
    with pytest.raises(InputError, match=r"all\.jsonl, line 2 has no column 'text'; it has 'dom"):
        texts(sources["a"])
    source = open_domains(dataset=str(path), corrupt="skip")["a"]
    assert (texts(source), source.skipped) == (["1"], 1)


def test_a_domain_column_that_no_row_has(tmp_path):
    (tmp_path / "all.csv").write_text("text,kind\nx,y\n")
    with pytest.raises(InputError, match=r"all\.csv, line 2 has no column 'domain'; it has 'text'"):
        open_domains(dataset=str(tmp_path / "all.csv"))
    with (
        pytest.raises(InputError, match=r"has no row with a domain .*no column 'domain'"),
        pytest.warns(UserWarning, match="1 rows without a domain"),
    ):
        open_domains(dataset=str(tmp_path / "all.csv"), corrupt="skip")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError, match="a plain text file, which has one column, but a domain"):
        open_domains(dataset=str(tmp_path / "a.txt"))


def test_a_field_inside_a_column_of_a_file(tmp_path):
    rows = [{"text": f"{n}", "meta": {"set": "ab"[n % 2], "more": n}} for n in range(4)]
    (tmp_path / "all.json").write_text(json.dumps(rows))
    sources = open_domains(dataset=str(tmp_path / "all.json"), domain_column="meta.set")
    assert [texts(source) for source in sources.values()] == [["0", "2"], ["1", "3"]]
    numbers = open_domains(dataset=str(tmp_path / "all.json"), domain_column="meta.more")
    assert list(numbers) == ["0", "1", "2", "3"]


def test_rows_that_quotes_took_are_said(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text('domain,text\na,"one\na,two"\na,three\n')
    with pytest.warns(UserWarning, match=r"all\.csv has 1 lines more than rows"):
        sources = open_domains(dataset=str(path))
    assert texts(sources["a"]) == ["one\na,two", "three"]
    unquoted = open_domains(dataset={"dataset": str(path), "quotes": False})
    assert texts(unquoted["a"]) == ['"one', 'two"', "three"]


LABELS = ["no", "007", "news"]


def labelled():
    features = Features(
        {
            "text": Value("string"),
            "domain": ClassLabel(names=LABELS),
            "answer": ClassLabel(names=["yes", "off"]),
            "tags": List(ClassLabel(names=["t0", "t1"])),
            "meta": {"kind": ClassLabel(names=["k0", "k1"])},
        }
    )
    rows = {
        "text": [f"text {n}" for n in range(6)],
        "domain": [n % 3 for n in range(6)],
        "answer": [n % 2 for n in range(6)],
        "tags": [[n % 2, 1] for n in range(6)],
        "meta": [{"kind": n % 2} for n in range(6)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("kind", ["saved", "parquet", "hub"])
def test_labels_have_names(kind, tmp_path, monkeypatch):
    path = str(tmp_path / ("saved" if kind == "saved" else "all.parquet"))
    if kind == "saved":
        labelled().save_to_disk(path)
    elif kind == "parquet":
        labelled().to_parquet(path)
    else:
        path = "org/name"
        monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: labelled())
    sources = open_domains(dataset=path)
    assert list(sources) == sorted(LABELS)
    assert texts(sources["news"]) == ["text 2", "text 5"]
    assert texts(sources["news"], "answer") == ["yes", "off"]
    assert texts(sources["news"], "tags") == [["t0", "t1"], ["t1", "t1"]]
    assert texts(sources["news"], "meta") == [{"kind": "k0"}, {"kind": "k1"}]
    assert texts(open_source("d", {"dataset": path}), "domain")[:3] == LABELS
    by_kind = open_domains(dataset=path, domain_column="meta.kind")
    assert {name: len(texts(source)) for name, source in by_kind.items()} == {"k0": 3, "k1": 3}


@pytest.mark.parametrize("missing", [None, "", -1])
def test_saved_rows_without_a_domain(missing, tmp_path):
    if missing == -1:
        features = Features({"text": Value("string"), "domain": ClassLabel(names=["x"])})
        data = datasets.Dataset.from_dict(
            {"text": ["a", "b"], "domain": [0, -1]}, features=features
        )
    else:
        data = datasets.Dataset.from_dict({"text": ["a", "b"], "domain": ["x", missing]})
    data.save_to_disk(tmp_path / "saved")
    message = "row 2 of the data set has no value in column 'domain'"
    with pytest.raises(InputError, match=message):
        open_domains(dataset=str(tmp_path / "saved"))
    with pytest.warns(UserWarning, match=f"1 rows without a domain.*{message}"):
        sources = open_domains(dataset=str(tmp_path / "saved"), corrupt="skip")
    assert (list(sources), texts(sources["x"]), sources.skipped) == (["x"], ["a"], 1)


def test_a_parquet_of_no_bytes_among_others(tmp_path):
    table = pa.table({"text": ["a", "b"], "domain": ["x", "y"]})
    pq.write_table(table, tmp_path / "1.parquet")
    (tmp_path / "2.parquet").write_bytes(b"")
    pattern = str(tmp_path / "*.parquet")
    with pytest.raises(InputError, match=r"2\.parquet is not a Parquet file"):
        open_domains(dataset=pattern)
    with pytest.warns(UserWarning, match=r"2\.parquet is not a Parquet file"):
        sources = open_domains(dataset=pattern, corrupt="skip")
    assert texts(sources["y"]) == ["b"]


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("text,domain\na,x\n")
    first = open_domains(dataset=str(path))
    path.write_text("text,domain\na,x\nb,y\n")
    second = open_domains(dataset=str(path))
    assert (list(first), list(second)) == (["x"], ["x", "y"])
    assert first["x"].digest() == second["x"].digest(), "both say what the file is now"
    assert texts(first["x"]) == ["a"]
