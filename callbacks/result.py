"""What a run has learned so far: its mixture with the facts beside it, and the lines at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tandem_pl.mixture import Mixture
from tandem_pl.run_files import mixture_table, versions
from tandem_pl.simplex import Array
from tandem_pl.steadiness import Steadiness, is_judged, judge
from tandem_pl.text_tables import counted

if TYPE_CHECKING:
    from .reweighting import ReweightingCallback


class Judge:
    """Judges the weights when asked, after the updates that `is_judged` names.

    Others see the last judgement, or that of now if there is none since the fit was started.
    """

    def __init__(self) -> None:
        self._updates = 0  # after which it judged
        self._last: Steadiness | None = None

    def steadiness(self, callback: ReweightingCallback) -> Steadiness | None:
        """Return the last judgement; None before the first update, and for given weights."""
        updates = callback.episodes
        if callback.learns and updates != self._updates and (not self._last or is_judged(updates)):
            self._updates, self._last = updates, judge_run(callback)
        return self._last


def judge_run(callback: ReweightingCallback) -> Steadiness:
    """Judge the weights after the last update."""
    signal = callback.history if "delta" in callback.signal_columns else None
    rows = np.stack(callback.trajectory)
    return judge(rows, callback.averaged(), signal)


def learned_mixture(
    callback: ReweightingCallback, seen: Mapping[str, Array], data: Mapping[str, Any]
) -> Mixture:
    """Return the weights and their average, with the facts that `mixture.yaml` holds.

    Args:
        callback: the method.
        seen: what was trained on, name of the number -> [M].
        data: what the data are, see `data_record`.
    """
    names = callback.domains
    about: dict[str, Any] = {
        "method": callback.method,
        "settings": callback.settings(),
        "episodes": callback.episodes,
        "steps": callback.steps[-1],
    }
    if callback.frozen_at is not None:
        about["frozen_at"] = callback.frozen_at
    if thinned := callback.record.thinned():
        about["thinned"] = thinned
    if callback.learns and callback.episodes:
        steadiness = judge_run(callback)
        about["steadiness"] = steadiness.stability._asdict() | {"distance": steadiness.distance}
        if steadiness.significant is not None:
            about["significant"] = dict(zip(names, steadiness.significant.tolist(), strict=True))
    for key in ("samples", "tokens", "epochs"):
        if key in seen and not np.isnan(seen[key]).any():
            about[key] = dict(zip(names, seen[key].tolist(), strict=True))
    if data:
        about["data"] = data
    about["versions"] = versions()
    average = dict(zip(names, callback.averaged().tolist(), strict=True))
    return Mixture.from_array(names, callback.weights, average=average, about=about)


def end_text(callback: ReweightingCallback, folder: Path | None) -> str:
    """Return the table of the weights, whether they are settled, and where they were written.

    `folder` is None if nothing was written.
    """
    lines = [""]
    if callback.learns:
        lines.append(mixture_table(callback.mixture, callback.trajectory[0]))
        steadiness = judge_run(callback)
        if steadiness.judged:
            lines.append(f"mixture: {steadiness}")
    if callback.skipped_updates:
        skipped = callback.skipped_updates
        were = "was" if skipped == 1 else "were"
        lines.append(f"{skipped} of {counted(callback.tried(), 'update')} {were} skipped")
    lines.append("nothing written" if folder is None else f"written to {folder / 'mixture.yaml'}")
    return "\n".join(lines)
