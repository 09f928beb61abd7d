"""A target of its own: which document is in which split, and which names stay."""

import hashlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from row_files import asks, says, write

from tandem_pl.datamodules import (
    InstructionMixtureDataModule,
    PreparedTextDataModule,
    TextMixtureDataModule,
)
from tandem_pl.datamodules.chat.prompt_splits import split_by_prompt
from tandem_pl.datamodules.sources.source import Source
from tandem_pl.datamodules.text.documents import (
    DROPPED,
    SPLIT_CODES,
    SPLITS,
    Part,
    assign_splits,
    document_keys,
    parts_of,
)
from tandem_pl.datamodules.text.prepare import prepare_corpus
from tandem_pl.errors import InputError

TRAIN, TARGET, TEST = (SPLIT_CODES[split] for split in SPLITS)


def sentence(seed, words=30):
    return " ".join(random.Random(seed).choices([f"w{i}é" for i in range(500)], k=words))


@pytest.fixture
def corpus(tmp_path):
    """Two domains, and two targets: of a new name, and of a domain's name; and what they share."""
    shared = says("exam", 6)  # in code and in the target
    domains = {
        "news": write(tmp_path / "news.jsonl", says("news", 40)),
        "code": write(tmp_path / "code.jsonl", [*says("code", 20), *shared]),
    }
    target = {
        "exam": write(tmp_path / "exam.jsonl", says("exam", 30)),
        "news": write(tmp_path / "more.jsonl", [*says("more", 30), says("news", 4)[3]]),
    }
    return {"domains": domains, "target": target, "test_fraction": 0.1, "block_size": 16}


@pytest.fixture(params=["cached", "prepared"])
def data(request, corpus, tmp_path):
    if request.param == "cached":
        return TextMixtureDataModule(**corpus, cache_dir=str(tmp_path / "cache"))
    prepare_corpus(str(tmp_path / "out"), **corpus, near_duplicate=None, workers=1)
    return PreparedTextDataModule(str(tmp_path / "out"))


def texts(blocks):
    ids = torch.cat([blocks[i]["input_ids"] for i in range(len(blocks))]).tolist()
    return [text for text in bytes(min(i, 255) for i in ids).decode("latin1").split("ÿ") if text]


def test_the_target_split_has_the_target_files_only(data):
    data.setup("fit")
    assert data.domain_names() == ("news", "code")
    assert data.domain_names("validate") == ("news", "exam")
    assert data.domain_names("test") == ("news", "code", "exam")
    rows = {row["domain"]: row for row in data.summary()}
    documents = {d: [row[f"{split}_documents"] for split in SPLITS] for d, row in rows.items()}
    # 39 of news are not in the target, and a tenth of them, rounded, is test; so are 3 of 31
    assert documents == {"news": [35, 28, 4 + 3], "code": [18, 0, 2], "exam": [0, 27, 3]}
    assert {d: row["duplicates_dropped"] for d, row in rows.items()} == {
        "news": 1,
        "code": 6,
        "exam": 0,
    }
    for domain, sets in (("news", ("news", "more")), ("exam", ("exam",))):
        words = {text.split()[0] for text in texts(data.target_sets[domain])}
        assert words <= set(sets)
    found = {text for blocks in data.train_sets.values() for text in texts(blocks)}
    held_out = {text for blocks in data.target_sets.values() for text in texts(blocks)}
    held_out |= {text for blocks in data.test_sets.values() for text in texts(blocks)}
    whole = {text for text in held_out if text.endswith("so.")}
    assert not found & whole, "no training document is in the target or the test"
    assert data.target_shares.tolist() == [0.5, 0.5]


