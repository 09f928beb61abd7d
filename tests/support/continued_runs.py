"""Tables of runs that continued from a checkpoint, whose D-CPT law is known."""

import numpy as np
import pandas as pd

TRUE = {"E": 1.2, "A": 0.5, "alpha": 0.35, "B": 0.15, "eta": 1.2, "beta": 0.4}
TRUE |= {"C": 0.6, "gamma": 0.5, "epsilon": 0.1}
GENERAL = TRUE | {"E": 1.9, "C": 0.45, "gamma": 0.4, "epsilon": 0.2}
SIZES, TOKENS = np.array([0.5e9, 1.8e9, 4e9]), np.array([0.5e9, 2e9, 5e9, 1e10])
SHARES = np.array([0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
UNITS = {"size": 1e9, "tokens": 5e8}


def dcpt(size, tokens, share, true=TRUE):
    """Return L(N, D, r) with N in billions and D in units of 0.5 billion."""
    data = true["B"] * share ** true["eta"] / (tokens / UNITS["tokens"]) ** true["beta"]
    rest = true["A"] / (size / UNITS["size"]) ** true["alpha"]
    return true["E"] + rest + data + true["C"] / (share + true["epsilon"]) ** true["gamma"]


def make_table(noise=0.0, seed=0, sizes=SIZES):
    """Return a row for each size, number of tokens and share, and the checkpoints' rows."""
    grid = np.meshgrid(sizes, TOKENS, SHARES, indexing="ij")
    size, tokens, share = (column.ravel() for column in grid)
    errors = noise * np.random.default_rng(seed).normal(size=(2, len(size)))
    rows = {"size": size, "tokens": tokens, "ratio": share}
    rows["domain_loss"] = dcpt(size, tokens, share) + errors[0]
    rows["general_loss"] = dcpt(size, tokens, 1 - share, GENERAL) + errors[1]
    first = {"size": sizes, "tokens": 0, "general_loss": dcpt(sizes, 1e10, 0.7, GENERAL)}
    return pd.concat([pd.DataFrame(first), pd.DataFrame(rows)], ignore_index=True)
