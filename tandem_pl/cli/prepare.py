"""`tandem prepare`: tokenize and split text into a corpus that `fit` takes."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tandem_pl.datamodules.clusters.targets import target_remarks
from tandem_pl.datamodules.text.prepare import prepare_corpus, read_as_table
from tandem_pl.errors import InputError
from tandem_pl.files import write_atomically
from tandem_pl.text_tables import text_table

from .arguments import run_verb
from .init import fill


def prepare(budget: float | None = None, **corpus: Any) -> None:
    """Tokenize and split your own text into a corpus that fit takes.

    Args:
        budget: training tokens of a planned run, such as 1e9, for the epochs in the table.
        corpus: see `prepare_corpus`.
    """
    if budget is not None and not budget >= 1:
        raise InputError(f"budget is {budget:g}; give the training tokens of a run, at least 1.")
    manifest = prepare_corpus(**corpus)
    out = corpus["out"].rstrip("/")
    print(f"\n{read_as_table(manifest)}\n\n{table(manifest, budget)}")
    if "target_sources" in manifest:
        print(f"\n{target_table(manifest)}\n")
    print(*remarks(manifest), sep="\n")
    if "clusters" in manifest:
        print(f"clusters: see {out}/clusters.html and {out}/clusters.csv")
    print(f"written to {out}/manifest.yaml\nnext: {write_configuration(out, manifest)}")


def table(manifest: Mapping[str, Any], budget: float | None = None) -> str:
    """Return the corpus as a table with a row for each domain and a row of sums.

    Columns are training documents and tokens, the share of the training tokens, the longest
    training document in tokens, the exact and near-duplicates dropped from all splits, and the
    epochs over each domain that `budget` tokens make with uniform and proportional weights.
    """
    train = manifest["splits"]["train"]
    sizes = [
        (
            domain,
            counts["documents"],
            counts["tokens"],
            counts["longest_document"],
            manifest["duplicates_dropped"][domain],
            sum(manifest["near_duplicates_dropped"][domain].values()),
        )
        for domain, counts in train.items()
    ]
    _, documents, tokens, longest, exact, near = zip(*sizes, strict=True)
    total = sum(tokens)
    sizes.append(("all", sum(documents), total, max(longest), sum(exact), sum(near)))
    rows = [
        [domain, f"{size:,}", f"{count:,}", f"{count / total:.4f}", *(f"{n:,}" for n in rest)]
        for domain, size, count, *rest in sizes
    ]
    header = ["domain", "documents", "tokens", "share", "longest", "duplicates", "near"]
    if budget:
        header += ["epochs uniform", "proportional"]
        for row, count in zip(rows, tokens, strict=False):
            row += [f"{budget / len(train) / count:.1f}", f"{budget / total:.1f}"]
        rows[-1] += ["", f"{budget / total:.1f}"]
    return text_table(header, rows)


def target_table(manifest: Mapping[str, Any]) -> str:
    """Return target data from sources of their own as a table with a row for each name.

    Duplicates are given for names that `table` has not.
    """
    rows = []
    for name, counts in manifest["splits"]["target"].items():
        numbers = [counts[key] for key in ("documents", "tokens", "longest_document")]
        if name not in manifest["splits"]["train"]:
            numbers.append(manifest["duplicates_dropped"][name])
            numbers.append(sum(manifest["near_duplicates_dropped"][name].values()))
        rows.append([name, *(f"{number:,}" for number in numbers), "", ""][:6])
    return text_table(["target", "documents", "tokens", "longest", "duplicates", "near"], rows)


def remarks(manifest: Mapping[str, Any]) -> list[str]:
    """Return what else a user should know of the corpus, a sentence each."""
    of_domains = ("target", "test") if "target_sources" not in manifest else ("test",)
    held_out = ", ".join(
        f"{sum(counts['tokens'] for counts in manifest['splits'][split].values()):,} tokens of "
        f"{split} data"
        for split in of_domains
    )
    lines = [f"held out: {held_out}"]
    for domain, skipped in manifest["rows_skipped"].items():
        if skipped:
            lines.append(
                f"domain {domain!r}: {skipped:,} corrupt rows skipped; the first: "
                f"{manifest['first_skipped'][domain]}"
            )
    if not manifest["tokenizer"]["lossless"]:
        lines.append(
            "the tokenizer loses some text: it changes case, spaces or characters, or lacks tokens"
        )
    clusters = manifest.get("clusters", {})
    lines += clusters.get("remarks", [])
    if merged := clusters.get("merged"):
        lines.append(
            "merged into the nearest, for too little text in a split: clusters " + ", ".join(merged)
        )
    return lines + target_remarks(clusters.get("targets", {}))


def write_configuration(out: str, manifest: Mapping[str, Any]) -> str:
    """Write OUT/fit.yaml, which learns a mixture on the corpus, and return the command.

    If there are clusters, and target data that lie in them, it begins at the target's shares.
    """
    text = fill(
        ("run", "language_model", "data_prepared"),
        name=Path(out).name,
        manifest=json.dumps(os.path.abspath(f"{out}/manifest.yaml"), ensure_ascii=False),
        vocab_size=str(manifest["vocab_size"]),
        length=str(manifest["block_size"]),
        weights="target" if manifest.get("clusters", {}).get("targets") else "uniform",
    )
    command = f"tandem fit --config {shlex.quote(f'{out}/fit.yaml')}"
    title = f"# Learn a mixture on the corpus of this folder:\n#   {command}\n\n"
    write_atomically(f"{out}/fit.yaml", (title + text).encode())
    return command


def main(arguments: Sequence[str]) -> None:
    """Run the verb; `arguments[0]` is its name."""
    run_verb(prepare, arguments[1:], config=True)
