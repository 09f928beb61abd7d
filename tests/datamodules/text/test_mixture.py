import json

import pytest
import torch
from programs import exit_codes, start

from tandem_pl.datamodules import TextMixtureDataModule
from tandem_pl.datamodules.sources.cache_folder import default_cache_dir
from tandem_pl.datamodules.text.block_folder import MANIFEST
from tandem_pl.datamodules.text.documents import SPLITS
from tandem_pl.errors import InputError

OPTIONS = {"block_size": 16, "target_fraction": 0.2, "test_fraction": 0.1}


@pytest.fixture
def corpus(tmp_path):
    """Two domains of 40 and 20 documents, each a different sentence."""
    for domain, count in (("news", 40), ("code", 20)):
        lines = [json.dumps({"text": f"{domain} number {i} says so."}) for i in range(count)]
        (tmp_path / f"{domain}.jsonl").write_text("\n".join(lines))
    return {domain: str(tmp_path / f"{domain}.jsonl") for domain in ("news", "code")}


def module(corpus, tmp_path, **options):
    return TextMixtureDataModule(corpus, cache_dir=str(tmp_path / "cache"), **OPTIONS | options)


def texts_of(data, split, domain):
    """The whole documents of a split, read back from its blocks."""
    blocks = getattr(data, f"{split}_sets")[domain]
    ids = torch.cat([blocks[i]["input_ids"] for i in range(len(blocks))]).tolist()
    return "".join(chr(i) if i < 256 else "\n" for i in ids).split("\n")[:-1]


def test_blocks_of_all_splits(corpus, tmp_path):
    data = module(corpus, tmp_path)
    data.prepare_data()
    data.setup("fit")
    assert data.vocab_size == 257
    assert list(data.train_sets) == list(data.target_sets) == list(data.test_sets)
    assert list(data.train_sets) == ["news", "code"]
    rows = {row["domain"]: row for row in data.summary()}
    counts = [rows["news"][f"{split}_documents"] for split in SPLITS]
    assert counts == [28, 8, 4]
    assert rows["code"]["train_blocks"] == len(data.train_sets["code"])
    texts = [texts_of(data, split, domain) for split in SPLITS for domain in corpus]
    flat = [text for part in texts for text in part]
    assert len(flat) == len(set(flat)) >= 50
    train = texts_of(data, "train", "news")
    assert train == sorted(train, key=lambda text: int(text.split()[2])), "in the order read"
    batch = next(iter(data.train_dataloader()))
    assert batch.samples["input_ids"].shape == (32, 16)


def test_the_cache_is_built_once_and_its_name_follows_the_content(corpus, tmp_path):
    first = module(corpus, tmp_path)
    first.prepare_data()
    manifest = first.cache_folder / MANIFEST
    before = manifest.stat().st_mtime_ns
    again = module(corpus, tmp_path, batch_size=8, seed=5, weights={"news": 1, "code": 2})
    again.prepare_data()
    assert again.cache_folder == first.cache_folder
    assert manifest.stat().st_mtime_ns == before
    folders = {first.cache_folder}
    for options in ({"block_size": 8}, {"split_seed": 1}, {"test_fraction": 0.2}):
        other = module(corpus, tmp_path, **options)
        other.prepare_data()
        folders.add(other.cache_folder)
    with open(corpus["news"], "a") as file:
        file.write('\n{"text": "one more"}')
    changed = module(corpus, tmp_path)
    changed.prepare_data()
    assert len(folders | {changed.cache_folder}) == 5


def test_the_first_domain_keeps_a_text_that_two_have(corpus, tmp_path):
    with open(corpus["code"], "a") as file:
        file.write('\n{"text": "news number 3 says so."}\n{"text": "code number 3 says so."}')
    data = module(corpus, tmp_path)
    rows = {row["domain"]: row for row in data.summary()}
    assert {name: row["duplicates_dropped"] for name, row in rows.items()} == {"news": 0, "code": 2}
    assert sum(rows["code"][f"{split}_documents"] for split in SPLITS) == 20


def test_a_half_written_build_is_not_used(corpus, tmp_path):
    first = module(corpus, tmp_path)
    first.setup()
    folder = first.cache_folder
    # What a killed builder leaves: a temporary folder of any content.
    stray = folder.parent / f".{folder.name}.0123.tmp"
    folder.rename(stray)
    (stray / "train" / "news.arrow").write_bytes(b"cut")
    again = module(corpus, tmp_path)
    again.setup()
    assert again.cache_folder == folder
    assert again.summary() == first.summary()


