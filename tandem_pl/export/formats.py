"""A mixture in the formats of other trainers: a function for each, and the table `FORMATS`.

A weight here is a share of samples of equal length (blocks of tokens): of 1000 samples, about
`1000 * weight` come from the domain. The trainers mean the same by theirs; if their samples are
documents of unequal length, shares of tokens will differ from these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tandem_pl.errors import InputError
from tandem_pl.files import csv_bytes
from tandem_pl.yaml_files import dump_yaml

Schedule = list[tuple[int, dict[str, float]]]  # (first step, weights), ascending


class Blend(NamedTuple):
    """What a format writes.

    `weights` are shares by domain that sum to 1; `paths` has a path for each domain; `schedule` is
    the trajectory, for the formats that can hold one; `origin` says in a few words where the
    weights come from.
    """

    weights: dict[str, float]
    paths: dict[str, str]
    schedule: Schedule | None = None
    origin: str = "a mixture"


class Format(NamedTuple):
    """A format: `write` returns its text, `about` is its line in `tandem export --help`.

    `zeros`: whether the trainer takes a weight of 0 (else the domain is left out); `paths`:
    whether the text names data; `schedule`: whether it can hold a trajectory.
    """

    write: Callable[[Blend], str]
    about: str
    zeros: bool = False
    paths: bool = False
    schedule: bool = False


def placeholder(domain: str) -> str:
    """Return the path to write for a domain without one.

    >>> placeholder("web text")
    'PATH/TO/web_text'
    """
    return "PATH/TO/" + "_".join(domain.split())


def without_zeros(weights: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """Return the weights above 0, and the domains whose weight is 0.

    >>> without_zeros({"code": 1.0, "books": 0.0})
    ({'code': 1.0}, ['books'])
    """
    kept = {name: weight for name, weight in weights.items() if weight > 0}
    return kept, [name for name in weights if name not in kept]


def _huggingface(blend: Blend) -> str:
    return _yaml(
        blend,
        "datasets.interleave_datasets([data[name] for name in domains],",
        "    probabilities=probabilities, seed=0, stopping_strategy='all_exhausted')",
        "which starts a domain again when it is through, until all were seen once.",
        domains=list(blend.weights),
        probabilities=list(blend.weights.values()),
    )


def _mosaicml(blend: Blend) -> str:
    streams = {
        name: {
            "remote" if "://" in blend.paths[name] else "local": blend.paths[name],
            "proportion": weight,
        }
        for name, weight in blend.weights.items()
    }
    return _yaml(
        blend,
        "StreamingDataset(streams=[Stream(**stream) for stream in streams.values()],",
        "    shuffle=True, batch_size=...); without shuffle, streams come one after another.",
        streams=streams,
    )


def _litdata(blend: Blend) -> str:
    return _yaml(
        blend,
        "CombinedStreamingDataset([data[name] for name in domains], weights=weights,",
        "    iterate_over_all=False), which ends when the first domain is through.",
        domains=list(blend.weights),
        weights=list(blend.weights.values()),
    )


def _megatron(blend: Blend) -> str:
    for name, path in blend.paths.items():
        if name in blend.weights and len(path.split()) != 1:
            raise InputError(
                f"paths.{name}={path!r} has a space, and Megatron splits its blend at spaces: "
                "give a path without one, for example by a link."
            )
    pairs = (f"{weight!r} {blend.paths[name]}" for name, weight in blend.weights.items())
    return " ".join(pairs) + "\n"


def _nemo(blend: Blend) -> str:
    pairs = ([repr(weight), blend.paths[name]] for name, weight in blend.weights.items())
    return _yaml(
        blend,
        "PreTrainingDataModule(paths=paths); in NeMo 1 the same list is model.data.data_prefix.",
        paths=[item for pair in pairs for item in pair],
    )


def _levanter(blend: Blend) -> str:
    weights: Any = blend.weights
    notes = [
        "Every name must be one of data.configs (data.components); weights are rounded to whole",
        "samples in each mixture_block_size of them (2048 unless set).",
    ]
    if blend.schedule is not None:
        weights = [[step, row] for step, row in blend.schedule]
        notes.append("Steps are batches of the proxy's run: scale them to the length of yours.")
    return _yaml(blend, *notes, data={"train_weights": weights})


def _torchdata(blend: Blend) -> str:
    return _yaml(
        blend,
        "MultiNodeWeightedSampler({name: nodes[name] for name in weights}, weights,",
        "    stop_criteria=StopCriteria.CYCLE_FOREVER)",
        weights=blend.weights,
    )


def _json(blend: Blend) -> str:
    content: Any = blend.weights
    if blend.schedule is not None:
        content = [{"step": step, "weights": row} for step, row in blend.schedule]
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _csv(blend: Blend) -> str:
    if blend.schedule is None:
        return csv_bytes(["domain", "weight"], blend.weights.items()).decode()
    rows = ([step, *row.values()] for step, row in blend.schedule)
    return csv_bytes(["step", *blend.weights], rows).decode()


FORMATS = {
    "huggingface": Format(_huggingface, "datasets.interleave_datasets probabilities"),
    "mosaicml": Format(_mosaicml, "MosaicML Streaming streams", paths=True),
    "litdata": Format(_litdata, "litdata CombinedStreamingDataset weights"),
    "megatron": Format(_megatron, "Megatron-LM --data-path $(...)", paths=True),
    "nemo": Format(_nemo, "NeMo PreTrainingDataModule paths", paths=True),
    "levanter": Format(_levanter, "Levanter data.train_weights", zeros=True, schedule=True),
    "torchdata": Format(_torchdata, "torchdata MultiNodeWeightedSampler weights"),
    "json": Format(_json, "a map of domain to weight", zeros=True, schedule=True),
    "csv": Format(_csv, "a table of domain and weight", zeros=True, schedule=True),
}


def _yaml(blend: Blend, *notes: str, **content: Any) -> str:
    """Return YAML under comments that say what the numbers are and how to use them."""
    origin = " ".join(blend.origin.split())  # a comment is one line
    comments = [f"From {origin}.", "Weights are shares of samples of equal length.", *notes]
    return "".join(f"# {line}\n" for line in comments) + dump_yaml(content, width=100)
