"""Every example in a docstring prints what it says."""

import doctest
from importlib import import_module
from pkgutil import walk_packages

import pytest

# The folders callbacks/ and datamodules/ lie beside tandem_pl/ in a checkout.
PACKAGES = ("tandem_pl", "tandem_pl.callbacks", "tandem_pl.datamodules")
MODULES = sorted(
    {
        module.name
        for package in PACKAGES
        for module in walk_packages(import_module(package).__path__, f"{package}.")
        if not module.name.endswith("__main__")
    }
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_all_three_packages_are_looked_at():
    for package in PACKAGES:
        assert sum(name.startswith(f"{package}.") for name in MODULES) > 20
