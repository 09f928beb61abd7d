"""Seconds of an episode for 7 to 10 000 domains, with the monitor and TensorBoard.

`python tests/benchmarks/episodes.py` gives every number of domains the same episode, batch and
network, in alternating runs. The picture of the mixture, one in 25 episodes, is not in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from common import (
    Record,
    Row,
    adamw,
    arguments,
    at_most,
    finish,
    fit,
    medians,
    network,
    parse,
    plot,
    random_data,
    run_arguments,
    show,
)
from lightning.pytorch.loggers import TensorBoardLogger

from tandem_pl import TandemModule
from tandem_pl.callbacks import MixtureMonitor, TandemReweighting
from tandem_pl.objectives import CausalLanguageModeling

NAME = "episodes"


def main(argv: Sequence[str] | None = None) -> Record:
    """Command line."""
    parser = arguments(__doc__)
    parser.set_defaults(repeats=3)
    parser.add_argument("--domains", type=int, nargs="+", default=[7, 100, 1000, 10_000])
    parser.add_argument("--samples", type=int, default=1000, help="of a domain")
    run_arguments(parser, 45)
    parser.add_argument("--episodes", type=int, default=3, help="that are timed, of each run")
    smallest = {"free": 2, "probe": 1, "measure": 1, "episodes": 1, "domains": [7, 100]}
    options = parse(parser, argv, size="tiny", block=16, batch=4, **smallest)

    def run(domains: int) -> list[float]:
        data = random_data(domains, options.block, options.batch, size=options.samples)
        module = TandemModule(network(options.size, options.block), CausalLanguageModeling(), adamw)
        method = TandemReweighting(options.free, options.probe, options.measure)
        return fit(
            module,
            data,
            [method, MixtureMonitor()],
            options.device,
            max_epochs=1 + options.episodes,
            logger=lambda folder: TensorBoardLogger(folder),
        )

    runs = {str(domains): lambda domains=domains: run(domains) for domains in options.domains}
    times = medians(runs, options.repeats)
    first = times[str(options.domains[0])]
    rows: list[Row] = [
        show({"domains": m, "seconds": times[str(m)], "ratio": times[str(m)] / first})
        for m in options.domains
    ]
    reach = [
        at_most(f"an episode of {row['domains']} domains over one of 7", row["ratio"], 1.10)
        for row in rows
        if row["domains"] == 1000 and options.domains[0] == 7
    ]
    return finish(NAME, options, rows, reach, [plot("Seconds of an episode", "domains", "seconds")])


if __name__ == "__main__":
    main()
