import pytest
import torch
from helpers import quiet_trainer
from image_helpers import (
    PLAIN,
    make_data,
    write_folder,
    write_noise,
)
from lightning.pytorch import LightningModule
from torch import nn

from tandem_pl import InputError, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import ImageMixtureDataModule
from tandem_pl.episode import EVALUATE, MEASURE, PROBE, TRAIN, Segment
from tandem_pl.networks.timm_networks import timm_network
from tandem_pl.objectives import Classification

PLAN = [
    Segment(TRAIN, 3, (0.5, 0.5)),
    Segment(PROBE, 2, (0.5, 0.5), target=True),
    Segment(MEASURE, 1, (0.5, 0.5)),
]
AUGMENTED = {"random_crop": "resized", "hflip": 0.5, "random_erasing": 0.5}
AUGMENTED |= {"mixup": 0.5, "cutmix": 1.0}


@pytest.fixture
def sources(tmp_path):
    return write_noise(tmp_path)


def stream(data, episodes: int = 2) -> list:
    loader, batches = data.train_dataloader(), []
    for _ in range(episodes):
        data.begin_episode(PLAN)
        batches += [data.on_after_batch_transfer(batch, 0) for batch in loader]
    return batches


def test_mixing_is_for_training_and_probing(sources) -> None:
    data = make_data(**sources, **AUGMENTED)
    data.setup()
    for batch in stream(data):
        mixed = batch.phase in (TRAIN, PROBE)
        for samples in (batch.samples, batch.target_samples):
            if samples is not None:
                label = samples["label"]
                assert label.dtype == (torch.float32 if mixed else torch.int64)
                assert label.shape == ((4, 2) if mixed else (4,))
                assert samples["image"].shape == (4, 3, 8, 8)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        for batch in (data.on_after_batch_transfer(batch, 0) for batch in loader):
            assert batch.phase == EVALUATE
            assert batch.samples["label"].dtype == torch.int64


def test_no_label_crosses_domains(tmp_path) -> None:
    """Every domain has a class of its own, of which no other domain's row has a share."""

    def only(name, classes, start):
        return write_folder(tmp_path / name, classes, each=8, start=start)

    data = make_data(
        {"a": only("a", "01", 0), "b": only("b", "23", 20)},
        {"s": only("s", "01", 40), "t": only("t", "23", 60)},
        classes=4,
        batch_size=12,
        mixup=1.0,
        cutmix=1.0,
    )
    data.setup("fit")
    mixed = 0
    for batch in stream(data):
        pairs = [(batch.samples, batch.domains), (batch.target_samples, batch.target_domains)]
        for samples, domains in pairs[: 2 if batch.target_samples is not None else 1]:
            if batch.phase in (TRAIN, PROBE):
                assert set(domains.tolist()) == {0, 1}
                shares = samples["label"].reshape(-1, 2, 2).sum(dim=2)  # [B, domain]
                torch.testing.assert_close(shares, nn.functional.one_hot(domains, 2).float())
                mixed += int((samples["label"].max(dim=1).values < 0.99).sum())
    assert mixed > 20


def test_steps_seeds_and_the_target_mix_in_their_own_way(sources) -> None:
    data, other = (make_data(**sources, mixup=1.0, seed=seed) for seed in (0, 1))
    for each in (data, other):
        each.setup("fit")
        each.sampler.consume = lambda step: None
    data.begin_episode([Segment(PROBE, 2, (0.5, 0.5), target=True)])
    batch = next(iter(data.train_dataloader()))
    # the same samples as training and as target samples, so that only lambda and partners differ
    batch = batch._replace(target_samples=batch.samples, target_domains=batch.domains)

    def labels(each, step):
        found = each.on_after_batch_transfer(batch._replace(step=step), 0)
        return found.samples["label"], found.target_samples["label"]

    drawn = [*labels(data, 0), *labels(data, 1), *labels(other, 0)]
    for place, one in enumerate(drawn):
        assert not any(torch.equal(one, another) for another in drawn[:place])
    assert all(map(torch.equal, labels(data, 0), drawn))