rows_of_keys = st.lists(st.integers(0, 25), max_size=30)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(rows_of_keys, min_size=1, max_size=3), st.lists(rows_of_keys, min_size=1, max_size=2)
)
def test_every_document_falls_where_the_rule_says(domains, targets):
    """The target's parts keep a text first; a part has a test document and one more at least."""
    documents = parts_of(
        {f"d{i}": row for i, row in enumerate(domains)},
        {f"d{i + 1}": row for i, row in enumerate(targets)},
    )
    keys = {part: document_keys(map(str, row), 0) for part, row in documents.items()}
    seen, expected = set(), {}
    for part, row in documents.items():
        new = [number for number in dict.fromkeys(row) if number not in seen]
        seen |= set(new)
        order = {number: tuple(document_keys([str(number)], 0)[0]) for number in new}
        ranked = sorted(new, key=order.__getitem__)
        tests = max(1, min(round(0.3 * len(new)), len(new) - 1))
        rest = TARGET if part.is_target else TRAIN
        expected[part] = {number: TEST if i < tests else rest for i, number in enumerate(ranked)}
    if min(map(len, expected.values())) < 2:
        with pytest.raises(InputError, match=r"needs 2, one each to (target|train) and test"):
            assign_splits(keys, 0.5, 0.3)
        return
    for part, codes in assign_splits(keys, 0.5, 0.3).items():
        kept = {n: c for n, c in zip(documents[part], codes.tolist(), strict=True) if c != DROPPED}
        assert kept == expected[part]


def test_a_target_that_is_the_training_data_leaves_nothing_to_train_on(corpus, tmp_path):
    corpus["target"] = {"exam": corpus["domains"]["code"]}
    data = TextMixtureDataModule(**corpus, cache_dir=str(tmp_path / "cache"))
    message = r"domain 'code' has 0 documents not in the target \(26 read\) but needs 2"
    with pytest.raises(InputError, match=message):
        data.prepare_data()
    corpus["target"] = {"exam": write(tmp_path / "one.jsonl", says("one", 1))}
    with pytest.raises(InputError, match=r"target 'exam' has 1 distinct document \(.* needs 2"):
        TextMixtureDataModule(**corpus, cache_dir=str(tmp_path / "cache")).prepare_data()
    corpus["target"] = {"exam": str(tmp_path / "nowhere.txt")}
    with pytest.raises(InputError, match=r"'exam'.*nowhere"):
        TextMixtureDataModule(**corpus, cache_dir=str(tmp_path / "cache")).prepare_data()


def test_near_duplicates_of_the_target_are_not_trained_on(tmp_path):
    target = [sentence(i) for i in range(20)]
    near = [text + " and more" for text in target]
    domains = {"a": [*near, *(sentence(100 + i) for i in range(30))]}
    paths = {
        name: write(tmp_path / f"{name}.jsonl", [{"text": text} for text in found])
        for name, found in (("a", domains["a"]), ("exam", target))
    }
    manifest = prepare_corpus(
        str(tmp_path / "out"),
        {"a": paths["a"]},
        target={"exam": paths["exam"]},
        block_size=16,
        test_fraction=0.1,
        workers=1,
    )
    dropped = manifest["near_duplicates_dropped"]
    data = PreparedTextDataModule(str(tmp_path / "out"))
    data.setup("fit")
    starts = {text[:40] for text in target}
    assert not starts & {text[:40] for text in texts(data.train_sets["a"])}
    assert dropped["a"]["train"] + dropped["a"]["test"] + dropped["exam"]["target"] >= 20
    assert dropped["exam"]["train"] == dropped["a"]["target"] == 0
    assert manifest["settings"]["target"] == {"exam": paths["exam"]}
    assert list(manifest["target_sources"]) == list(manifest["target_read_as"]) == ["exam"]


def test_without_a_target_names_and_files_are_those_of_before(tmp_path, monkeypatch):
    """The names are literally those that the code gave before there was `target`."""
    monkeypatch.setattr(Source, "digest", lambda self, columns=("text",): "digest")
    domains = {
        "news": write(tmp_path / "n.jsonl", [{"text": sentence(i)} for i in range(40)]),
        "code": write(tmp_path / "c.jsonl", [{"text": sentence(100 + i)} for i in range(25)]),
    }
    options = {"block_size": 16, "target_fraction": 0.2, "test_fraction": 0.2}
    cache = {"cache_dir": str(tmp_path / "cache")}
    text = TextMixtureDataModule(domains, **options, **cache)
    prompts = {
        name: write(tmp_path / f"{name}.jsonl", asks(name, count))
        for name, count in (("sums", 40), ("poems", 20))
    }
    fractions = {"target_fraction": 0.2, "test_fraction": 0.1}
    chat = InstructionMixtureDataModule(prompts, **fractions, max_length=64, **cache)
    found = []
    for data in (text, chat):
        data.prepare_data()
        manifest = (data.cache_folder / "manifest.yaml").read_bytes()
        found.append((data.cache_folder.name, hashlib.blake2b(manifest, digest_size=8).hexdigest()))
    assert found == [
        ("TextMixtureDataModule-8719deebde834119a947a965", "795529f51812b588"),
        ("InstructionMixtureDataModule-5c37cef80d5ebfa5f7633091", "27a3033f9edefe76"),
    ]
    manifest = prepare_corpus(str(tmp_path / "out"), domains, **options, workers=1)
    assert manifest["fingerprint"] == "39077cd63bdaa7c347431640871b7825"
    keys = [*manifest, *manifest["settings"]]
    assert [key for key in keys if "target" in key] == ["target_fraction"]
    other = TextMixtureDataModule(domains, target={"t": domains["news"]}, **options, **cache)
    with pytest.raises(InputError, match="domain 'news' has 0 documents not in the target"):
        other.prepare_data()


