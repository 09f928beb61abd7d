import json
import shutil

import pytest
import yaml

from tandem_pl.datamodules import PreparedTextDataModule
from tandem_pl.datamodules.text.prepare import prepare_corpus
from tandem_pl.datamodules.text.tokenization import load_tokenizer
from tandem_pl.errors import InputError

FRACTIONS = {"target_fraction": 0.2, "test_fraction": 0.2, "workers": 1}


@pytest.fixture
def corpus(tmp_path):
    """Two domains of 40 documents."""
    for domain in ("news", "code"):
        rows = [json.dumps({"text": f"{domain} {i} {i * i} " * 8}) for i in range(40)]
        (tmp_path / f"{domain}.jsonl").write_text("\n".join(rows) + "\n")
    return {domain: str(tmp_path / f"{domain}.jsonl") for domain in ("news", "code")}


def test_a_moved_folder_is_the_same_corpus_and_another_is_not(corpus, tmp_path):
    prepare_corpus(str(tmp_path / "a"), corpus, train_bpe=300, block_size=16, **FRACTIONS)
    first = PreparedTextDataModule(str(tmp_path / "a" / "manifest.yaml"), batch_size=4)
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = PreparedTextDataModule(str(tmp_path / "b" / "manifest.yaml"), batch_size=4)
    moved.setup("fit")
    assert first.fingerprint == moved.fingerprint
    assert (moved.vocab_size, moved.block_size) == (300, 16)
    assert load_tokenizer(moved.tokenizer_name).vocab_size == 300
    batch = next(iter(moved.train_dataloader()))
    assert batch.samples["input_ids"].shape == (4, 16)
    state = moved.state_dict()
    moved.load_state_dict(state)
    with open(corpus["news"], "a") as file:
        file.write('{"text": "one more document here"}\n')
    prepare_corpus(str(tmp_path / "c"), corpus, train_bpe=300, block_size=16, **FRACTIONS)
    other = PreparedTextDataModule(str(tmp_path / "c"), batch_size=4)
    assert other.fingerprint != moved.fingerprint
    other.setup("fit")
    assert other._identity()["corpus"] != moved._identity()["corpus"]


def test_what_is_no_prepared_corpus(tmp_path):
    with pytest.raises(InputError, match=r"does not exist; give OUT/manifest\.yaml"):
        PreparedTextDataModule(str(tmp_path / "absent" / "manifest.yaml"))
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump({"block_size": 3}))
    with pytest.raises(InputError, match="is not the manifest of a prepared corpus"):
        PreparedTextDataModule(str(tmp_path / "manifest.yaml"))
    (tmp_path / "other.yaml").write_text("")
    for name in ("absent.yaml", "other.yaml"):  # beside a manifest
        with pytest.raises(InputError, match=rf"{name}' (does not exist|is not the manifest)"):
            PreparedTextDataModule(str(tmp_path / name))
    (tmp_path / "manifest.yaml").write_text("- [")
    with pytest.raises(InputError, match="is not the manifest of a prepared corpus"):
        PreparedTextDataModule(str(tmp_path))
