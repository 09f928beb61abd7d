"""Devices that tests run on."""

import pytest
import torch

#: The CPU, and a GPU where there is one.
DEVICES = (
    "cpu",
    pytest.param(
        "cuda",
        marks=(
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ),
    ),
)
