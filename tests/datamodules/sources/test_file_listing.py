"""Links, and names that look like patterns."""

import hashlib
import json
import os

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tandem_pl.datamodules.sources.domains import open_domains, open_source
from tandem_pl.datamodules.sources.file_listing import find_files, list_files
from tandem_pl.errors import InputError


def write(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(files, root):
    return [str(path.relative_to(root)) for path in files]


def texts(source):
    return [row["text"] for _, row in source.rows(["text"])]


@pytest.fixture
def corpus(tmp_path):
    """50 files in a folder, and 8 in another that is linked into it."""
    for number in range(50):
        write(tmp_path / "corpus" / f"{number:02}.txt", f"own {number}")
    for number in range(8):
        write(tmp_path / "elsewhere" / "deep" / f"{number}.txt", f"linked {number}")
    (tmp_path / "corpus" / "more").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "corpus"


@pytest.mark.parametrize("pattern", ["corpus", "corpus/**", "corpus/**/*.txt", "corp*/**/*.txt"])
def test_a_linked_folder_is_read_as_any_other(pattern, corpus):
    source = open_source("d", str(corpus.parent / pattern))
    found = texts(source)
    assert (len(found), len(set(found))) == (58, 58)
    assert source.read_as == {"text": (58, 58)}


@pytest.mark.parametrize("target", [".", "..", "../elsewhere/../corpus", "sub", "loop"])
@pytest.mark.parametrize("pattern", ["corpus", "corpus/**", "corpus/**/*.txt"])
def test_loops_are_broken(target, pattern, tmp_path):
    write(tmp_path / "corpus" / "a.txt")
    write(tmp_path / "corpus" / "sub" / "b.txt")
    (tmp_path / "elsewhere").mkdir()
    # Two links on one level: each loop through both would double the paths.
    for link in ("loop", "again"):
        (tmp_path / "corpus" / link).symlink_to(target)
        (tmp_path / "corpus" / "sub" / link).symlink_to(tmp_path / "corpus")
    files = list_files("d", str(tmp_path / pattern))
    assert names(files, tmp_path) == ["corpus/a.txt", "corpus/sub/b.txt"]


def test_a_file_that_is_reached_twice_is_read_once(tmp_path):
    real = write(tmp_path / "b" / "real.txt")
    (tmp_path / "b" / "also.txt").symlink_to(real)
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "only.txt").symlink_to(write(tmp_path / "c" / "other.txt"))
    entries = [str(tmp_path), str(tmp_path / "a" / "also.txt"), str(tmp_path / "**" / "*.txt")]
    assert names(list_files("d", entries), tmp_path) == ["b/real.txt", "c/other.txt"]
    assert names(list_files("d", str(tmp_path / "a")), tmp_path) == ["a/real.txt"]
    assert names(list_files("d", str(tmp_path / "only.txt")), tmp_path) == ["only.txt"]
    chain = tmp_path / "chain.txt"
    chain.symlink_to(tmp_path / "only.txt")
    assert len(list_files("d", [str(chain), str(tmp_path / "only.txt")])) == 1


def test_files_without_links_keep_their_digest(tmp_path):
    for name in ("b/2.txt", "a.jsonl", "c.csv"):
        os.utime(write(tmp_path / name, "text,\n"), (1, 1))
    entries = [str(tmp_path / name) for name in ("c.csv", "b", "a.jsonl")]
    lines = (f"{tmp_path / name}\0{6}\0{10**9}\n" for name in ("a.jsonl", "b/2.txt", "c.csv"))
    expected = hashlib.blake2b("".join(lines).encode(), digest_size=16).hexdigest()
    assert open_source("d", entries).digest() == expected, "caches of before keep their names"


def test_what_is_left_out_is_counted(tmp_path):
    write(tmp_path / "a.txt")
    (tmp_path / "b.bin").write_bytes(b"\1\0\2")
    (tmp_path / "c.mp3").write_bytes(b"\xff\xfe\0\xd8\0\0")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    files, left_out = find_files("d", str(tmp_path))
    assert names(files, tmp_path) == ["a.txt"]
    assert left_out == {"binary": 2, "link to nothing": 2}
    assert {"read_as": "left out: binary", "files": 2} in open_source("d", str(tmp_path)).summary()
    with pytest.raises(InputError, match=r"gone\.txt cannot be read \(No such file"):
        texts(open_source("d", str(tmp_path / "gone.txt")))
    skipping = open_source(
        "d", [str(tmp_path / "a.txt"), str(tmp_path / "gone.txt")], corrupt="skip"
    )
    assert (texts(skipping), skipping.skipped, len(skipping.digest())) == (["x"], 1, 32)


