"""The command line: every shipped configuration runs, and mistakes are one sentence."""

import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from tandem_pl import InputError, Mixture
from tandem_pl.cli import VERBS, main

ROOT = Path(__file__).parents[3]
#: Their files run in the tests of verbs, test_vision_configs.py, test_environment_instructions.py.
ELSEWHERE = (
    "prepare",
    "compare",
    "online",
    "search",
    "sft_",
    "strategy_",
    "suite_",
    "vision_cifar10",
    "vision_domainbed",
)
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))
SHIPPED += sorted((ROOT / "configs" / "published").glob("*_tiny.yaml"))
CONFIGS = [path for path in SHIPPED if not path.stem.startswith(ELSEWHERE)]
ALL_CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
SMALL = [
    *("--data.target_bytes", "3000", "--data.test_bytes", "3000"),
    *("--model.network.config.hidden_size", "16", "--model.network.config.num_hidden_layers", "1"),
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Commands run in a folder of their own, with the shipped configurations."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    warnings.simplefilter("ignore")
    return tmp_path


def fit(config, *options):
    return main(["fit", "--config", f"configs/{config}", *SMALL, *map(str, options)])


def test_help_lists_the_verbs_without_a_heavy_import():
    code = (
        "import sys; from tandem_pl.cli import main; main(['--help']); "
        "assert not {'torch', 'lightning', 'numpy', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)


def test_runs_as_a_module():
    command = [sys.executable, "-m", "tandem_pl", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"tandem_pl \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_configuration_runs(config, place):
    settings = yaml.safe_load(config.read_text())
    small = [] if "DigitsMixture" in config.read_text() else SMALL
    options = [*small, "--trainer.max_steps", "55", "--trainer.limit_val_batches", "2"]
    assert main(["fit", "--config", str(config), *options]) == 0
    run = next(place.glob("runs/*/version_0"))
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 55
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 55
    method = settings["trainer"]["callbacks"][0]
    if "TandemReweighting" in method["class_path"]:
        learned = Mixture.load(run / "mixture.yaml")
        length = sum(learned.about["settings"][key] for key in ("free_steps", "probe_steps"))
        assert learned.about["episodes"] == 55 // length
        assert learned != Mixture.uniform(learned.domains)
        assert (run / "mixture.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("config", ALL_CONFIGS, ids=lambda path: path.name)
def test_every_key_of_a_shipped_configuration_is_explained(config):
    text = config.read_text()
    assert text.startswith("# ")
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if value.strip() and "class_path" not in key:
            assert "#" in line, line


def test_two_stages_then_test_and_predict(place, capsys):
    small = ["--trainer.max_steps", "60", "--trainer.limit_val_batches", "1"]
    assert fit("quickstart.yaml", *small) == 0
    learned = place / "runs/quickstart/version_0/mixture.yaml"
    assert fit("train.yaml", *small, "--data.weights", learned, "--data.epoch_batches", 30) == 0
    run = place / "runs/train/version_0"
    data = ["--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt"]
    capsys.readouterr()
    assert main(["test", *map(str, data)]) == 0
    table = capsys.readouterr().out
    for name in (*Mixture.load(learned).domains, "mean", "exp(mean loss)"):
        assert re.search(rf"^{re.escape(name)} +", table, re.M), table
    assert (run / "test.csv").exists()
    assert main(["predict", *map(str, data)]) == 0
    assert (run / "predictions.csv").read_text().startswith("domain,loss\n")
    assert main(["validate", *map(str, data)]) == 0
    assert sorted(p.name for p in (place / "runs/train").iterdir()) == ["version_0"]
    assert sorted(p.name for p in place.iterdir()) == ["configs", "runs"]


def test_a_reference_follows_the_command_line(place):
    assert fit("quickstart.yaml", "--trainer.max_steps", 3, "--trainer.limit_val_batches", 0) == 0
    config = yaml.safe_load((place / "runs/quickstart/version_0/config.yaml").read_text())
    assert config["model"]["init_args"]["lr_scheduler"]["init_args"]["total_steps"] == 3


def test_the_command_line_beats_the_checkpoint(place):
    few = ["--trainer.limit_val_batches", 0, "--trainer.max_steps"]
    assert fit("train.yaml", *few, 5, "--data.epoch_batches", 5) == 0
    last = place / "runs/train/version_0/checkpoints/last.ckpt"
    changed = ["--model.optimizer.lr", 0.5, "--model.lr_scheduler.warmup_steps", 0]
    changed += ["--model.lr_scheduler.total_steps", 1000000]
    assert (
        fit("train.yaml", *few, 10, "--data.epoch_batches", 5, "--ckpt_path", last, *changed) == 0
    )
    after = torch.load(place / "runs/train/version_1/checkpoints/last.ckpt", weights_only=True)
    assert after["global_step"] == 10
    assert after["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.5)


def test_resumes_by_ckpt_path(place):
    few = ["--trainer.limit_val_batches", 0, "--trainer.max_steps", 110]
    fit("quickstart.yaml", *few, "--trainer.max_epochs", 1)
    last = place / "runs/quickstart/version_0/checkpoints/last.ckpt"
    fit("quickstart.yaml", *few, "--ckpt_path", last)
    fit("quickstart.yaml", *few)
    ends = [
        torch.load(place / f"runs/quickstart/version_{n}/checkpoints/last.ckpt", weights_only=True)
        for n in (1, 2)
    ]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 110
    for key, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][key]), key
    mixtures = [place / f"runs/quickstart/version_{n}/mixture.yaml" for n in (1, 2)]
    assert mixtures[0].read_text() == mixtures[1].read_text()


MISTAKES = {
    "unknown verb": (["fitt"], "unknown verb 'fitt'"),
    "unknown domain": (["--data.weights", "{pyton: 1}"], "unknown domain 'pyton': did you mean"),
    "negative weight": (["--data.weights", "{python: -1}"], "must be a finite number, 0 or more"),
    "no such weights": (["--data.weights", "nowhere.yaml"], "weights='nowhere.yaml' is neither"),
    "no such checkpoint": (["--ckpt_path", "gone.ckpt"], "ckpt_path='gone.ckpt' does not exist"),
    "probe_steps 0": (["--trainer.callbacks.init_args.probe_steps", "0"], "probe_steps=0 must be"),
    "misspelt key": (["--data.batchsize", "3"], "batchsize"),
    "model type": (["--model.network.model_type", "gpt_noex"], "did you mean 'gpt_neox'?"),
    "network field": (["--model.network.config.hiden_size", "3"], "did you mean 'hidden_size'?"),
    "penalty": (["--model.penalty", "0"], "penalty=0.0 must be positive"),
    "no optimizer option": (["--optimizer", "SGD"], "optimizer"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(mistake, place, capsys):
    options, message = MISTAKES[mistake]
    if mistake == "unknown verb":
        code = main(options)
    else:
        config = "configs/quickstart.yaml"
        if "callbacks" in options[0]:
            text = Path(config).read_text().replace("probe_steps: 5", "probe_steps: 0")
            Path(config).write_text(text)
            options = []
        try:
            code = main(["fit", "--config", config, *SMALL, *options])
        except SystemExit as exit_error:
            code = exit_error.code
    output = capsys.readouterr()
    assert code == 2
    assert message in output.out + output.err
    assert "Traceback" not in output.err
    assert "usage:" not in output.err
    assert not (place / "runs").exists()


def test_a_resume_that_cannot_be_is_one_sentence_and_leaves_nothing(place, capsys):
    few = ["--trainer.limit_val_batches", 0, "--data.epoch_batches", 5, "--trainer.max_steps"]
    assert fit("train.yaml", *few, 5) == 0
    last = "runs/train/version_0/checkpoints/last.ckpt"
    wide = ["--model.network.config.hidden_size", 24]
    fitted = [fit("train.yaml", *few, steps, "--ckpt_path", last) for steps in (3, 5)]
    fitted.append(fit("train.yaml", *few, 9, "--ckpt_path", last, *wide))
    config = ["--config", "configs/train.yaml", *SMALL, *map(str, wide)]
    tested = main(["test", *config, "--ckpt_path", last])
    error = capsys.readouterr().err
    assert [*fitted, tested] == [2, 2, 2, 2]
    assert "ckpt_path is at step 5 and max_steps=3 ends before it: raise max_steps" in error
    assert "max_steps=5 is reached, so the run is finished" in error
    assert error.count("the checkpoint is of another network: network.") == 2
    assert "Traceback" not in error
    assert [folder.name for folder in (place / "runs/train").iterdir()] == ["version_0"]


def test_a_job_that_is_queued_again_when_it_is_finished_succeeds(place, caplog):
    few = ["--trainer.limit_val_batches", 0, "--data.epoch_batches", 5, "--trainer.max_steps", 5]
    job = ["--trainer.logger.init_args.version", "job", "--ckpt_path", "last"]
    assert [fit("train.yaml", *few, *job) for _ in range(2)] == [0, 0]
    assert "the run is finished: it is at step 5" in caplog.text


def test_a_resume_that_fails_after_loading_leaves_no_folder(place, capsys, monkeypatch):
    few = ["--trainer.limit_val_batches", 0, "--data.epoch_batches", 5, "--trainer.max_steps"]
    assert fit("train.yaml", *few, 5) == 0
    last = "runs/train/version_0/checkpoints/last.ckpt"

    def refuse(self):
        assert self.trainer.global_step == 5
        raise InputError("no.")

    monkeypatch.setattr("tandem_pl.MixtureModule.on_train_start", refuse)
    assert fit("train.yaml", *few, 9, "--ckpt_path", last) == 2
    assert "tandem: error: no." in capsys.readouterr().err
    assert [folder.name for folder in (place / "runs/train").iterdir()] == ["version_0"]
