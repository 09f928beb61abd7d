"""What laws and Bayesian optimisation do on the runs that RegMix published (arXiv 2407.01492).

FOLDER has the files of its repository sail-sg/regmix as they are: train_mixture_1m.csv and
train_pile_loss_1m.csv (512 runs), and test_mixture_SIZE.csv and test_pile_loss_SIZE.csv of each
size. Test runs are seen by no fit.

    python tests/benchmarks/regmix.py FOLDER
    python tests/benchmarks/regmix.py FOLDER --runs 64 --laws log_linear gaussian_process
    python tests/benchmarks/regmix.py FOLDER --seeds 20 --laws

Prints Spearman's rank correlation of predictions and losses for each of 13 targets and size. With
`--seeds`, prints after how many of the 256 test mixtures one of the best 1 % is reached on TARGET,
by Bayesian optimisation from five random mixtures, and in a random order.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from tandem_pl.search import fit_law, read_runs
from tandem_pl.search.swarm.bayesian import choose_next

LAWS = ("linear", "log_linear", "exponential", "lightgbm", "gaussian_process")
TARGET = "metric/the_pile_pile_cc_val_loss"
START, MOST = 5, 60  # random mixtures, and runs after which a search ends


def read(folder, part, size):
    return read_runs(folder / f"{part}_mixture_{size}.csv", folder / f"{part}_pile_loss_{size}.csv")


def print_ranks(folder, laws, sizes, number):
    """Print a row of rank correlations for each target, and their means."""
    trained = read(folder, "train", "1m").take(np.arange(number))
    tests = [read(folder, "test", size) for size in sizes]
    print(f"{len(trained)} runs; Spearman at {' / '.join(sizes)}")
    width = max(len(name) for name in trained.metrics)
    print("".ljust(width), *(law.rjust(7 * len(sizes) + 4) for law in laws))
    found = []
    for name in trained.metrics:
        row = []
        for law in laws:
            fitted = fit_law(law, trained, name, seed=0)
            predictions = [fitted.predict(test.weights) for test in tests]
            values = [test.values(name) for test in tests]
            pairs = zip(predictions, values, strict=True)
            row.append([spearmanr(*pair).statistic for pair in pairs])
        found.append(row)
        print(name.ljust(width), *map(_cell, row), flush=True)
    print("mean".ljust(width), *map(_cell, np.mean(found, axis=0)))


def _cell(ranks):
    return " / ".join(f"{rank:.4f}" for rank in ranks).rjust(7 * len(ranks) + 4)


def print_searches(runs, target, seeds):
    """Print the evaluations that each seed needs, and the medians."""
    values = runs.values(target)
    best = set(np.argsort(values)[: max(1, len(values) // 100)].tolist())
    counts = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(values)).tolist()
        at_random = next(n for n, place in enumerate(order, 1) if place in best)
        seen = order[:START]
        while not best & set(seen) and len(seen) < MOST:
            left = [place for place in range(len(values)) if place not in seen]
            known = runs.weights[seen], values[seen]
            seen.append(left[choose_next(*known, runs.weights[left], 1, seed)[0]])
        reached = [n for n, place in enumerate(seen, 1) if place in best]
        counts.append((reached[0] if reached else MOST, at_random))
        print(f"seed {seed}: {counts[-1][0]} runs, at random {counts[-1][1]}", flush=True)
    print(f"medians to the best {len(best)} of {len(values)}:", *np.median(counts, axis=0))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--laws", nargs="*", default=LAWS)
    parser.add_argument("--sizes", nargs="+", default=("1m", "60m"))
    parser.add_argument("--runs", type=int, default=512)
    parser.add_argument("--target", default=TARGET)
    parser.add_argument("--seeds", type=int, default=0)
    given = parser.parse_args(argv)
    if given.laws:
        print_ranks(given.folder, given.laws, given.sizes, given.runs)
    if given.seeds:
        print_searches(read(given.folder, "test", given.sizes[0]), given.target, given.seeds)


if __name__ == "__main__":
    main()
