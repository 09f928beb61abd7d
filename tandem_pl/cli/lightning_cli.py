"""`tandem fit|validate|test|predict`, by LightningCLI."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tandem_pl.errors import InputError
from tandem_pl.files import write_atomically
from tandem_pl.text_tables import counted
from tandem_pl.training.checkpoint_io import AtomicCheckpointIO
from tandem_pl.training.connection import callbacks_of
from tandem_pl.training.last_checkpoint import LastCheckpoint
from tandem_pl.training.rank_errors import one_error_for_all_ranks
from tandem_pl.training.run_folder import run_folder
from tandem_pl.training.sharding import check_strategy_name

from .arguments import Parser
from .yaml_options import MODE, quote_named_values


class SaveConfig(SaveConfigCallback):
    """Save the parsed configuration as `config.yaml` of the run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the folder on every rank, since it is broadcast; save on one."""
        self.folder = run_folder(trainer)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save fit's configuration; other verbs leave it alone."""
        if stage == "fit":
            text = self.parser.dump(self.config, skip_unset=False)
            write_atomically(self.folder / self.config_filename, text.encode())


class LightningParser(Parser, LightningArgumentParser):
    """Lightning's parser with errors of one sentence."""


class TandemCLI(LightningCLI):
    """LightningCLI with references between keys, and without its `--optimizer`.

    The optimizer belongs to the module, which holds two networks; see `model.init_args`.

    Args:
        arguments: of the command line, the verb first.
        run: folder of the run to evaluate, which results are written to.
    """

    def __init__(self, arguments: Sequence[str], run: str | None = None) -> None:
        self.run = run
        super().__init__(
            LightningModule,
            LightningDataModule,
            args=list(quote_named_values(arguments)),
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            parser_class=LightningParser,
            parser_kwargs={
                "parser_mode": MODE,
                "prog": "tandem",
                "description": "Learn how much of each kind of data to train on.",
            },
            trainer_defaults={"use_distributed_sampler": False},
        )

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        """Leave the table of results to `EvaluationTable`."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults(verbose=False)
        return parser

    def before_instantiate_classes(self) -> None:
        """Send the results of an evaluation to the folder of its run; say which step it is of."""
        config = self.config[self.subcommand]
        check_strategy_name(config.trainer.strategy)
        path = config.get("ckpt_path")
        if self.subcommand == "fit":
            return
        run = self.run
        if path and Path(path).parent.name == "checkpoints":
            run = run or str(Path(path).parent.parent)
        if run:
            config.trainer.logger = False  # not a new folder for each evaluation of a run
            config.trainer.default_root_dir = run
        step = read_step(Path(path)) if path else None
        if step is not None:
            say(f"{self.subcommand}: {path}, after {counted(step, 'step')}")

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb; delete the new folder of a run that fails before its first step.

        Raises:
            InputError: the input cannot be used, or the run's folder is full or not writable.
        """
        folder = getattr(self.trainer.logger, "log_dir", None)
        run = Path(folder or self.trainer.default_root_dir)
        new = folder is not None and not run.exists()
        try:
            with one_error_for_all_ranks(self.trainer):
                if subcommand == "fit" and self.config.fit.get("ckpt_path") == "last":
                    self._resume_last(run)
                super()._run_subcommand(subcommand)
        except (InputError, OSError) as error:
            path = self.config_init[subcommand].get("ckpt_path")
            start = read_step(Path(path)) if path else 0
            unchanged = self.trainer.global_step in (0, start) and not any(run.rglob("*.ckpt"))
            if new and unchanged and self.trainer.is_global_zero:
                shutil.rmtree(run, ignore_errors=True)
                with contextlib.suppress(OSError):  # also the parents that are empty now
                    os.removedirs(run.parent)
            sentence = unwritable(error, run) if isinstance(error, OSError) else None
            if sentence is None:
                raise
            raise InputError(sentence) from error

    def _resume_last(self, run: Path) -> None:
        """Resolve `--ckpt_path last`; without it Lightning starts from step 0 without a word."""
        path = find_last(self.trainer, run)
        logger = self.config.fit.trainer.logger
        version = getattr(getattr(logger, "init_args", None), "version", None)
        if path is None and version is None:
            raise InputError(nothing_to_resume(run))
        if path is None:  # a folder that the user named: the same command starts and continues it
            say(f"ckpt_path=last: {run} has no checkpoint yet; starting at step 0")
        self.config_init.fit.ckpt_path = str(path) if path else None

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Add a summary, a table of results, a bar for the run, and `last.ckpt` at every end."""
        from tandem_pl.callbacks import EvaluationTable, RunProgressBar

        from .run_summary import RunSummary

        given = [callback for callback in config.get("callbacks") or [] if callback]
        callbacks = [*callbacks, EvaluationTable(), RunSummary()]
        wanted = config.get("enable_progress_bar") is not False and not config.get("barebones")
        if wanted and not any(isinstance(callback, ProgressBar) for callback in given):
            callbacks.append(RunProgressBar())
        try:
            trainer = super()._instantiate_trainer(config, callbacks)
        except (MisconfigurationException, TypeError, ValueError) as error:  # flags that clash
            raise InputError(f"trainer: {error}") from error
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        checkpoints = trainer.checkpoint_callbacks  # empty if enable_checkpointing is false
        if checkpoints and not any(isinstance(callback, LastCheckpoint) for callback in given):
            callbacks_of(trainer).append(LastCheckpoint())  # also for modules of other projects
        return trainer


@rank_zero_only
def say(line: str) -> None:
    """Print a line, by one process."""
    print(line)


def read_step(path: Path) -> int | None:
    """Return the steps of a checkpoint; None if the file says none."""
    file = path / "meta.pt" if path.is_dir() else path  # a sharded checkpoint is a folder
    try:
        return int(
            torch.load(file, mmap=True, weights_only=True, map_location="cpu")["global_step"]
        )
    except Exception:  # damaged files raise many kinds; Lightning will say
        return None


def find_last(trainer: Trainer, run: Path) -> Path | None:
    """Return the newest `last.ckpt` of a run, for `--ckpt_path last`."""
    saving = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    folders = {run / "checkpoints", *(Path(c.dirpath) for c in saving if c.dirpath)}
    found = [path for folder in folders for path in folder.glob("last*.ckpt")]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def nothing_to_resume(run: Path) -> str:
    """Return what to do about `--ckpt_path last` in a new folder."""
    earlier = run.parent.glob("version_*/checkpoints/last.ckpt")
    newest = max(earlier, key=lambda path: path.stat().st_mtime, default=None)
    advice = f"give its path, such as --ckpt_path {newest}" if newest else "leave it out to start"
    return f"ckpt_path=last: there is nothing to resume from in {run}, a new folder: {advice}."


def unwritable(error: OSError, run: Path) -> str | None:
    """Return what to do about an unwritable file of the folder `run`; None for other errors.

    >>> unwritable(OSError(errno.EROFS, "Read-only file system", "runs/a/b.ckpt"), Path("runs/a"))
    'cannot write runs/a/b.ckpt: Read-only file system; give a folder that can be written.'
    """
    path = Path(error.filename or run)
    if path.suffix == ".tmp":  # `write_atomically`
        path = path.with_name(path.stem.removeprefix("."))
    reason = error.strerror or "it cannot be written"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        checkpoint = run / "checkpoints" / "last.ckpt"
        again = f", and resume with --ckpt_path {checkpoint}" if checkpoint.exists() else ""
        existing = next((p for p in (run, *run.parents) if p.is_dir()), Path())
        free = shutil.disk_usage(existing).free / 1e6
        return f"cannot write {path}: {reason} ({free:,.1f} MB are free); make room{again}."
    folder, file = Path(os.path.abspath(run)), Path(os.path.abspath(path))
    inside = folder in (file, *file.parents) or file in folder.parents
    refused = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
    if inside and error.errno in refused:
        return f"cannot write {path}: {reason}; give a folder that can be written."
    return None


#: Metrics that the progress bar shows, see `MixtureMonitor`.
SHOWN = "train/loss|mixture/effective_domains"


def is_no_advert(record: logging.LogRecord) -> bool:
    """Return whether a message of Lightning says something of the run."""
    return "litlogger" not in str(record.msg) and "litmodels" not in str(record.msg)


def filter_warnings() -> None:
    """Leave out messages of libraries on what is intended here."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval")
    # The values are those of all ranks.
    warnings.filterwarnings("ignore", message=f"It is recommended to use .self.log..({SHOWN})")
    warnings.filterwarnings("ignore", message=".*functional.all_gather is deprecated")
    # A resumed run has a new folder or the old one; both are intended.
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    warnings.filterwarnings("ignore", message=".*exists and is not empty")
    warnings.filterwarnings("ignore", message=".*no pre-optimization state was saved")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_no_advert)


def main(arguments: Sequence[str], run: str | None = None) -> None:
    """Run the verb `arguments[0]`; `run` is the folder of the run that is evaluated."""
    filter_warnings()
    TandemCLI(arguments, run)