@pytest.mark.parametrize(
    "name",
    [
        "data[1].jsonl",
        "a*b.jsonl",
        "who?.jsonl",
        "[!x].jsonl",
        "[].jsonl",
        "{a,b}.jsonl",
        "~x.jsonl",
    ],
)
def test_a_path_that_exists_is_no_pattern(name, tmp_path, monkeypatch):
    write(tmp_path / name, '{"text": "right", "domain": "d"}\n')
    for decoy in ("data1.jsonl", "axxb.jsonl", "whom.jsonl", "y.jsonl"):
        write(tmp_path / "other" / decoy, '{"text": "wrong", "domain": "d"}\n')
    monkeypatch.chdir(tmp_path)
    for path in (name, str(tmp_path / name)):
        assert texts(open_source("d", path)) == ["right"]
        assert texts(open_source("d", [path])) == ["right"]
        assert texts(open_source("d", {"path": path})) == ["right"]
        assert texts(open_source("d", {"dataset": path})) == ["right"]
        assert texts(open_domains(dataset=path)["d"]) == ["right"]


@pytest.mark.parametrize("folder", ["photos [2024]", "a*", "[ab]/c?", "**"])
def test_a_folder_that_exists_is_no_pattern(folder, tmp_path):
    write(tmp_path / folder / "1.txt", "right")
    write(tmp_path / folder / "deep" / "2.txt", "right")
    write(tmp_path / "photos 2" / "1.txt", "wrong")
    write(tmp_path / "a" / "cx" / "1.txt", "wrong")
    root = tmp_path / folder
    assert texts(open_source("d", str(root))) == ["right", "right"]
    assert texts(open_source("d", str(root / "*.txt"))) == ["right"]
    assert texts(open_source("d", str(root / "**" / "*.txt"))) == ["right", "right"]
    assert texts(open_source("d", str(root / "d*" / "?.txt"))) == ["right"]


def test_patterns_still_match_and_hide_what_is_hidden(tmp_path):
    for name in (
        "data1.txt",
        "data2.txt",
        "data[x].txt",
        ".hidden/a.txt",
        "b/.c/d.txt",
        "b/e/f.txt",
    ):
        write(tmp_path / name)
    assert names(list_files("d", str(tmp_path / "data[12].txt")), tmp_path) == [
        "data1.txt",
        "data2.txt",
    ]
    assert names(list_files("d", str(tmp_path / "data?x?.txt")), tmp_path) == ["data[x].txt"]
    every = ["b/e/f.txt", "data1.txt", "data2.txt", "data[x].txt"]
    assert names(list_files("d", str(tmp_path / "**")), tmp_path) == every
    assert names(list_files("d", str(tmp_path / "**/e/*")), tmp_path) == every[:1]
    assert names(list_files("d", str(tmp_path / "b/.c/*")), tmp_path) == ["b/.c/d.txt"]
    with pytest.raises(InputError, match="matches no file"):
        list_files("d", str(tmp_path / "data[3].txt"))
    with pytest.raises(InputError, match="'~nobody/x' matches no file"):
        list_files("d", "~nobody/x")


def test_a_folder_without_text_is_named_with_what_it_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("1.png", "2.png", "deep/3.jpg"):
        write(tmp_path / "photos" / name, "\0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as refusal:
        list_files("a", "photos")
    assert str(refusal.value) == (
        "domain 'a': the folder 'photos' has no files that can be read as text; those in it end "
        "with .png (2), .jpg (1); give a file, folder or glob pattern of text."
    )
    with pytest.raises(InputError, match="domain 'a': the folder 'empty' has no files; give a"):
        list_files("a", "empty")


def test_parquet_with_brackets_in_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "part [1]*.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "domain": ["x", "y"]}), path)
    assert list(open_domains(dataset=str(path))) == ["x", "y"]
    assert texts(open_source("d", {"dataset": str(tmp_path / "part [[]1]*.parquet")})) == ["a", "b"]


def test_a_folder_of_rows_through_a_link(tmp_path):
    lines = "".join(json.dumps({"text": str(n), "domain": "ab"[n % 2]}) + "\n" for n in range(6))
    write(tmp_path / "real" / "all.jsonl", lines)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    sources = open_domains(dataset=str(tmp_path / "*" / "all.jsonl"))
    assert [texts(source) for source in sources.values()] == [["0", "2", "4"], ["1", "3", "5"]]
