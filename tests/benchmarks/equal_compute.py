"""Search and online learning at equal total compute, about 40 min on two cores.

Every row may cost two plain runs of the suite's problems. Uniform and temperature sampling train
twice as long; TANDEM learns while it trains, for as many batches as that pays for; the search
spends one on 24 small proxies, fits a law to their losses on the target data, and trains at its
proposal with the other. Finished runs are kept, and are not done again. Other options are those of
`tandem compare`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from commands import tandem

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PROXIES = 24
SMALL = {"hidden_size": 48, "intermediate_size": 192, "num_attention_heads": 2}
SIZE = 0.3  # parameters of such a network, over those of the suite's
BUDGET = 2  # plain runs


def search(problem: dict[str, Any], folder: Path, seed: int, steps: int) -> None:
    """Train a swarm that costs one plain run of `steps` batches, and write its proposal."""
    overrides = {
        "trainer": {"max_steps": max(round(steps / PROXIES / SIZE), 1)},
        "model": {"network": {"config": SMALL}},
    }
    swarm = {
        "base": problem,
        "overrides": overrides,
        "proxies": PROXIES,
        "prior": "uniform",
        "seed": seed,
        "folder": str(folder),
    }
    if not (folder / "proposal.yaml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        path = folder.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(swarm, sort_keys=False))
        tandem("search", "run", path)
        tandem("search", "fit", folder / "runs.csv", "--metric", "metric/loss", "--out", folder)


def main() -> None:
    """Search for each problem and seed, then compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs") / "equal_compute")
    parser.add_argument("--problems", nargs="+", default=["restricted", "distractors"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1200, help="batches of a plain run")
    parser.add_argument("--cost", type=float, default=1.92, help="of TANDEM, in plain runs")
    options, rest = parser.parse_known_args()
    paths = []
    for name in options.problems:
        content = yaml.safe_load((CONFIGS / "suite" / f"{name}.yaml").read_text())
        content["overrides"]["trainer"]["max_steps"] = options.steps
        found = options.folder / "search" / name
        base = merged(content)
        for seed in options.seeds:
            search(base, found / f"seed-{seed}", seed, options.steps)
        longer = {"steps": BUDGET * options.steps}
        content |= {
            "base": base,
            "overrides": {},
            "methods": {
                "uniform": longer,
                "temperature": longer,
                "tandem": {"steps": round(BUDGET * options.steps / options.cost)},
                "search": {
                    "class_path": "tandem_pl.callbacks.FixedMixture",
                    "weights": str(found / "seed-{seed}" / "proposal.yaml"),
                    "spent": 1,
                },
            },
            "seeds": options.seeds,
            "folder": str(options.folder / name),
        }
        paths.append(options.folder / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(content, sort_keys=False))
    tandem("compare", "--config", *paths, *rest)


def merged(content: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a plain run of a problem."""
    from tandem_pl.compare.config import merge, read_base

    return dict(merge(read_base(content["base"], CONFIGS / "suite"), content["overrides"]))


if __name__ == "__main__":
    main()
