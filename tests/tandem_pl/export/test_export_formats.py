"""Formats against the libraries that read them, where they are installed, else by their rules."""

import csv
import io
import itertools
import json
import shlex

import numpy as np
import pytest
import torch
import yaml

from tandem_pl.errors import InputError
from tandem_pl.export.formats import FORMATS, Blend, placeholder, without_zeros

WEIGHTS = {"web text": 0.5, "code": 0.3, "on": 0.15, 'Bücher, "old"': 0.05}
PATHS = {"web text": "s3://bucket/web", "code": "/data/code", "on": "d/on", 'Bücher, "old"': "b"}
SCHEDULE = [(0, WEIGHTS), (40, dict(zip(WEIGHTS, (0.25, 0.25, 0.5, 0.0), strict=True)))]
DRAWS = 100_000


def written(name, **changes):
    return FORMATS[name].write(Blend(WEIGHTS, PATHS, origin="a test")._replace(**changes))


def loaded(name, **changes):
    return yaml.safe_load(written(name, **changes))


def assert_shares(counts, label):
    """Each share within four standard errors of its weight."""
    counts, weights = np.asarray(counts), np.array(list(WEIGHTS.values()))
    shares = counts / counts.sum()
    print(f"{label}: {counts.sum()} drawn, shares {shares.round(4).tolist()}")
    error = np.sqrt(weights * (1 - weights) / counts.sum())
    assert (np.abs(shares - weights) <= 4 * error + 1e-12).all(), (shares, weights)


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_are_exact_and_comments_are_comments(name):
    text = written(name, weights={"a": 0.1 + 0.2, "b": 1 - (0.1 + 0.2)}, paths={"a": "x", "b": "y"})
    assert "0.30000000000000004" in text
    assert text.endswith("\n")
    if name not in ("megatron", "json", "csv"):
        comments = [line for line in text.splitlines() if line.startswith("#")]
        assert "shares of samples" in comments[1]
        assert isinstance(yaml.safe_load(text), dict)


def test_an_origin_cannot_break_out_of_its_comment():
    text = written("huggingface", origin="a\nprobabilities: [1]")
    assert yaml.safe_load(text)["domains"] == list(WEIGHTS)


def test_zeros_are_left_out_where_the_trainer_refuses_them():
    assert without_zeros({"a": 0.0, "b": 1.0}) == ({"b": 1.0}, ["a"])
    assert {name for name, row in FORMATS.items() if row.zeros} == {"levanter", "json", "csv"}


def test_huggingface_draws_the_shares():
    datasets = pytest.importorskip("datasets")
    blend = loaded("huggingface")
    assert blend["domains"] == list(WEIGHTS)
    parts = [datasets.Dataset.from_dict({"domain": [m] * 52_000}) for m in range(4)]
    mixed = datasets.interleave_datasets(parts, probabilities=blend["probabilities"], seed=0)
    drawn = np.asarray(mixed["domain"])[:DRAWS]
    assert len(drawn) == DRAWS
    assert_shares(np.bincount(drawn), "datasets")


def test_huggingface_refuses_the_zeros_that_are_left_out():
    datasets = pytest.importorskip("datasets")
    parts = [datasets.Dataset.from_dict({"domain": [m] * 9}) for m in range(2)]
    try:
        options = {"seed": 0, "stopping_strategy": "all_exhausted"}
        datasets.interleave_datasets(parts, probabilities=[1.0, 0.0], **options)
    except ValueError:
        return  # newer versions say so; older ones never end, which nobody can wait for
    pytest.fail("zeros could be kept")


def test_litdata_draws_the_shares():
    litdata = pytest.importorskip("litdata")

    class Endless(litdata.StreamingDataset):
        def __init__(self, domain):
            self.domain = domain

        def __len__(self):
            return 10

        def __iter__(self):
            return itertools.repeat(self.domain)

    blend = loaded("litdata")
    mixed = litdata.CombinedStreamingDataset(
        [Endless(m) for m in range(4)], weights=blend["weights"], iterate_over_all=False
    )
    assert_shares(np.bincount(list(itertools.islice(mixed, DRAWS))), "litdata")


def test_torchdata_draws_the_shares():
    nodes = pytest.importorskip("torchdata.nodes")
    weights = loaded("torchdata")["weights"]
    sources = {name: nodes.IterableWrapper([m] * 1000) for m, name in enumerate(WEIGHTS)}
    mixed = nodes.MultiNodeWeightedSampler(
        sources, weights, stop_criteria=nodes.StopCriteria.CYCLE_FOREVER
    )
    assert_shares(np.bincount(list(itertools.islice(mixed, DRAWS))), "torchdata")
    with pytest.raises(ValueError, match="non-zero"):
        nodes.MultiNodeWeightedSampler(sources, weights | {"code": 0.0})


