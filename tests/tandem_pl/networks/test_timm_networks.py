"""Networks of timm by name, from files and folders; what is refused; and out again."""

import pathlib
import sys
import types
import warnings

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset

from tandem_pl import InputError
from tandem_pl.callbacks import MovingAverage
from tandem_pl.cli import main
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.export.checkpoint import export_run
from tandem_pl.export.network import export_network
from tandem_pl.networks.timm_networks import timm_network

TINY = "wrn_10_1_silu"
VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}


def images(channels=3, size=8):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(5))


def logits(network, channels=3, size=8):
    with torch.no_grad():
        return network.eval()(images(channels, size))


def same_state(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def changed(one, other):
    """Names of the tensors that differ."""
    state = other.state_dict()
    return [
        name
        for name, value in one.state_dict().items()
        if value.shape != state[name].shape or not torch.equal(value, state[name])
    ]


def test_the_seed_alone_decides_the_weights_and_no_global_state_moves():
    before = torch.get_rng_state()
    one, same = (timm_network(TINY, 4, seed=3) for _ in range(2))
    other = timm_network(TINY, 4, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert same_state(one, same)
    assert not torch.equal(one.stem.weight, other.stem.weight)
    assert one.training


def test_arguments_reach_the_network():
    network = timm_network(
        "vit_tiny_patch16_224", 5, in_chans=1, drop_rate=0.2, drop_path_rate=0.3, options=VIT
    )
    assert logits(network, 1, 16).shape == (2, 5)
    assert network.head_drop.p == 0.2
    assert len(network.blocks) == 1
    wider = timm_network(TINY, 4, options={"depth": 16, "width": 2})
    assert wider.num_features == 128


@pytest.mark.parametrize("form", ["safetensors", "pth", "training", "data parallel"])
def test_a_file_gives_the_same_network(form, tmp_path):
    network = timm_network(TINY, 4, in_chans=1, seed=1)
    state = network.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "training":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        torch.save({f"module.{k}": v for k, v in state.items()} if form != "pth" else state, path)
    again = timm_network(TINY, 4, str(path), in_chans=1, seed=2)
    assert same_state(network, again)


def test_classifier_and_first_convolution_are_adapted(tmp_path):
    network = timm_network("resnet10t", 4, in_chans=1, seed=1)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    again = timm_network("resnet10t", 6, str(tmp_path / "w.safetensors"), in_chans=3, seed=2)
    assert changed(network, again) == ["conv1.0.weight", "fc.weight", "fc.bias"]
    assert again.num_classes == again.fc.out_features == 6
    first, gray = again.conv1[0].weight, network.conv1[0].weight
    torch.testing.assert_close(first.sum(1, keepdim=True), gray)  # gray images give the same
    same = timm_network("resnet10t", 6, str(tmp_path / "w.safetensors"), in_chans=3, seed=2)
    assert same_state(again, same)


def test_a_folder_as_the_hub_has_them(tmp_path):
    network = timm_network("vit_tiny_patch16_224", 5, options=VIT, seed=1)
    timm.models.save_for_hf(network, tmp_path / "hub", safe_serialization=True)
    again = timm_network("vit_tiny_patch16_224", 5, str(tmp_path / "hub"), seed=2)  # options too
    assert same_state(network, again)
    other = timm_network("vit_tiny_patch16_224", 2, str(tmp_path / "hub"), in_chans=1)
    assert changed(network, other) == ["patch_embed.proj.weight", "head.weight", "head.bias"]
    with pytest.raises(InputError, match="holds 'vit_tiny_patch16_224', not 'resnet18'"):
        timm_network("resnet18", 5, str(tmp_path / "hub"))


def test_nothing_is_downloaded(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr("socket.socket.connect", refuse)
    network = timm_network("resnet10t.c3_in1k", 4)  # has weights on the hub
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert same_state(
        network, timm_network("resnet10t.c3_in1k", 4, str(tmp_path / "w.pth"), seed=9)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet81"}, r"name='resnet81' .* did you mean 'resnet18'\?"),
        ({"name": "wrn_28_10_silo"}, r"did you mean 'wrn_28_10_silu'\?"),
        ({"name": "hf-hub:timm/resnet18"}, "give a folder or a file as pretrained"),
        (
            {"name": "resnet18.a1_in2k"},
            r"a tag that timm does not know: did you mean 'resnet18.a1_in1k'\?",
        ),
        ({"num_classes": 0}, "num_classes=0 must be at least 1"),
        ({"in_chans": 0}, "in_chans=0 must be at least 1"),
        ({"drop_rate": 1.0}, "drop_rate=1.0 must be"),
        ({"drop_path_rate": -0.1}, "drop_path_rate=-0.1 must be"),
        ({"options": {"act_layr": "relu"}}, r"'act_layr', which .* did you mean 'act_layer'\?"),
        ({"options": {"img_size": 32}}, "'img_size', which wrn_10_1_silu does not take: leave"),
        ({"options": {"depth": 11}}, "options={'depth': 11} cannot be built: depth=11 must be"),
        ({"options": {"num_classes": 3}}, "'num_classes', which timm_network takes itself"),
        ({"options": {"features_only": True}}, "'features_only', which is not for a classifier"),
        ({"name": "resnet18", "options": {"layers": [1]}}, "'layers': \\[1\\]} cannot be built"),
        ({"name": "vit_tiny_patch16_224", "options": {"patch_size": 0}}, "cannot be built"),
        ({"name": "vit_tiny_patch16_224", "options": {"depth": -1}}, "cannot be built"),
        ({"name": "vgg11", "drop_path_rate": 0.1}, "vgg11 does not take drop_path_rate=0.1"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        timm_network(**{"name": TINY, "num_classes": 4, **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("empty folder", "has no config.json of timm"),
        ("no weights", "has none of model.safetensors"),
        ("broken", "cannot be read as weights"),
        ("code", "cannot be read as weights .*weights_only"),
        ("run", "is a checkpoint of a run"),
        ("other", r"is not of wrn_10_1_silu \(Missing key\(s\) in state_dict: .*stages\.0"),
        (
            "wider",
            r"size mismatch for stages.0.0.conv1.weight: .*\[32, 16, 3, 3\].*\[16, 16, 3, 3\]",
        ),
        ("more", r'Unexpected key\(s\) in state_dict: "extra"'),
    ],
)
def test_weights_that_cannot_be_used(kind, message, tmp_path):
    path = tmp_path / "w.pth"
    state = timm_network(TINY, 4).state_dict()
    if kind == "empty folder":
        path.mkdir()
    elif kind == "no weights":
        path.mkdir()
        (path / "config.json").write_text('{"architecture": "wrn_10_1_silu"}')
    elif kind == "broken":
        path.write_bytes(b"PK\x03\x04 half a file")
    elif kind == "code":
        torch.save({"where": pathlib.Path("x"), **state}, path)
    elif kind == "run":
        torch.save({"state_dict": {f"network.{key}": v for key, v in state.items()}}, path)
    elif kind == "other":
        torch.save(timm_network("resnet10t", 4).state_dict(), path)
    elif kind == "wider":
        torch.save(timm_network(TINY, 4, options={"width": 2}).state_dict(), path)
    elif kind == "more":
        torch.save({**state, "extra": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=message) as caught:
        timm_network(TINY, 4, str(path))
    assert "\n" not in str(caught.value)


def test_a_written_network_is_timms_again(tmp_path):
    network = timm_network("resnet10t", 3, in_chans=1, seed=1)
    network.conv1[0].weight.data = network.conv1[0].weight.data.to(
        memory_format=torch.channels_last
    )
    files = export_network(network, tmp_path / "net")
    assert [path.name for path in files] == ["config.json", "model.safetensors"]
    by_file = timm.create_model("resnet10t", num_classes=3, in_chans=1, checkpoint_path=files[1])
    by_folder = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)
    ours = timm_network("resnet10t", 3, str(tmp_path / "net"), in_chans=1)
    for again in (by_file, by_folder, ours):
        assert same_state(network, again)


class Blobs(Dataset):
    """Images of 8x8 whose brighter half says their class, with a share of wrong labels."""

    def __init__(self, size, seed, wrong=0.0):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(2, (size,), generator=generator)
        self.images = torch.randn(size, 1, 8, 8, generator=generator)
        for label, half in ((0, slice(0, 4)), (1, slice(4, 8))):
            self.images[self.labels == label, :, half] += 1.0
        flip = torch.rand(size, generator=generator) < wrong
        self.labels = torch.where(flip, 1 - self.labels, self.labels)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": int(self.labels[index])}


class BlobData(MixtureDataModule):
    def __init__(self, batch_size: int = 8) -> None:
        super().__init__(
            {"clean": Blobs(40, 0), "noise": Blobs(40, 1, 0.5)},
            target={"clean": Blobs(40, 2)},
            test={"clean": Blobs(40, 3)},
            batch_size=batch_size,
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a real run of `tandem fit` on a configuration."""
    place = tmp_path_factory.mktemp("vision")
    module = types.ModuleType("blob_data")
    module.BlobData = BlobData
    sys.modules["blob_data"] = module
    BlobData.__module__ = "blob_data"
    config = f"""
trainer:
  max_steps: 9
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
    init_args: {{save_dir: {place}, name: runs}}
  callbacks:
    - class_path: tandem_pl.callbacks.TandemReweighting
      init_args: {{free_steps: 2, probe_steps: 1, measure_batches: 1}}
    - class_path: tandem_pl.callbacks.MovingAverage
      init_args: {{decay: 0.5}}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{every_n_epochs: 1, save_last: true}}
model:
  class_path: tandem_pl.TandemModule
  init_args:
    network:
      class_path: tandem_pl.timm_networks.timm_network
      init_args: {{name: wrn_10_1_silu, num_classes: 2, in_chans: 1, drop_path_rate: 0.2}}
    objective: tandem_pl.objectives.Classification
    optimizer:
      class_path: torch.optim.SGD
      init_args: {{lr: 0.02}}
data:
  class_path: blob_data.BlobData
"""
    (place / "config.yaml").write_text(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["fit", "--config", str(place / "config.yaml")]) == 0
    yield place / "runs" / "version_0"
    del sys.modules["blob_data"]


def test_a_run_is_exported_for_timm(run, tmp_path, capsys):
    assert main(["export", str(run), "--network", str(tmp_path / "net")]) == 0
    assert "77,042 parameters" in capsys.readouterr().out
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    expected = timm_network(TINY, 2, in_chans=1, seed=7)
    state = checkpoint["state_dict"]
    expected.load_state_dict(
        {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    )
    untrained = timm_network(TINY, 2, in_chans=1)
    again = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)
    assert torch.equal(logits(again, 1), logits(expected, 1))
    assert not torch.equal(logits(again, 1), logits(untrained, 1))


def test_the_average_is_exported_too(run, tmp_path):
    export_run(run, tmp_path / "net", which="average")
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    average = checkpoint["callbacks"][MovingAverage().state_key]["average"]
    again = timm_network(TINY, 2, str(tmp_path / "net"), in_chans=1)
    assert all(torch.equal(value, average[name]) for name, value in again.state_dict().items())
    assert not torch.equal(again.stem.weight, checkpoint["state_dict"]["network.stem.weight"])
    checkpoint["callbacks"].pop(MovingAverage().state_key)
    torch.save(checkpoint, tmp_path / "without.ckpt")
    with pytest.raises(InputError, match="has no moving average"):
        export_run(run, tmp_path / "other", str(tmp_path / "without.ckpt"), "average")


def test_a_mistake_in_a_configuration_is_one_line(run, capsys):
    arguments = ["fit", "--config", str(run / "config.yaml")]
    name = "--model.init_args.network.init_args.name=resnet81"
    assert main([*arguments, name]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'resnet18'?" in error
    assert error.count("\n") == 1
