"""The study of images: few real digits and six made domains. `python tests/benchmarks/vision.py`.

For each seed a mixture of the domains is learned (`vision.yaml`), and then networks of that kind
are trained from scratch at the learned weights and at static ones (`vision_train.yaml`). A seed has
its own split of the real images, made domains, initialisation and order of samples, which all its
runs share. Finished runs are kept in the folder, and are not done again. Other options are those of
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

import pandas
import torch
import yaml
from record import Record, Row, finish, machine, plot
from torch.nn import functional as F
from torch.utils.data import default_collate

from tandem_pl.cli.lightning_cli import TandemCLI
from tandem_pl.files import write_atomically
from tandem_pl.modes import evaluating

NAME = "vision"
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEARN, TRAIN = CONFIGS / "vision.yaml", CONFIGS / "vision_train.yaml"
LEARNED, REAL_ONLY = "tandem", "real only"
REAL = "real"  # the domain whose test images count
QUICK_STEPS = 20


def test_result(cli: TandemCLI) -> dict[str, float]:
    """Return the share of right answers on real test images, and the mean loss in nats."""
    images = cli.datamodule.test_sets[REAL]
    samples = default_collate([images[number] for number in range(len(images))])
    with torch.no_grad(), evaluating(cli.model.network):
        logits = cli.model.network(samples["image"])
    right = (logits.argmax(dim=1) == samples["label"]).double().mean()
    return {"accuracy": float(right), "loss": float(F.cross_entropy(logits, samples["label"]))}


def run(folder: Path, config: Path, seed: int, options: Sequence[object]) -> dict[str, float]:
    """Fit and test, unless it is done with these options; return the test's result."""
    keys = ("--data.seed", "--data.split_seed", "--model.network.seed", "--model.seed")
    seeds = [item for key in keys for item in (key, seed)]
    place = ["--trainer.logger.save_dir", folder.parent, "--trainer.logger.name", folder.name]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", 0]
    arguments = [str(item) for item in (*seeds, *place, *quiet, *options)]
    asked = hashlib.blake2b(json.dumps([config.read_text(), arguments]).encode()).hexdigest()
    path = folder / "result.json"
    if path.exists():
        result = json.loads(path.read_text())
        if result.pop("asked") == asked:
            return result
    shutil.rmtree(folder, ignore_errors=True)  # it was stopped early, or had other options
    start = time.perf_counter()
    cli = TandemCLI(["fit", "--config", str(config), *arguments])
    if cli.trainer.global_step < cli.trainer.max_steps:
        raise SystemExit(f"{folder} was stopped at step {cli.trainer.global_step}; run it again.")
    result = test_result(cli) | {"seconds": time.perf_counter() - start}
    write_atomically(path, json.dumps(result | {"asked": asked}).encode())
    return result


def runs_of_seed(folder: Path, seed: int, options: Sequence[object]) -> list[Row]:
    """Return one row a network: weights, seed, accuracy, loss and seconds."""
    learn = folder / f"learn-{seed}"
    results = {f"{LEARNED} (proxy)": run(learn, LEARN, seed, options)}
    file = learn / "version_0" / "mixture.yaml"
    domains = yaml.safe_load(file.read_text())["average"]
    weights = {
        LEARNED: str(file),
        "uniform": "uniform",
        REAL_ONLY: json.dumps({name: float(name == REAL) for name in domains}),
        "proportional": "proportional",
    }
    for name, value in weights.items():
        place = folder / f"{name.replace(' ', '-')}-{seed}"
        results[name] = run(place, TRAIN, seed, ["--data.weights", value, *options])
    return [{"weights": name, "seed": seed, **result} for name, result in results.items()]


def learned_weights(folder: Path, seeds: Sequence[int]) -> pandas.DataFrame:
    """Return the learned weights (average), by domain and seed."""
    files = {seed: folder / f"learn-{seed}" / "version_0" / "mixture.yaml" for seed in seeds}
    read = {seed: yaml.safe_load(file.read_text())["average"] for seed, file in files.items()}
    return pandas.DataFrame(read).rename_axis("domain").rename_axis(columns="seed")


def table(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Return accuracy and loss over the seeds, and what the learned weights have more or less."""
    columns = {}
    for key in ("accuracy", "loss"):
        values = frame.pivot(index="seed", columns="weights", values=key)
        for name, part in (
            ("", values),
            (f", {LEARNED} - it", values.rsub(values[LEARNED], axis=0)),
        ):
            mean, deviation = (part.agg(how).map("{:.4f}".format) for how in ("mean", "std"))
            columns[key + name] = mean + " ± " + deviation
    return pandas.DataFrame(columns).sort_values("accuracy", ascending=False)


def goals(frame: pandas.DataFrame, learned: pandas.DataFrame) -> list[Row]:
    """Return what must stay below a limit: other weights' accuracies, and two learned weights."""
    accuracy = frame.groupby("weights")["accuracy"].mean()
    weight = learned.mean(axis=1)
    limits: list[tuple[str, float, float]] = [
        (f"accuracy of {name}, below {LEARNED}'s", accuracy[name], accuracy[LEARNED])
        for name in ("uniform", REAL_ONLY)
    ]
    limits.append(("weight of noise, below 0.02", weight["noise"], 0.02))
    share = 1 / len(weight)
    limits.append(("weight of label_noise, below its uniform share", weight["label_noise"], share))
    return [
        {
            "figure": name,
            "value": float(value),
            "limit": float(limit),
            "reached": bool(value < limit),
        }
        for name, value, limit in limits
    ]


def main(argv: Sequence[str] | None = None) -> Record:
    """Learn, train, test and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smallest sizes: does it work?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of a run; default: the configuration's")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "study-vision")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options, rest = parser.parse_known_args(argv)
    steps = QUICK_STEPS if options.quick else options.steps
    rest += ["--trainer.max_steps", str(steps)] if steps else []
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    options.machine = machine()
    rows: list[Row] = []
    for seed in options.seeds:
        for row in runs_of_seed(options.folder, seed, rest):
            print(json.dumps(row), flush=True)
            rows.append(row)
    frame = pandas.DataFrame(rows)
    learned = learned_weights(options.folder, options.seeds)
    print(f"\n{table(frame).to_string()}\n\nLearned weights:")
    print(learned.to_string(float_format="{:.3f}".format))
    rows += learned.stack().rename("learned_weight").reset_index().to_dict("records")
    plots = [
        plot("Test accuracy", "weights", "accuracy"),
        plot("Learned weights, mean over seeds", "domain", "learned_weight"),
    ]
    return finish(NAME, options, rows, goals(frame, learned), plots)


if __name__ == "__main__":
    main()
