"""Names that people import and that configurations hold, and the folders of the packages."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
#: Module -> the names that README.md, configs/, tests/embedding and the packages themselves offered
#: before the code moved into folders. None of them may go.
NAMES = {
    "tandem_pl": ["InputError", "Mixture", "MixtureModule", "TandemModule", "__version__"],
    "tandem_pl.adapters": ["lora"],
    "tandem_pl.callbacks": [
        *("ADOReweighting", "AioliReweighting", "ClassificationMetrics", "DGAReweighting"),
        *("DoGEReweighting", "DoReMiReweighting", "EvaluationTable", "FixedMixture", "ImageSheet"),
        *("MixtureMonitor", "MovingAverage", "ODMReweighting", "ReweightingCallback"),
        *("RunProgressBar", "SampleScores", "SkillItReweighting", "TandemReweighting"),
        *("TiKMiXReweighting", "TimedCheckpoint"),
    ],
    "tandem_pl.cli": ["main"],
    "tandem_pl.datamodules": [
        *("DigitsMixtureDataModule", "EnvironmentCorpus", "EnvironmentInstructions"),
        *("ImageMixtureDataModule", "InstructionMixtureDataModule", "MixtureDataModule"),
        *("PreparedTextDataModule", "TextMixtureDataModule"),
    ],
    "tandem_pl.networks": ["causal_language_model"],
    "tandem_pl.objectives": ["CausalLanguageModeling", "Classification", "Regression"],
    "tandem_pl.schedules": ["WarmupCosine"],
    "tandem_pl.search": ["FrozenDomains", "Repetition", "Runs", "fit_law", "propose", "read_runs"],
    "tandem_pl.timm_networks": ["timm_network"],
}
LAZY = ("tandem_pl", "tandem_pl.callbacks", "tandem_pl.datamodules", "tandem_pl.search")
FOLDERS = sorted(
    {
        path.parent.relative_to(ROOT)
        for name in ("tandem_pl", "callbacks", "datamodules")
        for path in (ROOT / name).rglob("*.py")
    }
)


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in NAMES.items() for name in names]
)
def test_a_public_name_is_still_there(module, name):
    assert getattr(import_module(module), name) is not None


def used_paths():
    """Yield every dotted path in configurations, pages and the embedding examples."""
    files = [*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("tests/embedding/*.py")]
    pages = [ROOT / "README.md", *(ROOT / folder / "README.md" for folder in FOLDERS)]
    for path in (*files, *filter(Path.exists, pages)):
        yield from re.findall(r"\btandem_pl(?:\.\w+)+", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(set(used_paths())))
def test_a_dotted_path_of_a_configuration_or_page_leads_somewhere(path):
    module, _, name = path.rpartition(".")
    try:
        import_module(path)
    except ModuleNotFoundError:
        assert hasattr(import_module(module), name), path


@pytest.mark.parametrize("package", LAZY)
def test_lazy_names_are_listed(package):
    assert set(NAMES[package]) - {"__version__"} <= set(dir(import_module(package)))


def test_lazy_packages_import_nothing_heavy():
    code = "import sys, {}; assert not {{'torch', 'lightning'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code.format(", ".join(LAZY))], check=True)


def test_every_folder_is_a_package_of_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    places = settings["package-dir"]
    folders = set()
    for package in settings["packages"]:
        top = max((name for name in places if f"{package}.".startswith(f"{name}.")), key=len)
        folders.add(Path(places[top], *package.removeprefix(top).split(".")))
    assert folders == set(FOLDERS)
    assert all((ROOT / folder / "__init__.py").exists() for folder in FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_every_folder_has_a_page(folder):
    assert (ROOT / folder / "README.md").exists()
