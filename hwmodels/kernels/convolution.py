"""Convolution: the geometry of one layer as the kernels see it, and its weights in the order in which they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError
from skipsim.hwmodels.kernels.feature_map import Margin, aligned_zeros
from skipsim.hwmodels.kernels.machine_code import LANES, host_lanes
from skipsim.hwmodels.kernels.register_tile import VECTORS

Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """A convolution's sizes; pairs are (rows, cols), the padding is (top, bottom, left, right) pixels of zeros."""

    in_channels: int
    out_channels: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Margin = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        """Check every size once."""
        sizes: dict[str, Any] = {"in_channels": self.in_channels, "out_channels": self.out_channels}
        sizes |= {"groups": self.groups, "kernel": min(self.kernel), "stride": min(self.stride)}
        sizes |= {"dilation": min(self.dilation)}
        for name, value in sizes.items():
            if value < 1:
                raise InputError(f"convolution: {name} must be at least 1, got {getattr(self, name)}")
        if len(self.padding) != 4 or min(self.padding) < 0:
            raise InputError(
                f"convolution: padding must be four numbers >= 0 (top, bottom, left, right), got {self.padding}"
            )
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise InputError(
                    f"convolution: {name} must be a multiple of groups={self.groups}, got {getattr(self, name)}"
                )

    @property
    def depthwise(self) -> bool:
        """Whether every channel has one filter of its own."""
        return self.groups > 1 and self.groups == self.in_channels == self.out_channels

    @property
    def reduction(self) -> int:
        """Products in one output value."""
        return self.kernel[0] * self.kernel[1] * (self.in_channels // self.groups)

    @property
    def macs_per_pixel(self) -> int:
        """Multiply-accumulates of one output position over all output channels."""
        return self.reduction * self.out_channels

    def out_size(self, rows: int, cols: int) -> Pair:
        """Return the size of the output of a map of `rows` x `cols`; an InputError if no kernel fits on it."""
        top, bottom, left, right = self.padding
        sizes = []
        for axis, extent in enumerate((top + rows + bottom, left + cols + right)):
            spare = extent - self.dilation[axis] * (self.kernel[axis] - 1) - 1
            if spare < 0:
                raise InputError(
                    f"convolution: a {self.kernel[0]}x{self.kernel[1]} kernel with dilation {self.dilation} does not "
                    f"fit on a map of {rows}x{cols} with padding {self.padding}"
                )
            sizes.append(spare // self.stride[axis] + 1)
        return sizes[0], sizes[1]

    def margin(self, rows: int, cols: int) -> Margin:
        """Return the zeros that the layer reads around an input map of `rows` x `cols`."""
        top, _, left, _ = self.padding
        out = self.out_size(rows, cols)
        last = [(out[a] - 1) * self.stride[a] + (self.kernel[a] - 1) * self.dilation[a] for a in (0, 1)]
        return top, max(0, last[0] - top - rows + 1), left, max(0, last[1] - left - cols + 1)


@dataclass(frozen=True, eq=False)
class PackedConvolution:
    """A convolution with its weights packed into panels of output channels, VECTORS vectors wide.

    Attributes:
        convolution: the geometry.
        weights: float32 [panels, reduction, VECTORS * lanes]; depthwise: [panels, taps, VECTORS * lanes]. A last panel
            of at most `lanes` channels uses the first half of its memory, one vector after the other.
        bias: float32 [panels * VECTORS * lanes], by output channel.
        lanes: floats in one vector.
    """

    convolution: Convolution
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    lanes: int

    @property
    def panels_per_group(self) -> int:
        """Panels of one group's output channels; a depthwise layer has one group of all channels."""
        return len(self.weights) // (1 if self.convolution.depthwise else self.convolution.groups)

    @property
    def bytes(self) -> int:
        """Bytes of the packed weights."""
        return int(self.weights.nbytes)


def pack(
    convolution: Convolution, weight: NDArray[Any], bias: NDArray[Any] | None = None, lanes: int | None = None
) -> PackedConvolution:
    """Pack weights [out_channels, in_channels / groups, kernel rows, kernel cols] once, for any number of runs.

    Args:
        convolution: the geometry.
        weight: in PyTorch's order.
        bias: [out_channels]; None = zeros.
        lanes: floats in one vector, one of LANES; None = as wide as the machine's registers.
    """
    groups = convolution.groups
    shape = (convolution.out_channels, convolution.in_channels // groups, *convolution.kernel)
    if weight.shape != shape:
        raise InputError(f"convolution: weight must have shape {list(shape)}, got {list(weight.shape)}")
    if bias is not None and bias.shape != shape[:1]:
        raise InputError(f"convolution: bias must have shape {[shape[0]]}, got {list(bias.shape)}")
    lanes = host_lanes() if lanes is None else lanes
    if lanes not in LANES:
        raise InputError(f"convolution: lanes must be one of {', '.join(map(str, LANES))}, got {lanes}")
    taps = np.moveaxis(np.asarray(weight, np.float32), 0, -1)  # [in / groups, kernel rows, kernel cols, out]
    matrix = np.moveaxis(taps, 0, 2).reshape(-1, convolution.out_channels)  # rows, cols, in: the order in memory
    parts = 1 if convolution.depthwise else groups
    width, channels = VECTORS * lanes, convolution.out_channels // parts
    panels = -(-channels // width)
    weights = aligned_zeros((parts * panels, len(matrix), width), np.float32)
    for part in range(parts):
        for panel in range(panels):
            first = panel * width
            chosen = matrix[:, part * channels + first : part * channels + min(channels, first + width)]
            used = -(-chosen.shape[1] // lanes) * lanes
            target = weights[part * panels + panel].reshape(-1)[: len(matrix) * used].reshape(len(matrix), used)
            target[:, : chosen.shape[1]] = chosen
    padded = aligned_zeros(convolution.out_channels + width, np.float32)
    if bias is not None:
        padded[: convolution.out_channels] = bias
    return PackedConvolution(convolution, weights, padded, lanes)
