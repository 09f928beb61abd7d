"""What a mixture says of the data it was learned on, and the check of later runs."""

import warnings

import numpy as np
import pytest
import torch
import yaml
from module_helpers import fit
from torch.utils.data import Subset, TensorDataset
from toy import toy_data, toy_module

from tandem_pl.callbacks import FixedMixture
from tandem_pl.datamodules import EnvironmentCorpus, MixtureDataModule, TextMixtureDataModule
from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture


def rows(count):
    return TensorDataset(torch.zeros(count, 2), torch.zeros(count, 1))


def plain(sizes, weights=None):
    return MixtureDataModule({name: rows(size) for name, size in sizes.items()}, weights=weights)


def warnings_of(data):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.setup("fit")
    return [str(w.message) for w in caught if "other data" in str(w.message)]


def texts(folder, marks="ab", count=60):
    for name in marks:
        text = "".join(f'{{"text": "{name} number {i} of {count} lines"}}\n' for i in range(count))
        (folder / f"{name}.jsonl").write_text(text)
    return {name: str(folder / f"{name}.jsonl") for name in marks}


def corpus(folder, domains, **more):
    return TextMixtureDataModule(
        domains=domains, block_size=16, cache_dir=str(folder / "cache"), batch_size=4, **more
    )


def save_mixture(path, data):
    data.setup("fit")
    Mixture(dict.fromkeys(data.domain_sizes(), 1.0), about={"data": data.record}).save(path)
    return str(path)


def test_a_mixture_of_other_sizes_is_named_once(tmp_path):
    path = save_mixture(tmp_path / "mixture.yaml", plain({"a": 8, "b": 6}))
    assert warnings_of(plain({"b": 6, "a": 8}, path)) == []
    assert warnings_of(plain({"a": 9, "b": 6}, path)) == [
        f"weights={path!r} was learned on other data: domain 'a' has 8 samples there and 9 here."
    ]
    (message,) = warnings_of(plain({"a": 9, "b": 7}, f"last:{path}"))
    assert message.endswith("9 here, and 1 more domains differ.")


def test_a_mixture_without_a_record_says_nothing(tmp_path):
    Mixture({"a": 1, "b": 1}).save(tmp_path / "mixture.yaml")
    assert warnings_of(plain({"a": 9, "b": 6}, str(tmp_path / "mixture.yaml"))) == []
    assert warnings_of(plain({"a": 9, "b": 6}, "proportional")) == []


def test_equal_sizes_of_other_text_are_noticed_and_like_takes_the_old_text(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    first = corpus(tmp_path, texts(tmp_path))
    path = save_mixture(run / "mixture.yaml", first)
    before = first.train_sets["a"][0]["input_ids"]
    assert warnings_of(corpus(tmp_path, texts(tmp_path), weights=path)) == []

    changed = tmp_path / "a.jsonl"
    changed.write_text(changed.read_text().replace("number", "numbre"))
    domains = {name: str(tmp_path / f"{name}.jsonl") for name in "ab"}
    (message,) = warnings_of(corpus(tmp_path, domains, weights=path))
    assert message == (
        f"weights={path!r} was learned on other data: the sizes are equal, but files, "
        "packages or settings changed; "
        "to train on the data of that run, set data.like to its folder."
    )
    for like in (str(run), path):
        same = corpus(tmp_path, domains, weights=path, like=like)
        assert warnings_of(same) == []
        assert torch.equal(same.train_sets["a"][0]["input_ids"], before)
        assert same.record == first.record


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda run, folder: (run / "mixture.yaml").unlink(),
            "is no run: give the folder of a run",
        ),
        (lambda run, folder: Mixture({"a": 1}).save(run / "mixture.yaml"), "does not say where"),
        (lambda run, folder: (folder / "manifest.yaml").unlink(), "is not there any more"),
    ],
)
def test_like_that_cannot_be_used(tmp_path, break_it, message):
    first = corpus(tmp_path, texts(tmp_path))
    save_mixture(tmp_path / "mixture.yaml", first)
    break_it(tmp_path, first.cache_folder)
    with pytest.raises(InputError, match=message):
        corpus(tmp_path, texts(tmp_path), like=str(tmp_path)).setup("fit")


def test_like_with_other_settings_names_the_first(tmp_path):
    save_mixture(tmp_path / "mixture.yaml", corpus(tmp_path, texts(tmp_path)))
    other = corpus(tmp_path, texts(tmp_path), like=str(tmp_path), test_fraction=0.2)
    with pytest.raises(InputError, match=r"built with test_fraction=.* asks for test_fraction=0.2"):
        other.setup("fit")


def test_like_brings_back_the_environment_of_a_run(tmp_path, monkeypatch):
    sizes = {"target_bytes": 4000, "test_bytes": 4000}
    sizes["train_bytes"] = dict.fromkeys(EnvironmentCorpus().train_bytes, 4000)
    options = {**sizes, "block_size": 32, "cache_dir": str(tmp_path / "cache")}
    first = EnvironmentCorpus(**options)
    path = save_mixture(tmp_path / "mixture.yaml", first)
    settings = first.settings()
    monkeypatch.setattr(
        EnvironmentCorpus, "settings", lambda self: {**settings, "installed": {"more": "1.0"}}
    )
    same = EnvironmentCorpus(**options, weights=path, like=str(tmp_path))
    assert warnings_of(same) == []
    assert same.cache_folder == first.cache_folder
    other = EnvironmentCorpus(**options, weights=path)
    assert warnings_of(other) == []  # another folder, and the same text in it
    assert other.cache_folder != first.cache_folder


def test_the_record_is_in_the_file_of_a_run(tmp_path):
    data = corpus(tmp_path, texts(tmp_path))
    data.setup("fit")
    content = {"class", "samples", "fingerprint", "folder"}
    assert set(data.record) == content
    assert data.record["folder"] == str(data.cache_folder)
    assert yaml.safe_load(yaml.safe_dump(data.record)) == data.record
    assert np.isclose(sum(data.record["samples"].values()), sum(data.domain_sizes().values()))


def test_runs_write_the_record_and_fixed_mixtures_check_it(tmp_path):
    data = toy_data(batch_size=8)
    fit(tmp_path, toy_module(), data, FixedMixture(episode_steps=2), max_epochs=1)
    path = str(tmp_path / "mixture.yaml")
    assert Mixture.load(path).about["data"] == data.record | {"target": {"t": 1.0}}
    smaller = toy_data(batch_size=8)
    smaller.train_sets["twin"] = Subset(smaller.train_sets["twin"], range(5))
    with pytest.warns(UserWarning, match="was learned on other data: domain 'twin' has"):
        fit(tmp_path, toy_module(), smaller, FixedMixture(path, episode_steps=2), max_epochs=1)
