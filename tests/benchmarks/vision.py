"""The study of images: few real digits and six made domains. `python tests/benchmarks/vision.py`.

For each seed a mixture of the domains is learned (`vision.yaml`), and then networks of that kind
are trained anew at the learned weights and at static ones (`vision_train.yaml`). A seed has its own
split of the real images, made domains, initialisation and order of samples, which all its runs
share. Finished runs are kept in the folder, and so are only done once. Other options are those of
`tandem fit`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from common import Record, Row, finish, machine, plot
from torch.nn import functional as F
from torch.utils.data import StackDataset

from tandem_pl.cli.lightning_cli import TandemCLI
from tandem_pl.compare.statistics import Estimate, estimate
from tandem_pl.datamodules.demo.digit_images import SIZES
from tandem_pl.datamodules.demo.digits import REAL
from tandem_pl.files import write_atomically
from tandem_pl.modes import evaluating
from tandem_pl.plots import draw_mixture
from tandem_pl.run_files import read_trajectory

NAME = "vision"
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEARN, TRAIN = CONFIGS / "vision.yaml", CONFIGS / "vision_train.yaml"
LEARNED = "tandem"
STATIC: dict[str, Any] = {  # as `data.weights` takes them
    "uniform": "uniform",
    "real only": {REAL: 1.0, **dict.fromkeys(SIZES, 0.0)},
    "proportional": "proportional",
}
QUICK = {"max_steps": 20}


def test_result(network: torch.nn.Module, data: StackDataset) -> dict[str, float]:
    """Share of right answers and mean cross-entropy in nats, in eval mode."""
    with torch.no_grad(), evaluating(network):
        logits = network(data.datasets["image"])
    labels = torch.tensor(data.datasets["label"])
    right = (logits.argmax(dim=1) == labels).double().mean()
    return {"accuracy": float(right), "loss": float(F.cross_entropy(logits, labels))}


def run(folder: Path, config: Path, seed: int, options: Sequence[object]) -> dict[str, float]:
    """`fit` and test, unless it is done with these options; gives what the network achieves."""
    seeds = ("--data.seed", "--data.split_seed", "--model.network.seed", "--model.seed")
    place = ["--trainer.logger.save_dir", folder.parent, "--trainer.logger.name", folder.name]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", 0]
    more = [item for key in seeds for item in (key, seed)]
    arguments = [str(item) for item in (*more, *place, *quiet, *options)]
    asked = hashlib.blake2b(json.dumps([config.read_text(), arguments]).encode()).hexdigest()
    result = folder / "result.json"
    if result.exists():
        found = json.loads(result.read_text())
        if found.pop("asked") == asked:
            return found
    shutil.rmtree(folder, ignore_errors=True)  # stopped before its end, or of other options
    start = time.perf_counter()
    cli = TandemCLI(["fit", "--config", str(config), *arguments])
    if cli.trainer.global_step < cli.trainer.max_steps:
        raise SystemExit(f"{folder} was stopped at step {cli.trainer.global_step}; run it again.")
    found = test_result(cli.model.network, cli.datamodule.test_sets[REAL])
    found["seconds"] = time.perf_counter() - start
    write_atomically(result, json.dumps(found | {"asked": asked}).encode())
    return found


def runs_of_seed(folder: Path, seed: int, options: Sequence[object]) -> list[Row]:
    """One row a network: weights, seed, accuracy, loss and seconds."""
    learn = folder / f"learn-{seed}"
    results = {f"{LEARNED} (proxy)": run(learn, LEARN, seed, options)}
    weights = {LEARNED: str(learn / "version_0" / "mixture.yaml")} | STATIC
    for name, value in weights.items():
        place = folder / f"{name.replace(' ', '-')}-{seed}"
        given = value if isinstance(value, str) else json.dumps(value)
        results[name] = run(place, TRAIN, seed, ["--data.weights", given, *options])
    return [{"weights": name, "seed": seed, **found} for name, found in results.items()]


def learned_weights(folder: Path, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Domain -> the learned weight (average) in each seed."""
    files = [folder / f"learn-{seed}" / "version_0" / "mixture.yaml" for seed in seeds]
    mixtures = [yaml.safe_load(file.read_text())["average"] for file in files]
    return {name: [mixture[name] for mixture in mixtures] for name in mixtures[0]}


