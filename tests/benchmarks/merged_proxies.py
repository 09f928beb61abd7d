"""Do merged networks, and MixMin, rank mixtures of the environment corpus as real runs do?

A seed network is trained on equal shares; then one branch a domain, and one run for each of six
mixtures, continue from it for equally many steps. Prints the target loss of each mixture by a real
run, by the average of branches and by the mixture of the branches' likelihoods, and the rank
correlations.

    python tests/benchmarks/merged_proxies.py --seed_steps 1500 --steps 300
"""

import argparse
import time
from functools import partial

import numpy as np
import torch
from lightning.pytorch import Trainer
from scipy.stats import spearmanr

from tandem_pl import MixtureModule
from tandem_pl.callbacks import FixedMixture
from tandem_pl.datamodules import EnvironmentCorpus
from tandem_pl.networks import causal_language_model
from tandem_pl.objectives import CausalLanguageModeling
from tandem_pl.search import fit_experts
from tandem_pl.search.merging import merged_runs

CONFIG = {"vocab_size": 257, "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG |= {"intermediate_size": 384, "max_position_embeddings": 64}


def train(weights, steps, learning_rate, start=None, seed=0):
    """Return the state of a network that trained on a mixture, and its data module."""
    torch.manual_seed(0)
    network = causal_language_model("gpt_neox", config=CONFIG)
    if start is not None:
        network.load_state_dict(start)
    data = EnvironmentCorpus(
        preset="restricted",
        block_size=64,
        batch_size=16,
        weights=weights,
        epoch_batches=steps,
        seed=seed,
    )
    optimizer = partial(torch.optim.AdamW, lr=learning_rate, weight_decay=0.01)
    module = MixtureModule(network, CausalLanguageModeling(), optimizer, gradient_clip_val=1.0)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        callbacks=[FixedMixture()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir="/tmp/merged_proxies",
    )
    trainer.fit(module, data)
    return {key: value.clone() for key, value in network.state_dict().items()}, data


@torch.inference_mode()
def target_losses(network, data, samples):
    """Return the losses [n] of the first `samples` of each target domain."""
    network.eval()
    losses, objective = [], CausalLanguageModeling()
    for batch in data.evaluation_loader(data.target_sets):
        losses.append((batch.domains, objective(network, batch.samples)))
    domains, values = (torch.cat(part).numpy() for part in zip(*losses, strict=True))
    rows = [np.flatnonzero(domains == m)[:samples] for m in np.unique(domains)]
    return values[np.concatenate(rows)].astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed_steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--samples", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    seed, data = train("uniform", given.seed_steps, 2e-3)
    data.eval_batch_size = 64
    domains = data.domain_names("fit")
    size = len(domains)
    branches = {}
    for name in domains:
        weights = dict.fromkeys(domains, 0.0) | {name: 1.0}
        branches[name] = train(weights, given.steps, given.rate, seed)[0]
    mixtures = [np.full(size, 1 / size)]
    mixtures += list(np.random.default_rng(0).dirichlet(np.full(size, 0.5), 5))
    network = causal_language_model("gpt_neox", config=CONFIG)
    experts = []
    for state in branches.values():
        network.load_state_dict(state)
        experts.append(target_losses(network, data, given.samples))
    law = fit_experts(-np.stack(experts, axis=1), domains)
    merged = merged_runs(
        network,
        branches,
        mixtures,
        lambda n: {"loss": target_losses(n, data, given.samples).mean()},
    )
    real = []
    for mixture in mixtures:
        weights = dict(zip(domains, mixture.tolist(), strict=True))
        network.load_state_dict(train(weights, given.steps, given.rate, seed)[0])
        real.append(target_losses(network, data, given.samples).mean())
    predicted = {"merged": merged.metrics["loss"], "mixmin": law.predict(mixtures)}
    print("\nmixture     real   merged   mixmin")
    for number, loss in enumerate(real):
        guesses = "  ".join(f"{values[number]:.4f}" for values in predicted.values())
        print(f"{number:7}  {loss:.4f}   {guesses}")
    for name, values in predicted.items():
        print(f"Spearman of {name}: {spearmanr(values, real).statistic:.3f}")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
