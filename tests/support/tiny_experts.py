"""Runs of a tiny network on one domain of bytes each, by the command line."""

import torch
from torch import nn

from tandem_pl.cli import main
from tandem_pl.datamodules import MixtureDataModule

DOMAINS = ("low", "high")
LENGTH, VOCABULARY = 12, 16


def texts(name: str, number: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Tokens of the lower or the upper half of the vocabulary, mostly; "both" has both."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY // 2, (number, LENGTH), generator=generator)
    if name == "both":
        tokens[::2] += VOCABULARY // 2
    if name == "high":
        tokens += VOCABULARY // 2
    return [{"input_ids": row} for row in tokens]


class TinyTexts(MixtureDataModule):
    """Domains "low" and "high"; of the target "both", and "few" with other numbers of tokens."""

    def __init__(self, weights: dict[str, float] | None = None) -> None:
        few = [row | {"labels": row["input_ids"].clone()} for row in texts("high", 6, 5)]
        for row in few:
            row["labels"][4:] = -100
        both = [row | {"labels": row["input_ids"].clone()} for row in texts("both", 30, 3)]
        super().__init__(
            {name: texts(name, 40, seed) for seed, name in enumerate(DOMAINS)},
            target={"both": both, "few": few},
            weights=weights,
            batch_size=8,
            epoch_batches=20,
        )


class TinyNetwork(nn.Module):
    """The next token from the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids)


CONFIG = """
seed_everything: 0
trainer:
  max_epochs: 1
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: tandem_pl.callbacks.FixedMixture
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
    init_args: {{save_dir: {folder}, name: runs, version: {name}}}
model:
  class_path: tandem_pl.MixtureModule
  init_args:
    network: {{class_path: tiny_experts.TinyNetwork}}
    objective: tandem_pl.objectives.CausalLanguageModeling
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.05}}}}
data:
  class_path: tiny_experts.TinyTexts
  init_args: {{weights: {weights}}}
"""


def train_experts(folder) -> None:
    """Write runs/low and runs/high."""
    for name in DOMAINS:
        weights = {other: float(other == name) for other in DOMAINS}
        path = folder / f"{name}.yaml"
        path.write_text(CONFIG.format(folder=folder, name=name, weights=weights))
        assert main(["fit", "--config", str(path)]) == 0
