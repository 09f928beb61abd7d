"""ADO against a replay of the authors' loop, batch by batch, and across a resume."""

import math
import warnings

import numpy as np
import pytest
from helpers import quiet_trainer
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback
from scipy.signal import savgol_filter
from toy import DOMAINS, ChangedLosses, Losses, toy_data, toy_module

from tandem_pl.callbacks import ADOReweighting
from tandem_pl.callbacks.measures.power_law import PowerLaw, fit_power_law
from tandem_pl.callbacks.methods import ado
from tandem_pl.callbacks.methods.ado import policy, preference
from tandem_pl.errors import InputError

PRIOR = [0.5, 0.3, 0.2]
SETTINGS = {"start_step": 20, "fit_every": 10, "ignore_steps": 5, "least_loss": 0.05}
positive = st.floats(0.05, 5.0)
three = st.tuples(positive, positive, positive)


@given(three, three, st.tuples(*[st.floats(0.0, 0.8)] * 3), three, three, st.floats(0, 0.3))
def test_the_preference_is_the_papers(irreducible, scale, exponent, prior, share, least) -> None:
    law = PowerLaw(*(np.array(part) for part in (irreducible, scale, exponent)))
    prior, share = (np.array(part) / sum(part) for part in (prior, share))
    raw = []
    for m in range(3):
        predicted = irreducible[m] + scale[m] / 800 ** exponent[m]
        slope = max(exponent[m], 0.05) * (predicted - irreducible[m]) / 800
        raw.append(slope * prior[m] * math.sqrt(share[m]))
    clipped = [max(x / sum(raw), least) for x in raw]
    expected = [x / sum(clipped) for x in clipped]
    np.testing.assert_allclose(preference(law, 800, prior, share, least), expected, rtol=1e-6)


def test_flat_curves_leave_the_prior() -> None:
    law = PowerLaw(np.ones(2), np.zeros(2), np.zeros(2))
    assert preference(law, 10, np.array([0.7, 0.3]), np.array([0.5, 0.5])).tolist() == [0.7, 0.3]


@given(st.integers(0, 5000), st.integers(1, 40))
def test_the_average_of_a_period_is_that_of_its_steps(steps, period) -> None:
    rho, average = np.array([0.2, 0.8]), np.array([0.6, 0.4])
    weights, after = policy(rho, average, steps, period)
    np.testing.assert_allclose(weights, 0.9 * average + 0.1 * rho)
    for t in range(steps, steps + period):
        average = (1 - 1 / (t + 1)) * average + rho / (t + 1)
    np.testing.assert_allclose(after, average)


class Replay:
    """The loop of the authors' code, one batch after the other."""

    def __init__(self) -> None:
        self.loss, self.drawn = [], 0
        self.share = self.average = self.p = np.array(PRIOR)
        self.law = None

    def batch(self, t, domains, losses) -> np.ndarray:
        """Batch number t, from 1; the weights of the next."""
        count = np.array([(domains == m).sum() for m in range(3)])
        self.drawn += len(domains)
        self.share = 0.9 * self.share + 0.1 * count / count.sum()
        last = self.loss[-1] if self.loss else [losses.mean()] * 3
        self.loss.append([losses[domains == m].mean() if count[m] else last[m] for m in range(3)])
        if t >= 20 and t % 10 == 0:
            self.fit(len(domains))
        if self.law is not None:
            rho = preference(self.law, self.drawn, np.array(PRIOR), self.share, 0.22 / 3)
            self.p = 0.9 * self.average + 0.1 * rho
            self.average = (1 - 1 / (t + 1)) * self.average + rho / (t + 1)
        return self.p

    def fit(self, size) -> None:
        window = min(101, len(self.loss) - 1 + len(self.loss) % 2)
        curves = savgol_filter(np.array(self.loss).T, window, 3, axis=-1)
        laws = []
        for curve in curves[:, 5 :: ado.EVERY]:
            n = size * (1 + np.arange(len(self.loss)))[5 :: ado.EVERY]
            laws.append(fit_power_law(n.astype(float), curve, 0.05))
        self.law = PowerLaw(*np.array(laws).T)


class SaveAt(Callback):
    def __init__(self, folder, batches) -> None:
        self.folder, self.batches, self.number = folder, batches, 0

    def on_train_batch_end(self, trainer, *rest) -> None:
        self.number += 1
        if self.number in self.batches:
            trainer.save_checkpoint(self.folder / f"{self.number}.ckpt")


def run(folder, method, *callbacks, steps=45, ckpt_path=None, **data):
    weights = dict(zip(DOMAINS, PRIOR, strict=True))
    callbacks = sorted([*callbacks, method], key=lambda callback: isinstance(callback, SaveAt))
    trainer = quiet_trainer(folder, max_steps=steps, max_epochs=-1, callbacks=callbacks)
    data = toy_data(target=False, weights=weights, **data)
    trainer.fit(toy_module(), datamodule=data, ckpt_path=ckpt_path)
    return method


