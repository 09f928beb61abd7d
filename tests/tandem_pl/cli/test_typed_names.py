"""Names of domains are what was typed, through every door of the command line."""

import json
import re
from pathlib import Path

import pytest

from tandem_pl import Mixture
from tandem_pl.cli import main
from tandem_pl.cli.yaml_options import quote_named_values
from tandem_pl.yaml_files import parse_yaml, read_yaml

CONFIG = str(Path(__file__).parents[3] / "configs" / "quickstart.yaml")
MODULE = "tandem_pl.datamodules.TextMixtureDataModule"
NAMES = ["no", "on", "1e3", "1_000", "010", "null", "12:30", "2024-01-01", "my text"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def parsed(capsys, *options):
    """The configuration that `tandem fit` makes of options."""
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", CONFIG, *options, "--print_config"])
    return parse_yaml(capsys.readouterr().out)


def refused(capsys, *arguments):
    try:
        code = main([*arguments])
    except SystemExit as error:
        code = error.code
    output = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in output.err
    return output.err


def text_files(place, names):
    """A file of sentences for each name."""
    files = {name: f"{number}.jsonl" for number, name in enumerate(names)}
    for name, file in files.items():
        lines = (json.dumps({"text": f"{name}: number {i} is {i * i}."}) for i in range(60))
        (place / file).write_text("\n".join(lines))
    return files


def test_a_configuration_file(place, capsys):
    (place / "mine.yaml").write_text(
        "data:\n"
        f"  class_path: {MODULE}\n"
        "  init_args:\n"
        "    domains: {en: a, no: b, 1e3: c, 1_000: {path: d, column: body}, 010: [e, f]}\n"
        "    weights: {no: 0.3, en: 0.7}\n"
        "    target_weights:\n"
        "      12:30: 1\n"
        "    batch_size: 16\n"
        "    block_size: ${.batch_size}\n"
        "trainer:\n"
        "  callbacks:\n"
        "  - class_path: tandem_pl.callbacks.TandemReweighting\n"
        "    init_args: {free_steps: 10, probe_steps: 5, caps: {no: 0.5, 1.0: 0.25}}\n"
        "  - class_path: tandem_pl.callbacks.FixedMixture\n"
        "    init_args: {schedule: [{step: 0, weights: {on: 1, off: 2}}]}\n"
    )
    config = parsed(capsys, "--config", "mine.yaml", "--data.batch_size", "8")
    data = config["data"]["init_args"]
    body = {"path": "d", "column": "body"}
    assert data["domains"] == {"en": "a", "no": "b", "1e3": "c", "1_000": body, "010": ["e", "f"]}
    assert data["weights"] == {"no": 0.3, "en": 0.7}
    assert data["target_weights"] == {"12:30": 1.0}
    assert data["block_size"] == 8, "a reference follows the command line"
    callbacks = config["trainer"]["callbacks"]
    assert callbacks[0]["init_args"]["caps"] == {"no": 0.5, "1.0": 0.25}
    assert callbacks[1]["init_args"]["schedule"] == [{"step": 0, "weights": {"on": 1, "off": 2}}]


def test_maps_on_the_command_line(place, capsys):
    config = parsed(
        capsys,
        *("--data", MODULE, "--data.domains.no=a.jsonl", "--data.domains.1_0", "b.jsonl"),
        *("--data.domains.my text", "c.jsonl", "--data.weights", "{no: 0.3, 1.0: 0.7, ~: 1}"),
        *("--data.target_weights.off", "2"),
    )
    data = config["data"]["init_args"]
    assert data["domains"] == {"no": "a.jsonl", "1_0": "b.jsonl", "my text": "c.jsonl"}
    assert data["weights"] == {"no": 0.3, "1.0": 0.7, "~": 1.0}
    assert data["target_weights"] == {"off": 2.0}


def test_paths_and_columns_are_text_too(place, capsys):
    (place / "mine.yaml").write_text(
        f"data:\n  class_path: {MODULE}\n  init_args:\n"
        "    text_column: on\n"
        "    domains: {a: 010, b: [2024, no, x], c: {path: 12:30, quotes: true, column: null},"
        " d: {dataset: '007', split: 1e3}}\n"
    )
    data = parsed(capsys, "--config", "mine.yaml")["data"]["init_args"]
    sources = {
        "a": "010",
        "b": ["2024", "no", "x"],
        "c": {"path": "12:30", "quotes": True, "column": None},
        "d": {"dataset": "007", "split": "1e3"},
    }
    assert data["domains"] == sources
    assert data["text_column"] == "on"
    text = "{a: 010, b: [2024, no, x], c: {path: 12:30, quotes: true, column: null},"
    text += " d: {dataset: '007', split: 1e3}}"
    data = parsed(capsys, "--data", MODULE, "--data.domains", text)["data"]["init_args"]
    assert data["domains"] == sources
    single = ["--data.domains.a", "010", "--data.domains.b=[2024, no, x]"]
    single += ["--data.domains.c", "{path: 12:30, quotes: true}"]
    single += ["--data.domains.d", "{dataset: '007', split: 1e3}"]
    data = parsed(capsys, "--data", MODULE, *single)["data"]["init_args"]
    assert data["domains"] == {**sources, "c": {"path": "12:30", "quotes": True}}
    images = "tandem_pl.datamodules.ImageMixtureDataModule"
    train = ["--data.train", "{a: {path: 2024, label: no}, b: {dataset: '007', split: null}}"]
    data = parsed(capsys, "--data", images, *train)["data"]["init_args"]
    assert data["train"] == {
        "a": {"path": "2024", "label": "no"},
        "b": {"dataset": "007", "split": None},
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "--domains.web", "a", "--out", "o", "--domains.web=b"],
        ["fit", "--config", CONFIG, "--data.weights.web", "a", "--data.weights.web", "b"],
        [
            "fit",
            "--config",
            CONFIG,
            "--data.init_args.weights.web=a",
            "--data.init_args.weights.web=b",
        ],
        ["export", "run", "--to", "json", "--paths.web", "a", "--paths.web", "b"],
    ],
)
def test_an_entry_twice_on_the_command_line(arguments, place, capsys):
    error = refused(capsys, *arguments)
    assert re.fullmatch(r"tandem: error: --\S+\.web is given twice, as 'a' and 'b'; .*\n", error)