BUILD = """
import json, sys
from tandem_pl.datamodules import TextMixtureDataModule
corpus, cache, options = map(json.loads, sys.argv[1:])
print(json.dumps(TextMixtureDataModule(corpus, cache_dir=cache, **options).summary()))
"""


def test_builders_at_once(corpus, tmp_path):
    cache, program = tmp_path / "cache", tmp_path / "build.py"
    program.write_text(BUILD)
    arguments = [json.dumps(value) for value in (corpus, str(cache), OPTIONS)]
    outputs = [tmp_path / "one.txt", tmp_path / "other.txt"]
    codes = exit_codes([start([str(program), *arguments], output) for output in outputs])
    assert codes == [0, 0], [output.read_text() for output in outputs]
    rows = [output.read_text().splitlines()[-1] for output in outputs]
    assert rows[0] == rows[1]
    assert json.loads(rows[0]) == module(corpus, tmp_path).summary()
    assert len(list(cache.iterdir())) == 1


def test_a_saved_dataset(tmp_path):
    import datasets

    texts = [f"text number {i} of the set" for i in range(30)]
    data = datasets.Dataset.from_dict({"body": texts, "kind": [f"k/{i % 2}" for i in range(30)]})
    data.save_to_disk(tmp_path / "saved")
    mixture = TextMixtureDataModule(
        dataset=str(tmp_path / "saved"),
        domain_column="kind",
        text_column="body",
        cache_dir=str(tmp_path / "cache"),
        **OPTIONS,
    )
    mixture.setup("fit")
    assert list(mixture.train_sets) == ["k/0", "k/1"]
    assert texts_of(mixture, "train", "k/1")[0] in texts[1::2]


def test_too_few_documents(corpus, tmp_path):
    (tmp_path / "two.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "a"}')
    corpus["two"] = str(tmp_path / "two.jsonl")
    with pytest.raises(InputError, match=r"domain 'two' has 2 distinct documents \(3 read\)"):
        module(corpus, tmp_path).prepare_data()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either domains .* not neither"),
        ({"domains": {"a": "x"}, "dataset": "y"}, "give either domains .* not both"),
        ({"domains": {"a": "x"}, "test_fraction": 0.0}, "test_fraction=0.0"),
        (
            {"domains": {"a": "x"}, "test_fraction": 0.5, "target_fraction": 0.5},
            r"target_fraction \+ test_fraction=1.0",
        ),
        ({"domains": {"a": "x"}, "block_size": 1}, "block_size=1 must be at least 2"),
        ({"domains": {"a": "x"}, "tokenizer": "absent"}, "tokenizer 'absent' does not exist"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        TextMixtureDataModule(**options)


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"domain 'a': .* matches no file"):
        module({"a": str(tmp_path / "absent")}, tmp_path).prepare_data()


def test_where_caches_lie(monkeypatch, tmp_path):
    monkeypatch.delenv("TANDEM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "tandem_pl"
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "here"))
    assert default_cache_dir() == tmp_path / "here"


def test_the_command_line_can_read_the_options(corpus):
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(TextMixtureDataModule, "data")
    config = parser.parse_object(
        {"data": {"domains": corpus, "weights": {"news": 0.7, "code": 0.3}, "block_size": 32}}
    )
    made = parser.instantiate(config) if hasattr(parser, "instantiate") else None
    assert (made or parser.instantiate_classes(config)).data.block_size == 32


def test_a_domain_may_be_a_map_and_corrupt_rows_be_skipped(corpus, tmp_path):
    (tmp_path / "code.jsonl").write_text("{\n" + (tmp_path / "code.jsonl").read_text())
    lines = (tmp_path / "news.jsonl").read_text().replace('"text"', '"body"')
    (tmp_path / "news.jsonl").write_text(lines)
    domains = {"news": {"path": corpus["news"], "column": "body"}, "code": corpus["code"]}
    with pytest.raises(InputError, match=r"code\.jsonl, line 1 is not valid JSON"):
        module(domains, tmp_path).prepare_data()
    data = module(domains, tmp_path, corrupt="skip")
    with pytest.warns(UserWarning, match=r"domain 'code': 1 corrupt rows .* line 1"):
        data.setup("fit")
    rows = {row["domain"]: row for row in data.summary()}
    assert [rows["news"][f"{split}_documents"] for split in SPLITS] == [28, 8, 4]
