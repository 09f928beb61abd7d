"""`tandem search run` over fidelities: what it spends, where it ends, what it refuses."""

import sys

import pandas as pd
import pytest
from small_swarm import SCRIPT, swarm

from tandem_pl import Mixture
from tandem_pl.cli import main
from tandem_pl.search.swarm import fidelities, run
from tandem_pl.search.swarm.multi_fidelity import Choice

FIDELITIES = {"short": {"overrides": {"trainer": {"max_steps": 4}}}, "full": None}


def test_a_search_over_fidelities_spends_its_budget_and_ends_at_the_last(
    place, monkeypatch, botorch
):
    (place / "script.py").write_text(SCRIPT.replace("cell == 1", "False"))
    monkeypatch.setattr(run, "COMMAND", (sys.executable, str(place / "script.py")))
    monkeypatch.setattr(fidelities, "POOL", 20)
    asked = []

    def propose(results, costs, pool, count, budget, tried):
        asked.append((list(results.fidelities), list(costs), round(budget, 3), list(tried)))
        cheap = [Choice(7, 0), Choice(8, 0), Choice(9, 0)]
        return [c for c in cheap if c not in tried] if budget >= 0.6 else []

    monkeypatch.setattr(fidelities, "propose_next", propose)
    monkeypatch.setattr(fidelities, "recommend", lambda results, levels, pool: len(pool) - 1)
    keys = {"proxies": None, "fidelities": FIDELITIES, "budget": 3.0, "initial": 2}
    assert main(["search", "run", swarm(place, stack=1, **keys)]) == 0
    costs = [0.2, 1.0]  # 4 of 20 steps
    start = [Choice(0, 0), Choice(1, 0)]
    assert asked[0] == ([0, 0], costs, 1.6, start)  # 3 - 2 × 0.2 - the last run
    assert asked[1][2:] == (1.2, [*start, Choice(7, 0), Choice(8, 0)])  # a quarter of 1.6
    assert [budget for _, _, budget, _ in asked] == [1.6, 1.2, 1.0, 1.0]
    rows = pd.read_csv("swarm/runs.csv")
    assert rows["run"].tolist() == [*(f"short/{n:05}" for n in range(5)), "full/00000"]
    assert rows["cost"].tolist() == [0.2] * 5 + [1.0]
    mixtures = pd.read_csv("swarm/full/mixtures.csv")
    assert Mixture.load("swarm/proposal.yaml").weights == mixtures.to_dict("records")[0]
    made = len(asked)
    assert main(["search", "run", swarm(place, stack=1, **keys)]) == 0
    assert len(asked) == made + 1  # nothing is left to spend


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"budget": 3}, "budget=3 is for fidelities"),
        ({"fidelities": FIDELITIES, "budget": 3, "proxies": 4}, "proxies cannot be given with"),
        ({"fidelities": {"full": {}}, "budget": 3}, "must name two or more"),
        ({"fidelities": FIDELITIES, "budget": 3, "initial": 0}, "initial=0 must be"),
        ({"fidelities": FIDELITIES, "budget": 3, "initial": 1}, "initial=1 must be at least 2"),
        ({"fidelities": FIDELITIES}, "budget=None must be a number"),
        ({"fidelities": FIDELITIES, "budget": 0}, "budget=0 must be"),
        ({"fidelities": FIDELITIES, "budget": 1.5}, "the first 5 runs and one at the last"),
        ({"fidelities": {"a": {"overides": {}}, "b": {}}, "budget": 9}, "did you mean 'overrides'"),
        ({"fidelities": {"a": {"cost": 0.1}, "b": {}}, "budget": 9}, "all fidelities a cost"),
        ({"fidelities": {"a": {}, "b": {}}, "budget": 9}, "each one dearer than those before"),
    ],
)
def test_bad_fidelities_are_one_sentence(place, capsys, keys, said):
    assert main(["search", "run", swarm(place, **{"proxies": None, **keys})]) == 2
    assert said in capsys.readouterr().err


def test_cells_of_a_search_over_fidelities_are_refused(place, capsys):
    keys = {"proxies": None, "fidelities": FIDELITIES, "budget": 3}
    assert main(["search", "run", swarm(place, **keys), "--cells"]) == 2
    assert "--cells cannot be used with fidelities" in capsys.readouterr().err
