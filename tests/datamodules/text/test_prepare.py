import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_pl.datamodules import PreparedTextDataModule
from tandem_pl.datamodules.text import block_folder, blocks, prepare
from tandem_pl.datamodules.text import corpus as corpus_passes
from tandem_pl.datamodules.text.block_folder import read_manifest
from tandem_pl.datamodules.text.byte_level_bpe import train_bpe
from tandem_pl.datamodules.text.documents import SPLITS
from tandem_pl.datamodules.text.prepare import prepare_corpus
from tandem_pl.datamodules.text.tokenization import load_tokenizer
from tandem_pl.errors import InputError

FRACTIONS = {"target_fraction": 0.2, "test_fraction": 0.2, "workers": 1}


def sentence(seed, words=30):
    return " ".join(random.Random(seed).choices([f"w{i}é" for i in range(500)], k=words))


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def documents(data, split, domain):
    """The documents in a split's blocks, decoded; the last is what follows the last end of text."""
    blocks = getattr(data, f"{split}_sets")[domain]
    tokenizer = load_tokenizer(data.tokenizer_name)
    ids = [int(i) for block in blocks.__getitems__(range(len(blocks))) for i in block["input_ids"]]
    ends = [place for place, token in enumerate(ids) if token == tokenizer.eos_token_id]
    starts = [0, *(end + 1 for end in ends)]
    found = [tokenizer.decode(ids[a:b]) for a, b in zip(starts, ends, strict=False)]
    return found + ([tokenizer.decode(ids[starts[-1] :])] if starts[-1] < len(ids) else [])


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Two kinds of tokenizer beside bytes: a pretrained folder, and its bare tokenizer.json."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe([sentence(seed) for seed in range(50)], 400, folder / "t")
    shutil.copy(folder / "t" / "tokenizer.json", folder / "bare.json")
    return {"folder": str(folder / "t"), "bare": str(folder / "bare.json"), "bytes": "bytes"}


@pytest.fixture
def corpus(tmp_path):
    """Two domains of 40 and 25 documents."""
    return {
        "news": write(tmp_path / "news.jsonl", [sentence(i) for i in range(40)]),
        "code": write(tmp_path / "code.jsonl", [sentence(100 + i) for i in range(25)]),
    }


@pytest.mark.parametrize("kind", ["bytes", "folder", "bare", "trained"])
@settings(max_examples=12, deadline=None)
@given(texts=st.lists(st.text(st.characters(codec="utf-8")), min_size=3), seed=st.integers(0, 99))
def test_decoded_blocks_give_every_document_once(tokenizers, tmp_path_factory, kind, texts, seed):
    folder = tmp_path_factory.mktemp("round")
    distinct = list(dict.fromkeys(text for text in texts if text.strip()))
    path = write(folder / "d.jsonl", texts)
    options = {"train_bpe": 260} if kind == "trained" else {"tokenizer": tokenizers[kind]}
    if len(distinct) < 3:
        with pytest.raises(
            InputError, match=r"has no documents|distinct documents?|in an earlier domain"
        ):
            prepare_corpus(str(folder / "out"), {"d": path}, **options, **FRACTIONS)
        return
    # Of blocks of 2 tokens, no more is cut off a split than its last end of text.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_folder, "BATCH_CHARACTERS", 5)
        out = str(folder / "out")
        manifest = prepare_corpus(
            out, {"d": path}, block_size=2, split_seed=seed, **options, **FRACTIONS
        )
    data = PreparedTextDataModule(f"{out}/manifest.yaml")
    data.setup()
    assert manifest["tokenizer"]["lossless"]
    found = []
    for split in SPLITS:
        there = documents(data, split, "d")
        assert len(there) == manifest["splits"][split]["d"]["documents"]
        found += there
    assert sorted(found) == sorted(distinct)


