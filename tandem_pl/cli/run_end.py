"""What a run says after its last step."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from tandem_pl.domain_names import first_names
from tandem_pl.report.run import Run
from tandem_pl.report.sentences import verdict
from tandem_pl.report.statistics import significance, stability
from tandem_pl.simplex import Array
from tandem_pl.steadiness import LEAST_UPDATES
from tandem_pl.text_tables import text_table

MOST_ROWS = 20  # target domains in the table
MOST_NAMES = 8  # domains in a line


def losses_table(
    names: Sequence[str], steps: tuple[int, int], losses: tuple[Array, Array], of_tokens: bool
) -> str:
    """Return a table of losses, and of perplexities if they are of tokens, at two steps.

    Args:
        names: [M'] target domains; of more than 20, the first 20 have rows.
        steps: of the first and the last losses.
        losses: two arrays [M'] in nats.
        of_tokens: whether exp(loss) is a perplexity.

    >>> print(losses_table(["web"], (0, 90), (np.array([5.5]), np.array([2.0])), False))
    target  loss at step 0  at step 90
    web             5.5000      2.0000
    mean            5.5000      2.0000
    """
    header = ["target", f"loss at step {steps[0]}", f"at step {steps[1]}"]
    columns = [[f"{value:.4f}" for value in (*values, values.mean())] for values in losses]
    if of_tokens:
        header += [f"perplexity at step {steps[0]}", f"at step {steps[1]}"]
        with np.errstate(over="ignore"):  # inf is right
            exps = [np.exp(values) for values in losses]
        columns += [[f"{value:.3f}" for value in (*values, values.mean())] for values in exps]
    rows = list(zip([*names, "mean"], *columns, strict=True))
    if len(names) > MOST_ROWS:
        rows = [*rows[:MOST_ROWS], (f"... {len(names) - MOST_ROWS} more", *rows[-1][1:])]
    return text_table(header, rows)


def mixture_lines(run: Run) -> list[str]:
    """Return whether learned weights are significant and settled, and how to use them.

    Of a run that is too short to judge nothing is said of significance; see `significant_moves`.
    """
    if not run.learned:
        return []
    lines = [verdict(stability(run), run)]
    if not run.updates:
        return lines
    if (moves := significance(run)) is not None:
        beyond = [name for name, significant in moves.items() if significant]
        level = "hyper-gradients, 95 % for all domains together"
        lines.append(
            f"Significant ({level}): the moves of {len(beyond)} of {len(moves)} weights, "
            f"{first_names(beyond, MOST_NAMES)}."
            if beyond
            else "Not significant: this run alone does not rule out chance for any weight "
            f"({level}); runs of other seeds, a longer one or more measured samples may."
        )
    if run.updates >= LEAST_UPDATES:
        lines.append(
            f"Keep the network, which is trained: tandem export {run.folder} --network exported"
        )
        lines.append(f"Or train another at the average: tandem init train --run {run.folder}")
    lines.append(f"See why the weights moved: tandem report {run.folder}")
    return lines


def sample_line(prompt: str, text: str) -> str:
    r"""Return a line with a text that the network wrote; line ends are \n.

    >>> print(sample_line("import", " os\n"))
    A sample: after "import" the network writes " os\n"
    """
    given, written = (json.dumps(part, ensure_ascii=False) for part in (prompt, text))
    return f"A sample: after {given} the network writes {written}"
