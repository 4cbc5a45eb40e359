"""ReceptiveField: which input pixels each output position of a convolution reads, and sums over them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from skipsim.traces.layer import Layer


@dataclass(frozen=True)
class ReceptiveField:
    """The taps of one convolution on a map of `rows` x `cols` pixels; channels play no part.

    Taps that zero padding puts outside the map read nothing. With the padding modes reflect, replicate and circular
    a tap outside reads the real pixel that it copies, and counts as a tap on that pixel.
    """

    rows: int
    cols: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    top: int
    bottom: int
    left: int
    right: int
    padding_mode: str = "zeros"

    @classmethod
    def of(cls, conv: nn.Conv2d, rows: int, cols: int) -> ReceptiveField:
        """Return the receptive field of `conv` on an input map of `rows` x `cols` pixels."""
        kernel_rows, kernel_cols = conv.kernel_size
        dilation_rows, dilation_cols = conv.dilation[0], conv.dilation[1]
        if conv.padding == "same":  # torch puts the odd pixel of an even kernel below and to the right
            spare_rows, spare_cols = dilation_rows * (kernel_rows - 1), dilation_cols * (kernel_cols - 1)
            top, left = spare_rows // 2, spare_cols // 2
            bottom, right = spare_rows - top, spare_cols - left
        elif isinstance(conv.padding, str):  # "valid"
            top = bottom = left = right = 0
        else:
            top = bottom = conv.padding[0]
            left = right = conv.padding[1]
        return cls(
            rows=rows,
            cols=cols,
            kernel=(kernel_rows, kernel_cols),
            stride=(conv.stride[0], conv.stride[1]),
            dilation=(dilation_rows, dilation_cols),
            top=top,
            bottom=bottom,
            left=left,
            right=right,
            padding_mode=conv.padding_mode,
        )

    @property
    def pointwise(self) -> bool:
        """Whether output position (r, c) reads pixel (r, c) and nothing else."""
        padding = (self.top, self.bottom, self.left, self.right)
        return self.kernel == (1, 1) and self.stride == (1, 1) and padding == (0, 0, 0, 0)

    @property
    def out_size(self) -> tuple[int, int]:
        """Rows and columns of the output map."""
        rows = self.rows + self.top + self.bottom - self.dilation[0] * (self.kernel[0] - 1) - 1
        cols = self.cols + self.left + self.right - self.dilation[1] * (self.kernel[1] - 1) - 1
        return rows // self.stride[0] + 1, cols // self.stride[1] + 1

    def readers(self, changed: Tensor) -> Tensor:
        """Return the output positions, bool [out_rows, out_cols], that read a pixel of `changed`, bool [rows, cols]."""
        return changed if self.pointwise else self.total(changed.to(torch.float32)) > 0

    def total(self, values: Tensor) -> Tensor:
        """Sum maps [..., rows, cols] over the taps of every output position: [..., out_rows, out_cols].

        Sums of zeros are exactly zero and sums that hold a positive value are positive, so that a threshold of 0
        skips unchanged positions and no others.
        """
        if self.pointwise:
            return values
        ones = _ones(self.kernel, values.dtype, values.device)
        padded = self._padded(values.reshape(-1, 1, *values.shape[-2:]))
        sums = functional.conv2d(padded, ones, stride=self.stride, dilation=self.dilation)
        return sums.reshape(*values.shape[:-2], *sums.shape[-2:])

    def mean(self, values: Tensor) -> Tensor:
        """Average maps [..., rows, cols] over the taps that lie on the map: [..., out_rows, out_cols]."""
        if self.pointwise:
            return values
        return self.total(values) / _taps(self, values.dtype, values.device)

    def settled(self, computed: Tensor) -> Tensor:
        """Return the input pixels, bool [rows, cols], all of whose readers are computed.

        `computed` is bool [out_rows, out_cols]. A pixel that no output position reads is settled.
        """
        if self.pointwise:
            return computed
        ones = _ones(self.kernel, torch.float32, computed.device)
        skipped = (~computed).to(torch.float32)[None, None]
        readers = functional.conv_transpose2d(skipped, ones, stride=self.stride, dilation=self.dilation)[0, 0]
        if self.padding_mode == "zeros":
            missing_rows = max(0, self.top + self.rows - readers.shape[0])
            missing_cols = max(0, self.left + self.cols - readers.shape[1])
            readers = functional.pad(readers, (0, missing_cols, 0, missing_rows))
            return readers[self.top : self.top + self.rows, self.left : self.left + self.cols] == 0
        sources = torch.arange(self.rows * self.cols, dtype=torch.float64, device=computed.device)
        source = self._padded(sources.reshape(1, 1, self.rows, self.cols))[0, 0].long()
        source = source[: readers.shape[0], : readers.shape[1]]  # strides may leave the last padded pixels unread
        count = torch.zeros(self.rows * self.cols, device=computed.device)
        count.index_add_(0, source.reshape(-1), readers.reshape(-1))
        return count.reshape(self.rows, self.cols) == 0

    def _padded(self, maps: Tensor) -> Tensor:
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return functional.pad(maps, (self.left, self.right, self.top, self.bottom), mode=mode)


@lru_cache(maxsize=256)
def _ones(kernel: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept, and needed by whoever trains later
        return torch.ones((1, 1, *kernel), dtype=dtype, device=device)


@lru_cache(maxsize=1024)
def _taps(field: ReceptiveField, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Count the taps on the map per output position; at least 1, so that a position deep in the padding has mean 0."""
    with torch.inference_mode(False):
        return field.total(torch.ones((field.rows, field.cols), dtype=dtype, device=device)).clamp_(min=1)


def layer_of(
    conv: nn.Conv2d,
    x: Tensor,
    output: Tensor,
    *,
    name: str,
    call: int = 0,
    block: tuple[int, int] = (1, 1),
    gate: str = "none",
) -> Layer:
    """Return the geometry of the call of `conv` that mapped `x` [..., channels, rows, cols] to `output`."""
    field = ReceptiveField.of(conv, x.shape[-2], x.shape[-1])
    return Layer(
        name=name,
        in_channels=conv.in_channels,
        in_rows=field.rows,
        in_cols=field.cols,
        out_channels=conv.out_channels,
        out_rows=output.shape[-2],
        out_cols=output.shape[-1],
        kernel_rows=field.kernel[0],
        kernel_cols=field.kernel[1],
        stride_rows=field.stride[0],
        stride_cols=field.stride[1],
        padding_top=field.top,
        padding_left=field.left,
        dilation_rows=field.dilation[0],
        dilation_cols=field.dilation[1],
        groups=conv.groups,
        block_rows=block[0],
        block_cols=block[1],
        gate=gate,
        call=call,
    )
