"""`tandem search rounds`: a mixture from averages of one network a domain, evaluated in rounds."""

from __future__ import annotations

from .search_outputs import out_folder, write_proposal

EPILOG = """examples:
  tandem search rounds '{web: runs/web, code: runs/code}' --out search
  tandem search rounds '{web: runs/web, code: runs/code}' --law gaussian_process --rounds '[24, 12]'
  tandem fit --config train.yaml --data.weights search/proposal.yaml
"""


def search_rounds(
    experts: dict[str, str],
    target: list[str] | None = None,
    rounds: list[int] | None = None,
    law: str = "lightgbm",
    out: str = ".",
    prior: str | None = None,
    caps: dict[str, float] | None = None,
    seed: int = 0,
) -> None:
    """A mixture whose average of networks is best on target data, searched in rounds (DeMix).

    An evaluation of the average of networks that continued from one checkpoint stands for a run.

    Args:
        experts: domain to the folder of a run that continued on it, such as
            '{web: runs/web, code: runs/code}'; averages are evaluated on the first one's target
            data.
        target: domains of the target samples to use, all equally important; by default all.
        rounds: mixtures in each round, by default '[96, 48, 24]'.
        law: linear, log_linear, exponential, lightgbm or gaussian_process; with few mixtures the
            last of these.
        out: folder for proposal.yaml, proposal.png and runs.csv.
        prior: mixture to search around: a mixture file, a run's folder or uniform, the default.
        caps: largest share of domains, such as '{web: 0.5}'.
        seed: of mixtures and fits.
    """
    from tandem_pl.files import csv_bytes, write_atomically
    from tandem_pl.mixture import resolve_weights
    from tandem_pl.search.rounds import check_rounds, search_in_rounds
    from tandem_pl.search.tables import metric_table, weight_table

    from .expert_losses import merged_losses

    folder = out_folder(out)
    centre = resolve_weights(prior, dict.fromkeys(experts, 1), "prior").weights
    numbers = rounds or [96, 48, 24]
    check_rounds(list(experts), numbers, law, caps)
    evaluate = merged_losses(experts, target)
    proposal, runs = search_in_rounds(evaluate, list(experts), centre, numbers, law, caps, seed)
    columns = {f"weight/{name}": runs.weights[:, m] for m, name in enumerate(runs.domains)}
    columns |= {f"metric/{name}": values for name, values in runs.metrics.items()}
    rows = zip(*columns.values(), strict=True)
    write_atomically(folder / "runs.csv", csv_bytes(list(columns), rows))
    print(f"{len(runs)} averages of networks\n\n{weight_table(proposal)}\n")
    print(f"{metric_table(proposal)}\n")
    write_proposal(proposal, folder, "runs.csv")
