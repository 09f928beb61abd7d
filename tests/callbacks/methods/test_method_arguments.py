"""What every method refuses, and what it does without target data."""

import math
import typing
from itertools import product

import numpy as np
import pytest
from helpers import quiet_trainer
from method_cases import CASES, ROWS, fit, make
from torch import nn
from toy import WIDTH, samples, toy_data, toy_module, train_reference

from tandem_pl import InputError
from tandem_pl.callbacks.methods.table import METHODS


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> str:
    return str(train_reference(tmp_path_factory.mktemp("reference") / "reference.ckpt"))


def whole_numbers_of(name: str) -> list[str]:
    """Every argument that is a whole number, as one of batches."""
    hints = typing.get_type_hints(METHODS[name].load().__init__)
    kinds = {key: typing.get_args(hint) or (hint,) for key, hint in hints.items()}
    return [key for key, some in kinds.items() if int in some and not {float, bool} & set(some)]


def numbers_of(name: str) -> list[tuple[str, float]]:
    """Every numeric argument with a value that cannot be meant."""
    callback = METHODS[name].load()
    hints = typing.get_type_hints(callback.__init__)
    found = []
    for key, hint in hints.items():
        kinds = typing.get_args(hint) or (hint,)
        if key == "return" or bool in kinds or key in CASES[name].exempt:
            continue
        if int in kinds or float in kinds:
            found.append((key, -1))
        if float in kinds:
            found.append((key, math.nan))
    return found


BAD = [(name, *bad) for name in ROWS for bad in numbers_of(name)]


@pytest.mark.parametrize(("name", "key", "value"), BAD)
def test_refuses_bad_numbers_by_name(name, key, value, reference, tmp_path) -> None:
    """In the constructor, or when the run starts, where it takes the number of domains to know."""
    with pytest.raises(InputError, match=rf"\b{key}=(-1|nan)") as caught:
        fit(name, tmp_path, make(name, reference, **{key: value}), max_epochs=1)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("mixture.yaml"))


def choices_of(name: str) -> list[tuple[str, str]]:
    hints = typing.get_type_hints(METHODS[name].load().__init__)
    return [(name, key) for key, hint in hints.items() if typing.get_origin(hint) is typing.Literal]


@pytest.mark.parametrize(("name", "key"), [pair for name in ROWS for pair in choices_of(name)])
def test_refuses_unknown_choices_by_name(name, key, reference) -> None:
    with pytest.raises(InputError, match=f"{key}='nonsense'"):
        make(name, reference, **{key: "nonsense"})


@pytest.mark.parametrize("name", [name for name in ROWS if METHODS[name].needs_target])
def test_says_that_it_needs_target_data(name, reference, tmp_path) -> None:
    with pytest.raises(InputError, match="target data"):
        fit(name, tmp_path, make(name, reference), target=False, max_epochs=1)
    assert not list(tmp_path.glob("mixture.yaml"))


TARGETED = [name for name in ROWS if METHODS[name].needs_target and METHODS[name].work]


@pytest.mark.parametrize("name", TARGETED)
def test_a_target_domain_without_weight_changes_nothing(name, tmp_path) -> None:
    trajectories = []
    for others in ({}, {"other": samples("other", 70, 8)}):
        method, data = make(name), toy_data(**CASES[name].data)
        data.target_sets |= others
        data.target_weights = {"t": 2} if others else None
        trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=CASES[name].epochs)
        trainer.fit(toy_module(METHODS[name].module), datamodule=data)
        trajectories.append(np.stack(method.trajectory))
    np.testing.assert_allclose(*trajectories, rtol=1e-9, atol=1e-12)
    assert np.ptp(trajectories[0], axis=0).max() > 0


@pytest.mark.parametrize("name", [name for name in ROWS if not METHODS[name].needs_target])
def test_does_not_need_target_data(name, reference, tmp_path) -> None:
    fit(name, tmp_path, make(name, reference), target=False, max_epochs=1)


REFERENCED = [name for name in ROWS if METHODS[name].needs_reference]


@pytest.mark.parametrize("name", REFERENCED)
def test_refuses_a_reference_that_does_not_fit(name, tmp_path) -> None:
    other = nn.Sequential(nn.Linear(WIDTH, 7), nn.Tanh(), nn.Linear(7, 2)).double()
    path = train_reference(tmp_path / "other.ckpt", steps=1, network=other)
    with pytest.raises(InputError, match=r"other\.ckpt.*0\.weight"):
        fit(name, tmp_path, make(name, str(path)), max_epochs=1)
    with pytest.raises(InputError, match=r"reference=.*absent\.ckpt"):
        fit(name, tmp_path, make(name, str(tmp_path / "absent.ckpt")), max_epochs=1)
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(InputError, match=r"reference=.*text\.ckpt"):
        fit(name, tmp_path, make(name, str(tmp_path / "text.ckpt")), max_epochs=1)


COUNTS = [(name, key) for name in ROWS for key in whole_numbers_of(name)]


@pytest.mark.parametrize(("name", "key"), COUNTS)
def test_refuses_fractions_of_batches(name, key, reference) -> None:
    with pytest.raises(InputError, match=rf"\b{key}=2\.5 must be a (whole number|multiple)"):
        make(name, reference, **{key: 2.5})


STAYS = {
    "dga": {},
    "doge": {},
    "doremi": {"smoothing": 0.0},
    "aioli": {},
    "dynamix": {"exploration": 0.0},
    "tandem": {"update": "exponentiated"},
}
GROWS = {
    "doge": {"smoothing": 0.1},
    "doremi": {},
    "aioli": {"ema": 0.5},
    "dynamix": {},
    "tandem": {},
}


@pytest.mark.parametrize(("name", "stays"), [*product(STAYS, [True]), *product(GROWS, [False])])
def test_warns_of_a_weight_of_zero_that_stays(name, stays, reference, tmp_path, recwarn) -> None:
    start = {"twin": 0.0, "other": 0.5, "noise": 0.5}
    method = make(name, reference, **(STAYS if stays else GROWS)[name])
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=CASES[name].epochs)
    data = toy_data(weights=start, **CASES[name].data)
    trainer.fit(toy_module(METHODS[name].module), datamodule=data)
    said = [str(w.message) for w in recwarn if "twin begin with a weight of 0" in str(w.message)]
    assert len(said) == stays
    assert (np.stack(method.trajectory)[:, 0] == 0).all() == stays
