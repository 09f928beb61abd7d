import warnings
from pathlib import Path

import pytest

from tandem_pl.datamodules import EnvironmentCorpus
from tandem_pl.datamodules.demo import installed_corpus
from tandem_pl.datamodules.demo.environment import PRESETS, select
from tandem_pl.datamodules.demo.installed_text import (
    DOMAINS,
    NoveltyFilter,
    docstrings,
    domain_of,
    list_candidates,
    read_candidate,
)
from tandem_pl.errors import InputError

BUDGETS = {"test": 1000, "target": 500, "train": 2000}


def unlike(count, size=40):
    """Documents of lines that no other has."""
    return ["".join(f"document {i}, its line {j}\n" for j in range(size)) for i in range(count)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small corpus of the packages installed here; warns where a domain is scarce."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = EnvironmentCorpus(
            train_bytes=dict.fromkeys(DOMAINS, 8_000),
            target_bytes=3_000,
            test_bytes=4_000,
            max_document_bytes=2_000,
            cache_dir=str(tmp_path_factory.mktemp("cache")),
        )
        data.setup("fit")
    return data


def test_sizes_are_within_the_caps(corpus):
    rows = corpus.summary()
    assert [row["domain"] for row in rows] == list(DOMAINS)
    for row in rows:
        for split, cap in (("train", 8_000), ("target", 3_000), ("test", 4_000)):
            text = row[f"{split}_tokens"] - row[f"{split}_documents"]  # less the end-of-text tokens
            assert 0 < text <= cap
            assert row[f"{split}_documents"] >= 2
    assert {row["train_tokens"] > 7_000 for row in rows if row["domain"] == "python"} == {True}
    assert next(iter(corpus.train_dataloader())).samples["input_ids"].shape == (32, 128)


def test_the_same_packages_give_the_same_text():
    options = dict.fromkeys(DOMAINS, 4_000)
    made = []
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = EnvironmentCorpus(train_bytes=options, target_bytes=3_000, test_bytes=3_000)
            documents, _dropped = data.documents()
        made.append({d: (list(texts), codes.tolist()) for d, (texts, codes) in documents.items()})
    assert made[0] == made[1]
    texts = [text for part, _codes in made[0].values() for text in part]
    assert len(texts) == len(set(texts))


def test_the_test_text_does_not_depend_on_the_training_size():
    texts = unlike(20)
    small, _ = select("d", texts, BUDGETS)
    large, _ = select("d", texts, {**BUDGETS, "train": 4000})
    assert (small["test"], small["target"]) == (large["test"], large["target"])
    assert sum(map(len, small["train"])) <= 2000 < sum(map(len, large["train"])) <= 4000


def test_a_scarce_domain_is_scaled_down_with_a_warning():
    budgets = {split: 10 * size for split, size in BUDGETS.items()}
    texts = unlike(12)
    with pytest.warns(UserWarning, match="domain 'd' finds .* but 35000 are asked for"):
        splits, _ = select("d", texts, budgets)
    assert all(splits.values())
    assert sum(map(len, splits["train"])) > 0.4 * sum(map(len, texts))
    with pytest.raises(InputError, match=r"domain 'd' finds 0 bytes .* install more packages"):
        select("d", [], BUDGETS)


def test_repeats_are_dropped():
    first, second = unlike(2)
    nearly = first.replace("line 7\n", "line seven\n")
    new = NoveltyFilter([first, nearly, second, first, "short\n" * 50])
    assert list(new) == [first, second]
    assert new.dropped == 3


def test_no_candidate_is_of_this_project_and_python_is_split_from_docstrings():
    files = list_candidates(0)
    assert list(files) == list(DOMAINS)
    assert not set(files["python"]) & set(files["docstrings"])
    every = [str(path) for paths in files.values() for path in paths]
    assert not any("tandem_pl" in path for path in every)
    other = list_candidates(1)["python"]
    assert other != files["python"]
    assert sorted(other) == sorted(files["python"])


@pytest.mark.parametrize(
    ("path", "domain"),
    [
        ("a/b.pyi", "stubs"),
        ("a/b.cuh", "cpp"),
        ("a/b.JSON", "javascript"),
        ("a-1.dist-info/licenses/COPYING", "licences"),
        ("a/license.so", None),
        ("a/tests/b.h", None),
        ("a/test_b.py", None),
        ("../../bin/a.py", None),
    ],
)
def test_domains_of_files(path, domain):
    assert domain_of(path) == domain


def test_files_that_make_no_document(tmp_path):
    (tmp_path / "a.js").write_text("x" * 5000)
    (tmp_path / "b.js").write_bytes(b"\xff" * 500)
    (tmp_path / "c.js").write_text("short")
    for name in ("a.js", "b.js", "c.js", "absent.js"):
        assert read_candidate("javascript", tmp_path / name, 2000) == ""
    (tmp_path / "d.js").write_text("let a = 'né';\r\n" * 100)
    assert read_candidate("javascript", tmp_path / "d.js", 310) == "let a = 'né';\n" * 20
    assert docstrings("def broken(") == ""


def test_options_that_cannot_be():
    with pytest.raises(InputError, match="preset='tiny' must be one of 'restricted', 'abundant'"):
        EnvironmentCorpus("tiny")
    with pytest.raises(InputError, match="unknown domain 'wiki'; the domains are python, cpp"):
        EnvironmentCorpus(train_bytes={"wiki": 1000})
    with pytest.raises(InputError, match="target_bytes=0 must be at least 200"):
        EnvironmentCorpus(target_bytes=0)


def test_presets_cover_the_same_domains():
    assert all(tuple(sizes) == DOMAINS for sizes in PRESETS.values())


def test_another_version_names_another_cache(monkeypatch):
    before = EnvironmentCorpus().settings()

    class Fake:
        version = "999"

    monkeypatch.setattr(installed_corpus, "installed", lambda: iter([("torch", Fake)]))
    assert EnvironmentCorpus().settings() != before


def test_what_a_package_brings_for_itself_is_not_counted_twice(monkeypatch):
    setuptools = pytest.importorskip("setuptools")
    before = list_candidates(0)
    monkeypatch.syspath_prepend(str(Path(setuptools.__file__).parent / "_vendor"))
    assert list_candidates(0) == before