def test_lists_of_names(place, capsys):
    images = "tandem_pl.datamodules.ImageMixtureDataModule"
    given = ["--data", images, "--data.train", "{no: a, 1e3: b}"]
    for option in (["--data.hold_out", "[no, 1e3]"], ["--data.hold_out=[no, 1e3]"]):
        data = parsed(capsys, *given, *option, "--data.classes", "[off, on]")["data"]["init_args"]
        assert data["train"] == {"no": "a", "1e3": "b"}
        assert data["hold_out"] == ["no", "1e3"]
        assert data["classes"] == ["off", "on"]
    assert parsed(capsys, *given, "--data.classes", "3")["data"]["init_args"]["classes"] == 3
    (place / "mine.yaml").write_text("data: {init_args: {hold_out: [no]}}")
    config = parsed(capsys, *given, "--config", "mine.yaml")
    assert config["data"]["init_args"]["hold_out"] == ["no"]
    assert list(quote_named_values(["--a.hold_out+", "[~]", "x"])) == [
        "--a.hold_out+",
        "['~']",
        "x",
    ]


@pytest.mark.parametrize("text", ["{a: x, b: y, a: z}", "\n  a: x\n  a: z\n"])
def test_a_name_twice_is_one_sentence(text, place, capsys):
    config = f"data:\n  class_path: {MODULE}\n  init_args:\n    domains: {text}"
    (place / "mine.yaml").write_text(config.replace("\n  a", "\n      a"))
    error = refused(capsys, "fit", "--config", CONFIG, "--config", "mine.yaml")
    lines = r"in line 4, at columns 15 and 27" if "b: y" in text else r"in lines 5 and 6"
    assert re.fullmatch(rf"tandem: error: mine\.yaml has the key 'a' twice, {lines}; .*\n", error)
    if "b: y" in text:
        error = refused(capsys, "fit", "--config", CONFIG, "--data.weights", text)
        assert "has the key 'a' twice" in error
        error = refused(capsys, "prepare", "--domains", text, "--out", "o")
        assert "has the key 'a' twice" in error


