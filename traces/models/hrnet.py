"""HRNet: parallel branches at several resolutions that exchange their maps after every few residual blocks.

Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation", CVPR 2019, figure 1 and section 3.
Tensor names and shapes are those of the checkpoints published with that paper, so that these load unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn, tensor
from torch.nn.functional import interpolate

# Mean and standard deviation of RGB in 0..1 that the published checkpoints expect: ImageNet's, as in torchvision.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BOTTLENECK_EXPANSION = 4


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Make a convolution without bias whose output is ceil(input / stride)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _conv_bn_relu(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs), nn.ReLU())


class BasicBlock(nn.Module):
    """Two 3x3 convolutions added to their input; channels and size stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels, rows, cols] to the same shape."""
        y = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(y)) + x)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution added to the input, or to a 1x1 projection of it where the channels change."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        outputs = inner * BOTTLENECK_EXPANSION
        self.conv1 = _conv(inputs, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _conv(inner, inner, 3)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _conv(inner, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if inputs != outputs:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, rows, cols] to [N, 4 * inner, rows, cols]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        out: Tensor = self.relu(self.bn3(self.conv3(y)) + self.downsample(x))
        return out


class ExchangeModule(nn.Module):
    """Residual blocks on every branch, then each output branch sums all branches brought to its resolution."""

    def __init__(self, channels: Sequence[int], blocks: int, output_branches: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c) for _ in range(blocks))) for c in channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_path(channels, source, target) for source in range(len(channels)))
            for target in range(output_branches)
        )
        self.relu = nn.ReLU()

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map one tensor per branch, each half the size of the one before, to one per output branch."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        outputs = []
        for target, paths in enumerate(self.fuse_layers):
            total: Tensor | None = None
            for path, x in zip(cast(nn.ModuleList, paths), maps, strict=True):
                y = path(x)
                if y.shape[-2:] != maps[target].shape[-2:]:
                    y = interpolate(y, size=maps[target].shape[-2:], mode="nearest")
                total = y if total is None else total + y
            outputs.append(self.relu(total))
        return outputs


def _path(channels: Sequence[int], source: int, target: int) -> nn.Module:
    """Make the path between two branches: 1x1 before an upsampling, nothing, or one strided 3x3 per halving."""
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(_conv(channels[source], channels[target], 1), nn.BatchNorm2d(channels[target]))
    halvings = target - source
    steps: list[nn.Module] = [_conv_bn_relu(channels[source], channels[source], 2) for _ in range(halvings - 1)]
    steps.append(nn.Sequential(_conv(channels[source], channels[target], 3, 2), nn.BatchNorm2d(channels[target])))
    return nn.Sequential(*steps)


class HRNet(nn.Module):
    """A pose network: RGB images in 0..1 [N, 3, rows, cols] to heat maps [N, outputs, rows / 4, cols / 4].

    Every branch has twice the channels and half the size of the one before; stage s (2, 3, ...) has s branches.

    Args:
        outputs: heat maps, one per joint.
        width: channels of the finest branch.
        modules: exchange modules per stage, from stage 2 on; its length sets the number of stages.
        blocks: residual blocks per branch and module.
        stem: channels of the two strided convolutions in front.
        stem_blocks: bottlenecks of stage 1.
        mean: RGB mean that is subtracted inside the network; not part of the state dict.
        std: RGB standard deviation that the input is divided by inside the network; not part of the state dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        outputs: int,
        width: int,
        *,
        modules: Sequence[int] = (1, 4, 3),
        blocks: int = 4,
        stem: int = 64,
        stem_blocks: int = 4,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", tensor(mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", tensor(std).reshape(3, 1, 1), persistent=False)
        self.conv1 = _conv(3, stem, 3, 2)
        self.bn1 = nn.BatchNorm2d(stem)
        self.conv2 = _conv(stem, stem, 3, 2)
        self.bn2 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        wide = stem * BOTTLENECK_EXPANSION
        self.layer1 = nn.Sequential(Bottleneck(stem, stem), *(Bottleneck(wide, stem) for _ in range(stem_blocks - 1)))

        channels = [width * 2**branch for branch in range(len(modules) + 1)]
        # Stage 2 starts both of its branches from the one map of stage 1; later stages add one branch.
        first = [_conv_bn_relu(wide, channels[0], 1), nn.Sequential(_conv_bn_relu(wide, channels[1], 2))]
        self.transition1 = nn.ModuleList(first)
        for index, (coarse, new) in enumerate(pairwise(channels[1:]), start=2):
            kept = [nn.Identity() for _ in range(index)]
            setattr(self, f"transition{index}", nn.ModuleList([*kept, nn.Sequential(_conv_bn_relu(coarse, new, 2))]))
        self.stages = len(modules)
        for index, count in enumerate(modules, start=2):
            # Only the finest branch reaches the heat maps, so the last module of all computes no other.
            ends = [index if position < count - 1 or index <= len(modules) else 1 for position in range(count)]
            stage = nn.Sequential(*(ExchangeModule(channels[:index], blocks, branches) for branches in ends))
            setattr(self, f"stage{index}", stage)
        self.final_layer = nn.Conv2d(width, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map RGB images in 0..1 [N, 3, rows, cols] to heat maps [N, outputs, ceil(rows / 4), ceil(cols / 4)]."""
        x = (images - self.mean) / self.std
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        maps = [self.layer1(x)]
        for index in range(1, self.stages + 1):
            sources = [*maps, maps[-1]] if index > 1 else [maps[0], maps[0]]
            transition: nn.ModuleList = getattr(self, f"transition{index}")
            maps = [enter(source) for enter, source in zip(transition, sources, strict=True)]
            maps = getattr(self, f"stage{index + 1}")(maps)
        heatmaps: Tensor = self.final_layer(maps[0])
        return heatmaps


def hrnet_w32(outputs: int = 17) -> HRNet:
    """Make HRNet-W32 (28.5 M parameters with 17 joints)."""
    return HRNet(outputs, 32)


def hrnet_w48(outputs: int = 17) -> HRNet:
    """Make HRNet-W48 (63.6 M parameters with 17 joints)."""
    return HRNet(outputs, 48)


def pose_small(outputs: int = 15) -> HRNet:
    """Make the small trained network: three branches, 128x128 pictures, the joints of the procedural clips."""
    return HRNet(
        outputs, 32, modules=(1, 1), blocks=2, stem=16, stem_blocks=1, mean=(0.45, 0.45, 0.45), std=(0.25, 0.25, 0.25)
    )


def pose_narrow(outputs: int = 15) -> HRNet:
    """Make pose_small with half the channels everywhere, a quarter of its MACs."""
    return HRNet(
        outputs, 16, modules=(1, 1), blocks=2, stem=8, stem_blocks=1, mean=(0.45, 0.45, 0.45), std=(0.25, 0.25, 0.25)
    )
