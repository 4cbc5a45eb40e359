"""BiFPN: feature maps of several sizes exchange what they know, from coarse to fine and back, with learned weights.

Tan, Pang and Le, "EfficientDet: Scalable and Efficient Object Detection", CVPR 2020, section 3 and figure 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from skipsim.traces.models.efficientnet import depthwise, norm, pad_same

# Section 3.3, fast normalised fusion: keeps the sum of the weights from zero.
FUSION_EPSILON = 1e-4


class ConvNorm(nn.Module):
    """A 1x1 convolution and its normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)
        self.bn = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, rows, cols] to [N, outputs, rows, cols]."""
        normalised: Tensor = self.bn(self.conv(x))
        return normalised


class SeparableConv(nn.Module):
    """A depthwise 3x3 and a 1x1 convolution with bias, and a normalisation if asked."""

    def __init__(self, inputs: int, outputs: int, normalised: bool) -> None:
        super().__init__()
        self.conv_dw = depthwise(inputs, 3)
        self.conv_pw = nn.Conv2d(inputs, outputs, 1)
        self.bn = norm(outputs) if normalised else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, rows, cols] to [N, outputs, rows, cols]."""
        out: Tensor = self.bn(self.conv_pw(self.conv_dw(x)))
        return out


class Resample(nn.Module):
    """Brings a map to the channels of the pyramid and to the size of another level: half, the same, or twice.

    Args:
        inputs: channels of the map; where they differ from `outputs`, a 1x1 convolution comes first.
        outputs: channels of the pyramid.
        halvings: 1: maximum of 3x3 with stride 2; 0: the size stays; -1: nearest neighbour.
    """

    def __init__(self, inputs: int, outputs: int, halvings: int) -> None:
        super().__init__()
        self.halvings = halvings
        self.conv = ConvNorm(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """Map [N, inputs, rows, cols] to [N, outputs, ...]; upsampled to the size of `like`."""
        x = self.conv(x)
        if self.halvings > 0:
            return functional.max_pool2d(pad_same(x, 3, 2, value=-torch.inf), 3, 2)
        return functional.interpolate(x, size=like.shape[-2:], mode="nearest") if self.halvings < 0 else x


class Combine(nn.Module):
    """The weighted mean of several maps, each resampled first."""

    def __init__(self, resample: dict[int, Resample]) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({str(source): step for source, step in resample.items()})
        self.edge_weights = nn.Parameter(torch.ones(len(resample)))

    def forward(self, maps: Sequence[Tensor], like: Tensor) -> Tensor:
        """Return the mean of the maps that it was made for, in the size of `like`."""
        weights = functional.relu(self.edge_weights)
        weights = weights / (weights.sum() + FUSION_EPSILON)
        total: Tensor | None = None
        for index, (source, step) in enumerate(self.resample.items()):
            part = step(maps[int(source)], like) * weights[index]
            total = part if total is None else total + part
        assert total is not None
        return total


class Node(nn.Module):
    """One new map of a cell: the mean of several, activated, then a separable convolution."""

    def __init__(self, level: int, combine: Combine, channels: int) -> None:
        super().__init__()
        self.level = level
        self.combine = combine
        self.after_combine = nn.Sequential()
        self.after_combine.add_module("act", nn.SiLU())
        self.after_combine.add_module("conv", SeparableConv(channels, channels, normalised=True))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the cell's maps so far to [N, channels, ...] in the size of its level."""
        out: Tensor = self.after_combine(self.combine(maps, maps[self.level]))
        return out


class Cell(nn.Module):
    """One exchange between all levels: first from coarse to fine, then back.

    Maps are numbered: 0 to levels - 1 are the inputs, finest first, then comes the map of each node.

    Args:
        inputs: channels of the maps of all levels, finest first.
        channels: of the pyramid.
    """

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        levels = len(inputs)
        level_of, widths = list(range(levels)), list(inputs)
        latest = list(range(levels))  # the newest map of each level
        self.fnode = nn.ModuleList()
        for target in (*range(levels - 2, -1, -1), *range(1, levels)):
            rising = len(self.fnode) >= levels - 1
            neighbour = latest[target - 1 if rising else target + 1]
            # On the way back a level also takes the map that it put out on the way there; the coarsest has none.
            sources = dict.fromkeys((target, latest[target], neighbour))
            steps = {source: Resample(widths[source], channels, target - level_of[source]) for source in sources}
            self.fnode.append(Node(target, Combine(steps), channels))
            latest[target] = len(level_of)
            level_of.append(target)
            widths.append(channels)
        self.latest = tuple(latest)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map one tensor per level to one per level, finest first."""
        every = list(maps)
        for node in self.fnode:
            every.append(node(every))
        return [every[index] for index in self.latest]


class BiFPN(nn.Module):
    """Makes the coarser levels that the backbone does not have, then runs the cells.

    Args:
        inputs: channels of the backbone's maps, finest first.
        channels: of the pyramid.
        levels: of the pyramid; those beyond the backbone's are each half the size of the one before.
        cells: exchanges.
    """

    def __init__(self, inputs: Sequence[int], channels: int, levels: int, cells: int) -> None:
        super().__init__()
        self.resample = nn.ModuleDict()
        widths = list(inputs)
        for level in range(len(inputs), levels):
            self.resample[str(level)] = Resample(widths[-1], channels, 1)
            widths.append(channels)
        self.cell = nn.Sequential(
            *(Cell(widths if index == 0 else [channels] * levels, channels) for index in range(cells))
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map the backbone's tensors to [N, channels, ...] for every level, finest first."""
        every = list(maps)
        for step in self.resample.values():
            every.append(step(every[-1], every[-1]))
        out: list[Tensor] = self.cell(every)
        return out
