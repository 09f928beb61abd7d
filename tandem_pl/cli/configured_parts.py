"""The trainer, module and data of a configuration of `tandem fit`, without a run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningCLI

from tandem_pl.callbacks import EvaluationTable
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.errors import InputError
from tandem_pl.search.swarm.proxies import Parts
from tandem_pl.training.connection import callbacks_of
from tandem_pl.yaml_files import dump_yaml

from .early_checks import check_arguments
from .lightning_cli import TandemCLI, filter_warnings
from .run_summary import RunSummary


class _PartsCLI(TandemCLI):
    """Builds what a configuration names, and runs nothing."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return `fit` alone: the parsers of the other verbs would take most of the time."""
        return {"fit": LightningCLI.subcommands()["fit"]}

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def build_parts(config: dict[str, Any]) -> Parts:
    """Return the trainer, module and data, which is built if it must be, and set up for training.

    Raises:
        InputError: the configuration cannot be used.
    """
    filter_warnings()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "proxy.yaml"
        path.write_text(dump_yaml(config), encoding="utf-8")
        arguments = ["fit", "--config", str(path)]
        check_arguments("fit", arguments[1:])
        cli = _PartsCLI(arguments)
    callbacks = callbacks_of(cli.trainer)
    callbacks[:] = [c for c in callbacks if not isinstance(c, RunSummary | EvaluationTable)]
    data = cli.datamodule
    if not isinstance(data, MixtureDataModule):
        raise InputError(f"data={type(data).__name__} is not a MixtureDataModule.")
    data.trainer = cli.trainer  # whose length decides the pools of `final_samples`
    data.prepare_data()
    data.setup("fit")
    return Parts(cli.trainer, cli.model, data)