def test_a_run_follows_the_authors_loop(tmp_path, monkeypatch) -> None:
    """With a batch a period; some batches of 2 samples leave domains out. All fits succeed."""
    monkeypatch.setattr(ado, "EVERY", 1)  # else 45 steps would be too few for a fit
    losses, replay = Losses(), Replay()
    method = run(tmp_path, ADOReweighting(1, **SETTINGS), losses, batch_size=2, seed=2)
    expected = [np.array(PRIOR)]
    expected += [replay.batch(t, *rows) for t, rows in enumerate(losses.batches, start=1)]
    np.testing.assert_allclose(method.trajectory, expected, rtol=1e-6)
    assert method.signal_steps == [20, 30, 40]
    assert method.trajectory[19].tolist() == PRIOR  # no fit yet
    assert abs(method.weights - PRIOR).max() > 0.01


def test_longer_periods_hold_the_weights_and_keep_a_point_each(tmp_path) -> None:
    losses = Losses()
    method = run(tmp_path, ADOReweighting(3, **SETTINGS), losses, steps=60)
    assert method.progress == [(step, 12 * step) for step in range(3, 61, 3)]
    for number, row in enumerate(method.curve):
        batches = losses.batches[3 * number : 3 * number + 3]
        domains, values = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        np.testing.assert_allclose(row, [values[domains == m].mean() for m in range(3)])
    assert method.law is None  # every third period, less what is ignored: 6 points
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "no power law")
        method = run(tmp_path, ADOReweighting(5, **SETTINGS), steps=100)
    assert method.signal_steps[0] > 20
    assert method.law is not None


def test_a_resumed_run_ends_with_the_same_bits(tmp_path, monkeypatch) -> None:
    """Before any fit, at one, and inside a period after one."""
    monkeypatch.setattr(ado, "EVERY", 1)
    settings = {"period": 5, **SETTINGS, "start_step": 10, "ignore_steps": 0, "floor": 0.1}
    monkeypatch.setattr(ado, "FEWEST_POINTS", 4)
    places = (3, 25, 33)
    whole = run(tmp_path, ADOReweighting(**settings), SaveAt(tmp_path, places))
    assert len(whole.signals) >= 2
    for batch in places:
        again = run(tmp_path, ADOReweighting(**settings), ckpt_path=tmp_path / f"{batch}.ckpt")
        assert [w.tolist() for w in again.trajectory] == [w.tolist() for w in whole.trajectory]
        assert [s.tolist() for s in again.signals] == [s.tolist() for s in whole.signals]
        assert again.state_dict().keys() == whole.state_dict().keys()
        assert again.progress == whole.progress
        assert again._average.tolist() == whole._average.tolist()
        assert again._share.tolist() == whole._share.tolist()
    with pytest.raises(InputError, match=r"made with prior=\[.* use the same to resume"):
        run(
            tmp_path, ADOReweighting(**{**settings, "prior": "uniform"}),
            ckpt_path=tmp_path / "25.ckpt",
        )  # fmt: skip


def test_a_failed_fit_keeps_the_last_law(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ado, "EVERY", 1)
    calls = []

    def sometimes(*arguments):
        calls.append(1)
        return fit_power_law(*arguments) if len(calls) <= 3 else None

    monkeypatch.setattr(ado, "fit_power_law", sometimes)
    method = run(tmp_path, ADOReweighting(1, **SETTINGS))
    assert method.signal_steps == [20]
    assert method.failed_fits == 2
    assert method.law is not None


def test_a_loss_that_is_not_finite_counts_as_drawn_and_nothing_else(tmp_path) -> None:
    def change(number, losses) -> None:
        if number == 4:
            losses[0] = math.inf

    with pytest.warns(UserWarning, match="a training loss is not finite"):
        method = run(tmp_path, ADOReweighting(3, **SETTINGS), ChangedLosses(change), steps=9)
    assert method.progress == [(3, 36), (9, 108)]
    assert method.samples == 108
    assert method.skipped_updates == 1


def test_a_run_without_a_fit_says_so(tmp_path) -> None:
    with pytest.warns(UserWarning, match="no power law was fitted in 4 steps.*start_step=20"):
        method = run(tmp_path, ADOReweighting(2, **SETTINGS), steps=4)
    assert method.weights.tolist() == PRIOR


def test_the_prior_is_where_the_run_starts(tmp_path) -> None:
    weights = {"twin": 2, "other": 1, "noise": 1}
    method = run(tmp_path, ADOReweighting(prior=weights), steps=1)
    assert method.trajectory[0].tolist() == [0.5, 0.25, 0.25]
    assert method.settings()["prior"] == {"twin": 0.5, "other": 0.25, "noise": 0.25}
    method = run(tmp_path, ADOReweighting(prior="proportional"), steps=1)
    assert method.trajectory[0].tolist() == pytest.approx([1 / 3] * 3)
    with pytest.raises(InputError, match="prior names the unknown domain 'nois'"):
        run(tmp_path, ADOReweighting(prior={"twin": 1, "other": 1, "nois": 1}), steps=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"period": 0}, "period=0 must be at least 1"),
        ({"start_step": 0}, "start_step=0 must be"),
        ({"fit_every": 0}, "fit_every=0 must be"),
        ({"ignore_steps": -1}, "ignore_steps=-1 must be"),
        ({"floor": 1.5}, "floor=1.5 must be between 0 and 1"),
        ({"floor": math.nan}, "floor=nan must be"),
        ({"least_loss": 0.0}, "least_loss=0.0 must be a positive number"),
        ({"least_loss": math.nan}, "least_loss=nan must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(InputError, match=message):
        ADOReweighting(**settings)
