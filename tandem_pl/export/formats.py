"""A mixture in the words of other trainers: one function a format, and the table `FORMATS`.

A weight here is a share of samples of equal length (blocks of tokens): of 1000 samples, about
`1000 * weight` come from the domain. All formats below but the plain ones mean the same by theirs;
where their samples are documents of unequal length, shares of tokens will differ from these.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tandem_pl.errors import InputError
from tandem_pl.yaml_files import dump_yaml

Schedule = list[tuple[int, dict[str, float]]]  # (first step, weights), ascending


class Blend(NamedTuple):
    """What a format writes.

    `weights` are shares by domain that sum to 1; `paths` has a place for each domain; `schedule`
    holds the trajectory where it was asked for, and then only some formats can be used; `origin`
    says in a few words where the weights come from.
    """

    weights: dict[str, float]
    paths: dict[str, str]
    schedule: Schedule | None = None
    origin: str = "a mixture"


class Format(NamedTuple):
    """A row of the table.

    `zeros`: whether the trainer takes a weight of 0 (else the domain is left out); `paths`:
    whether the text names data; `schedule`: whether it can hold a trajectory.
    """

    write: Callable[[Blend], str]
    about: str
    suffix: str
    zeros: bool = False
    paths: bool = False
    schedule: bool = False


def placeholder(domain: str) -> str:
    """The path to write where none was given.

    >>> placeholder("web text")
    'PATH/TO/web_text'
    """
    return "PATH/TO/" + "_".join(domain.split())


def without_zeros(weights: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """Weights above 0, and the domains that had none.

    >>> without_zeros({"code": 1.0, "books": 0.0})
    ({'code': 1.0}, ['books'])
    """
    kept = {name: weight for name, weight in weights.items() if weight > 0}
    return kept, [name for name in weights if name not in kept]


def to_huggingface(blend: Blend) -> str:
    """Names and probabilities for `datasets.interleave_datasets`."""
    return _yaml(
        blend,
        "datasets.interleave_datasets([data[name] for name in domains],",
        "    probabilities=probabilities, seed=0, stopping_strategy='all_exhausted')",
        "which starts a domain again when it is through, until all were seen once.",
        domains=list(blend.weights),
        probabilities=list(blend.weights.values()),
    )


def to_mosaicml(blend: Blend) -> str:
    """Streams for `streaming.StreamingDataset`, as LLM Foundry's `dataset.streams`."""
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


def to_litdata(blend: Blend) -> str:
    """Weights for `litdata.CombinedStreamingDataset`."""
    return _yaml(
        blend,
        "CombinedStreamingDataset([data[name] for name in domains], weights=weights,",
        "    iterate_over_all=False), which ends when the first domain is through.",
        domains=list(blend.weights),
        weights=list(blend.weights.values()),
    )


def to_megatron(blend: Blend) -> str:
    """Weights and prefixes for Megatron-LM's `--data-path`, or a file for `--data-args-path`.

    Raises:
        InputError: a path has a space, where Megatron splits.
    """
    for name, path in blend.paths.items():
        if name in blend.weights and len(path.split()) != 1:
            raise InputError(
                f"paths.{name}={path!r} has a space, and Megatron splits its blend at spaces: "
                "give a path without one, for example by a link."
            )
    pairs = (f"{weight!r} {blend.paths[name]}" for name, weight in blend.weights.items())
    return " ".join(pairs) + "\n"


def to_nemo(blend: Blend) -> str:
    """Weights and prefixes for NeMo's `PreTrainingDataModule(paths=...)`."""
    pairs = ([repr(weight), blend.paths[name]] for name, weight in blend.weights.items())
    return _yaml(
        blend,
        "PreTrainingDataModule(paths=paths); in NeMo 1 the same list is model.data.data_prefix.",
        paths=[item for pair in pairs for item in pair],
    )


def to_levanter(blend: Blend) -> str:
    """`data.train_weights` of Levanter's configuration; a trajectory becomes its schedule."""
    weights: Any = blend.weights
    notes = [
        "Every name must be one of data.configs (data.components); weights are rounded to whole",
        "samples in each mixture_block_size of them (2048 unless set).",
    ]
    if blend.schedule is not None:
        weights = [[step, row] for step, row in blend.schedule]
        notes.append("Steps are batches of the proxy's run: scale them to the length of yours.")
    return _yaml(blend, *notes, data={"train_weights": weights})


def to_torchdata(blend: Blend) -> str:
    """Weights for `torchdata.nodes.MultiNodeWeightedSampler`."""
    return _yaml(
        blend,
        "MultiNodeWeightedSampler({name: nodes[name] for name in weights}, weights,",
        "    stop_criteria=StopCriteria.CYCLE_FOREVER)",
        weights=blend.weights,
    )


def to_json(blend: Blend) -> str:
    """A JSON map of domain to weight; a trajectory is a list of {"step", "weights"}."""
    content: Any = blend.weights
    if blend.schedule is not None:
        content = [{"step": step, "weights": row} for step, row in blend.schedule]
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def to_csv(blend: Blend) -> str:
    """CSV: `domain,weight`; a trajectory has a column `step` and one for each domain."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if blend.schedule is None:
        writer.writerow(["domain", "weight"])
        writer.writerows(blend.weights.items())
    else:
        writer.writerow(["step", *blend.weights])
        writer.writerows([step, *row.values()] for step, row in blend.schedule)
    return text.getvalue()


FORMATS = {
    "huggingface": Format(to_huggingface, "datasets.interleave_datasets probabilities", ".yaml"),
    "mosaicml": Format(to_mosaicml, "MosaicML Streaming streams", ".yaml", paths=True),
    "litdata": Format(to_litdata, "litdata CombinedStreamingDataset weights", ".yaml"),
    "megatron": Format(to_megatron, "Megatron-LM --data-path $(...)", ".txt", paths=True),
    "nemo": Format(to_nemo, "NeMo PreTrainingDataModule paths", ".yaml", paths=True),
    "levanter": Format(
        to_levanter, "Levanter data.train_weights", ".yaml", zeros=True, schedule=True
    ),
    "torchdata": Format(to_torchdata, "torchdata MultiNodeWeightedSampler weights", ".yaml"),
    "json": Format(to_json, "a map of domain to weight", ".json", zeros=True, schedule=True),
    "csv": Format(to_csv, "a table of domain and weight", ".csv", zeros=True, schedule=True),
}


def _yaml(blend: Blend, *notes: str, **content: Any) -> str:
    """YAML under comments that say what the numbers are and where they go."""
    origin = " ".join(blend.origin.split())  # a comment is one line
    comments = [f"From {origin}.", "Weights are shares of samples of equal length.", *notes]
    return "".join(f"# {line}\n" for line in comments) + dump_yaml(content, width=100)
