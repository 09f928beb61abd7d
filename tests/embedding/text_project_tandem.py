"""A causal language model on three sources of text."""

import inspect
import random
import textwrap
from pydoc_data.topics import topics

import lightning as L
import torch
from datasets import Dataset, interleave_datasets
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from tandem_pl import TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.objectives import CausalLanguageModeling
from torch.utils.data import DataLoader
from torchmetrics.text import Perplexity
from transformers import LlamaConfig, LlamaForCausalLM

OPTIONS = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 10}
SHARES = {"manual": 1 / 3, "code": 1 / 3, "broken": 1 / 3}


def blocks(text, length=32):
    """The text's bytes as tokens, in blocks."""
    tokens = torch.tensor(list(text.encode("ascii", "ignore")))
    rows = tokens[: len(tokens) // length * length].view(-1, length)
    return Dataset.from_dict({"input_ids": rows.tolist()}).with_format("torch")


class Corpus(L.LightningDataModule):
    def __init__(self, shares):
        super().__init__()
        self.shares = shares
        manual = "".join(topics.values())
        broken = list(manual[:60_000])
        random.Random(0).shuffle(broken)
        code = "".join(inspect.getsource(module) for module in (inspect, textwrap))
        texts = {"manual": manual[60_000:120_000], "code": code, "broken": "".join(broken)}
        self.sources = {name: blocks(text) for name, text in texts.items()}
        self.val = blocks(manual[120_000:130_000])
        self.target = blocks(manual[130_000:140_000])

    def train_dataloader(self):
        sources = [self.sources[name].shuffle(seed=0) for name in self.shares]
        mixed = interleave_datasets(sources, probabilities=list(self.shares.values()), seed=0)
        return DataLoader(mixed, batch_size=16)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=64)


class LanguageModel(L.LightningModule):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        config = LlamaConfig(vocab_size=128, num_attention_heads=2, **size)
        self.network = LlamaForCausalLM(config)
        self.perplexity = Perplexity()

    def training_step(self, batch, batch_idx):
        loss = self.network(**batch, labels=batch["input_ids"]).loss
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        output = self.network(**batch, labels=batch["input_ids"])
        self.perplexity(output.logits[:, :-1], batch["input_ids"][:, 1:])
        self.log("val/loss", output.loss, prog_bar=True)
        self.log("val/perplexity", self.perplexity)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, self.steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Completion(L.Callback):
    """Keeps a completion after each validation."""

    def __init__(self):
        self.texts = []

    def on_validation_epoch_end(self, trainer, pl_module):
        prompt = torch.tensor([list(b"The ")], device=pl_module.device)
        tokens = pl_module.network.generate(prompt, max_new_tokens=12, do_sample=False)
        self.texts.append(bytes(tokens[0].tolist()).decode("ascii"))


def learned_shares(steps, folder):
    corpus, network = Corpus(SHARES), LanguageModel(steps).network
    data = MixtureDataModule(corpus.sources, {"manual": corpus.target}, batch_size=16)
    twins = TandemModule(network, CausalLanguageModeling(), lambda p: torch.optim.AdamW(p, 3e-3))
    reweighting = TandemReweighting(free_steps=5)
    trainer = L.Trainer(max_steps=steps, callbacks=reweighting, logger=CSVLogger(folder), **OPTIONS)
    trainer.fit(twins, data)
    return reweighting.mixture.average


def main(steps, folder):
    L.seed_everything(0)
    trainer = L.Trainer(
        max_steps=steps,
        val_check_interval=steps // 4,
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
        callbacks=[
            ModelCheckpoint(monitor="val/loss"),
            EarlyStopping(monitor="val/loss"),
            LearningRateMonitor(),
            Completion(),
        ],
        logger=CSVLogger(folder),
        **OPTIONS,
    )
    trainer.fit(LanguageModel(steps), Corpus(learned_shares(steps, folder)))
    return trainer


if __name__ == "__main__":
    print(main(steps=400, folder="runs").callback_metrics)
