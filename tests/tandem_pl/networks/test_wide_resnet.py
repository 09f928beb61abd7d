"""Wide ResNets: sizes, shapes, and the forward against one written with functions alone."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from tandem_pl.networks.wide_resnet import SIZES, WideResNet


def parameters(depth, width, classes, channels=3):
    """Counted layer by layer, from the table of arXiv 1605.07146."""
    n = (depth - 4) // 6
    total, inputs = 9 * channels * 16, 16
    for outputs in (16 * width, 32 * width, 64 * width):
        if inputs != outputs:
            total += inputs * outputs
        total += 9 * inputs * outputs + 2 * inputs
        total += (2 * n - 1) * 9 * outputs**2 + (2 * n - 1) * 2 * outputs
        inputs = outputs
    return total + 2 * inputs + (inputs + 1) * classes


@pytest.mark.parametrize(("depth", "width"), SIZES)
def test_every_registered_network_has_the_parameters_of_its_table(depth, width):
    with torch.device("meta"):
        network = timm.create_model(f"wrn_{depth}_{width}_silu", num_classes=10)
        features = network.forward_features(torch.empty(2, 3, 32, 32))
        logits = network(torch.empty(2, 3, 32, 32))
    assert sum(p.numel() for p in network.parameters()) == parameters(depth, width, 10)
    assert features.shape == (2, 64 * width, 8, 8)
    assert logits.shape == (2, 10)
    assert network.num_features == 64 * width


def test_the_published_sizes():
    assert parameters(28, 10, 10) == 36_479_194
    assert parameters(70, 16, 10) == 266_796_506


def by_functions(state, images, depth, act):
    """In eval mode; only the state's names are shared with the network."""

    def norm(x, name):
        mean, var, weight, bias = (
            state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        shape = (1, -1, 1, 1)
        return (x - mean.view(shape)) / torch.sqrt(var.view(shape) + 1e-5) * weight.view(
            shape
        ) + bias.view(shape)

    x = F.conv2d(images, state["stem.weight"], padding=1)
    for group in range(3):
        for block in range((depth - 4) // 6):
            name = f"stages.{group}.{block}"
            stride = 2 if group > 0 and block == 0 else 1
            first = act(norm(x, f"{name}.norm1"))
            y = F.conv2d(first, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(act(norm(y, f"{name}.norm2")), state[f"{name}.conv2.weight"], padding=1)
            if f"{name}.shortcut.weight" in state:
                x = F.conv2d(first, state[f"{name}.shortcut.weight"], stride=stride)
            x = x + y
    pooled = act(norm(x, "norm")).mean(dim=(2, 3))
    return pooled @ state["head.fc.weight"].T + state["head.fc.bias"]


@pytest.mark.parametrize(
    ("act_layer", "act"), [("silu", lambda x: x * x.sigmoid()), ("relu", F.relu)]
)
def test_the_forward_is_that_of_pre_activation_blocks(act_layer, act):
    torch.manual_seed(0)
    network = WideResNet(16, 2, num_classes=3, act_layer=act_layer).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics and weights that no order would hide
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2.0)
    images = torch.randn(2, 3, 16, 12, dtype=torch.float64)
    expected = by_functions(network.state_dict(), images, 16, act)
    torch.testing.assert_close(network.eval()(images), expected)


def test_no_convolution_has_a_bias_and_each_starts_at_hes_scale():
    torch.manual_seed(0)
    network = WideResNet(10, 4)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 + 3 * 2 + 3
    for conv in convolutions:
        assert conv.bias is None
        scale = (2.0 / (conv.weight[0, 0].numel() * conv.out_channels)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(scale, rel=0.12)
    assert not network.head.fc.bias.any()


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (28, 28)])
def test_any_size_from_8_pixels(size):
    network = timm.create_model("wrn_10_1_silu", num_classes=4, in_chans=1).eval()
    assert network(torch.zeros(2, 1, *size)).shape == (2, 4)


def test_what_tools_of_timm_expect():
    network = timm.create_model("wrn_10_1_silu", num_classes=4, drop_path_rate=0.5, drop_rate=0.1)
    rates = [m.drop_prob for m in network.modules() if type(m).__name__ == "DropPath"]
    assert rates == [0.25, 0.5]  # the first block is never skipped
    assert network.get_classifier().out_features == 4
    network.reset_classifier(7)
    assert network.eval()(torch.zeros(1, 3, 8, 8)).shape == (1, 7)
    features = network.forward_features(torch.zeros(1, 3, 8, 8))
    assert network.forward_head(features, pre_logits=True).shape == (1, 64)
    assert timm.data.resolve_data_config({}, model=network)["input_size"] == (3, 32, 32)
    pyramid = timm.create_model("wrn_10_1_silu", features_only=True)
    shapes = [tuple(level.shape) for level in pyramid(torch.zeros(1, 3, 32, 32))]
    assert shapes == [(1, 16, 32, 32), (1, 32, 16, 16), (1, 64, 8, 8)]
    groups = timm.models.group_parameters(network, network.group_matcher())
    assert set().union(*groups.values()) == {name for name, _ in network.named_parameters()}


def test_drop_path_skips_blocks_in_training_only():
    torch.manual_seed(0)
    network = WideResNet(10, 1, num_classes=3, drop_path_rate=0.999).double()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    network.train()
    dropped = network(images)
    rates = [m for m in network.modules() if type(m).__name__ == "DropPath"]
    for module in rates:
        module.drop_prob = 0.0
    whole = network(images)
    assert (dropped - whole).abs().max() > 1e-3
    torch.testing.assert_close(whole, network(images))
    network.eval()
    plain = network(images)
    for module in rates:
        module.drop_prob = 0.999
    torch.testing.assert_close(network(images), plain)


@pytest.mark.parametrize(("depth", "width"), [(12, 1), (4, 1), (10, 0)])
def test_depths_that_make_no_blocks_are_refused(depth, width):
    with pytest.raises(ValueError, match="must be 6 n"):
        WideResNet(depth, width)