def draw(folder: Path, seeds: Sequence[int]) -> tuple[Path, list[Row]]:
    """Draws the weights over steps, the mean over the seeds; gives the file, and rows of it."""
    paths = [folder / f"learn-{seed}" / "version_0" / "trajectory.csv" for seed in seeds]
    tables = [read_trajectory(path) for path in paths]
    domains, steps, _ = tables[0]
    mean = np.mean([weights for _, _, weights in tables], axis=0)
    path = folder / "weights.png"
    draw_mixture(domains, steps, mean).savefig(path)
    keep = range(0, len(steps), max(len(steps) // 50, 1))
    return path, [
        {"step": steps[t], "domain": name, "weight": float(mean[t, m])}
        for t in keep
        for m, name in enumerate(domains)
    ]


def spread(numbers: Estimate, scale: float = 1.0, sign: str = "") -> str:
    """Mean and standard deviation."""
    return f"{scale * numbers.mean:{sign}.4g} ± {scale * np.nan_to_num(numbers.sd):.2g}"


def table(rows: Sequence[Row]) -> str:
    """Markdown: accuracy and loss over the seeds, best first, and what the learned weights gain."""

    def by_seed(name: str, key: str) -> pd.Series:
        return pd.Series({row["seed"]: row[key] for row in rows if row["weights"] == name})

    names = sorted(
        {row["weights"] for row in rows},
        key=lambda n: -by_seed(n, "accuracy").mean(),
    )
    lines = [
        "| weights | test accuracy, % | test loss, nats | tandem's accuracy above it, points "
        "| tandem's loss above it |",
        "|---" * 5 + "|",
    ]
    for name in names:
        accuracy, loss = by_seed(name, "accuracy"), by_seed(name, "loss")
        gain = [
            spread(estimate(by_seed(LEARNED, key) - other), scale, "+") if name != LEARNED else ""
            for key, other, scale in (("accuracy", accuracy, 100), ("loss", loss, 1))
        ]
        cells = [
            spread(estimate(accuracy), 100),
            spread(estimate(loss)),
            *gain,
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figures(rows: Sequence[Row], weights: dict[str, list[float]]) -> list[Row]:
    """What is aimed at: the static mixtures' mean accuracy and two weights stay below a limit."""

    def mean(name: str) -> float:
        return float(np.mean([row["accuracy"] for row in rows if row["weights"] == name]))

    aims = [
        (f"accuracy of {name}, below tandem's", mean(name), mean(LEARNED))
        for name in ("uniform", "real only")
    ]
    aims.append(("weight of noise, below 0.02", float(np.mean(weights["noise"])), 0.02))
    share = 1 / len(weights)
    noise = float(np.mean(weights["label_noise"]))
    aims.append(("weight of label_noise, below its uniform share", noise, share))
    return [
        {"figure": name, "value": value, "limit": limit, "reached": value < limit}
        for name, value, limit in aims
    ]


def main(argv: Sequence[str] | None = None) -> Record:
    """Learns, trains, tests and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smallest sizes: does it work?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--steps", type=int, default=None, help="of a run; default: the configuration's"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs") / "study-vision")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options, rest = parser.parse_known_args(argv)
    steps = QUICK["max_steps"] if options.quick else options.steps
    if steps:
        rest += ["--trainer.max_steps", str(steps)]
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    options.machine = machine()
    folder = options.folder
    rows = []
    for seed in options.seeds:
        for row in runs_of_seed(folder, seed, rest):
            print(json.dumps(row), flush=True)
            rows.append(row)
    weights = learned_weights(folder, options.seeds)
    print(f"\n{table(rows)}\n\n| domain | uniform | learned | by seed |\n|---|---|---|---|")
    for name, values in weights.items():
        each = ", ".join(f"{value:.3f}" for value in values)
        print(
            f"| {name} | {1 / len(weights):.3f} | {spread(estimate(pd.Series(values)))} | {each} |"
        )
    picture, curve = draw(folder, options.seeds)
    print(f"\nwritten to {picture}")
    shares = [
        {"domain": name, "seed": seed, "learned_weight": value}
        for name, values in weights.items()
        for seed, value in zip(options.seeds, values, strict=True)
    ]
    plots = [
        plot("Test accuracy", "weights", "accuracy"),
        plot("Learned weights, mean over seeds", "step", "weight", by=["domain"]),
    ]
    return finish(NAME, options, [*rows, *shares, *curve], figures(rows, weights), plots)


if __name__ == "__main__":
    main()
