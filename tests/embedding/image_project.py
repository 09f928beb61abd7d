"""A classifier of digits from three sources."""

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, Dataset, WeightedRandomSampler
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

OPTIONS = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 10}


class Digits(Dataset):
    """Drawn digits [1, 16, 16], with noise, and with a share of labels that are wrong."""

    def __init__(self, size, seed, noise=0.0, wrong=0.0, train=True):
        draw = torch.Generator().manual_seed(seed)
        labels, others = torch.randint(10, (2, size), generator=draw)
        images = torch.stack([self.image(label, draw) for label in labels.tolist()])
        self.images = images + noise * torch.randn(images.shape, generator=draw)
        self.labels = torch.where(torch.rand(size, generator=draw) < wrong, others, labels)
        self.augment = v2.RandomCrop(16, padding=1) if train else v2.Identity()

    @staticmethod
    def image(label, draw):
        image, (x, y) = Image.new("L", (16, 16)), torch.randint(4, (2,), generator=draw).tolist()
        ImageDraw.Draw(image).text((x + 2, y - 2), str(label), fill=255, font_size=13)
        return v2.functional.to_dtype(v2.functional.pil_to_tensor(image), scale=True)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.augment(self.images[index]), self.labels[index]


class Classifier(L.LightningModule):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.network = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Flatten(), nn.Dropout(0.1), nn.Linear(512, 10)),
        )
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = F.cross_entropy(self.network(images), labels, label_smoothing=0.1)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.network(images)
        self.accuracy(logits, labels)
        self.log("val/loss", F.cross_entropy(logits, labels), prog_bar=True)
        self.log("val/accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class LossHistory(L.Callback):
    """Keeps every training loss."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def main(steps, folder):
    L.seed_everything(0)
    sources = {
        "scans": Digits(400, seed=1, noise=0.2),
        "fonts": Digits(400, seed=2),
        "scraped": Digits(800, seed=3, noise=0.2, wrong=0.8),
    }
    val = Digits(400, seed=4, noise=0.2, train=False)
    shares = {"scans": 1, "fonts": 1, "scraped": 1}
    each = [shares[name] / len(source) for name, source in sources.items() for _ in source.labels]
    sampler = WeightedRandomSampler(each, 32 * steps)
    trainer = L.Trainer(
        max_steps=steps,
        val_check_interval=steps // 4,
        callbacks=[
            ModelCheckpoint(monitor="val/accuracy", mode="max"),
            EarlyStopping(monitor="val/loss"),
            LearningRateMonitor(),
            LossHistory(),
        ],
        logger=CSVLogger(folder),
        **OPTIONS,
    )
    train = DataLoader(ConcatDataset(sources.values()), 32, sampler=sampler)
    trainer.fit(Classifier(steps), train, DataLoader(val, 200))
    return trainer


if __name__ == "__main__":
    print(main(steps=400, folder="runs").callback_metrics)