def test_another_projects_module_gets_mixed_samples(tmp_path, sources) -> None:
    seen = []

    class Foreign(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3 * 64, 2)

        def training_step(self, batch, batch_idx):
            seen.append(batch["label"])
            return nn.functional.cross_entropy(self.layer(batch["image"].flatten(1)), seen[-1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    data = ImageMixtureDataModule(**sources, **PLAIN, batch_size=8, mixup=1.0)
    quiet_trainer(tmp_path, max_steps=2).fit(Foreign(), datamodule=data)
    assert [label.shape for label in seen] == [(8, 2)] * 2
    assert all(((label > 0.01) & (label < 0.99)).any() for label in seen)


def test_evaluation_is_not_augmented(sources) -> None:
    data, plain = make_data(**sources, **AUGMENTED), make_data(**sources, crop_pct=0.875)
    for each in (data, plain):
        each.setup()
    for name in ("val_dataloader", "test_dataloader"):
        pairs = zip(getattr(data, name)(), getattr(plain, name)(), strict=True)
        assert all(torch.equal(a.samples["image"], b.samples["image"]) for a, b in pairs)


def test_batches_are_a_function_of_the_step(sources) -> None:
    """Whatever was drawn before, the number of workers, and where a run was stopped."""

    def tensors(batches) -> list:
        parts = [(b.samples, b.target_samples or {}) for b in batches]
        return [value for pair in parts for part in pair for value in part.values()]

    def start(**options) -> ImageMixtureDataModule:
        data = make_data(**sources, **AUGMENTED, **options)
        data.setup("fit")
        return data

    whole = tensors(stream(start()))
    torch.manual_seed(17)
    with_workers = tensors(stream(start(num_workers=1)))
    assert all(map(torch.equal, whole, with_workers))
    stopped = start()
    stopped.begin_episode(PLAN)
    loader = iter(stopped.train_dataloader())
    head = [stopped.on_after_batch_transfer(next(loader), 0) for _ in range(4)]
    resumed = start()
    resumed.load_state_dict(stopped.state_dict())
    tail = [resumed.on_after_batch_transfer(batch, 0) for batch in resumed.train_dataloader()]
    assert all(map(torch.equal, whole, tensors(head + tail)))
    other = tensors(stream(start(seed=1)))
    assert not torch.equal(whole[0], other[0])


def test_another_rank_mixes_in_its_own_way(sources) -> None:
    data = make_data(**sources, mixup=1.0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    mine = data.on_after_batch_transfer(batch, 0)
    other = make_data(**sources, mixup=1.0)
    other.setup("fit")
    next(iter(other.train_dataloader()))
    other.trainer.distributed_sampler_kwargs = {"rank": 1, "num_replicas": 2}
    theirs = other.on_after_batch_transfer(batch, 0)
    assert not torch.equal(mine.samples["label"], theirs.samples["label"])


def test_tandem_learns_on_images_and_both_twins_see_the_same(tmp_path, sources) -> None:
    seen = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))

        def forward(self, images):
            seen.append(images)
            return self.layers(images)

    data = ImageMixtureDataModule(**sources, **{**PLAIN, **AUGMENTED}, batch_size=8)
    module = TandemModule(
        Watched(),
        objective=Classification(label_smoothing=0.1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1),
    )
    reweighting = TandemReweighting(
        free_steps=1, probe_steps=2, measure_batches=1, learning_rate=0.5
    )
    quiet_trainer(tmp_path, max_epochs=2, callbacks=[reweighting]).fit(module, datamodule=data)
    assert len(seen) == 2 * (1 + (2 + 3) + 2)  # in the first probe step the twins are one network
    second_probe = seen[3:6]
    assert torch.equal(second_probe[0], second_probe[1])
    assert not torch.equal(second_probe[1], second_probe[2])  # the target's
    assert abs(sum(reweighting.mixture.weights.values()) - 1) < 1e-9


def test_a_network_with_fewer_classes_than_the_data_is_refused(tmp_path) -> None:
    data = ImageMixtureDataModule(
        {"a": write_folder(tmp_path / "a", ("cat", "dog", "owl"))}, batch_size=4, **PLAIN
    )
    module = TandemModule(
        timm_network("wrn_10_1_silu", 2), Classification(), lambda p: torch.optim.SGD(p, 0.1)
    )
    message = r"3 classes and the network 2 outputs: set the network's num_classes to 3\."
    with pytest.raises(InputError, match=message):
        quiet_trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
