"""Names are what was typed, in whatever YAML reader, and a name twice is refused."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import get_loader
from omegaconf import OmegaConf

from tandem_pl import Mixture
from tandem_pl.callbacks.measures.skill_graph import read_graph
from tandem_pl.errors import InputError
from tandem_pl.mixture import resolve_weights
from tandem_pl.yaml_files import dump_yaml, parse_yaml, quote_names, read_yaml

#: What readers of YAML 1.1, YAML 1.2, jsonargparse or OmegaConf take for something else.
TYPED = [
    *("no", "No", "NO", "on", "off", "yes", "true", "False", "y", "n", "null", "Null", "~"),
    *("1_000", "1e3", "1000", "1000.0", "010", "007", "0x1F", "0o17", "0b11", "+1", "-0", "1."),
    *("12:30", "1:2:3", "2024-01-01", "2024-01-01 10:00:00", ".inf", "-.INF", ".nan", ".5", "="),
]
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)


def test_every_name_is_the_text_that_was_typed():
    block = "".join(f"{name}: {number}\n" for number, name in enumerate(TYPED))
    expected = {name: number for number, name in enumerate(TYPED)}
    assert parse_yaml(block) == expected
    flow = ", ".join(f"{name}: {number}" for number, name in enumerate(TYPED))
    assert parse_yaml(f"weights: {{{flow}}}") == {"weights": expected}
    assert parse_yaml("? no\n: {on: [{1e3: 2}]}\n") == {"no": {"on": [{"1e3": 2}]}}


def test_values_keep_their_types():
    text = "a: no\nb: 010\nc: 1.5\nd: null\ne: [on, 3, 2024-01-01]\nf: 'no'\n"
    assert parse_yaml(text) == yaml.safe_load(text)


def test_values_that_are_names_are_text():
    text = "hold_out: [no, 'on', real, 1_0]\nclasses: [off, 0]\nbaseline: no\nmethods: [y, 1e3]\n"
    assert parse_yaml(text) == {
        "hold_out": ["no", "on", "real", "1_0"],
        "classes": ["off", "0"],
        "baseline": "no",
        "methods": ["y", "1e3"],
    }
    assert parse_yaml("classes: 10\nhold_out: null\nbaseline: uniform") == {
        "classes": 10,
        "hold_out": None,
        "baseline": "uniform",
    }


def test_texts_of_sources_are_text():
    text = "domains: {a: 010, b: [no, 2024], c: {path: 1e3, quotes: on, split: null}, d: null}"
    assert parse_yaml(text) == {
        "domains": {
            "a": "010",
            "b": ["no", "2024"],
            "c": {"path": "1e3", "quotes": True, "split": None},
            "d": None,
        }
    }
    text = "train: {batch_size: 8, a: {path: 2024, size: 8}}\ntext_column: no\ndataset: null"
    assert parse_yaml(text) == {
        "train": {"batch_size": 8, "a": {"path": "2024", "size": 8}},
        "text_column": "no",
        "dataset": None,
    }


def test_what_else_yaml_has_still_works():
    text = (
        "# no: yes\nbase: &b {no: 1}\nx: {<<: *b, on: 2}\ny: |\n  no: 3\nz: ${x.no}\n'no': \"é\"\n"
    )
    expected = {"base": {"no": 1}, "x": {"no": 1, "on": 2}, "y": "no: 3\n", "z": "${x.no}"}
    assert parse_yaml(text) == {**expected, "no": "é"}
    assert quote_names(text).count("\n") == text.count("\n"), "errors name the right line"
    merged = "p: {A: &a {<<: &b {x: 1}, x: 2}}\nB: {<<: *a, <<: *b}"
    assert parse_yaml(merged) == yaml.safe_load(merged)
    assert (parse_yaml(""), parse_yaml("no"), parse_yaml("[no]")) == (None, False, [False])
    with pytest.raises(yaml.YAMLError):
        parse_yaml("a: [1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("books: 1\nnews: 2\nbooks: 3\n", "has the key 'books' twice, in lines 1 and 3"),
        ("d:\n  no: 1\n  'no': 2\n", "has the key 'no' twice, in lines 2 and 3"),
        ("w: {a: 1, b: 2, a: 3}", "key 'a' twice, in line 1, at columns 5 and 17"),
        ("x: [{y: {1e3: 1,\n 1e3: 2}}]", "key '1e3' twice, in lines 1 and 2"),
        ("a: &x {b: 1, b: 2}\nc: *x", "key 'b' twice, in line 1"),
    ],
)
def test_a_name_twice_is_refused_with_both_places(text, message, tmp_path):
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(InputError, match=re.escape(f"f.yaml {message}"[-len(message) :])):
        read_yaml(tmp_path / "f.yaml")
    with pytest.raises(InputError, match="a map has the key"):
        parse_yaml(text)


def test_names_of_one_number_are_two_names():
    assert parse_yaml("{1_000: a, 1e3: b, 1000: c}") == {"1_000": "a", "1e3": "b", "1000": "c"}


@given(st.dictionaries(TEXTS | st.sampled_from(TYPED), TEXTS | st.sampled_from(TYPED)))
def test_every_reader_reads_what_was_written(content):
    text = dump_yaml({"weights": content})
    readers = [yaml.safe_load, parse_yaml, get_loader("yaml")]
    if "${" not in text:
        readers.append(lambda text: OmegaConf.to_container(OmegaConf.create(text)))
    for read in readers:
        assert read(text) == {"weights": content}


def test_plain_names_are_written_plainly():
    assert dump_yaml({"code": 0.5, "web text": [1], "né": "a/b"}) == (
        "code: 0.5\nweb text:\n- 1\nné: a/b\n"
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_byte_order_marks(encoding, tmp_path):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "m.yaml").write_bytes(f"{mark}weights: {{no: 1, né: 3}}\r\n".encode(encoding))
    assert Mixture.load(tmp_path / "m.yaml").weights == {"no": 0.25, "né": 0.75}


def test_a_mixture_file_written_by_hand(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("weights: {no: 1, 1e3: 2, 1_000: 5}\n")
    assert Mixture.load(path).weights == {"no": 0.125, "1e3": 0.25, "1_000": 0.625}
    path.write_text("weights:\n  a: 1\n  b: 2\n  a: 3\n")
    with pytest.raises(InputError, match=r"m\.yaml has the key 'a' twice, in lines 2 and 4"):
        Mixture.load(path)


def test_a_saved_mixture_keeps_its_names(tmp_path):
    mixture = Mixture(dict.fromkeys(TYPED, 1.0), about={"epochs": dict.fromkeys(TYPED, 2)})
    mixture.save(tmp_path / "m.yaml")
    assert Mixture.load(tmp_path / "m.yaml") == mixture
    assert yaml.safe_load((tmp_path / "m.yaml").read_text())["epochs"] == mixture.about["epochs"]


def test_names_that_another_reader_guessed_are_refused():
    with pytest.raises(InputError, match="weights has the name False, which is no text"):
        resolve_weights({False: 1.0, "en": 2.0}, {"no": 3, "en": 3})
    with pytest.raises(InputError, match="the name 8, which is no text"):
        Mixture({8: 1.0})


def test_the_graph_of_skills(tmp_path):
    path = tmp_path / "graph.yaml"
    path.write_text("no: {on: 1, off: 0.5}\n1e3: {on: 0, off: 0.25}\n")
    graph = read_graph(str(path), ["1e3", "no"], ["off", "on"])
    assert graph.tolist() == [[0.25, 0.0], [0.5, 1.0]]
    path.write_text("no: {on: 1}\nno: {on: 2}\n")
    with pytest.raises(InputError, match="key 'no' twice, in lines 1 and 2"):
        read_graph(str(path), ["no"], ["on"])
    table = tmp_path / "graph.csv"
    table.write_bytes("\ufeff,on,off\nno,1,0.5\n1e3,0,0.25\n".encode())
    assert read_graph(str(table), ["1e3", "no"], ["off", "on"]).tolist() == graph.tolist()
    table.write_text(",on\nno,1\nno,2\n")
    with pytest.raises(InputError, match="names 'no' twice"):
        read_graph(str(table), ["no"], ["on"])
    table.write_text(",on,on\nno,1,2\n")
    with pytest.raises(InputError, match="names 'on' twice"):
        read_graph(str(table), ["no"], ["on"])


def test_no_other_file_reads_or_writes_yaml():
    root = Path(__file__).parents[2]
    files = [
        p for top in ("tandem_pl", "callbacks", "datamodules") for p in (root / top).rglob("*.py")
    ]
    calls = re.compile(r"yaml\.(safe_load|load|safe_dump|dump|full_load)\(")
    found = [str(p) for p in files if p.name != "yaml_files.py" and calls.search(p.read_text())]
    assert found == []
