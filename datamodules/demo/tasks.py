"""A hundred small tasks on real text, in six categories.

To add a task, add a row to the table of its category in `line_tasks` or `code_tasks`.
"""

import random
from typing import NamedTuple

from .code_tasks import DESCRIPTIONS, NAMINGS
from .line_tasks import (
    CLASSIFICATIONS,
    COMPLETIONS,
    EXTRACTIONS,
    MAX_INPUT,
    MAX_RESPONSE,
    TRANSFORMATIONS,
    Example,
    Rule,
)
from .pieces import Piece


class Task(NamedTuple):
    """A rule for the files of one kind; `unit` is "lines", or "function" or "class" of Python."""

    name: str
    category: str
    kind: str
    unit: str
    instruction: str
    rule: Rule

    def example(self, piece: Piece, rng: random.Random) -> Example | None:
        r"""Return prompt and response, or None; both are short and not empty.

        Example:
            >>> task = next(task for task in TASKS if task.name == "upper case")
            >>> task.example(Piece("all rights\nreserved", "licences"), random.Random(0))
            ('Write in capitals: all rights', 'ALL RIGHTS')
        """
        made = self.rule(piece, rng)
        if made is None:
            return None
        given, response = made[0].strip("\n"), made[1].strip()
        if not given.strip() or not response or "\n" in response:
            return None
        if len(given) > MAX_INPUT or len(response) > MAX_RESPONSE:
            return None
        return f"{self.instruction}: {given}", response


TABLE = {
    "completion": COMPLETIONS,
    "transformation": TRANSFORMATIONS,
    "extraction": EXTRACTIONS,
    "classification": CLASSIFICATIONS,
    "description": DESCRIPTIONS,
    "naming": NAMINGS,
}
CATEGORIES = tuple(TABLE)
TASKS = tuple(
    Task(name, category, pieces.split()[0], pieces.partition(" ")[2] or "lines", instruction, rule)
    for category, rows in TABLE.items()
    for name, pieces, instruction, rule in rows
)
