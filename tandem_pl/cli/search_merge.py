"""`tandem search merge`: one checkpoint from those of several domains."""

from __future__ import annotations

from pathlib import Path

from .search_outputs import out_file

EPILOG = """examples:
  tandem search merge '{web: runs/web, code: runs/code}' search/proposal.yaml --out merged.ckpt
  tandem test runs/web --ckpt_path merged.ckpt
"""


def search_merge(experts: dict[str, str], weights: str, out: str = "merged.ckpt") -> None:
    """The average of networks that continued from one checkpoint, which stands for a mixture.

    Args:
        experts: domain to the folder of a run that continued on it, such as
            '{web: runs/web, code: runs/code}'.
        weights: mixture file, run's folder or uniform: the share of each expert in the average.
        out: checkpoint to write; evaluate it by `tandem test RUN --ckpt_path OUT`.
    """
    from tandem_pl.mixture import resolve_weights
    from tandem_pl.search.merging import merge_checkpoints

    from .run_folder import last_checkpoint, read_config

    path = out_file(out)
    shares = resolve_weights(weights, dict.fromkeys(experts, 1), "weights").weights
    folders = {name: Path(run) for name, run in experts.items()}
    paths = {name: last_checkpoint(run, read_config(run)) for name, run in folders.items()}
    merge_checkpoints(paths, shares, path)
    first = next(iter(experts.values()))
    print(f"written to {out}; evaluate it: tandem test {first} --ckpt_path {out}")
