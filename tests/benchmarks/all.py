"""Runs the benchmarks, each in a process of its own, and writes one page of what they found.

`python tests/benchmarks/all.py` runs all of them, about an hour on 2 quiet cores, and
`python tests/benchmarks/all.py sampling memory` some. Records are kept in `benchmarks.jsonl`, the
latest of each benchmark, and `benchmarks.html` is made from it: what is aimed at and whether it is
reached, then tables and plots. `--render` makes the page alone.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem_pl.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = dict[str, Any]
HERE = Path(__file__).resolve().parent
#: In this order; what takes least comes first.
NAMES = (
    *("sampling", "memory", "adapters", "breakdown", "scaling", "data_path", "images"),
    *("episodes", "overhead", "cost", "vision", "gpu"),
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70em; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 2.5em; }
.facts { color: #555; font-size: .9em; } .wide { overflow-x: auto; }
.warning { background: #fff3d6; border-left: 4px solid #e0a100; padding: .5em 1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93em;
  margin: 1em 0; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } .no { color: #b00020; font-weight: 600; }
.yes { color: #1b7a3d; font-weight: 600; } img { max-width: 100%; }
"""


# ---- running ----


def run(name: str, quick: bool) -> Record:
    """One benchmark, its output passed on; the record has an "error" where it fails."""
    command = [sys.executable, str(HERE / f"{name}.py"), *(["--quick"] if quick else [])]
    print(f"== {name}", flush=True)
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if not line.startswith('{"benchmark"'):
                print(line, end="", flush=True)
    record = next((line for line in reversed(lines) if line.startswith('{"benchmark"')), None)
    if process.returncode or record is None:
        last = next((line for line in reversed(lines) if line), "no output")
        return {"benchmark": name, "quick": quick, "error": last}
    return json.loads(record)


def read(path: Path) -> dict[str, Record]:
    """Benchmark -> its latest record; nothing where there is no file."""
    if not path.exists():
        return {}
    records = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line)
    return {record["benchmark"]: record for record in records}


def keep(path: Path, records: Mapping[str, Record]) -> None:
    """One line of JSON each."""
    lines = "".join(json.dumps(record) + "\n" for record in records.values())
    write_atomically(path, lines.encode())


# ---- the page ----


def tables(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Rows of the same keys together.

    >>> tables([{"a": 1}, {"b": 2}, {"a": 3}])
    [[{'a': 1}, {'a': 3}], [{'b': 2}]]
    """
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row), []).append(row)
    return list(found.values())


def cell(value: object) -> str:
    """A number as one reads it.

    >>> [cell(value) for value in (123456.7, 0.98765, 4, "text")]
    ['123,457', '0.9877', '4', 'text']
    """
    if not isinstance(value, float):
        return html.escape(str(value))
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """HTML."""
    head = "".join(f"<th>{html.escape(key.replace('_', ' '))}</th>" for key in rows[0])
    body = "\n".join(
        "<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def draw(spec: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """A plot that a record asks for; None where no row has what it needs."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    x, keys = spec["x"], spec["y"]
    shown = [row for row in rows if x in row and any(key in row for key in keys)]
    if not shown:
        return None
    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    if isinstance(shown[0][x], str):
        width = 0.8 / len(keys)
        for number, key in enumerate(keys):
            places = [place + number * width for place in range(len(shown))]
            axes.bar(places, [row.get(key, 0.0) for row in shown], width, label=_words(key))
        middles = [place + 0.4 - width / 2 for place in range(len(shown))]
        axes.set_xticks(middles, [row[x] for row in shown], rotation=25, ha="right")
    else:
        groups: dict[tuple, list[Mapping[str, Any]]] = {}
        for row in shown:
            groups.setdefault(tuple(row[key] for key in spec.get("by", ())), []).append(row)
        for group, members in groups.items():
            for key in keys:
                points = sorted((row[x], row[key]) for row in members if key in row)
                names = [f"{k} {v}" for k, v in zip(spec.get("by", ()), group, strict=True)]
                label = ", ".join(names) or _words(key)
                axes.plot(*zip(*points, strict=True), marker="o", label=label)
        values = sorted({row[x] for row in shown})
        if values[0] > 0 and values[-1] > 50 * values[0]:
            axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:,}" for value in values], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel(_words(x))
    axes.set_ylim(0, 1.08 * max(row[key] for row in shown for key in keys if key in row))
    axes.set_title(spec["title"], fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _words(key: str) -> str:
    return key.replace("_", " ")


def image(figure: Figure, title: str) -> str:
    """The picture inside of the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    code = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{html.escape(title)}" src="data:image/png;base64,{code}"></p>'


def page(records: Sequence[Record]) -> str:
    """HTML in one file, without scripts or links."""
    lines = ['<!doctype html>\n<html lang="en"><head><meta charset="utf-8">']
    lines += [f"<title>Benchmarks</title><style>{STYLE}</style></head><body><h1>Benchmarks</h1>"]
    quick = [record["benchmark"] for record in records if record.get("quick")]
    if quick:
        names = ", ".join(quick)
        lines.append(f'<p class="warning">Too small to judge by (--quick): {names}.</p>')
    lines += ["<h2>What is aimed at</h2>", '<div class="wide"><table>']
    lines.append("<tr><th>figure</th><th>found</th><th>at most</th><th></th></tr>")
    for record in records:
        for row in record.get("reach", ()):
            word = '<td class="yes">reached' if row["reached"] else '<td class="no">not reached'
            figures = f"<td>{cell(row['value'])}</td><td>{cell(row['limit'])}</td>"
            lines.append(f"<tr><td>{html.escape(row['figure'])}</td>{figures}{word}</td></tr>")
    lines.append("</table></div>")
    for record in records:
        lines.append(f"<h2>{html.escape(record['benchmark'])}</h2>")
        if "error" in record:
            lines.append(f'<p class="warning">It failed: {html.escape(record["error"])}</p>')
            continue
        for key in ("machine", "settings"):
            facts = ", ".join(f"{_words(k)} {v}" for k, v in record[key].items())
            lines.append(f'<p class="facts">{html.escape(facts)}</p>')
        for spec in record["plots"]:
            figure = draw(spec, record["rows"])
            lines += [image(figure, spec["title"])] if figure else []
        lines += [table(rows) for rows in tables(record["rows"])]
    return "\n".join([*lines, "</body></html>\n"])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 1 where a benchmark failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; gpu where there is one")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: do they work?")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "benchmarks")
    parser.add_argument("--render", action="store_true", help="only the page")
    options = parser.parse_args(argv)
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.exit(2, f"{unknown[0]!r} is no benchmark: give some of {', '.join(NAMES)}.\n")
    names = options.names or [name for name in NAMES if name != "gpu" or has_gpu()]
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


def has_gpu() -> bool:
    """Whether torch sees one."""
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