def test_mosaicml_draws_the_shares(tmp_path):
    streaming = pytest.importorskip("streaming")
    paths = {}
    for m, name in enumerate(WEIGHTS):
        paths[name] = str(tmp_path / str(m))
        with streaming.MDSWriter(out=paths[name], columns={"domain": "int"}) as writer:
            for _ in range(50):
                writer.write({"domain": m})
    streams = loaded("mosaicml", paths=paths)["streams"]
    data = streaming.StreamingDataset(
        streams=[streaming.Stream(**stream) for stream in streams.values()],
        epoch_size=DRAWS,
        batch_size=1,
        shuffle=True,
    )
    chosen = [stream.choose for stream in data.streams]  # of an epoch, exactly
    assert sum(chosen) == DRAWS
    assert_shares(chosen, "mosaicml-streaming")
    some = itertools.islice(data, 4000)
    assert_shares(np.bincount([sample["domain"] for sample in some]), "mosaicml-streaming, drawn")


def test_mosaicml_tells_remote_from_local():
    streams = loaded("mosaicml")["streams"]
    assert streams["web text"] == {"remote": "s3://bucket/web", "proportion": 0.5}
    assert streams["code"] == {"local": "/data/code", "proportion": 0.3}


@pytest.fixture
def safe_globals():
    """Undo what megatron adds to the classes that `torch.load` takes, such as `PosixPath`."""
    before = torch.serialization.get_safe_globals()
    yield
    after = torch.serialization.get_safe_globals()
    kept = [each for each in after if each in before or each.__module__.startswith("torch")]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(kept)


def test_megatron_draws_the_shares(safe_globals):
    utils = pytest.importorskip("megatron.core.datasets.utils")
    helpers = pytest.importorskip("megatron.core.datasets.helpers")
    prefixes, weights = utils.get_blend_from_list(written("megatron").split())
    assert prefixes == list(PATHS.values())
    chosen, numbers = np.zeros(DRAWS, np.int16), np.zeros(DRAWS, np.int64)
    helpers.build_blending_indices(
        chosen, numbers, np.array(utils.normalize(weights)), len(weights), DRAWS, False
    )
    assert_shares(np.bincount(chosen), "megatron-core")
    assert utils.get_blend_from_list(loaded("nemo")["paths"]) == (prefixes, weights)


def test_megatron_is_one_line_that_a_shell_splits_into_pairs():
    text = written("megatron")
    assert text.count("\n") == 1
    words = shlex.split(text)
    assert [float(word) for word in words[::2]] == list(WEIGHTS.values())
    assert words[1::2] == list(PATHS.values())


def test_megatron_refuses_a_path_that_it_would_split():
    with pytest.raises(InputError, match=r"paths\.code='/my data' has a space"):
        written("megatron", paths=PATHS | {"code": "/my data"})


def test_nemo_is_a_zipped_list_of_strings():
    zipped = loaded("nemo")["paths"]
    assert all(isinstance(item, str) for item in zipped)
    assert [float(item) for item in zipped[::2]] == list(WEIGHTS.values())
    assert zipped[1::2] == list(PATHS.values())


def levanter_stages(train_weights, configs):
    """The rules of Levanter's LMMixtureDatasetConfig: names known, stages ascending from 0."""
    stages = [[0, train_weights]] if isinstance(train_weights, dict) else train_weights
    assert stages[0][0] == 0
    assert all(before[0] < after[0] for before, after in itertools.pairwise(stages))
    for _, weights in stages:
        assert set(weights) == set(configs)
        assert all(isinstance(w, float) and w >= 0 for w in weights.values())
        assert sum(weights.values()) > 0
    return [(step, weights) for step, weights in stages]


def test_levanter_takes_weights_and_schedules():
    names = list(WEIGHTS)
    assert levanter_stages(loaded("levanter")["data"]["train_weights"], names) == [(0, WEIGHTS)]
    schedule = loaded("levanter", schedule=SCHEDULE)["data"]["train_weights"]
    assert levanter_stages(schedule, names) == SCHEDULE


def test_json_and_csv_read_back_exactly():
    assert json.loads(written("json")) == WEIGHTS
    steps = json.loads(written("json", schedule=SCHEDULE))
    assert [(row["step"], row["weights"]) for row in steps] == SCHEDULE
    header, *rows = csv.reader(io.StringIO(written("csv")))
    assert header == ["domain", "weight"]
    assert {name: float(weight) for name, weight in rows} == WEIGHTS
    header, *rows = csv.reader(io.StringIO(written("csv", schedule=SCHEDULE)))
    assert header == ["step", *WEIGHTS]
    assert [[float(cell) for cell in row] for row in rows] == [
        [step, *weights.values()] for step, weights in SCHEDULE
    ]


def test_a_placeholder_has_no_space():
    assert placeholder("a  b\tc") == "PATH/TO/a_b_c"
