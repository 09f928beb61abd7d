"""Tokens a second, utilisation and memory at Pythia's shapes on a GPU, in bf16, compiled.

`python tests/benchmarks/gpu.py` alternates, on the same network and batches,

- bare_whole: a PyTorch loop that computes all logits at once, as one would write it;
- bare: the same loop with the losses of `CausalLanguageModeling`;
- litgpt: the same loop with litgpt's network of that shape and its loss, if it is installed;
- plain: Lightning with the losses of `CausalLanguageModeling`;
- tandem: `TandemModule`, for each length E of the free phase, beside the bound
  (E + 3K - 1 + 2/3 V) / (E + K) on its ratio to plain;
- joined: the same with `join_probe`.

A step takes 6 N FLOPs a token, N without the input embedding, which multiplies nothing, and
6 L T d for causal attention over T tokens. `--profile` prints the kernels that take 95 % of a bare
step, from whole logits and from chunks. `--device cpu --tiny` tries the script without a GPU.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import chain, product
from typing import Any

import torch
from common import SIZES, adamw, alternate, bound, random_data, wait
from overhead import Contest, next_token_loss
from record import Record, Row, arguments, finish, parse, plot, run_arguments, show
from torch import Tensor, nn

from tandem_pl.objectives import CausalLanguageModeling

NAME = "gpu"
#: Dense bf16 FLOPs a second, by a part of the device's name.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
OBJECTIVE = CausalLanguageModeling()


def chunked_loss(network: nn.Module, samples: Mapping[str, Tensor]) -> Tensor:
    """Return the mean over a batch."""
    return OBJECTIVE(network, samples).mean()


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


def litgpt_loss(network: nn.Module, samples: Mapping[str, Tensor]) -> Tensor:
    """Return the loss of litgpt's own training step."""
    from litgpt.utils import chunked_cross_entropy

    tokens = samples["input_ids"]
    return chunked_cross_entropy(network(tokens[:, :-1]), tokens[:, 1:].contiguous())


def litgpt_network(size: str, block: int) -> nn.Module:
    """Return litgpt's network of that shape."""
    from litgpt import GPT, Config

    hidden, layers, heads, vocabulary = SIZES[size]
    return GPT(
        Config.from_name(
            "pythia-160m",
            block_size=block,
            n_layer=layers,
            n_embd=hidden,
            n_head=heads,
            n_query_groups=heads,
            head_size=hidden // heads,
            intermediate_size=4 * hidden,
            padded_vocab_size=vocabulary,
        )
    )


class Measured:
    """Runs of one kind: seconds a step by epoch, and the largest peak of memory."""

    def __init__(self, run: Callable[[], list[float]], device: str) -> None:
        self.run, self.device, self.peak = run, device, 0

    def __call__(self) -> list[float]:
        """Run once."""
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds = self.run()
        if self.device == "cuda":
            self.peak = max(self.peak, torch.cuda.max_memory_allocated())
        return seconds


def kinds_of(
    contest: Contest, options: argparse.Namespace, size: str
) -> dict[str, Callable[[], list[float]]]:
    """Return the runs of a size by name; those of TANDEM are "tandem E" and "joined E"."""
    steps, epochs = max(options.free) + options.probe, 1 + options.episodes
    kinds: dict[str, Callable[[], list[float]]] = {
        "bare_whole": lambda: contest.bare(steps, epochs),
        "bare": lambda: contest.bare(steps, epochs, chunked_loss),
    }
    if find_spec("litgpt") is not None:
        kinds["litgpt"] = lambda: contest.bare(
            steps, epochs, litgpt_loss, litgpt_network(size, options.block)
        )
    kinds["plain"] = lambda: contest.plain(steps, epochs)
    for free, name in product(options.free, ("tandem", "joined")):
        kinds[f"{name} {free}"] = lambda free=free, join=name == "joined": (  # type: ignore[misc]
            contest.tandem(free, options.probe, options.measure, epochs, join)
        )
    return kinds


