"""EfficientNet: the backbone of EfficientDet, inverted residual blocks with depthwise convolutions and channel gates.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, table 1, section 4.
Tensor names and shapes are those of the checkpoints that people have (see `efficientdet`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional

# Of the published checkpoints, which were trained with TensorFlow's defaults.
NORM_EPSILON, NORM_MOMENTUM = 1e-3, 0.01
SQUEEZE = 4


@dataclass(frozen=True)
class Stage:
    """Blocks of one size: the first has the stride and changes the channels, the others add to their input.

    Attributes:
        channels: put out by every block.
        blocks: how many.
        stride: of the first block.
        kernel: of the depthwise convolutions.
        expansion: inner channels of a block / its input channels; 1: none, the depthwise convolution is the first.
    """

    channels: int
    blocks: int
    stride: int
    kernel: int
    expansion: int = 6


# EfficientNet-B0: table 1 of the paper.
B0_STEM = 32
B0_STAGES = (
    Stage(16, 1, 1, 3, 1),
    Stage(24, 2, 2, 3),
    Stage(40, 2, 2, 5),
    Stage(80, 3, 2, 3),
    Stage(112, 3, 1, 5),
    Stage(192, 4, 2, 5),
    Stage(320, 1, 1, 3),
)


def scaled(width: float, depth: float) -> tuple[int, tuple[Stage, ...]]:
    """Return stem channels and stages of EfficientNet-B0 with `width` times the channels and `depth` times the blocks.

    Channels are rounded to a multiple of 8 that is no more than a tenth below, blocks are rounded up.
    """
    stages = (
        replace(stage, channels=_channels(stage.channels * width), blocks=_blocks(stage.blocks * depth))
        for stage in B0_STAGES
    )
    return _channels(B0_STEM * width), tuple(stages)


def _channels(wanted: float) -> int:
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def _blocks(wanted: float) -> int:
    return -int(-wanted // 1)


def norm(channels: int) -> nn.BatchNorm2d:
    """Make a batch normalisation as the published checkpoints have it."""
    return nn.BatchNorm2d(channels, eps=NORM_EPSILON, momentum=NORM_MOMENTUM)


def depthwise(channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Make a convolution with one filter per channel; with a stride, its input must come from `pad_same`."""
    padding = kernel // 2 if stride == 1 else 0
    return nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=False)


def pad_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad a map as TensorFlow's "same" does: output ceil(size / stride), an odd pixel below and to the right.

    No padding of nn.Conv2d can say that for a stride of 2, so it is a step of its own before the convolution. Kernels
    are no smaller than the stride.
    """
    rows, cols = x.shape[-2], x.shape[-1]
    down = (-(-rows // stride) - 1) * stride + kernel - rows
    across = (-(-cols // stride) - 1) * stride + kernel - cols
    return functional.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2), value=value)


class SqueezeExcite(nn.Module):
    """Channel gates: every channel is multiplied by a number in 0..1 that follows from all channels' means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, squeezed, 1)
        self.conv_expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels, rows, cols] to the same shape."""
        means = x.mean((2, 3), keepdim=True)
        gates: Tensor = self.conv_expand(functional.silu(self.conv_reduce(means)))
        return x * gates.sigmoid()


class SeparableBlock(nn.Module):
    """Depthwise convolution, channel gates, 1x1 convolution: a block without expansion."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.adds = kernel, stride, stride == 1 and inputs == outputs
        self.conv_dw = depthwise(inputs, kernel, stride)
        self.bn1 = norm(inputs)
        self.se = SqueezeExcite(inputs, inputs // SQUEEZE)
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, rows, cols] to [N, outputs, ceil(rows / stride), ceil(cols / stride)]."""
        y = x if self.stride == 1 else pad_same(x, self.kernel, self.stride)
        y = self.se(functional.silu(self.bn1(self.conv_dw(y))))
        out: Tensor = self.bn2(self.conv_pw(y))
        return out + x if self.adds else out


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, channel gates, 1x1 projection without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.kernel, self.stride, self.adds = kernel, stride, stride == 1 and inputs == outputs
        self.conv_pw = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = norm(inner)
        self.conv_dw = depthwise(inner, kernel, stride)
        self.bn2 = norm(inner)
        self.se = SqueezeExcite(inner, inputs // SQUEEZE)
        self.conv_pwl = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, rows, cols] to [N, outputs, ceil(rows / stride), ceil(cols / stride)]."""
        y = functional.silu(self.bn1(self.conv_pw(x)))
        if self.stride > 1:
            y = pad_same(y, self.kernel, self.stride)
        y = self.se(functional.silu(self.bn2(self.conv_dw(y))))
        out: Tensor = self.bn3(self.conv_pwl(y))
        return out + x if self.adds else out


class EfficientNet(nn.Module):
    """Maps pictures to feature maps of three sizes: 1/8, 1/16 and 1/32 of the picture, rounded up.

    Args:
        stem: channels of the strided convolution in front.
        stages: blocks; a map is put out before each stage with a stride and at the end, the last three of them.
    """

    def __init__(self, stem: int, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, stem, 3, 2, bias=False)
        self.bn1 = norm(stem)
        self.blocks = nn.Sequential()
        inputs = stem
        for stage in stages:
            strides = [stage.stride, *[1] * (stage.blocks - 1)]
            blocks = nn.Sequential()
            for stride in strides:
                blocks.append(_block(inputs, stride, stage))
                inputs = stage.channels
            self.blocks.append(blocks)
        ends = [index for index, after in enumerate(stages[1:]) if after.stride > 1]
        self.ends = (*ends, len(stages) - 1)[-3:]
        self.channels = tuple(stages[end].channels for end in self.ends)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map [N, 3, rows, cols] to [[N, channels, ...], ...], finest first; `channels` says how many each has."""
        x = functional.silu(self.bn1(self.conv_stem(pad_same(x, 3, 2))))
        maps = []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in self.ends:
                maps.append(x)
        return maps


def _block(inputs: int, stride: int, stage: Stage) -> nn.Module:
    if stage.expansion == 1:
        return SeparableBlock(inputs, stage.channels, stride, stage.kernel)
    return InvertedResidual(inputs, stage.channels, stride, stage.kernel, stage.expansion)
