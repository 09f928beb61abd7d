"""Wide ResNets with SiLU for small images, in timm's registry.

Importing this module registers `wrn_10_1_silu`, `wrn_16_1_silu`, `wrn_16_4_silu`, `wrn_28_2_silu`,
`wrn_28_10_silu` and `wrn_70_16_silu` (depth and width factor), for `timm.create_model`.
"""

from typing import Any

from timm.layers import ClassifierHead, DropPath, calculate_drop_path_rates, get_act_layer
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

SIZES = ((10, 1), (16, 1), (16, 4), (28, 2), (28, 10), (70, 16))
GROUPS = 3  # of blocks, at strides 1, 2 and 4
STEM = 16  # channels after the first convolution
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a padded convolution without a bias, because BatchNorm follows."""
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class Block(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), [B, C, H, W] -> [B, C', H/stride, W/stride].

    If channels or stride change, a 1x1 convolution of act(norm(x)) replaces the first x.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, drop_path: float, act: type[nn.Module]
    ) -> None:
        super().__init__()
        self.norm1, self.act1 = nn.BatchNorm2d(inputs), act()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.norm2, self.act2 = nn.BatchNorm2d(outputs), act()
        self.conv2 = conv3x3(outputs, outputs)
        self.shortcut: nn.Module | None = None
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        active = self.act1(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        return kept + self.drop_path(self.conv2(self.act2(self.norm2(self.conv1(active)))))


class WideResNet(nn.Module):
    """A Wide ResNet with pre-activation blocks, for images of 8x8 and larger.

    A 3x3 convolution to 16 channels; three groups of (depth - 4) / 6 blocks with 16, 32 and 64
    times `width` channels at strides 1, 2 and 4; norm, activation, global average, classifier.

    Zagoruyko & Komodakis 2016, arXiv 1605.07146; with SiLU after Gowal et al. 2020, arXiv
    2010.03593. Their dropout between convolutions is left out. Convolutions have He's normal
    initialisation by their outputs, and the classifier's bias starts at 0.

    Args:
        depth: 6 n + 4 layers.
        width: times the channels of the plain ResNet.
        num_classes: number of logits; 0 for pooled features.
        in_chans: channels of the images.
        global_pool: pooling of the features; see timm.
        drop_rate: dropout before the classifier.
        drop_path_rate: probability that a sample skips the last block; linear from 0 at the first.
        act_layer: see timm; "relu" gives the network of 1605.07146.

    >>> import torch
    >>> network = WideResNet(depth=10, width=1, num_classes=5, in_chans=1)
    >>> images = torch.zeros(2, 1, 32, 32)
    >>> network(images).shape, network.forward_features(images).shape
    (torch.Size([2, 5]), torch.Size([2, 64, 8, 8]))
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: str = "silu",
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 2 * GROUPS)
        if rest or blocks < 1 or width < 1:
            raise ValueError(f"depth={depth} must be 6 n + 4 and width={width} at least 1.")
        act = get_act_layer(act_layer)
        channels = [STEM * width * 2**group for group in range(GROUPS)]
        rates = calculate_drop_path_rates(drop_path_rate, [blocks] * GROUPS, stagewise=True)
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = channels[-1]
        self.stem = conv3x3(in_chans, STEM)
        self.stages = nn.Sequential()
        self.feature_info = []
        inputs = STEM
        for group, outputs in enumerate(channels):
            stage = nn.Sequential()
            for number in range(blocks):
                stride = 2 if group and not number else 1
                stage.append(Block(inputs, outputs, stride, rates[group][number], act))
                inputs = outputs
            self.stages.append(stage)
            self.feature_info.append(
                {"num_chs": outputs, "reduction": 2**group, "module": f"stages.{group}"}
            )
        self.norm, self.act = nn.BatchNorm2d(inputs), act()
        self.head = ClassifierHead(inputs, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return features [B, num_features, H/4, W/4] of images [B, in_chans, H, W]."""
        return self.act(self.norm(self.stages(self.stem(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits [B, num_classes] of features, or pooled features [B, num_features]."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the layer that gives the logits."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a random one; 0 classes for none."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the names of layers by depth, for learning rates that differ by layer."""
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(blocks, None), (r"^norm", (99999,))]}


default_cfgs = generate_default_cfgs(
    {
        f"wrn_{depth}_{width}_silu": {
            "input_size": (3, 32, 32),
            "min_input_size": (3, 8, 8),
            "pool_size": (8, 8),
            "num_classes": 10,
            "crop_pct": 1.0,
            "mean": CIFAR_MEAN,
            "std": CIFAR_STD,
            "first_conv": "stem",
            "classifier": "head.fc",
        }
        for depth, width in SIZES
    }
)


def _create(depth: int, width: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    return build_model_with_cfg(
        WideResNet,
        f"wrn_{depth}_{width}_silu",
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2), "flatten_sequential": True},
        **{"depth": depth, "width": width, **options},
    )


@register_model
def wrn_10_1_silu(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build the network with 0.08 M parameters: for tests and images of a few pixels."""
    return _create(10, 1, pretrained, options)


@register_model
def wrn_16_1_silu(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build the network with 0.18 M parameters."""
    return _create(16, 1, pretrained, options)


@register_model
def wrn_16_4_silu(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build the network with 2.7 M parameters."""
    return _create(16, 4, pretrained, options)


@register_model
def wrn_28_2_silu(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build the network with 1.5 M parameters."""
    return _create(28, 2, pretrained, options)


@register_model
def wrn_28_10_silu(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build the network with 36.5 M parameters: the usual one for CIFAR."""
    return _create(28, 10, pretrained, options)


@register_model
def wrn_70_16_silu(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build the network with 266.8 M parameters: the largest of arXiv 2010.03593."""
    return _create(70, 16, pretrained, options)
