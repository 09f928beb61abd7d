"""The shipped comparisons with and without labels."""

from pathlib import Path

import pytest
import yaml

pytest.importorskip("sklearn")

from tandem_pl.cli import main
from tandem_pl.compare.cells import build_cells
from tandem_pl.compare.config import read_comparison
from tandem_pl.datamodules.clusters import hashed
from tandem_pl.datamodules.demo.installed_text import DOMAINS

FOLDER = Path(__file__).parents[3] / "configs" / "unlabelled"
SIZES = {"target_bytes": 2000, "test_bytes": 2000, "max_document_bytes": 1000}
LESS = {
    "restricted": {"train_bytes": dict.fromkeys(DOMAINS, 8000)},
    "distractors": {"scale": 0.03},
    "foreign": {"scale": 0.05},
}


def test_files_come_in_pairs_that_differ_in_the_labels_alone():
    for problem in LESS:
        pair = [
            read_comparison(FOLDER / f"{problem}{end}.yaml", workers=1) for end in ("", "_clusters")
        ]
        labels, clusters = (
            {(cell.label, cell.seed): cell.config for cell in build_cells(study)} for study in pair
        )
        nowhere = {"target", "tandem_from_target"} if problem == "foreign" else set()
        assert {key for key in clusters if key[0] not in nowhere} == set(labels)
        assert len(clusters) == 5 * 3
        for key, one in labels.items():
            other = clusters[key]
            assert other["data"]["init_args"].pop("cluster") == "auto"
            assert one["data"] == other["data"]
            assert one["model"] == other["model"]


@pytest.mark.parametrize(
    ("problem", "label"),
    [("restricted", "tandem"), ("distractors", "r_and_b"), ("foreign", "tandem_from_target")],
)
def test_a_run_over_clusters(problem, label, tmp_path, monkeypatch):
    study = read_comparison(
        FOLDER / f"{problem}_clusters.yaml", folder=str(tmp_path / "out"), workers=1
    )
    config = next(cell for cell in build_cells(study) if cell.label == label).config
    config["trainer"]["max_steps"] = 20
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    config["model"]["init_args"]["network"]["init_args"]["config"] |= sizes
    config["data"]["init_args"] |= SIZES | LESS[problem]
    (tmp_path / "cell.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashed, "BITS", 12)
    assert main(["fit", "--config", str(tmp_path / "cell.yaml")]) == 0
    mixture = yaml.safe_load(next((tmp_path / "out").glob("**/run/mixture.yaml")).read_text())
    target = mixture["data"]["target"]
    assert len(target) == {"restricted": 7, "distractors": 3, "foreign": 1}[problem]
    assert not set(mixture["weights"]) & set(target)
