"""U-Net: an encoder that halves the map at every level, a decoder that goes back, and the encoder's maps beside it.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015, figure 1.
As usual today, convolutions are padded, so that the map keeps its size, and batch normalisation follows each;
upsampling is nearest neighbour and a 3x3 convolution, which needs no transposed convolution.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


def _conv_bn_relu(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions: [N, inputs, rows, cols] to [N, outputs, rows, cols]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(*_conv_bn_relu(inputs, outputs), *_conv_bn_relu(outputs, outputs))


class UNet(nn.Module):
    """A segmentation network: RGB images in 0..1 [N, 3, rows, cols] to logits [N, outputs, rows, cols].

    Args:
        outputs: classes.
        width: channels of the finest level; every coarser one has twice as many.
        levels: resolutions, the image's own included.
    """

    def __init__(self, outputs: int, width: int = 32, levels: int = 5) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(levels)]
        self.enter = DoubleConv(3, width)
        self.down = nn.ModuleList(DoubleConv(finer, coarser) for finer, coarser in pairwise(channels))
        self.up = nn.ModuleList(nn.Sequential(*_conv_bn_relu(coarser, finer)) for finer, coarser in pairwise(channels))
        self.join = nn.ModuleList(DoubleConv(2 * finer, finer) for finer in channels[:-1])
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map [N, 3, rows, cols] to [N, outputs, rows, cols]."""
        maps = [self.enter(images)]
        for down in self.down:
            maps.append(down(self.pool(maps[-1])))
        x = maps.pop()
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            finer = maps.pop()
            x = join(torch.cat([finer, up(interpolate(x, size=finer.shape[-2:], mode="nearest"))], 1))
        logits: Tensor = self.head(x)
        return logits


def unet(outputs: int = 2, width: int = 32) -> UNet:
    """Make a U-Net of five levels (8.6 M parameters at the default width)."""
    return UNet(outputs, width)
