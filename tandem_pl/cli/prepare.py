"""`tandem prepare`: tokenize and split text into a corpus that `fit` takes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from tandem_pl.errors import InputError

from .arguments import OneLineErrors

COLUMNS = ("domain", "documents", "tokens", "share", "longest", "duplicates", "near")


class Parser(OneLineErrors, ArgumentParser):
    """Says what is wrong in one line."""


def make_parser() -> Parser:
    """The options of `prepare_corpus`, and those of the table."""
    from tandem_pl.datamodules.text.prepare import prepare_corpus

    parser = Parser(
        prog="tandem prepare",
        description="Tokenize and split your own text into a corpus that fit takes.",
    )
    parser.add_argument("--config", action="config", help="a YAML file of these options")
    parser.add_function_arguments(prepare_corpus, as_group=False)
    parser.add_argument(
        "--budget",
        type=int | None,
        default=None,
        help="training tokens of a planned run, for the epochs in the table",
    )
    return parser


def underscored(arguments: Sequence[str]) -> list[str]:
    """Options spelled with hyphens become the ones with underscores; names of domains stay.

    A bare `--overwrite` means true.

    Example:
        >>> underscored(["--train-bpe", "8192", "--domains.my-text=a-b"])
        ['--train_bpe', '8192', '--domains.my-text=a-b']
    """
    result = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument.startswith("--"):
            name, rest = argument[2:], ""
            for place, letter in enumerate(name):
                if letter in ".=":
                    name, rest = name[:place], name[place:]
                    break
            argument = "--" + name.replace("-", "_") + rest
        if argument == "--overwrite" and following.lower() not in ("true", "false"):
            argument += "=true"
        result.append(argument)
    return result


def table(manifest: Mapping[str, Any], budget: int | None = None) -> str:
    """The corpus as a table: a row a domain, and a row of sums.

    Columns are training documents and tokens, the share of the training tokens, the longest
    training document in tokens, the exact and near-duplicates dropped from all splits, and the
    epochs that `budget` tokens make of a domain under uniform and proportional weights.
    """
    train = manifest["splits"]["train"]
    total = sum(counts["tokens"] for counts in train.values())
    heads = list(COLUMNS)
    if budget:
        heads += ["epochs uniform", "proportional"]
    rows = []
    for domain, counts in train.items():
        row = [
            domain,
            f"{counts['documents']:,}",
            f"{counts['tokens']:,}",
            f"{counts['tokens'] / total:.4f}",
            f"{counts['longest_document']:,}",
            f"{manifest['duplicates_dropped'][domain]:,}",
            f"{sum(manifest['near_duplicates_dropped'][domain].values()):,}",
        ]
        if budget:
            row += [f"{budget / len(train) / counts['tokens']:.1f}", f"{budget / total:.1f}"]
        rows.append(row)
    last = [
        "all",
        f"{sum(counts['documents'] for counts in train.values()):,}",
        f"{total:,}",
        "1.0000",
        f"{max(counts['longest_document'] for counts in train.values()):,}",
        f"{sum(manifest['duplicates_dropped'].values()):,}",
        f"{sum(sum(row.values()) for row in manifest['near_duplicates_dropped'].values()):,}",
    ]
    if budget:
        last += ["", f"{budget / total:.1f}"]
    rows.append(last)
    widths = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [heads, *rows]
    ]
    return "\n".join(lines)


def remarks(manifest: Mapping[str, Any]) -> list[str]:
    """What else a user should know of the corpus, a sentence each."""
    splits = manifest["splits"]
    found = [
        "held out: "
        + ", ".join(
            f"{sum(counts['tokens'] for counts in splits[split].values()):,} tokens of {split} data"
            for split in ("target", "test")
        )
    ]
    for domain, skipped in manifest["rows_skipped"].items():
        if skipped:
            found.append(
                f"domain {domain!r}: {skipped:,} corrupt rows skipped; the first: "
                f"{manifest['first_skipped'][domain]}"
            )
    if not manifest["tokenizer"]["lossless"]:
        found.append(
            "the tokenizer does not give back all text as it was (it changes case, spaces or "
            "characters, or has no token for some)"
        )
    return found


def next_command(out: str, manifest: Mapping[str, Any]) -> str:
    """How to learn a mixture on the corpus."""
    return (
        "tandem fit --config configs/quickstart.yaml "
        "--data tandem_pl.datamodules.PreparedTextDataModule "
        f"--data.manifest {shlex.quote(f'{out}/manifest.yaml')} --data.batch_size 16 "
        f"--model.network.config.vocab_size {manifest['vocab_size']} "
        f"--model.network.config.max_position_embeddings {manifest['block_size']}"
    )


def main(arguments: Sequence[str]) -> None:
    """Runs the verb; `arguments[0]` is its name."""
    config = make_parser().parse_args(underscored(arguments[1:]))
    options = config.as_dict()
    options.pop("config", None)
    budget = options.pop("budget")
    if budget is not None and budget < 1:
        raise InputError(f"budget is {budget}; give the training tokens of a run, at least 1.")
    from tandem_pl.datamodules.text.prepare import prepare_corpus, read_as_table

    manifest = prepare_corpus(**options)
    out = options["out"].rstrip("/")
    sys.stdout.write("\n" + read_as_table(manifest) + "\n")
    sys.stdout.write("\n" + table(manifest, budget) + "\n")
    for remark in remarks(manifest):
        sys.stdout.write(remark + "\n")
    sys.stdout.write(f"written to {out}/manifest.yaml\nnext: {next_command(out, manifest)}\n")
