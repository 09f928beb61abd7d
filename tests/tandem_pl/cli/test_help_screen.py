"""`tandem fit --help` is a screen of what matters, and leads to the rest."""

import pytest

from tandem_pl.cli import main
from tandem_pl.cli.help_screen import OPTIONS
from tandem_pl.public_names import PATHS


def printed(arguments, capsys):
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_fit_has_one_screen(capsys):
    text = printed(["fit", "--help"], capsys)
    lines = text.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 100
    assert len(OPTIONS) == 10
    assert all(f"  {option} " in text for option in OPTIONS)
    packages = ("tandem_pl.datamodules.", "tandem_pl.networks.")
    shown = {name for name, path in PATHS.items() if path.startswith(packages)}
    shown |= {name for name in PATHS if name.endswith("Reweighting")} | {"FixedMixture"}
    for name in shown - {"MixtureDataModule", "ReweightingCallback"}:
        assert f"\n  {name} " in text, name
    assert "tandem fit --help.all" in text
    assert text == printed(["fit"], capsys)


@pytest.mark.parametrize("verb", ["test", "validate", "predict"])
def test_other_verbs_take_a_run(verb, capsys):
    text = printed([verb, "--help"], capsys)
    assert text.startswith(f"usage: tandem {verb} RUN [--KEY VALUE ...]\n")
    assert "--untrained" in text


def test_a_class_shows_its_options(capsys):
    text = printed(["fit", "--help", "TandemReweighting"], capsys)
    assert "  learning_rate\n      \"auto\", or eta, weight per nat. (default: 'auto')\n" in text
    assert printed(["fit", "--help", "torch.optim.AdamW"], capsys).count("weight_decay") >= 1


def test_an_unknown_class_has_a_hint(capsys):
    assert main(["fit", "--help", "TandemRewighting"]) == 2
    assert capsys.readouterr().err == (
        "tandem: error: --help TandemRewighting: there is no such class or function: did you mean "
        "'TandemReweighting'?\n"
    )


def test_all_options_are_lightnings_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(["fit", "--help.all"])
    assert end.value.code == 0
    assert "--trainer.accumulate_grad_batches" in capsys.readouterr().out
