"""A comparison of nothing that can be trained, for what is decided before and after its runs."""

import yaml

from tandem_pl.compare.config import read_comparison

BASE = {
    "trainer": {"max_steps": 20, "callbacks": [{"class_path": "tandem_pl.callbacks.FixedMixture"}]},
    "model": {
        "class_path": "tandem_pl.TandemModule",
        "init_args": {"network": {"class_path": "torch.nn.Identity"}, "penalty": 2.0},
    },
    "data": {"class_path": "tandem_pl.datamodules.MixtureDataModule", "init_args": {"seed": 5}},
}


def comparison(folder, **keys):
    """Write a file with these keys into the folder, and read it."""
    content = {"base": BASE, "methods": ["uniform"], "folder": str(folder / "out"), **keys}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_comparison(path)
