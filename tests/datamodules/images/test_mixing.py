import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tandem_pl import InputError
from tandem_pl.datamodules.images.mixing import Mixing, boxes, mix, partners

CLASSES = 5


def batch(size: int = 24, domains: int = 3, side: int = 12):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, 3, side, side, generator=generator)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return images, labels, torch.randint(domains, (size,), generator=generator)


def mixed(mixing: Mixing, seed: int = 0, **sizes):
    images, labels, domains = batch(**sizes)
    random = np.random.default_rng(seed)
    partner = partners(domains.numpy(), np.random.default_rng(seed))  # drawn first
    return (
        images,
        labels,
        domains,
        torch.from_numpy(partner),
        *mix(images, labels, domains, CLASSES, mixing, random),
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_partner_is_another_sample_of_the_domain(seed) -> None:
    random = np.random.default_rng(seed)
    domains = random.integers(0, 6, 40)
    found = partners(domains, random)
    assert sorted(found.tolist()) == list(range(40))  # everyone is somebody's partner once
    assert (domains[found] == domains).all()
    alone = np.bincount(domains, minlength=6)[domains] == 1
    assert ((found == np.arange(40)) == alone).all()


def test_partners_vary() -> None:
    domains = np.zeros(3, dtype=np.int64)
    drawn = {tuple(partners(domains, np.random.default_rng(seed))) for seed in range(20)}
    assert drawn == {(1, 2, 0), (2, 0, 1)}


@pytest.mark.parametrize(
    "mixing", [Mixing(mixup=0.4), Mixing(cutmix=1.0), Mixing(0.4, 1.0), Mixing(0.4, 1.0, 0.5)]
)
def test_the_loss_is_shared_by_both_labels(mixing) -> None:
    _, labels, _, partner, _, shares = mixed(mixing)
    logits = torch.randn(len(labels), CLASSES, generator=torch.Generator().manual_seed(1))
    losses = F.cross_entropy(logits, shares, reduction="none")
    logs = logits.log_softmax(dim=1)
    same = labels == labels[partner]
    share = shares[torch.arange(len(labels)), labels]
    assert (share[same] - 1).abs().max() < 1e-6
    by_hand = torch.stack(
        [
            -part * row[own] - (1 - part) * row[other]
            for part, row, own, other in zip(share, logs, labels, labels[partner], strict=True)
        ]
    )
    torch.testing.assert_close(losses, by_hand)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(len(labels)))
    assert (share < 0.99).any()


def test_mixup_takes_the_labels_share_of_every_pixel() -> None:
    images, labels, _, partner, result, shares = mixed(Mixing(mixup=1.0))
    differs = labels != labels[partner]
    share = shares[torch.arange(len(labels)), labels][:, None, None, None]
    expected = share * images + (1 - share) * images[partner]
    torch.testing.assert_close(result[differs], expected[differs])
    assert differs.sum() > 5


def test_cutmix_takes_whole_pixels_and_the_label_says_how_many() -> None:
    images, labels, _, partner, result, shares = mixed(Mixing(cutmix=1.0))
    own = (result == images).all(dim=1)
    assert (own | (result == images[partner]).all(dim=1)).all()
    differs = labels != labels[partner]
    share = shares[torch.arange(len(labels)), labels]
    torch.testing.assert_close(share[differs], own.double().mean((1, 2)).float()[differs])
    for row in (~own)[differs]:  # a box: what is pasted fills its bounding rectangle
        assert row.sum() == row.any(dim=0).sum() * row.any(dim=1).sum()


def test_nothing_crosses_domains() -> None:
    images, labels, domains = batch()
    labels, images = domains.clone(), domains[:, None, None, None].expand_as(images).float()
    result, shares = mix(images, labels, domains, 3, Mixing(1.0, 1.0), np.random.default_rng(0))
    torch.testing.assert_close(result, images)
    torch.testing.assert_close(shares, F.one_hot(domains, 3).float())


def test_a_sample_alone_in_its_domain_stays() -> None:
    images, labels, _ = batch(size=4)
    result, shares = mix(
        images, labels, torch.arange(4), CLASSES, Mixing(1.0, 1.0), np.random.default_rng(0)
    )
    assert torch.equal(result, images)
    assert torch.equal(shares, F.one_hot(labels, CLASSES).float())


def test_means_over_many_samples() -> None:
    domains = np.zeros(4000, dtype=np.int64)
    images = torch.zeros(4000, 1, 16, 16)
    images[2000:] = 1
    labels = (torch.arange(4000) >= 2000).long()
    for mixing, mean in ((Mixing(mixup=0.5), 0.5), (Mixing(1.0, probability=0.25), 0.875)):
        random = np.random.default_rng(0)
        partner = partners(domains, np.random.default_rng(0))
        _, shares = mix(images, labels, torch.from_numpy(domains), 2, mixing, random)
        differs = labels != labels[partner]
        share = shares[torch.arange(4000), labels][differs]
        assert share.mean() == pytest.approx(mean, abs=0.02)  # Beta(a, a) has the mean 1/2
        if mixing.probability < 1:
            assert (share == 1).float().mean() == pytest.approx(0.75, abs=0.03)
        else:  # and the variance 1 / (4 (2 a + 1))
            assert share.var() == pytest.approx(1 / 8, abs=0.01)


def test_a_box_has_the_asked_area_where_it_fits() -> None:
    top, bottom, left, right = boxes(np.full(3000, 0.75), 64, 64, np.random.default_rng(0))
    area = (bottom - top) * (right - left)
    assert area.max() == 32 * 32
    whole = (bottom - top == 32) & (right - left == 32)
    assert whole.mean() == pytest.approx((33 / 64) ** 2, abs=0.04)
    assert min(top.min(), left.min()) == 0
    assert max(bottom.max(), right.max()) == 64


def test_labels_have_the_precision_that_losses_have() -> None:
    images, labels, domains = batch()
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        result, shares = mix(
            images.to(dtype), labels, domains, CLASSES, Mixing(1.0, 1.0), np.random.default_rng(0)
        )
        assert (result.dtype, shares.dtype) == (dtype, expected)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"mixup": -0.1}, "mixup"),
        ({"cutmix": float("nan")}, "cutmix"),
        ({"probability": 1.5}, "mix_probability"),
    ],
)
def test_bad_settings(options, key) -> None:
    with pytest.raises(InputError, match=key):
        Mixing(**options)
