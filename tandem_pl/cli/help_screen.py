"""`tandem fit --help`: one screen, read from the source so that it comes at once."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from importlib import import_module

from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.public_names import PATHS

from .signatures import find, signature

WIDTH = 100
USES = {
    "fit": (
        "--config FILE [--KEY VALUE ...]",
        "Learn a mixture, or train a network on a given one.",
    ),
    "validate": ("RUN [--KEY VALUE ...]", "Losses by domain on the target data."),
    "test": ("RUN [--KEY VALUE ...]", "Losses and perplexities by domain on held-out data."),
    "predict": ("RUN [--KEY VALUE ...]", "The loss of each held-out sample, as a CSV file."),
}
OPTIONS = {
    "--config FILE": "a YAML file of options; several are merged",
    "--trainer.max_steps N": "length of the run, in batches of the proxy",
    "--trainer.accelerator gpu": "cpu, gpu or auto; --trainer.devices 4 for four of them",
    "--trainer.precision bf16-mixed": "32-true is the default",
    "--data.batch_size N": "samples in a batch, all domains together",
    "--data.weights uniform": "or proportional, temperature:2, target, {web: 0.7, code: 0.3}, RUN",
    "--model.network.config.hidden_size N": "and other fields of a language model",
    "--model.optimizer.lr 1.0e-3": "learning rate of the network",
    "--trainer.logger.save_dir FOLDER": "where runs go; the run is FOLDER/NAME/version_N",
    "--ckpt_path FILE": "checkpoint to resume from, RUN/checkpoints/last.ckpt",
}
RUN_OPTIONS = {
    "RUN": "folder of a run: its configuration and last checkpoint; results go there",
    "--ckpt_path FILE": "another checkpoint",
    "--config FILE": "in place of RUN: a YAML file, with --ckpt_path",
    "--untrained": "random weights, or those of `pretrained`, and no checkpoint",
    "--trainer.accelerator gpu": "cpu, gpu or auto; --trainer.devices 4 for four of them",
    "--data.batch_size N": "samples in a batch",
}
GROUPS = {
    "data": ("data:", "tandem_pl.datamodules"),
    "methods": ("methods, in trainer.callbacks:", "tandem_pl.callbacks"),
    "networks": ("networks, in model.network:", "tandem_pl.networks"),
}
EXAMPLES = """examples:
  tandem init text                                  write text.yaml, a configuration to edit
  tandem fit --config text.yaml --trainer.max_steps 500
  tandem init train --run runs/text/version_0       write train.yaml: a fresh network at its weights
"""
MORE = """more:
  tandem {verb} --help NAME    options of one of these names, such as TandemReweighting
  tandem {verb} --help.all     every option of the Trainer
  tandem {verb} --config FILE --print_config    the configuration with all defaults
"""


def help_screen(verb: str, names: Sequence[str] = ()) -> str:
    """Return the help of a verb, or of classes and functions by name."""
    if names:
        return "\n".join(map(describe, names))
    use, about = USES[verb]
    lines = [f"usage: tandem {verb} {use}", "", about, "", "options:"]
    lines += rows(OPTIONS if verb == "fit" else RUN_OPTIONS)
    if verb == "fit":
        for title, package in GROUPS.values():
            lines += ["", title, *rows(dict(entries(package)))]
        lines += ["", EXAMPLES.rstrip()]
    return "\n".join([*lines, "", MORE.format(verb=verb)])


def entries(package: str) -> Iterator[tuple[str, str]]:
    """Yield the names of a package and what each is; of callbacks, the methods."""
    names = import_module(package).__all__
    for name in sorted(names, key=lambda name: name != "TandemReweighting"):
        about = goal_of(name) if package == "tandem_pl.callbacks" else about_of(name)
        if about and name != "MixtureDataModule":  # which takes data sets, not files
            yield name, about


def about_of(name: str) -> str:
    """Return the first sentence of a docstring."""
    known = signature(PATHS[name])
    return known.about.split("; ")[0].rstrip(".") if known else ""


def goal_of(name: str) -> str:
    """Return what a method goes by, or "" for another callback."""
    definition = find(PATHS[name])
    nodes = ast.walk(definition.node) if definition else iter(())
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    abouts = [call.args[1] for call in calls if ast.unparse(call.func) == "Method"]
    if len(abouts) == 1 and not isinstance(abouts[0], ast.Name):
        return str(ast.literal_eval(abouts[0]))
    return about_of(name) if abouts else ""  # the class is for several rows of the table of methods


def rows(table: dict[str, str]) -> list[str]:
    """Return lines of two columns; what is too long for a line loses what follows a comma."""
    width = max(map(len, table)) + 2
    lines = []
    for name, about in table.items():
        if len(about) > WIDTH - width - 2:
            about = about.partition(", ")[0].partition(": ")[0]
        about = textwrap.shorten(about, WIDTH - width - 2, placeholder=" ...")
        lines.append(f"  {name:{width}}{about}")
    return lines


def describe(name: str) -> str:
    """Return what a class or function is, and its options.

    Raises:
        InputError: no such name.
    """
    definition, known = find(PATHS.get(name, name)), signature(PATHS.get(name, name))
    if definition is None or known is None:
        hint = did_you_mean(name, PATHS).strip() or "see `tandem fit --help` for the names."
        raise InputError(f"--help {name}: there is no such class or function: {hint}")
    text = inspect.cleandoc(ast.get_docstring(definition.node) or "").partition("\nArgs:")[0]
    lines = [PATHS.get(name, name), "", text.rstrip(), "", "options:"]
    for option in known.options.values():
        default = "" if option.default is None else f" (default: {option.default})"
        about = textwrap.fill(f"{option.about}{default}".strip() or "-", WIDTH - 6)
        lines += [f"  {option.name}", textwrap.indent(about, "      ")]
    return "\n".join([*lines, ""])