def test_like_takes_a_corpus_of_the_same_target_only(corpus, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    first = TextMixtureDataModule(**corpus, cache_dir=str(tmp_path / "cache"))
    first.setup("fit")
    first.mixture.about["data"] = first.record
    first.mixture.save(run / "mixture.yaml")
    write(tmp_path / "exam.jsonl", says("other", 9))
    again = TextMixtureDataModule(**corpus, like=str(run))
    again.prepare_data()
    assert again.cache_folder == first.cache_folder, "files may have changed since"
    del corpus["target"]
    with pytest.raises(InputError, match=r"built with target=\['exam', 'news'\] and .*=None"):
        TextMixtureDataModule(**corpus, like=str(run)).prepare_data()


# ---- instructions ----


def test_prompts_of_the_target_are_not_trained_on(tmp_path):
    other = [{"prompt": f"exam {i}?", "response": "another answer"} for i in (0, 3, 7)]
    sums = write(tmp_path / "sums.jsonl", [*asks("sums", 40), *other])
    exam = write(tmp_path / "exam.jsonl", asks("exam", 20))
    more = write(tmp_path / "more.jsonl", asks("more", 10))
    data = InstructionMixtureDataModule(
        {"sums": sums},
        target={"exam": exam, "sums": more},
        test_fraction=0.1,
        cache_dir=str(tmp_path / "cache"),
    )
    data.setup("fit")
    rows = {row["domain"]: row for row in data.summary()}
    samples = {d: [row[f"{split}_samples"] for split in SPLITS] for d, row in rows.items()}
    assert samples == {"sums": [36, 9, 4 + 1], "exam": [0, 18, 2]}
    assert {d: row["duplicates_dropped"] for d, row in rows.items()} == {"sums": 3, "exam": 0}
    for split, sets in zip(
        SPLITS, (data.train_sets, data.target_sets, data.test_sets), strict=True
    ):
        for domain, found in sets.items():
            words = {data.tokenizer.decode(sample["input_ids"].tolist())[:4] for sample in found}
            expected = {"train": {"sums"}, "target": {"more"}, "test": {"sums", "more"}}[split]
            assert words == ({"exam"} if domain == "exam" else expected)


def test_a_prompt_is_in_one_split_and_never_in_training_if_the_target_has_it():
    generator = np.random.default_rng(0)
    rows = {
        part: [(int(p), int(r)) for p, r in generator.integers(0, (high, 3), (size, 2))]
        for part, high, size in (
            (Part("e", True), 40, 60), (Part("a", True), 60, 60),
            (Part("a"), 150, 200), (Part("b"), 200, 200),
        )
    }  # fmt: skip
    prompts = {part: document_keys([str(p) for p, _ in row], 0) for part, row in rows.items()}
    samples = {part: document_keys([f"{p} {r}" for p, r in row], 0) for part, row in rows.items()}
    codes = split_by_prompt(prompts, samples, 0.2, 0.2)
    split_of, seen = {}, set()
    of_target = {p for part, row in rows.items() if part.is_target for p, _ in row}
    for part, row in rows.items():
        for (prompt, response), code in zip(row, codes[part].tolist(), strict=True):
            if (prompt, response) in seen or (not part.is_target and prompt in of_target):
                assert code == DROPPED
            else:
                assert code in ({TARGET, TEST} if part.is_target else {TRAIN, TEST})
                assert split_of.setdefault(prompt, code) == code
            seen.add((prompt, response))
