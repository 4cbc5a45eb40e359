"""EfficientDet: an EfficientNet backbone, a BiFPN, and two heads that all levels share.

Tan, Pang and Le, "EfficientDet: Scalable and Efficient Object Detection", CVPR 2020, section 4 and table 1. Tensor
names and shapes are those of the checkpoints "tf_efficientdet_d0" to "d3" of efficientdet-pytorch (90 classes of COCO),
so that these load unchanged. The heads' convolutions run once per level, with a normalisation of its own for each: a
converted network keeps gate state for every call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn, tensor
from torch.nn import functional

from skipsim.traces.detection import ANCHORS, decode
from skipsim.traces.models.bifpn import BiFPN, SeparableConv
from skipsim.traces.models.efficientnet import EfficientNet, Stage, norm, scaled
from skipsim.traces.models.hrnet import IMAGENET_MEAN, IMAGENET_STD

PUBLISHED_SCALE = 4.0  # of the anchors, in strides
# Before training every anchor scores this much; Lin et al., "Focal Loss for Dense Object Detection", section 4.1.
FIRST_SCORE = 0.01

Maps = tuple[list[Tensor], list[Tensor]]


class Head(nn.Module):
    """Separable convolutions that all levels share, each followed by the level's own normalisation."""

    def __init__(self, channels: int, outputs: int, repeats: int, levels: int) -> None:
        super().__init__()
        self.conv_rep = nn.ModuleList(SeparableConv(channels, channels, normalised=False) for _ in range(repeats))
        self.bn_rep = nn.ModuleList(nn.ModuleList(_named_norm(channels) for _ in range(levels)) for _ in range(repeats))
        self.predict = SeparableConv(channels, outputs, normalised=False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map [N, channels, rows, cols] of every level to [N, outputs, rows, cols]."""
        results = []
        for level, x in enumerate(maps):
            for conv, norms in zip(self.conv_rep, self.bn_rep, strict=True):
                x = functional.silu(norms[level](conv(x)))  # type: ignore[index]  # a ModuleList
            results.append(self.predict(x))
        return results


def _named_norm(channels: int) -> nn.Sequential:
    named = nn.Sequential()
    named.add_module("bn", norm(channels))
    return named


class EfficientDet(nn.Module):
    """A detection network: RGB images in 0..1 [N, 3, rows, cols] to class and box maps of every level.

    Args:
        outputs: classes.
        stem: channels of the backbone's first convolution.
        stages: of the backbone.
        channels: of pyramid and heads.
        cells: exchanges of the pyramid.
        repeats: separable convolutions of a head before its last one.
        levels: of the pyramid, 1/8 of the picture and coarser; at least 3.
        anchor_scale: size of the smallest square anchor of a level in its strides.
        mean: RGB mean that is subtracted inside the network; not part of the state dict.
        std: RGB standard deviation that the input is divided by inside the network; not part of the state dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        outputs: int,
        *,
        stem: int,
        stages: Sequence[Stage],
        channels: int,
        cells: int,
        repeats: int,
        levels: int = 5,
        anchor_scale: float = PUBLISHED_SCALE,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.outputs, self.anchor_scale = outputs, anchor_scale
        self.register_buffer("mean", tensor(mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", tensor(std).reshape(3, 1, 1), persistent=False)
        self.backbone = EfficientNet(stem, stages)
        self.fpn = BiFPN(self.backbone.channels, channels, levels, cells)
        self.class_net = Head(channels, outputs * ANCHORS, repeats, levels)
        self.box_net = Head(channels, 4 * ANCHORS, repeats, levels)
        bias = self.class_net.predict.conv_pw.bias
        assert bias is not None
        nn.init.constant_(bias, math.log(FIRST_SCORE / (1 - FIRST_SCORE)))

    def forward(self, images: Tensor) -> Maps:
        """Map RGB images in 0..1 [N, 3, rows, cols] to two lists of maps, one per level, finest first.

        Level l = 0, 1, ... has ceil(rows / 2^(3 + l)) x ceil(cols / 2^(3 + l)) positions. Class maps
        [N, 9 * outputs, ...] hold logits, box maps [N, 9 * 4, ...] offsets (dy, dx, log height, log width) from the
        anchors, in the order of `detection.anchors`.
        """
        maps = self.fpn(self.backbone((images - self.mean) / self.std))
        return self.class_net(maps), self.box_net(maps)

    def detect(self, output: Maps, rows: int, cols: int) -> NDArray[np.float32]:
        """Return what the output on one picture of rows x cols pixels says: see `detection.decode`."""
        classes, boxes = ([level.detach().float().cpu().numpy() for level in maps] for maps in output)
        return decode(classes, boxes, self.outputs, self.anchor_scale, rows, cols)


# Grey levels of the procedural clips.
_SMALL_MEAN, _SMALL_STD = (0.4, 0.4, 0.4), (0.22, 0.22, 0.22)
_SMALL_STAGES = (
    Stage(12, 1, 1, 3, 1),
    Stage(16, 1, 2, 3, 3),
    Stage(24, 2, 2, 5, 4),
    Stage(48, 2, 2, 3, 4),
    Stage(72, 1, 1, 5, 4),
    Stage(96, 2, 2, 5, 4),
)


def _scaled(outputs: int, width: float, depth: float, channels: int, cells: int, repeats: int) -> EfficientDet:
    stem, stages = scaled(width, depth)
    return EfficientDet(outputs, stem=stem, stages=stages, channels=channels, cells=cells, repeats=repeats)


def efficientdet_d0(outputs: int = 90) -> EfficientDet:
    """Make EfficientDet-D0 (3.9 M parameters with 90 classes)."""
    return _scaled(outputs, 1.0, 1.0, channels=64, cells=3, repeats=3)


def efficientdet_d1(outputs: int = 90) -> EfficientDet:
    """Make EfficientDet-D1 (6.6 M parameters with 90 classes)."""
    return _scaled(outputs, 1.0, 1.1, channels=88, cells=4, repeats=3)


def efficientdet_d2(outputs: int = 90) -> EfficientDet:
    """Make EfficientDet-D2 (8.1 M parameters with 90 classes)."""
    return _scaled(outputs, 1.1, 1.2, channels=112, cells=5, repeats=3)


def efficientdet_d3(outputs: int = 90) -> EfficientDet:
    """Make EfficientDet-D3 (12.0 M parameters with 90 classes)."""
    return _scaled(outputs, 1.2, 1.4, channels=160, cells=6, repeats=4)


def detection_small(outputs: int = 3) -> EfficientDet:
    """Make the small trained network: 256x256 pictures, four levels, the vehicles of the procedural clips."""
    return _small(outputs, stem=16, stages=_SMALL_STAGES, channels=48)


def detection_narrow(outputs: int = 3) -> EfficientDet:
    """Make detection_small with half the channels everywhere, a quarter of the MACs of its 1x1 convolutions."""
    stages = [replace(stage, channels=stage.channels // 2) for stage in _SMALL_STAGES]
    return _small(outputs, stem=8, stages=stages, channels=24)


def _small(outputs: int, stem: int, stages: Sequence[Stage], channels: int) -> EfficientDet:
    return EfficientDet(
        outputs,
        stem=stem,
        stages=stages,
        channels=channels,
        cells=2,
        repeats=2,
        levels=4,
        anchor_scale=2.0,
        mean=_SMALL_MEAN,
        std=_SMALL_STD,
    )
