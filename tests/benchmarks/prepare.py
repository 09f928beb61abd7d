"""How fast `tandem prepare` is, how much memory it takes, and how fast its blocks are read.

`python tests/benchmarks/prepare.py --megabytes 100` collects so much text from the installed
packages, prepares it with a byte-level BPE loaded from a folder and with bytes, and prints
megabytes a second (of wall time, and of processor time, since cores may be shared), peak memory,
and the tokens a processor second that the data loader gives and the quickstart network consumes.
`--repeat` writes varied copies of the text, to see whether memory grows with the corpus.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import distributions
from itertools import islice
from pathlib import Path

SUFFIXES = (".py", ".pyi", ".h", ".txt")


def installed_texts() -> Iterator[str]:
    """Text files of the installed packages, by path."""
    files = {
        Path(str(d.locate_file(file)))
        for d in distributions()
        for file in d.files or []
        if file.suffix in SUFFIXES
    }
    for path in sorted(files):
        if path.is_file() and path.stat().st_size < 1_000_000:
            text = path.read_text(encoding="utf-8", errors="ignore")
            if text.strip():
                yield text


def write_corpus(path: Path, megabytes: float, repeat: int) -> int:
    """JSON lines of the texts; every copy but the first has other words in a fifth of its lines."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for copy in range(repeat):
            left = megabytes * 1e6
            for text in installed_texts():
                left -= len(text)
                lines = text.split("\n")
                if copy:
                    lines[copy % 5 :: 5] = [f"{copy} {line}" for line in lines[copy % 5 :: 5]]
                file.write(json.dumps({"text": "\n".join(lines)}) + "\n")
                written += len(text)
                if left < 0:
                    break
    return written


def prepare_once(source: str, out: str, tokenizer: str, workers: int) -> None:
    """One run in this process; prints its figures as JSON."""
    from tandem_pl.datamodules.text.prepare import prepare_corpus

    start = time.perf_counter()
    manifest = prepare_corpus(
        out, {"text": source}, tokenizer=tokenizer, workers=workers, block_size=64
    )
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    row = {
        "tokenizer": Path(tokenizer).name,
        "workers": workers,
        "seconds": round(seconds, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(used.ru_maxrss / 1e3),
        "near_duplicates": sum(manifest["near_duplicates_dropped"]["text"].values()),
    }
    print(json.dumps(row))


def loader_speed(out: str) -> float:
    """Tokens a processor second of the training loader, batches of 16 blocks of 64 tokens."""
    from tandem_pl.datamodules import PreparedTextDataModule

    data = PreparedTextDataModule(out, batch_size=16)
    data.setup("fit")
    loader = iter(data.train_dataloader())
    next(loader)
    start = time.process_time()
    count = sum(batch.samples["input_ids"].numel() for batch in islice(loader, 3000))
    return count / (time.process_time() - start)


def network_speed(steps: int = 100) -> float:
    """Tokens a processor second of the quickstart network: forward, backward and AdamW."""
    import torch

    from tandem_pl.networks import causal_language_model
    from tandem_pl.objectives import CausalLanguageModeling

    torch.set_num_threads(1)
    config = {
        "vocab_size": 257,
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 384,
        "max_position_embeddings": 64,
    }
    network = causal_language_model("gpt_neox", config)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    objective = CausalLanguageModeling()
    samples = {"input_ids": torch.randint(0, 256, (16, 64))}
    for step in range(steps + 5):
        if step == 5:
            start = time.process_time()
        optimizer.zero_grad()
        objective(network, samples).mean().backward()
        optimizer.step()
    return steps * samples["input_ids"].numel() / (time.process_time() - start)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tokenizers", nargs="+", default=["bpe", "bytes"])
    parser.add_argument("--once", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        source, out, tokenizer, workers = options.once
        prepare_once(source, out, tokenizer, int(workers))
        return
    from tandem_pl.datamodules.text.byte_level_bpe import train_bpe

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "corpus.jsonl"
        size = write_corpus(source, options.megabytes, options.repeat) / 1e6
        for name in options.tokenizers:
            tokenizer = name
            if name == "bpe":
                tokenizer = str(Path(folder) / "bpe-8192")
                train_bpe(islice(installed_texts(), 0, None, 20), 8192, Path(tokenizer))
            out = str(Path(folder) / f"out-{name}")
            arguments = [str(source), out, tokenizer, str(options.workers)]
            run = subprocess.run(
                [sys.executable, __file__, "--once", *arguments],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            row = json.loads(run.stdout)
            row["mb"] = round(size, 1)
            row["mb_a_second"] = round(size / row["seconds"], 2)
            row["mb_a_processor_second"] = round(size / row["processor_seconds"], 2)
            print(json.dumps(row), flush=True)
        loader, network = loader_speed(out), network_speed()
        figures = {
            "loader_tokens_a_second": round(loader),
            "quickstart_network_tokens_a_second": round(network),
            "ratio": round(loader / network, 1),
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