def rows_of(contest: Contest, options: argparse.Namespace, size: str) -> list[Row]:
    """Return a row for each kind of run at a size."""
    runs = {
        name: Measured(run, options.device)
        for name, run in kinds_of(contest, options, size).items()
    }
    times = alternate(runs, options.repeats)
    flops = flops_a_token(contest.network(), options.block)
    peak = options.peak or peak_flops(options.machine["device"])
    plain, rows = statistics.median(chain(*times["plain"])), []
    for name, lists in times.items():
        seconds = statistics.median(chain(*lists))
        kind, _, free = name.partition(" ")
        tokens = options.batch * options.block / seconds
        row: Row = {"size": size, "run": kind, "ms": 1e3 * seconds, "tokens_a_second": tokens}
        work = 1.0
        if free:
            work = bound(int(free), options.probe, options.measure)
            row |= {"E": int(free), "ratio": seconds / plain, "bound": work}
            row["ratio_over_bound"] = row["ratio"] / work
        if peak:
            row["utilisation"] = work * flops * tokens / peak
        if options.device == "cuda":
            row["peak_GB"] = runs[name].peak / 1e9
        rows.append(show(row))
    return rows


def profile(contest: Contest, title: str, loss: Callable[..., Tensor]) -> None:
    """Print the kernels of one bare step that take 95 % of its time."""
    device = torch.device(contest.device)
    module = contest.network().to(device)
    if contest.compile:
        module.compile()
    optimizer = adamw(module.parameters())
    batch = next(iter(contest.loader()))
    samples = {key: value.to(device) for key, value in batch.items()}

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(module, samples)
        value.backward()
        optimizer.step()
        wait(device)

    for _ in range(3):
        step()
    on_gpu = device.type == "cuda"
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CUDA if on_gpu else kinds.CPU]) as found:
        step()
    events = [
        (
            event.self_device_time_total if on_gpu else event.self_cpu_time_total,
            event.count,
            event.key,
        )
        for event in found.key_averages()
    ]
    total, seen = sum(time for time, _, _ in events), 0.0
    print(f"-- {title}: {total / 1e3:.4g} ms in kernels")
    for taken, count, name in sorted(events, reverse=True):
        if seen >= 0.95 * total:
            break
        seen += taken
        print(f"{100 * taken / total:5.1f} %  {taken / 1e3:9.3f} ms  {count:5d} x  {name[:90]}")


def main(argv: Sequence[str] | None = None) -> Record:
    """Compare all kinds of run at each size."""
    parser = arguments(__doc__, repeats=2, device="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest network and blocks")
    run_arguments(parser, [15, 45, 95], block=512, batch=64)
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=["160m", "410m"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on GPUs")
    parser.add_argument("--episodes", type=int, default=2, help="that are timed, of each run")
    parser.add_argument("--peak", type=float, help="FLOPs a second, for devices not in the table")
    parser.add_argument("--profile", action="store_true", help="also the kernels of a step")
    tiny = {"sizes": ["tiny"], "block": 16, "batch": 4, "workers": 0}
    few = {"free": [2], "probe": 1, "measure": 1, "episodes": 1}
    if parser.parse_known_args(argv)[0].tiny:
        parser.set_defaults(repeats=1, **tiny, **few)
    options = parse(parser, argv, **few)
    if options.compile is None:
        options.compile = options.device == "cuda"

    needed = options.batch * (max(options.free) + options.probe)  # in an episode of plain training
    data = random_data(7, options.block, options.batch, size=needed, num_workers=options.workers)
    rows = []
    for size in options.sizes:
        settings = {"precision": options.precision, "loss": chunked_loss}
        contest = Contest(data, size, options.device, options.compile, **settings)
        if options.profile:
            profile(contest, f"{size}, whole logits", next_token_loss)
            profile(contest, f"{size}, chunks", chunked_loss)
        rows += rows_of(contest, options, size)
    plots = [plot("Tokens a second", "run", "tokens_a_second", by=("size",))]
    return finish(NAME, options, rows, [], plots)


if __name__ == "__main__":
    main()
