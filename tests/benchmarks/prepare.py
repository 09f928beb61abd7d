"""How fast `tandem prepare` is, and how much memory it takes.

`python tests/benchmarks/prepare.py --megabytes 100` collects so much text from the installed
packages, and prepares it with a byte-level BPE and with bytes. It prints megabytes a second (of
wall time, and of processor time, since cores may be shared) and the peak memory above that of an
idle process. `--copies` writes varied copies of the text, to see whether memory grows with it.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from itertools import islice
from pathlib import Path

from memory import resident_peak
from record import Record, Row, arguments, child, finish, parse, plot, show

from tandem_pl.datamodules.text.prepare import prepare_corpus

NAME = "prepare"
BLOCK = 64
SUFFIXES = (".py", ".pyi", ".h", ".txt")


def installed_texts() -> Iterator[str]:
    """Yield text files of the installed packages, by path."""
    files = {
        Path(str(package.locate_file(file)))
        for package in distributions()
        for file in package.files or []
        if file.suffix in SUFFIXES
    }
    for path in sorted(files):
        if path.is_file() and path.stat().st_size < 1_000_000:
            text = path.read_text(encoding="utf-8", errors="ignore")
            if text.strip():
                yield text


def write_corpus(path: Path, texts: Iterator[str], megabytes: float, copy: int = 0) -> float:
    """Append JSON lines of so much text; return the megabytes.

    A copy with a number has other words in a fifth of its lines.
    """
    written = 0.0
    with path.open("a", encoding="utf-8") as file:
        for text in texts:
            lines = text.split("\n")
            if copy:
                lines[copy % 5 :: 5] = [f"{copy} {line}" for line in lines[copy % 5 :: 5]]
            file.write(json.dumps({"text": "\n".join(lines)}) + "\n")
            written += len(text) / 1e6
            if written > megabytes:
                break
    return written


def processor_seconds() -> float:
    """Return those of this process and of its workers."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def prepare(source: str, out: str, tokenizer: str, workers: int) -> Row:
    """Prepare in this process, and return its figures."""
    start, used, before = time.perf_counter(), processor_seconds(), resident_peak()
    prepare_corpus(out, {"text": source}, tokenizer=tokenizer, workers=workers, block_size=BLOCK)
    row: Row = {"seconds": time.perf_counter() - start}
    row["processor_seconds"] = processor_seconds() - used
    row["peak_above_start_MB"] = (resident_peak() - before) / 1e6
    return row


def main(argv: Sequence[str] = tuple(sys.argv[1:])) -> Record:
    """Prepare with both tokenizers, each in a process of its own."""
    parser = arguments(__doc__)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--vocabulary", type=int, default=8192, help="of the BPE")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parse(parser, argv, megabytes=0.5, vocabulary=300)
    if options.child:
        print(json.dumps(prepare(*options.child, options.workers)))
        return {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source, sample = Path(folder) / "corpus.jsonl", Path(folder) / "sample.jsonl"
        size = sum(
            write_corpus(source, installed_texts(), options.megabytes, copy)
            for copy in range(options.copies)
        )
        write_corpus(sample, islice(installed_texts(), 0, None, 20), options.megabytes)
        bpe = Path(folder) / "bpe"
        prepare_corpus(bpe, {"text": str(sample)}, train_bpe=options.vocabulary, block_size=BLOCK)
        for name, tokenizer in (("bpe", str(bpe / "tokenizer")), ("bytes", "bytes")):
            out = str(Path(folder) / f"out-{name}")
            found = child(__file__, *argv, "--child", str(source), out, tokenizer)
            row = {"tokenizer": name, "MB": size, **found}
            row["MB_a_second"] = size / row["seconds"]
            row["MB_a_processor_second"] = size / row["processor_seconds"]
            rows.append(show(row))
    plots = [plot("Megabytes a processor second", "tokenizer", "MB_a_processor_second")]
    return finish(NAME, options, rows, [], plots)


if __name__ == "__main__":
    main()
