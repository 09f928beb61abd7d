"""Mistakes that a command reports at once: before torch and lightning are imported."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tandem_pl.cli.early_checks import check_arguments
from tandem_pl.cli.training_verbs import whole_paths
from tandem_pl.errors import InputError
from tandem_pl.public_names import PATHS

ROOT = Path(__file__).parents[3]
QUICKSTART = f"--config {ROOT}/configs/quickstart.yaml "
HEAVY = {"torch", "lightning", "numpy", "jsonargparse", "transformers"}
MESSAGES = {
    "--config configs/quickstrat.yaml": (
        "--config configs/quickstrat.yaml does not exist: did you mean 'quickstart.yaml'?"
    ),
    "--config configs/README.md": "--config configs/README.md is not",
    "--config configs": "--config configs is a folder: give a YAML file.",
    "--ckpt_path configs/quickstart.yaml": (
        "ckpt_path='configs/quickstart.yaml': give the run's configuration: --config "
        "RUN/config.yaml"
    ),
    "configs/quickstart.yaml": (
        "unexpected argument 'configs/quickstart.yaml': did you mean --config "
        "configs/quickstart.yaml?"
    ),
    QUICKSTART + "--trainer.max_step 3": (
        "trainer.max_step: Trainer has no option 'max_step': did you mean 'max_steps'?"
    ),
    QUICKSTART + "--model.penalti 1": (
        "model.penalti: TandemModule has no option 'penalti': did you mean 'penalty'?"
    ),
    QUICKSTART + "--data.batchsize=3": (
        "data.batchsize: EnvironmentCorpus has no option 'batchsize': did you mean 'batch_size'?"
    ),
    QUICKSTART + "--trainer.callbacks.free_step 3": (
        "trainer.callbacks.free_step: ModelCheckpoint has no option 'free_step': did you mean "
        "'free_steps' of TandemReweighting? Set it in the YAML file: an option on the command line "
        "is of the last callback of the list."
    ),
    QUICKSTART + "--trainer.callbacks.measure_batches 1": (
        "trainer.callbacks.measure_batches: ModelCheckpoint has no option 'measure_batches': did "
        "you mean 'measure_batches' of TandemReweighting? Set it in the YAML file: an option on "
        "the command line is of the last callback of the list."
    ),
    QUICKSTART + "--trainer.callbacks.group_size 1": (
        "trainer.callbacks.group_size: ModelCheckpoint has no option 'group_size': "
    ),
    QUICKSTART + "--trainer.callbacks+=callbacks.DogeReweighting": (
        "trainer.callbacks='callbacks.DogeReweighting' is unknown: did you mean 'DoGEReweighting'?"
    ),
    QUICKSTART + "--data PreparedTxtDataModule": (
        "data='PreparedTxtDataModule' is unknown: did you mean 'PreparedTextDataModule'?"
    ),
    QUICKSTART + "--data tandem_pl.datamodules.Prepared": (
        "data='tandem_pl.datamodules.Prepared' is unknown: see `tandem fit --help` for the names."
    ),
    QUICKSTART + "--model.network mine.Net": (
        "model.network='mine.Net': Python finds no module 'mine'"
    ),
    QUICKSTART + "--modl.penalty 1": (
        "unknown option --modl: did you mean 'model'? see `tandem fit --help`."
    ),
    QUICKSTART + "--ckpt_path gone.ckpt": (
        "ckpt_path='gone.ckpt' does not exist: give a checkpoint's path."
    ),
    QUICKSTART + "--data PreparedTextDataModule --data.manifest corpus/manifest.yaml": (
        "data.manifest='corpus/manifest.yaml' does not exist: give a path that does (looked from "
    ),
    QUICKSTART + "--data TextMixtureDataModule --data.domains.books ./gone": (
        "data.domains.books='./gone' does not exist: give a path that does (looked from "
    ),
}


@pytest.mark.parametrize("command", MESSAGES)
def test_the_sentence(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError) as refusal:
        check_arguments("fit", command.split())
    assert str(refusal.value).startswith(MESSAGES[command])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trainer: {max_step: 3}", "trainer.max_step: Trainer has no option 'max_step'"),
        ("trainer: {\n", "is not YAML in line 2"),
        ("- a", "is not a map of options, such as trainer: and data:."),
        ("modle: {}", "unknown option --modle: did you mean 'model'?"),
        (
            "trainer: {callbacks: [{class_path: TandemReweighting, init_args: {free_step: 3}}]}",
            "trainer.callbacks.free_step: TandemReweighting has no option 'free_step': did you "
            "mean 'free_steps'?",
        ),
    ],
)
def test_the_sentence_on_a_file(content, message, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(content)
    with pytest.raises(InputError) as refusal:
        check_arguments("fit", ["--config", str(file)])
    assert message in str(refusal.value)


@pytest.mark.parametrize("key", ["domains", "train", "target", "test"])
def test_a_map_given_again_replaces_the_paths_of_the_first(key, tmp_path, monkeypatch):
    """As jsonargparse reads it: a whole map replaces a map, an entry is added to it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.bin").touch()
    path = "TextMixtureDataModule" if key == "domains" else "TokenMixtureDataModule"
    start = f"{{data: {{class_path: {path}, init_args: {{{key}: {{web: gone}}}}}}}}"
    again = f"{{data: {{init_args: {{{key}: {{a: a.bin}}}}}}}}"
    entry = [f"--data.{key}.b", "a.bin"]
    for whole in ([f"--data.{key}", "{a: a.bin}"], ["--config", again]):
        content = check_arguments("fit", ["--config", start, *whole, *entry])
        assert content["data"]["init_args"][key] == {"a": "a.bin", "b": "a.bin"}
    with pytest.raises(InputError, match=rf"data\.{key}\.web='gone' does not exist"):
        check_arguments("fit", ["--config", start, *entry])


