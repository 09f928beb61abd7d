"""The schedule of the shipped configurations."""

import pytest
import torch

from tandem_pl.errors import InputError
from tandem_pl.schedules import WarmupCosine


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 2.0)


def test_warm_up_then_a_cosine_then_constant() -> None:
    schedule = WarmupCosine(optimizer(), total_steps=6, warmup_steps=2, final=0.5)
    rates = []
    for _ in range(8):
        rates += schedule.get_last_lr()
        schedule.optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1.0, 2.0, 2.0, 1.853553, 1.5, 1.146447, 1.0, 1.0], abs=1e-6)


def test_a_run_without_a_length_is_refused() -> None:
    with pytest.raises(InputError, match=r"total_steps=-1 of WarmupCosine .* set max_steps"):
        WarmupCosine(optimizer(), total_steps=-1, warmup_steps=2)
