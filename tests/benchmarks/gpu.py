"""Tokens a second and model FLOPs utilisation at Pythia-160M's shape on a GPU, in bf16, compiled.

`python tests/benchmarks/gpu.py` alternates plain Lightning and TANDEM, and prints their ratio
beside the bound (E + 3K - 1 + 2/3 V) / (E + K). A step takes 6 N FLOPs a token, N without the
input embedding, which multiplies nothing, and 6 L T d for causal attention over T tokens.
`--device cpu --tiny` tries the script without a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from common import random_data
from overhead import Contest, compare
from record import Record, arguments, finish, parse, plot, run_arguments, show
from torch import nn

NAME = "gpu"
#: Dense bf16 FLOPs a second, by a part of the device's name.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


def flops_a_token(network: nn.Module, block: int) -> float:
    """Return the FLOPs of forward and backward.

    >>> from torch import nn
    >>> net = nn.Module()
    >>> net.embedding, net.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    >>> net.get_input_embeddings = lambda: net.embedding
    >>> net.config = type("Config", (), {"num_hidden_layers": 0, "hidden_size": 4})
    >>> flops_a_token(net, 8)
    120.0
    """
    config: Any = network.config
    embedding = network.get_input_embeddings().weight.numel()
    parameters = sum(p.numel() for p in network.parameters()) - embedding
    return 6.0 * parameters + 6.0 * config.num_hidden_layers * block * config.hidden_size


def peak_flops(device: str) -> float | None:
    """Return the device's, or None if it is not in the table."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


def main(argv: Sequence[str] | None = None) -> Record:
    """Compare at each length of the free phase."""
    parser = arguments(__doc__, repeats=3, device="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest network and blocks")
    run_arguments(parser, [15, 45, 95], size="160m", block=512, batch=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on GPUs")
    parser.add_argument("--episodes", type=int, default=2, help="that are timed, of each run")
    parser.add_argument("--peak", type=float, help="FLOPs a second, for devices not in the table")
    tiny = {"size": "tiny", "block": 16, "batch": 4, "workers": 0}
    few = {"free": [2], "probe": 1, "measure": 1, "episodes": 1}
    if parser.parse_known_args(argv)[0].tiny:
        parser.set_defaults(repeats=1, **tiny, **few)
    options = parse(parser, argv, **few)
    if options.compile is None:
        options.compile = options.device == "cuda"

    needed = options.batch * (max(options.free) + options.probe)  # in an episode of plain training
    data = random_data(7, options.block, options.batch, size=needed, num_workers=options.workers)
    contest = Contest(
        data, options.size, options.device, options.compile, precision=options.precision
    )
    tokens = options.batch * options.block
    flops = flops_a_token(contest.network(), options.block)
    peak = options.peak or peak_flops(options.machine["device"])
    rows = []
    for free in options.free:
        episode = free + options.probe
        steps = options.episodes * episode
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        row = compare(contest, free, options.probe, options.measure, steps, options.repeats)
        plain = tokens / (1e-3 * row["plain_ms"])
        row |= {"plain_tokens_a_second": plain, "tandem_tokens_a_second": plain / row["ratio"]}
        if peak:  # TANDEM does `bound` times the work
            row["plain_utilisation"] = flops * plain / peak
            row["tandem_utilisation"] = row["plain_utilisation"] / row["ratio_over_bound"]
        if options.device == "cuda":
            row["largest_peak_GB"] = torch.cuda.max_memory_allocated() / 1e9
        rows.append(show(row))
    plots = [
        plot("TANDEM over plain Lightning", "E", "ratio", "bound"),
        plot("Tokens a second", "E", "plain_tokens_a_second", "tandem_tokens_a_second"),
    ]
    return finish(NAME, options, rows, [], plots)


if __name__ == "__main__":
    main()
