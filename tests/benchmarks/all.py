"""Runs the benchmarks, each in a process of its own, and writes one page of what they found.

`python tests/benchmarks/all.py` runs all of them, about an hour on 2 quiet cores, and
`python tests/benchmarks/all.py speed memory` some. The latest record of each benchmark is kept in
`benchmarks.jsonl`, and `benchmarks.html` is made from it: the goals and whether they are reached,
then plots and tables. `--render` makes the page alone.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
import torch
from jinja2 import Environment
from matplotlib.figure import Figure

from tandem_pl.files import png_bytes, write_atomically

Record = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]
HERE = Path(__file__).resolve().parent
#: In the order in which they run: the quickest first.
NAMES = (
    "memory",
    "head",
    "prepare",
    "images",
    "overhead",
    "speed",
    "stacked_proxies",
    "vision",
    "gpu",
)
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Benchmarks</title><style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70em; margin: 2em auto; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 2.5em; }
.facts { color: #555; font-size: .9em; } .yes { color: #1b7a3d; } .no { color: #b00020; }
.warning { background: #fff3d6; border-left: 4px solid #e0a100; padding: .5em 1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1em 0; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } img { max-width: 100%; }
</style></head><body><h1>Benchmarks</h1>
{% if quick %}<p class="warning">Too small to judge by (--quick): {{ quick | join(", ") }}.</p>
{% endif %}<h2>Goals</h2>
<table><tr><th>figure</th><th>found</th><th>at most</th><th></th></tr>
{% for goal in goals %}<tr><td>{{ goal.figure }}</td><td>{{ number(goal.value) }}</td>
<td>{{ number(goal.limit) }}</td>
{% if goal.reached %}<td class="yes">reached{% else %}<td class="no">not reached{% endif %}</td>
</tr>{% endfor %}</table>
{% for record in records %}<h2>{{ record.benchmark }}</h2>
{% if record.error %}<p class="warning">It failed: {{ record.error }}</p>{% else %}
{% for facts in (record.machine, record.settings) %}<p class="facts">
{% for key, value in facts.items() %}{{ words(key) }} {{ value }}{{ ", " if not loop.last }}
{% endfor %}</p>{% endfor %}
{% for plot in record.plots %}{% set picture = draw(plot, record.rows) %}{% if picture %}
<p><img alt="{{ plot.title }}" src="data:image/png;base64,{{ picture }}"></p>{% endif %}{% endfor %}
{% for table in tables(record.rows) %}{{ table | safe }}{% endfor %}
{% endif %}{% endfor %}</body></html>
"""


# ---- running ----


def run(name: str, quick: bool) -> Record:
    """Run a benchmark, and print its output; return its record, with an "error" if it failed."""
    command = [sys.executable, str(HERE / f"{name}.py"), *(["--quick"] if quick else [])]
    print(f"== {name}", flush=True)
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            if not line.startswith('{"benchmark"'):
                print(line, end="", flush=True)
    record = next((line for line in reversed(lines) if line.startswith('{"benchmark"')), None)
    if process.returncode or record is None:
        last = next((line for line in reversed(lines) if line), "no output")
        return {"benchmark": name, "quick": quick, "error": last}
    return json.loads(record)


def read(path: Path) -> dict[str, Record]:
    """Return benchmark -> its latest record; nothing if there is no file."""
    if not path.exists():
        return {}
    records = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line)
    return {record["benchmark"]: record for record in records}


def keep(path: Path, records: Mapping[str, Record]) -> None:
    """Write one line of JSON a record."""
    lines = "".join(json.dumps(record) + "\n" for record in records.values())
    write_atomically(path, lines.encode())


# ---- the page ----


def number(value: float) -> str:
    """Return a number as one reads it.

    >>> [number(value) for value in (123456.7, 0.98765)]
    ['123,457', '0.9877']
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def words(key: object) -> str:
    """Return a key as one reads it."""
    return str(key).replace("_", " ")


def tables(rows: Rows) -> list[str]:
    """Return HTML, a table for each kind of row; rows of a kind have the same keys."""
    kinds: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(tuple(row), []).append(row)
    frames = (pandas.DataFrame(kind).rename(columns=words) for kind in kinds.values())
    return [frame.to_html(index=False, border=0, float_format=number) for frame in frames]


def draw(plot: Mapping[str, Any], rows: Rows) -> str:
    """Return a PNG in base 64, of bars over text or lines over numbers; "" without such rows."""
    x, y, by = plot["x"], plot["y"], plot["by"]
    frame = pandas.DataFrame([row for row in rows if {x, *y, *by} <= row.keys()])
    if frame.empty:
        return ""
    for key in by:
        frame[key] = f"{key} " + frame[key].astype(str)
    frame = frame.pivot_table(index=x, columns=by, values=y, sort=False)
    if by:
        frame.columns = frame.columns.map(", ".join)
    figure = Figure(figsize=(8.5, 3.4), dpi=110, layout="constrained")  # not pyplot's global one
    axes = figure.add_subplot()
    text = isinstance(frame.index[0], str)
    wide = not text and bool(0 < 50 * frame.index.min() < frame.index.max())
    style = {"kind": "bar", "rot": 25} if text else {"marker": "o", "logx": wide}
    frame.rename(columns=words).plot(ax=axes, xlabel=words(x), title=plot["title"], **style)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return base64.b64encode(png_bytes(figure)).decode()


def page(records: Sequence[Record]) -> str:
    """Return HTML in one file, without scripts or links."""
    helpers = {"number": number, "words": words, "tables": tables, "draw": draw}
    return (
        Environment(autoescape=True)
        .from_string(PAGE, helpers)
        .render(
            records=records,
            quick=[record["benchmark"] for record in records if record.get("quick")],
            goals=[goal for record in records for goal in record.get("goals", ())],
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and write the page; return 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; gpu if there is one")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: do they work?")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "benchmarks")
    parser.add_argument("--render", action="store_true", help="only the page")
    options = parser.parse_args(argv)
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.exit(2, f"{unknown[0]!r} is no benchmark: give some of {', '.join(NAMES)}.\n")
    names = options.names or [n for n in NAMES if n != "gpu" or torch.cuda.is_available()]
    path, failed = options.folder / "benchmarks.jsonl", []
    records = read(path)
    if options.render and not records:
        parser.exit(2, f"{path} has no record: run without --render first.\n")
    for name in [] if options.render else names:
        records[name] = run(name, options.quick)
        failed += [name] if "error" in records[name] else []
        keep(path, records)
    shown = [records[name] for name in NAMES if name in records]
    write_atomically(options.folder / "benchmarks.html", page(shown).encode())
    print(f"written to {options.folder / 'benchmarks.html'}")
    for name in failed:
        print(f"{name} failed: {records[name]['error']}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