def test_a_checkpoint_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("runs/a")
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(InputError, match="'runs/a' is a run's folder: give one of its checkpoints"):
        check_arguments("fit", ["--ckpt_path", "runs/a"])
    (run / "checkpoints/last.ckpt").touch()
    for folder in ("runs/a", "runs/a/checkpoints"):
        with pytest.raises(InputError) as refusal:
            check_arguments("fit", ["--ckpt_path", folder])
        assert str(refusal.value) == (
            f"ckpt_path={folder!r} is a run's folder: did you mean 'runs/a/checkpoints/last.ckpt'?"
        )
    with pytest.raises(InputError) as refusal:
        check_arguments("fit", ["--ckpt_path", "runs/a/checkpoints/last.ckpt"])
    assert str(refusal.value) == (
        "ckpt_path='runs/a/checkpoints/last.ckpt': give the run's configuration: --config "
        "runs/a/config.yaml"
    )


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.yaml")), ids=lambda p: p.name)
def test_shipped_configurations_pass(path):
    other = ("prepare", "suite_methods", "vision_domainbed", "vision_cifar")  # "base": of compare
    if "base" not in yaml.safe_load(path.read_text()) and not path.name.startswith(other):
        check_arguments("fit", ["--config", str(path), "--print_config"])  # asks for no files


def test_classes_of_others_and_values_pass(tmp_path, monkeypatch):
    """What cannot be told from the source is left to the parser."""
    (tmp_path / "my_code.py").write_text(
        "class Plain:\n    def __init__(self, a, **more): self.more = more\n"
        "class Own(Plain):\n    def __init__(self, b=1, **more): super().__init__(**more)\n"
        "Made = type('Made', (), {})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    good = [
        *("--model.network.my_code", "1"),
        *("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_epochs", "2"),
        *("--model.optimizer", "torch.optim.SGD", "--model.optimizer.momentum", "0.9"),
        *("--data.weights", "{a: 1}", "--print_config"),
    ]
    check_arguments("fit", QUICKSTART.split() + good[2:])
    for name in ("Plain", "Own", "Made"):
        options = ["--model.network", f"my_code.{name}", "--model.network.anything", "1"]
        check_arguments("fit", QUICKSTART.split() + options)


def test_a_wrong_field_of_a_language_model_is_named():
    with pytest.raises(InputError, match="did you mean 'hidden_size'"):
        check_arguments("fit", [*QUICKSTART.split(), "--model.network.config.hiden_size", "3"])
    with pytest.raises(InputError, match="did you mean 'gpt_neox'"):
        check_arguments("fit", [*QUICKSTART.split(), "--model.network.model_type", "gpt_noex"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "--config", "gone.yaml"],
        ["test", "runs/gone"],
        ["fit", *QUICKSTART.split(), "--ckpt_path", "gone.ckpt"],
        ["fit", *QUICKSTART.split(), "--model.penalti", "1"],
        ["fit", "--help"],
        ["fit", "--help", "TandemReweighting"],
    ],
)
def test_nothing_heavy_is_imported(arguments):
    code = (
        f"import sys; from tandem_pl.cli import main; main({arguments!r}); "
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n"), done.stdout


def test_short_names_on_the_command_line():
    given = ["--data=EnvironmentCorpus", "--model.network", "lora", "--data.seed", "lora"]
    assert list(whole_paths(given)) == [
        "--data=tandem_pl.datamodules.EnvironmentCorpus",
        *("--model.network", PATHS["lora"], "--data.seed", "lora"),
    ]


def test_values_given_as_null_are_null(monkeypatch, capsys):
    from tandem_pl.cli import main

    monkeypatch.chdir(ROOT)
    options = ["--model.network.pretrained", "null", "--model.network.attention=null"]
    with pytest.raises(SystemExit) as end:
        main(["fit", *QUICKSTART.split(), *options, "--print_config"])
    assert end.value.code == 0
    network = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["network"]
    assert network["init_args"]["pretrained"] is None
    assert network["init_args"]["attention"] is None
