"""Two stages by the commands a user types: learn a mixture, then train fresh networks and test."""

from __future__ import annotations

import argparse
import csv
import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STATIC = ("uniform", "proportional", "temperature:2")


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


def study(preset: str, config: str, steps: int, seeds: list[int], folder: Path) -> None:
    """Learns, trains, tests and prints."""
    common: list[object] = ["--trainer.max_steps", steps]
    losses: dict[str, list[dict[str, float]]] = {}

    def one_seed(seed: int) -> dict[str, dict[str, float]]:
        learned = run_stage(folder / f"learn-{seed}", config, seed, common)
        runs = {"tandem (proxy)": learned}
        choices = {"tandem": learned / "mixture.yaml"} | dict(zip(STATIC, STATIC, strict=True))
        for name, weights in choices.items():
            options = [*common, "--data.weights", weights, "--data.preset", preset]
            place = folder / f"{name.replace(':', '-')}-{seed}"
            runs[name] = run_stage(place, "train.yaml", seed, options)
        return {name: test_losses(run) for name, run in runs.items()}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for results in pool.map(one_seed, seeds):
            for name, result in results.items():
                losses.setdefault(name, []).append(result)
    print(table(losses, seeds))
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


def main(preset: str, config: str, steps: int) -> None:
    """Command line of a study."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--folder", type=Path, default=Path("runs") / f"study-{preset}")
    options = parser.parse_args()
    study(preset, config, options.steps, options.seeds, options.folder)
