"""`tandem search mixmin`: a mixture from one expert network a domain."""

from __future__ import annotations

from typing import Any

from .search_outputs import out_folder, write_proposal

EPILOG = """examples:
  tandem search mixmin --experts '{web: runs/web, code: runs/code}' --out search
  tandem search mixmin --likelihoods search/likelihoods.csv --target math --caps '{web: 0.5}'
  tandem fit --config train.yaml --data.weights search/proposal.yaml
"""


def search_mixmin(
    experts: dict[str, str] | None = None,
    likelihoods: str | None = None,
    target: list[str] | None = None,
    per_token: bool = False,
    out: str = ".",
    prior: str | None = None,
    kl: float = 0.0,
    caps: dict[str, float] | None = None,
    floor: float = 0.0,
    tokens: float | None = None,
    tokens_per_domain: str | None = None,
    repeats: float | None = None,
    seed: int = 0,
) -> None:
    """The mixture of experts' likelihoods that suits target samples best (MixMin).

    Args:
        experts: domain to the folder of a run that was trained on it alone, such as
            '{web: runs/web, code: runs/code}'; they are evaluated on the first one's target data.
        likelihoods: CSV or Parquet file with a row for each target sample and its log-likelihood
            over its length in a column for each expert, in place of experts.
        target: domains of the target samples to use; by default all.
        per_token: mix the experts' probabilities of each token, not of each sample.
        out: folder for proposal.yaml, proposal.png, and likelihoods.csv of experts.
        prior: mixture to stay near: a mixture file, a run's folder or uniform, the default.
        kl: strength of the pull to the prior.
        caps: largest share of domains, such as '{web: 0.5}'.
        floor: least share of every domain.
        tokens: length of the final run, such as 1e11.
        tokens_per_domain: what it has of each domain: a corpus folder, its manifest.yaml, or a YAML
            map of domain to tokens.
        repeats: most passes over a domain.
        seed: of the parts that are held out.
    """
    from tandem_pl.checks import check_not_negative
    from tandem_pl.errors import InputError
    from tandem_pl.mixture import check_domains, resolve_weights
    from tandem_pl.search.bounds import make_bounds
    from tandem_pl.search.likelihoods import read_likelihoods
    from tandem_pl.search.mixmin import fit_experts
    from tandem_pl.search.proposing import propose
    from tandem_pl.search.tables import metric_table, weight_table

    from .report import read_domain_tokens

    if (experts is None) == (likelihoods is None):
        raise InputError("give either --experts, the runs of each domain, or --likelihoods FILE.")
    if likelihoods is not None and per_token:
        raise InputError("--per_token is for --experts: the rows of --likelihoods may be tokens.")
    if experts is not None and len(experts) < 2:
        raise InputError("--experts must name the runs of two or more domains.")
    check_not_negative("kl", kl)
    folder = out_folder(out)
    table = None if likelihoods is None else read_likelihoods(likelihoods).of_targets(target)
    names = table.experts if table is not None else tuple(experts or ())
    centre = resolve_weights(prior, dict.fromkeys(names, 1), "prior").weights
    limits: dict[str, Any] = {}
    if repeats is not None or tokens is not None or tokens_per_domain is not None:
        sizes = read_domain_tokens(tokens_per_domain) if tokens_per_domain else None
        if sizes is not None:
            check_domains(names, sizes, "experts")
            sizes = {name: sizes[name] for name in names}
        limits = {"tokens_per_domain": sizes, "tokens": tokens, "repeats": repeats}
    make_bounds(names, floor, caps, **limits)  # checked before the evaluation, which takes time
    if table is None:
        from .expert_losses import expert_likelihoods

        table = expert_likelihoods(experts or {}, per_token, target)
        table.save(folder / "likelihoods.csv")
        table = table.of_targets(target)
    law = fit_experts(table.values, table.experts, table.samples, seed)
    found = propose({"target": law}, centre, kl, caps, floor, seed=seed, **limits)
    held_out, samples = law.held_out, len(set(law.samples.tolist()))
    print(
        f"{samples} target samples, {len(law.samples)} rows of likelihoods, {len(table.experts)} "
        f"experts\n\n{weight_table(found)}\n\n{metric_table(found)}\n\n"
        f"on samples held out, without bounds: {held_out.mixture:.4f}, the best expert "
        f"{held_out.best_expert:.4f}, equal weights {held_out.uniform:.4f}\n"
    )
    write_proposal(found, folder)
