"""`tandem search`: runs on many mixtures, and a mixture from runs; this file has `fit`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from tandem_pl.errors import InputError, did_you_mean

from .arguments import run_verb
from .search_agent import EPILOG as AGENT
from .search_agent import search_agent
from .search_continued import EPILOG as CONTINUED
from .search_continued import search_cmr, search_dcpt
from .search_merge import EPILOG as MERGE
from .search_merge import search_merge
from .search_mixmin import EPILOG as MIXMIN
from .search_mixmin import search_mixmin
from .search_outputs import out_folder, write_proposal
from .search_rounds import EPILOG as ROUNDS
from .search_rounds import search_rounds
from .search_run import search_run

EPILOG = """examples:
  tandem search run configs/search_restricted.yaml
  tandem search fit runs.csv --metric loss --out search
  tandem search fit mixtures.csv --losses losses.csv --law gaussian_process
  tandem search fit runs.csv --tokens 1e11 --tokens_per_domain corpus --repeats 4 --no_worse
  tandem fit --config train.yaml --data.weights search/proposal.yaml
"""


def search_fit(
    runs: str,
    losses: str | None = None,
    law: str = "log_linear",
    metric: list[str] | None = None,
    out: str = ".",
    domains: list[str] | None = None,
    prefix: str = "",
    missing: str = "error",
    prior: str | None = None,
    kl: float = 0.05,
    caps: dict[str, float] | None = None,
    floor: float = 0.0,
    tokens: float | None = None,
    tokens_per_domain: str | None = None,
    repeats: float | None = None,
    repetition: bool = False,
    proxy_tokens: float | None = None,
    metric_weights: dict[str, float] | None = None,
    no_worse: bool = False,
    reference: str | None = None,
    method: str = "optimum",
    reuse: str | None = None,
    seed: int = 0,
) -> None:
    """Fit a law of each metric on finished runs, and propose the mixture that the laws favour.

    Args:
        runs: CSV or Parquet file with a row for each run, a folder of `tandem compare`, or a run's
            folder or one of several, with a row for each validation.
        losses: second file with the metrics, as RegMix publishes its runs.
        law: linear, log_linear, exponential, bimix, autoscale, lightgbm or gaussian_process.
        metric: columns to fit, such as `--metric loss`; by default all metrics.
        out: folder for proposal.yaml, proposal.png and fits.csv.
        domains: columns of weights; by default found by their names or sums.
        prefix: what to take off these columns to get the corpus's names of domains.
        missing: error, or drop to leave out runs that miss a metric.
        prior: mixture to stay near: a mixture file, a run's folder, uniform, or, with
            tokens_per_domain, proportional or temperature:2; by default the mean of the runs.
        kl: strength of the pull to the prior, in units of the metrics.
        caps: largest share of domains, such as '{web: 0.5}'.
        floor: least share of every domain.
        tokens: length of the final run, such as 1e11.
        tokens_per_domain: what it has of each domain: a corpus folder, its manifest.yaml, or a YAML
            map of domain to tokens.
        repeats: most passes over a domain.
        repetition: let repeated tokens be worth less in the laws.
        proxy_tokens: length of the runs in the table, if they too repeated this data.
        metric_weights: weight of each metric, negative for one that should rise; by default equal.
        no_worse: allow no metric to get worse than at the reference.
        reference: mixture that the gain is over, written as the prior is; by default the prior.
        method: optimum, or top_mean, the mean of the best random mixtures (RegMix).
        reuse: mixture file whose ratios of domains stay; only their sum and new domains are fitted.
        seed: of starts, splits and samples.
    """
    from tandem_pl.checks import check_choice, check_not_negative
    from tandem_pl.files import write_atomically
    from tandem_pl.mixture import Mixture, check_domains, resolve_weights
    from tandem_pl.search.bounds import make_bounds
    from tandem_pl.search.fitting import fit_law
    from tandem_pl.search.laws import find_law
    from tandem_pl.search.proposing import METHODS, propose, weigh_metrics
    from tandem_pl.search.read import read_runs
    from tandem_pl.search.repetition import Repetition
    from tandem_pl.search.reuse import FrozenDomains
    from tandem_pl.search.tables import fit_csv, fit_table, metric_table, weight_table

    from .report import read_domain_tokens

    folder = out_folder(out)
    find_law(law).check_installed()
    check_choice("method", method, METHODS)
    check_not_negative("kl", kl)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are the notes
        table = read_runs(runs, losses, domains, metric, prefix, missing)
    for note in table.notes:
        print(f"tandem: note: {note}", file=sys.stderr)
    sizes = read_domain_tokens(tokens_per_domain) if tokens_per_domain else None
    if sizes is not None:
        check_domains(table.domains, sizes, f"the table {runs}")
        sizes = {name: sizes[name] for name in table.domains}

    def mixture(spec: str | None, key: str) -> dict[str, float] | None:
        if spec is None:
            return None
        if sizes is None and spec.split(":")[0] in ("proportional", "temperature"):
            raise InputError(f"--{key} {spec} needs --tokens_per_domain.")
        counts = {name: int(number) for name, number in (sizes or {}).items()}
        return resolve_weights(spec, counts or dict.fromkeys(table.domains, 1), key).weights

    centre, base = mixture(prior, "prior"), mixture(reference, "reference")
    real, frozen = table.domains, None
    if reuse is not None:
        old = Mixture.load(reuse, "reuse")
        old = Mixture(old.average).restrict([n for n in old.domains if n in table.domains])
        frozen = FrozenDomains(old)
        table = frozen.collapse(table)
    repeated = None
    if repetition:
        if sizes is None or tokens is None:
            raise InputError("--repetition needs --tokens and --tokens_per_domain.")
        if frozen is not None:
            raise InputError("--repetition cannot be used with --reuse: leave out one of them.")
        repeated = Repetition(sizes, tokens, proxy_tokens)
    elif proxy_tokens is not None:
        raise InputError("--proxy_tokens is for --repetition.")
    if tokens is not None and sizes is None:
        raise InputError("--tokens needs --tokens_per_domain, which it is compared with.")
    limits: dict[str, Any] = {}
    if repeats is not None:
        if sizes is None or tokens is None:
            raise InputError("--repeats needs --tokens and --tokens_per_domain.")
        limits = {"tokens_per_domain": sizes, "tokens": tokens, "repeats": repeats}
    make_bounds(real, floor, caps, **limits)  # checked before the fits, which take time
    weigh_metrics(table.metrics, metric_weights)
    laws = {}
    for name in table.metrics:
        laws[name] = fit_law(law, table, name, seed, repeated)
    print(
        f"{len(table)} runs on {len(table.domains)} domains; law {law}; on runs held out:\n"
        f"{fit_table(laws)}\n"
    )
    for name, one in laws.items():
        if one.note:
            print(f"the law of {name} {one.note}\n")
    proposal = propose(
        laws,
        prior=centre,
        kl=kl,
        caps=caps,
        floors=floor,
        metric_weights=metric_weights,
        no_worse=no_worse,
        reference=base,
        method=method,
        seed=seed,
        frozen=frozen,
        **limits,
    )
    epochs = {name: tokens / size for name, size in sizes.items()} if sizes and tokens else None
    print(f"{weight_table(proposal, epochs)}\n\n{metric_table(proposal)}\n")
    write_atomically(folder / "fits.csv", fit_csv(laws))
    write_proposal(proposal, folder, "fits.csv")


ACTIONS: dict[str, Callable[..., None]] = {
    "run": search_run,
    "fit": search_fit,
    "cmr": search_cmr,
    "dcpt": search_dcpt,
    "mixmin": search_mixmin,
    "merge": search_merge,
    "rounds": search_rounds,
    "agent": search_agent,
}
EPILOGS = {
    "run": EPILOG,
    "fit": EPILOG,
    "cmr": CONTINUED,
    "dcpt": CONTINUED,
    "mixmin": MIXMIN,
    "merge": MERGE,
    "rounds": ROUNDS,
    "agent": AGENT,
}


def main(arguments: Sequence[str]) -> None:
    """Run the action that `arguments[1]` names."""
    action = arguments[1] if len(arguments) > 1 else ""
    if action in ("", "-h", "--help"):
        about = [f"  {name:8}{(f.__doc__ or '').splitlines()[0]}" for name, f in ACTIONS.items()]
        print("usage: tandem search ACTION [OPTIONS]\n\nactions:", *about, sep="\n")
        print("\nOptions of an action: tandem search ACTION --help")
        return
    if action not in ACTIONS:
        raise InputError(
            f"unknown action {action!r}: {did_you_mean(action, ACTIONS)}use tandem search "
            f"{' or '.join(ACTIONS)}."
        )
    run_verb(ACTIONS[action], arguments[2:], positional=True, epilog=EPILOGS[action])