def test_the_folder_is_the_same_for_any_number_of_workers(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(block_folder, "BATCH_CHARACTERS", 500)
    found = []
    for workers in (1, 3):
        out = tmp_path / f"out{workers}"
        options = {**FRACTIONS, "workers": workers}
        prepare_corpus(str(out), corpus, train_bpe=300, block_size=16, **options)
        files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
        found.append({str(path): (out / path).read_bytes() for path in files})
    assert found[0] == found[1]
    assert {"manifest.yaml", "tokenizer/tokenizer.json", "target/news.arrow"} <= set(found[0])


def test_the_splits_are_those_of_the_text_data_module(corpus, tmp_path):
    from tandem_pl.datamodules import TextMixtureDataModule

    options = {"block_size": 16, "target_fraction": 0.2, "test_fraction": 0.2}
    text = TextMixtureDataModule(corpus, cache_dir=str(tmp_path / "cache"), **options)
    text.setup()
    prepare_corpus(str(tmp_path / "out"), corpus, **options, workers=1)
    data = PreparedTextDataModule(str(tmp_path / "out"))
    data.setup()
    assert data.summary() == text.summary()
    for split in SPLITS:
        for domain in corpus:
            mine, other = (getattr(d, f"{split}_sets")[domain] for d in (data, text))
            every = range(len(other))
            pairs = zip(mine.__getitems__(every), other.__getitems__(every), strict=True)
            assert all(bool((a["input_ids"] == b["input_ids"]).all()) for a, b in pairs)


def test_duplicates_and_near_duplicates_are_dropped_and_counted(tmp_path):
    texts = [sentence(i) for i in range(40)]
    first = write(tmp_path / "a.jsonl", [*texts, texts[3]])
    near = [text + f" and {i}" for i, text in enumerate(texts[:30])]
    second = write(tmp_path / "b.jsonl", [*near, *(sentence(1000 + i) for i in range(80))])
    domains = {"a": first, "b": second}
    manifest = prepare_corpus(str(tmp_path / "out"), domains, block_size=16, **FRACTIONS)
    assert manifest["duplicates_dropped"] == {"a": 1, "b": 0}
    dropped = manifest["near_duplicates_dropped"]
    data = PreparedTextDataModule(str(tmp_path / "out"))
    data.setup()
    stems = {  # the first words of a document: equal for near-duplicates
        split: {text[:60] for domain in domains for text in documents(data, split, domain)}
        for split in SPLITS
    }
    assert not stems["train"] & stems["test"]
    assert not stems["train"] & stems["target"]
    assert not stems["target"] & stems["test"]
    assert sum(dropped["b"].values()) + sum(dropped["a"].values()) >= 10
    for domain, count in (("a", 40), ("b", 110)):
        kept = sum(manifest["splits"][split][domain]["documents"] for split in SPLITS)
        assert kept + sum(dropped[domain].values()) == count
    kept = prepare_corpus(
        str(tmp_path / "kept"), domains, block_size=16, near_duplicate=None, **FRACTIONS
    )
    assert all(not any(row.values()) for row in kept["near_duplicates_dropped"].values())
    assert sum(kept["splits"][split]["b"]["documents"] for split in SPLITS) == 110


def test_a_split_that_near_duplicates_empty(tmp_path):
    text = sentence(0)
    domains = {"a": write(tmp_path / "a.jsonl", [f"{text} {i}" for i in range(9)])}
    with pytest.raises(InputError, match=r"domain 'a' has no document left in its t\w+ split"):
        prepare_corpus(str(tmp_path / "out"), domains, block_size=4, **FRACTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_document_longer_than_every_batch(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(block_folder, "BATCH_CHARACTERS", 100)
    monkeypatch.setattr(blocks, "BATCH_TOKENS", 64)
    long = sentence(7, 20_000)
    texts = [long, *(sentence(i) for i in range(200, 230))]
    manifest = prepare_corpus(
        str(tmp_path / "out"), {"d": write(tmp_path / "d.jsonl", texts)}, block_size=8, **FRACTIONS
    )
    longest = {split: manifest["splits"][split]["d"]["longest_document"] for split in SPLITS}
    data = PreparedTextDataModule(str(tmp_path / "out"))
    data.setup()
    split = max(longest, key=longest.get)
    assert longest[split] == len(long.encode()) + 1
    assert long in documents(data, split, "d")


def test_the_trained_tokenizer_hears_small_domains(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_passes, "BPE_CHARACTERS", 20_000)
    large = [sentence(i, 60) for i in range(400)]
    small = ["zqx" * 3 + f" zqxzqx {i}" for i in range(200)]
    domains = {"large": write(tmp_path / "l.jsonl", large), "s": write(tmp_path / "s.jsonl", small)}
    heard = {}

    def listen(texts, vocab_size, folder):
        texts = list(texts)
        heard["s"] = sum(len(text) for text in texts if "zqx" in text)
        heard["large"] = sum(map(len, texts)) - heard["s"]
        heard["texts"] = texts
        train_bpe(texts, vocab_size, folder)

    monkeypatch.setattr(prepare, "train_byte_level_bpe", listen)
    options = {"near_duplicate": None, "block_size": 4, **FRACTIONS}
    prepare_corpus(str(tmp_path / "out"), domains, train_bpe=270, **options)
    size = {d: sum(map(len, texts)) for d, texts in (("large", large), ("s", small))}
    assert heard["s"] == pytest.approx(0.6 * size["s"], rel=0.05), "all of its training text"
    assert 0.5 * 6_000 < heard["large"] < 1.5 * 6_000, "of 0.6 x 20000 / 2"
    data = PreparedTextDataModule(str(tmp_path / "out"))
    data.setup()
    held_out = {text for s in ("target", "test") for d in domains for text in documents(data, s, d)}
    assert not held_out & set(heard["texts"]), "the tokenizer sees training documents only"


def test_corrupt_rows(corpus, tmp_path):
    with open(corpus["code"], "a") as file:
        file.write('{"text": "cut\n')
    options = {"block_size": 16, **FRACTIONS}
    with pytest.raises(InputError, match=r"code\.jsonl, line 26 is not valid JSON"):
        prepare_corpus(str(tmp_path / "out"), corpus, **options)
    manifest = prepare_corpus(str(tmp_path / "out"), corpus, corrupt="skip", **options)
    assert manifest["rows_skipped"] == {"news": 0, "code": 1}
    assert "line 26" in manifest["first_skipped"]["code"]
    assert sum(manifest["splits"][split]["code"]["documents"] for split in SPLITS) == 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "bytes", "train_bpe": 300}, "give either tokenizer .* or train_bpe"),
        ({"train_bpe": 256}, "train_bpe=256 must be at least 257"),
        ({"block_size": 1}, "block_size=1 must be at least 2"),
        ({"block_size": 99_999}, "fewer than one block of block_size 99999"),
        ({"near_duplicate": 0.0}, "near_duplicate is 0.0"),
        ({"test_fraction": 0.9}, r"target_fraction \+ test_fraction=1.1"),
        ({"workers": -1}, "workers=-1 must be at least 1"),
        ({"text_column": "body"}, r"news\.jsonl, line 1 has no column 'body'; it has 'text'"),
        ({"domains": {"a": "absent.txt"}}, "domain 'a': 'absent.txt' matches no file"),
        ({"dataset": "x"}, "not both"),
        ({"tokenizer": "./absent"}, "tokenizer './absent' does not exist"),
    ],
)
def test_options_that_cannot_be(corpus, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        prepare_corpus(str(tmp_path / "out"), **{"domains": corpus, **FRACTIONS, **options})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code.jsonl", "news.jsonl"]


def test_an_empty_domain(corpus, tmp_path):
    corpus["void"] = write(tmp_path / "void.jsonl", [" ", "\n"])
    with pytest.raises(InputError, match="domain 'void' has no documents; give it some text"):
        prepare_corpus(str(tmp_path / "out"), corpus, **FRACTIONS)


def test_a_tokenizer_of_the_hub_without_network(corpus, tmp_path, monkeypatch):
    import transformers

    def unreachable(name, **options):
        raise OSError(f"We couldn't connect to 'https://huggingface.co' to load {name}")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", unreachable)
    with pytest.raises(InputError) as error:
        prepare_corpus(str(tmp_path / "out"), corpus, tokenizer="org/tok", **FRACTIONS)
    assert "couldn't connect" in str(error.value)
    advice = "AutoTokenizer.from_pretrained('org/tok').save_pretrained(FOLDER)"
    assert advice in str(error.value)


def test_a_full_disk_leaves_nothing(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(block_folder, "blocks_path", lambda *names: Path("/dev/full"))
    with pytest.raises(InputError, match="out cannot be written: no space is left"):
        prepare_corpus(str(tmp_path / "out"), corpus, block_size=16, **FRACTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code.jsonl", "news.jsonl"]


def test_an_output_folder_that_exists(corpus, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    with pytest.raises(InputError, match="exists; give another folder, or --overwrite"):
        prepare_corpus(str(out), corpus, **FRACTIONS)
    with pytest.raises(InputError, match="holds no prepared corpus, so overwrite leaves it alone"):
        prepare_corpus(str(out), corpus, overwrite=True, **FRACTIONS)
    assert (out / "precious").read_text() == "x"
    (out / "precious").unlink()
    out.rmdir()
    first = prepare_corpus(str(out), corpus, block_size=16, **FRACTIONS)
    with pytest.raises(InputError, match="fewer than one block"):
        prepare_corpus(str(out), corpus, block_size=99_999, overwrite=True, **FRACTIONS)
    assert read_manifest(out) == first
    second = prepare_corpus(str(out), corpus, block_size=8, overwrite=True, **FRACTIONS)
    assert read_manifest(out) == second != first
    assert not list(tmp_path.glob(".*"))


def test_a_source_that_changes_meanwhile(corpus, tmp_path, monkeypatch):
    real = prepare.write_splits

    def change(*arguments):
        with open(corpus["news"], "a") as file:
            file.write("\n")
        return real(*arguments)

    monkeypatch.setattr(prepare, "write_splits", change)
    with pytest.raises(InputError, match="domain 'news' changed while it was read"):
        prepare_corpus(str(tmp_path / "out"), corpus, block_size=16, **FRACTIONS)


def test_counts_are_of_the_kept_documents(corpus, tmp_path):
    manifest = prepare_corpus(str(tmp_path / "out"), corpus, block_size=16, **FRACTIONS)
    counts = manifest["splits"]
    assert [counts[split]["news"]["documents"] for split in SPLITS] == [24, 8, 8]
    total = sum(row["tokens"] for split in SPLITS for row in counts[split].values())
    texts = [sentence(i) for i in range(40)] + [sentence(100 + i) for i in range(25)]
    assert total == sum(len(text.encode()) + 1 for text in texts)
