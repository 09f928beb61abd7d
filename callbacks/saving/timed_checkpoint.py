"""`TimedCheckpoint`: `last.ckpt` by the clock, beside the ends of a run."""

from __future__ import annotations

from tandem_pl.training.last_checkpoint import LastCheckpoint


class TimedCheckpoint(LastCheckpoint):
    """Save `checkpoints/last.ckpt` every few minutes, and at every end of a run.

    For machines that vanish without a signal. See `LastCheckpoint`, which every run of a
    `MixtureModule` has, for the ends.

    Args:
        minutes: minutes of training between two saves; None to save at ends only.

    Example:
        >>> TimedCheckpoint(minutes=0)
        Traceback (most recent call last):
        tandem_pl.errors.InputError: minutes=0 must be positive, or null to save at ends only.
    """
