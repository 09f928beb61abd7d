"""Mixture files in JSON, above all those of DoReMi; YAML is in test_mixture."""

import codecs
import json

import pytest
from helpers import random_rows

from tandem_pl import InputError, Mixture
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.export.mixture import export_mixture
from tandem_pl.mixture import resolve_weights

TRAIN = {"Wikipedia (en)": 0.6, "Pile-CC": 0.3, "NIH ExPorter": 2e-05}  # not quite 1 in all
EVALUATE = {"Wikipedia (en)": 1, "Pile-CC": 3, "NIH ExPorter": 0}
SIZES = {"Pile-CC": 30, "NIH ExPorter": 10, "Wikipedia (en)": 20}
SHARES = {name: TRAIN[name] / 0.90002 for name in SIZES}


def published(train=TRAIN, **more) -> str:
    return json.dumps({"train_domain_weights": train, "eval_domain_weights": EVALUATE, **more})


@pytest.fixture
def file(tmp_path):
    """Return a writer of a file; names come in another order than the data's."""

    def write(text: str | bytes = published(), name: str = "r1_ref:uniform.json"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_training_weights_are_read_by_name(file) -> None:
    mixture = resolve_weights(str(file()), SIZES)
    assert mixture.domains == tuple(SIZES)
    assert mixture.weights == pytest.approx(SHARES, rel=1e-12)
    assert resolve_weights(f"last:{file()}", SIZES) == mixture
    assert Mixture.load(file()).about == {"eval_domain_weights": EVALUATE}


def test_a_data_module_takes_the_file(file) -> None:
    sets = {name: random_rows(size, 4, size) for name, size in SIZES.items()}
    data = MixtureDataModule(sets, weights=str(file()))
    data.setup("fit")
    assert data.mixture.weights == pytest.approx(SHARES, rel=1e-12)


def test_other_rules_and_the_export_take_the_file(file) -> None:
    bounded = resolve_weights(f"epoch_capped:99:30:{file()}", SIZES)
    assert bounded.weights == pytest.approx(SHARES, rel=1e-9)
    text, _ = export_mixture(str(file()), "megatron")
    assert "0.333" in text  # 0.3 / 0.90002


def test_the_averages_that_a_run_writes_are_read(file) -> None:
    """`avg_domain_weights.json` is a map of domains alone."""
    path = file(json.dumps(TRAIN), "avg_domain_weights.json")
    assert resolve_weights(path, SIZES).weights == pytest.approx(SHARES, rel=1e-12)
    named = file('{"weights": 1, "b": 3}', "named.json")
    assert Mixture.load(named).weights == {"weights": 0.25, "b": 0.75}


def test_json_is_read_as_json(file) -> None:
    """Tabs, escaped pairs, a byte-order mark and UTF-16 are not YAML's."""
    name = "\N{OPEN BOOK}"
    text = json.dumps({"train_domain_weights": {name: 3, "no": 1}}, indent="\t")
    assert "\\ud83d" in text
    for content in (text.encode(), codecs.BOM_UTF8 + text.encode(), text.encode("utf-16")):
        assert Mixture.load(file(content, "Upper.JSON")).weights == {name: 0.75, "no": 0.25}


def test_our_own_keys_are_read(file) -> None:
    own = file('{"weights": {"a": 1, "b": 3}, "average": {"a": 1, "b": 1}}')
    assert resolve_weights(own, {"a": 1, "b": 1}).weights == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (published({"Pile-CC": 1}), "weights says nothing of 'NIH ExPorter', 'Wikipedia"),
        (published(TRAIN | {"Pile-cc": 1}), "unknown domain 'Pile-cc': did you mean 'Pile-CC'"),
        (published(TRAIN | {"Pile-CC": -1}), r"weights\['Pile-CC'\]=-1 must be a finite"),
        (published(TRAIN | {"Pile-CC": float("nan")}), r"weights\['Pile-CC'\]=nan must be"),
        (published(TRAIN | {"Pile-CC": float("inf")}), r"weights\['Pile-CC'\]=inf must be"),
        (published(TRAIN | {"Pile-CC": "much"}), r"weights\['Pile-CC'\]='much' must be"),
        (published(dict.fromkeys(TRAIN, 0)), "weights are all 0"),
        (published({}), "weights is empty"),
        (published([1, 2]), r"\.json .*needs a map of domains at 'train_domain_weights'"),
        ('{"eval_domain_weights": {"a": 1}}', r"\.json .*needs a map of domains at 'weights'"),
        ('{"a": 1, "a": 3}', r"^\S+\.json has the key 'a' twice"),
        ('{"train_domain_weights": {"a": 1, "a": 3}}', r"^\S+\.json has the key 'a' twice"),
        ('{"a": 1', r"\.json is not a mixture file \(.*line 1 column 8"),
        ("[1, 2]", r"\.json .*needs a map of domains at 'weights'"),
        ("{}", r"\.json .*needs a map of domains at 'weights'"),
        ("", r"\.json is not a mixture file"),
        (b"\x80\x04\x95", r"\.json is not a mixture file"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_sentence(text, message, file) -> None:
    with pytest.raises(InputError, match=message) as caught:
        resolve_weights(file(text), SIZES)
    assert "\n" not in str(caught.value)