def test_a_corpus_and_a_run_of_such_names(place, capsys):
    files = text_files(place, NAMES)
    lines = "".join(f"  {name}: {file}\n" for name, file in files.items())
    (place / "p.yaml").write_text(f"domains:\n{lines}out: o\nblock_size: 16\nworkers: 1\n")
    assert main(["prepare", "--config", "p.yaml"]) == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"^{re.escape(name)} +JSON lines", printed, re.M) for name in NAMES)
    manifest = read_yaml("o/manifest.yaml")
    assert list(manifest["splits"]["train"]) == list(manifest["settings"]["domains"]) == NAMES
    weights = f"{{{', '.join(f'{name}: {n + 1}' for n, name in enumerate(NAMES))}}}"
    options = [
        *("--data", "tandem_pl.datamodules.PreparedTextDataModule", "--data.manifest", "o"),
        *("--data.batch_size", "4", "--data.weights", weights, "--trainer.max_steps", "3"),
        *("--trainer.limit_val_batches", "0", "--model.network.config.hidden_size", "16"),
        *("--trainer.callbacks", "[{class_path: tandem_pl.callbacks.FixedMixture}]"),
        *("--model", "tandem_pl.MixtureModule"),
    ]
    assert main(["fit", "--config", CONFIG, *options]) == 0
    run = next(place.glob("runs/*/version_0"))
    mixture = Mixture.load(run / "mixture.yaml")
    assert list(mixture.weights) == NAMES
    assert mixture.weights["1_000"] / mixture.weights["no"] == pytest.approx(4)
    capsys.readouterr()
    (place / "paths.yaml").write_text("".join(f"{name}: {n}_0\n" for n, name in enumerate(NAMES)))
    options = ["--paths", "paths.yaml", "--paths.no=x"]
    assert main(["export", str(run), "--to", "mosaicml", *options]) == 0
    streams = parse_yaml(capsys.readouterr().out)["streams"]
    assert [stream["local"] for stream in streams.values()] == [
        "x",
        *(f"{n}_0" for n in range(1, 9)),
    ]
    assert main(["export", str(run), "--to", "huggingface"]) == 0
    assert parse_yaml(capsys.readouterr().out)["domains"] == NAMES
    assert main(["fit", "--config", str(run / "config.yaml")]) == 0, "a run's own configuration"
    again = Mixture.load(run.parent / "version_1" / "mixture.yaml")
    assert again.weights == mixture.weights


def test_the_tokens_of_a_final_run(place):
    from tandem_pl.cli.report import read_tokens

    (place / "t.yaml").write_text("no: 10\n1e3: 1_000\n'on': 2.5\n")
    mixture = Mixture.uniform(["no", "1e3", "on"])
    assert read_tokens("t.yaml", mixture) == {"no": 10.0, "1e3": 1000.0, "on": 2.5}
    (place / "t.yaml").write_text("no: 10\nno: 20\n")
    with pytest.raises(ValueError, match=r"t\.yaml has the key 'no' twice, in lines 1 and 2"):
        read_tokens("t.yaml", mixture)


def test_labels_of_a_comparison(place, capsys):
    from tandem_pl.compare.config import read_comparison

    (place / "base.yaml").write_text("trainer: {max_steps: 3}\ndata: {}\nmodel: {}\n")
    (place / "c.yaml").write_text(
        "base: base.yaml\nbaseline: no\nmethods:\n  no: {method: uniform}\n"
        "  1e3: {method: uniform, weights: {off: 1, 1_0: 3}}\n"
    )
    comparison = read_comparison("c.yaml")
    assert [entry.label for entry in comparison.entries] == ["no", "1e3"]
    assert comparison.entries[1].settings["weights"] == {"off": 1, "1_0": 3}
    (place / "c.yaml").write_text("base: base.yaml\nmethods: {uniform: {}, uniform: {}}\n")
    assert "c.yaml has the key 'uniform' twice" in refused(capsys, "compare", "--config", "c.yaml")
