"""How the tests of all methods try each row of METHODS, see `CASES`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from agents import toy_agent
from helpers import quiet_trainer
from lightning.pytorch import Callback
from toy import toy_data, toy_module

from tandem_pl.callbacks import ReweightingCallback
from tandem_pl.callbacks.methods.table import METHODS


class Case(NamedTuple):
    """How a method is tried here.

    Args:
        settings: of the callback, beside those of the row; short episodes.
        steps: batches that train, of the run that must learn.
        above, below: domains of which the average weight of the first must be above the other's,
            each time by `margin`; pairs. Empty for weights that are given.
        margin: least difference.
        exempt: numeric arguments that -1 or NaN need not be refused for, and why.
        data: options of the data.
        epochs: of the run on two processes, enough for the weights to change.
    """

    settings: Mapping[str, Any] = {}
    steps: int = 150
    above: tuple[tuple[str, str], ...] = (("twin", "noise"),)
    margin: float = 0.05
    exempt: Mapping[str, str] = {}
    data: Mapping[str, Any] = {}
    epochs: int = 2


GIVEN = Case(steps=20, above=())

CASES: dict[str, Case] = {
    "tandem": Case({"free_steps": 3, "probe_steps": 3, "measure_batches": 4}, margin=0.1),
    "skill_it": Case({"update_steps": 10, "learning_rate": 1.0}, margin=0.1, epochs=4),
    "aioli": Case(
        {"update_steps": 26, "lp_rounds": 2, "lp_steps": 4, "learning_rate": 2.0}, margin=0.1
    ),
    "tikmix": Case({"update_steps": 10}, margin=0.1),
    "doremi": Case({"episode_steps": 5}, above=(("noise", "twin"),)),
    "doge": Case({"episode_steps": 5}, margin=0.02),
    "odm": Case({"period": 5}, above=(("noise", "twin"),)),
    "ado": Case({"period": 5, "start_step": 30, "fit_every": 15, "ignore_steps": 0}),
    "dga": Case({"period": 4, "measure_batches": 2}),
    "quad": Case({"clusters": 1, "period": 4, "measure_batches": 1}, epochs=4),
    "diversify": Case({"clusters": 2, "period": 4}),
    "dynamix": Case({"period": 4, "smoothing": 0.5}),
    "mixing_agent": Case({"agent": toy_agent(), "period": 4}),
    "r_and_b": Case({"period": 4, "shares": {"twin": 1, "other": 1, "noise": 0}}),
}

CASES |= {name: GIVEN for name, row in METHODS.items() if row.callback == "FixedMixture"}
CASES["target"] = GIVEN._replace(data={"clusters": {"t": {"twin": 0.8, "other": 0.2}}})

ROWS = [name for name in METHODS if name in CASES]  # `test_every_row_has_a_case` names the others


def make(name: str, reference: str | None = None, **settings: Any) -> ReweightingCallback:
    """A method's callback with its row's settings, its case's, and these."""
    given = {**METHODS[name].settings, **CASES[name].settings, **settings}
    if METHODS[name].needs_reference:
        given.setdefault("reference", reference)
    return METHODS[name].load()(**given)


def fit(name: str, folder: Any, method: Any, *callbacks: Callback, target: bool = True, **options):
    """A run on the toy; (module, trainer)."""
    ckpt_path = options.pop("ckpt_path", None)
    module = toy_module(METHODS[name].module)
    trainer = quiet_trainer(folder, callbacks=[method, *callbacks], **options)
    data = toy_data(target=target, **CASES[name].data)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, trainer
