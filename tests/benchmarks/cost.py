"""Measured cost of an episode against K, E and V, beside (E + 3K - 1 + 2/3 V) / (E + K).

`python tests/benchmarks/cost.py` takes the time of TANDEM over that of plain Lightning for the
same number of proxy steps, as `overhead.py` does.
"""

from __future__ import annotations

from collections.abc import Sequence

from common import Record, arguments, finish, parse, plot, show, text_data
from overhead import Contest, compare

NAME = "cost"
#: (E, K, V): one of them changes at a time.
SETTINGS = (
    *((45, probe, 4) for probe in (1, 2, 5, 10, 20)),
    *((free, 5, 4) for free in (5, 15, 95)),
    *((45, 5, measure) for measure in (1, 16)),
)


def main(argv: Sequence[str] | None = None) -> Record:
    """Command line."""
    parser = arguments(__doc__)
    parser.set_defaults(repeats=2)
    parser.add_argument("--size", default="3m")
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60, help="proxy steps that are timed")
    options = parse(parser, argv, size="tiny", block=16, batch=4, steps=4)
    data = text_data(options.block, options.batch, options.quick)
    contest = Contest(data, options.size, options.device)
    settings = ((2, 1, 1), (2, 2, 1)) if options.quick else SETTINGS
    rows = []
    for free, probe, measure in settings:
        row = compare(contest, free, probe, measure, options.steps, options.repeats)
        rows.append(show({"setting": f"E={free} K={probe} V={measure}"} | row))
    plots = [plot("Cost over plain training", "setting", "ratio", "bound")]
    return finish(NAME, options, rows, [], plots)


if __name__ == "__main__":
    main()
