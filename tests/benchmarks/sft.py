"""The fine-tuning study: 101 tasks in six families. `python tests/benchmarks/sft.py`, 20 min.

A small network is pretrained on plain text once. Then `tandem compare` learns a mixture of the
families for each seed while it fine-tunes that network, and fine-tunes it again at the learned
weights and at static ones. Finished runs are kept in the folder, and are not done again.
`--domains auto` gives training samples clusters in place of their families, and `--domains labels`
is the same study with the families. Both have R&B too, and TANDEM at its defaults, because the
settings of the study are for six domains, and test the network that the mixture was learned with.
Clusters have the target's shares of them too, as static weights and as TANDEM's start.
Give each a `--folder`; a copy of `pretrained/` from one to the other is used there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml
from commands import tandem

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TINY = CONFIGS / "published" / "sft_qwen2_0.5b_tiny.yaml"
BLOCK = 128  # tokens of a pretraining sample


def pretrain(folder: Path, network: dict, steps: int) -> Path:
    """Train the network on plain text; return the folder that it is exported to."""
    exported = folder / "pretrained"
    if not (exported / "config.json").exists():
        run = folder / "pretrain" / "version_0"
        tandem(
            "fit",
            *("--config", CONFIGS / "train.yaml", "--trainer.max_steps", steps),
            *("--trainer.logger.save_dir", folder, "--trainer.logger.name", "pretrain"),
            *("--model.network.model_type", network["model_type"]),
            *("--model.network.config", json.dumps(network["config"])),
            *("--data.preset", "abundant", "--data.weights", "proportional"),
            *("--data.block_size", BLOCK),
        )
        tandem("export", run, "--network", exported)
    return exported.absolute()


def main() -> None:
    """Pretrain and compare; other options are those of `tandem compare`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs") / "study-sft")
    parser.add_argument("--pretraining-steps", type=int, default=3000, help="0: start untrained")
    parser.add_argument("--steps", type=int, default=1070, help="batches of a run")
    parser.add_argument("--domains", help="labels, or clusters in their place: auto or a number")
    options, rest = parser.parse_known_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    base = yaml.safe_load(TINY.read_text())
    network = base["model"]["init_args"]["network"]["init_args"]
    if options.pretraining_steps:
        network["pretrained"] = str(pretrain(options.folder, network, options.pretraining_steps))
    learned = base["trainer"]["callbacks"][0]["init_args"]
    methods = {"uniform": {}, "proportional": {}, "temperature": {}, "tandem": learned}
    if options.domains:
        methods |= {"tandem": {}, "r_and_b": {}}
        base["model"]["init_args"]["objective"]["init_args"]["layout"] = "padded"  # as R&B needs
    if options.domains not in (None, "labels"):
        number = options.domains
        base["data"]["init_args"]["cluster"] = int(number) if number.isdigit() else number
        start = {"data": {"init_args": {"weights": "target"}}}
        methods |= {"target": {}, "tandem_from_target": {"method": "tandem", "overrides": start}}
    comparison = {
        "base": base,
        "overrides": {"trainer": {"max_steps": options.steps}},
        "methods": methods,
        "network": "online" if options.domains else "fresh",
        "folder": str(options.folder),
    }
    path = options.folder / "comparison.yaml"
    path.write_text(yaml.safe_dump(comparison, sort_keys=False))
    tandem("compare", "--config", path, *rest)


if __name__ == "__main__":
    main()
