"""`tandem search agent`: a policy that sets weights while training, from finished runs."""

from __future__ import annotations

from .search_outputs import out_file

EPILOG = """examples:
  tandem search agent '[runs/random_0, runs/random_1]' --out agent.safetensors
  tandem search agent '[runs/compare]' --discount 0.95
  tandem fit --config train.yaml --trainer.callbacks+=MixingAgentReweighting
      --trainer.callbacks.agent agent.safetensors
"""


def search_agent(
    runs: list[str],
    out: str = "agent.safetensors",
    steps: int | None = None,
    penalty: float = 0.3,
    discount: float = 0.9,
    hidden: int = 64,
    seed: int = 0,
) -> None:
    """A policy of weights so far and target losses, by conservative Q-learning on finished runs.

    The runs need a trajectory and evaluations of the target on the way: those of
    MixingAgentReweighting without an agent (random weights), of other methods that evaluate, or
    with validate_target. About 20 of 80 evaluations each are the paper's.

    Args:
        runs: folders of runs, of `tandem compare`, or of several runs.
        out: file to write, for MixingAgentReweighting(agent=...).
        steps: of learning; by default 100 passes over the data, and at least 400.
        penalty: on the value of weights that no run had; more of it stays nearer to the runs.
        discount: of later falls of the losses, for each evaluation; 0 looks at the next one alone.
        hidden: width of the policy's two hidden layers.
        seed: of learning.
    """
    import numpy as np

    from tandem_pl.callbacks.mixing_policy import MixingPolicy
    from tandem_pl.checks import check_below_one, check_count, check_not_negative
    from tandem_pl.search.agent.learning import learn_agent
    from tandem_pl.search.agent.trajectories import read_trajectories, transitions
    from tandem_pl.text_tables import text_table

    out_file(out)
    if steps is not None:
        check_count("steps", steps)
    check_count("hidden", hidden)
    check_not_negative("penalty", penalty)
    check_below_one("discount", discount)
    found = read_trajectories(runs)
    data = transitions(found)
    agent = learn_agent(data, steps, penalty, discount, hidden, seed=seed)
    first = found[0]
    policy = MixingPolicy(first.domains, first.targets, agent.actor, agent.center, agent.scale)
    policy.save(out)
    chosen = np.stack([policy.weights(state) for state in data.states])
    rows = zip(first.domains, data.actions.mean(axis=0), chosen.mean(axis=0), strict=True)
    print(
        f"{len(found)} runs, {len(data.rewards)} steps between evaluations, every "
        f"{np.median(np.concatenate([np.diff(run.steps) for run in found])):g} batches\n"
    )
    table = [[name, f"{theirs:.4f}", f"{own:.4f}"] for name, theirs, own in rows]
    print(text_table(["domain", "mean in the runs", "mean of the agent there"], table))
    print(
        f"\nthe critic expects a discounted fall of the log losses of {agent.value:.4f} by the "
        f"agent's weights, {agent.value_of_runs:.4f} by the runs' (its own opinion: try it)\n"
        f"written to {out} (use it: MixingAgentReweighting, agent: {out})"
    )
