"""The fine-tuning study: 101 tasks in six families. `python tests/benchmarks/sft.py`, 20 min.

A small network is pretrained on plain text once. For each seed a mixture of the families is learned
while it is fine-tuned, and then it is fine-tuned anew at the learned weights and at static ones.
Finished runs are kept in the folder, and so are only done once.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STATIC = ("uniform", "proportional", "temperature:2")
TINY = "published/sft_qwen2_0.5b_tiny.yaml"
PRETRAINING = {"steps": 3000, "block": 128}


def tandem(*arguments: object) -> None:
    """Runs a command in one thread; the networks are too small for more."""
    command = [sys.executable, "-m", "tandem_pl", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")


def run_stage(folder: Path, config: str, seed: int, options: list[object]) -> Path:
    """`fit`, unless it is already done; gives the run's folder."""
    run = folder / "version_0"
    if not (run / "checkpoints" / "last.ckpt").exists():
        seeds = ["--data.seed", seed, "--model.network.seed", seed]
        place = ["--trainer.logger.save_dir", folder.parent, "--trainer.logger.name", folder.name]
        bar = ["--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", 0]
        tandem("fit", "--config", CONFIGS / config, *seeds, *place, *bar, *options)
    return run


def test_losses(run: Path) -> dict[str, float]:
    """`test` of a finished run: domain -> loss."""
    if not (run / "test.csv").exists():
        tandem(
            "test",
            *("--config", run / "config.yaml"),
            *("--ckpt_path", run / "checkpoints" / "last.ckpt"),
        )
    with open(run / "test.csv", newline="") as file:
        return {
            row["domain"]: float(row["loss"])
            for row in csv.DictReader(file)
            if not row["domain"].startswith(("mean", "exp("))
        }


def pretrain(folder: Path, network: dict[str, Any], steps: int) -> Path:
    """Trains the network on plain text; gives the folder that it is exported to."""
    place = folder / "pretrained"
    if not (place / "config.json").exists():
        options = [
            *("--trainer.max_steps", steps),
            *("--model.network.model_type", network["model_type"]),
            *("--model.network.config", json.dumps(network["config"])),
            *("--data.preset", "abundant", "--data.weights", "proportional"),
            *("--data.block_size", PRETRAINING["block"]),
        ]
        run = run_stage(folder / "pretrain", "train.yaml", 0, options)
        tandem("export", run, "--network", place)
    return place


def final_config(folder: Path) -> Path:
    """The configuration with one network and given weights in place of learning them."""
    config = yaml.safe_load((CONFIGS / TINY).read_text())
    config["model"]["class_path"] = "tandem_pl.MixtureModule"
    del config["model"]["init_args"]["penalty"]
    config["trainer"]["callbacks"][0] = {"class_path": "tandem_pl.callbacks.FixedMixture"}
    path = folder / "final.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path.absolute()


def study(seeds: list[int], folder: Path, pretraining_steps: int, options: list[object]) -> None:
    """Pretrains, learns, fine-tunes, tests and prints."""
    folder.mkdir(parents=True, exist_ok=True)
    network = yaml.safe_load((CONFIGS / TINY).read_text())["model"]["init_args"]["network"][
        "init_args"
    ]
    if pretraining_steps:
        start = pretrain(folder, network, pretraining_steps)
        options = ["--model.network.pretrained", start.absolute(), *options]
    final = final_config(folder)

    def one_run(job: tuple[str, int]) -> dict[str, float]:
        name, seed = job
        if name == "tandem (proxy)":
            run = run_stage(folder / f"learn-{seed}", TINY, seed, options)
        else:
            learned = folder / f"learn-{seed}" / "version_0" / "mixture.yaml"
            weights = learned if name == "tandem" else name
            place = folder / f"{name.replace(':', '-')}-{seed}"
            run = run_stage(place, str(final), seed, [*options, "--data.weights", weights])
        return test_losses(run)

    results: dict[str, list[dict[str, float]]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for names in (("tandem (proxy)", *STATIC), ("tandem",)):  # learned before they are used
            jobs = [(name, seed) for name in names for seed in seeds]
            for (name, _), result in zip(jobs, pool.map(one_run, jobs), strict=True):
                results.setdefault(name, []).append(result)
    print(table(results, seeds))
    print("\n| mean test loss | " + " | ".join(results["tandem"][0]) + " |")
    print("|---" * (1 + len(results["tandem"][0])) + "|")
    for name, runs in results.items():
        means = [statistics.fmean(run[domain] for run in runs) for domain in runs[0]]
        print(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    mean = {
        name: statistics.fmean(statistics.fmean(run.values()) for run in runs)
        for name, runs in results.items()
    }
    for name in STATIC:
        print(f"tandem against {name}: {100 * (mean['tandem'] / mean[name] - 1):+.1f} %")
    print_mixtures(folder, seeds)


def print_mixtures(folder: Path, seeds: list[int]) -> None:
    """What was learned in each seed, and how often the first seed's runs saw each domain."""
    for seed in seeds:
        mixture = yaml.safe_load((folder / f"learn-{seed}/version_0/mixture.yaml").read_text())
        shares = ", ".join(f"{name} {share:.3f}" for name, share in mixture["average"].items())
        print(f"learned weights (average), seed {seed}: {shares}")
    for name in ("uniform", "tandem"):
        run = folder / f"{name}-{seeds[0]}" / "version_0"
        seen = yaml.safe_load((run / "mixture.yaml").read_text())["epochs"]
        print(f"epochs in the {name} run:", ", ".join(f"{n} {e:.1f}" for n, e in seen.items()))


def table(losses: dict[str, list[dict[str, float]]], seeds: list[int]) -> str:
    """Markdown: mean test loss a seed, mean and standard deviation, and perplexity."""
    lines = [
        "| weights | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean ± sd "
        "| vs uniform | mean of perplexities |",
        "|---" * (len(seeds) + 4) + "|",
    ]
    mean = {name: [statistics.fmean(run.values()) for run in runs] for name, runs in losses.items()}
    for name, values in sorted(mean.items(), key=lambda item: statistics.fmean(item[1])):
        gaps = [value - uniform for value, uniform in zip(values, mean["uniform"], strict=True)]
        perplexity = statistics.fmean(
            statistics.fmean(map(math.exp, run.values())) for run in losses[name]
        )
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        lines.append(
            f"| {name} | "
            + " | ".join(f"{value:.4f}" for value in values)
            + f" | {statistics.fmean(values):.4f} ± {spread:.4f} | {statistics.fmean(gaps):+.4f} "
            + f"| {perplexity:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs") / "study-sft")
    parser.add_argument("--pretraining-steps", type=int, default=PRETRAINING["steps"])
    known, rest = parser.parse_known_args()
    study(known.seeds, known.folder, known.pretraining_steps, list(rest))
