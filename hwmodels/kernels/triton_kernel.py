"""The block-sparse convolution as one Triton kernel, for GPUs: the same indirect product as on the CPU.

One program computes some listed pixels by some output channels. It reads its pixels' receptive fields where they lie,
padding included, multiplies them by the weights in full float32, and writes into the kept output. A list made from
blocks keeps neighbours together, so that their windows overlap in the caches.

Needs the extra `gpu`. With TRITON_INTERPRET=1 in the environment before the import it runs without a GPU, slowly.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from skipsim.errors import InputError, nearest
from skipsim.hwmodels.kernels.convolution import Convolution

ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2, "silu": 3}
PIXELS, CHANNELS, INPUTS = 64, 64, 32
"""The tile of one program: listed pixels, output channels, and input channels of one product (at least 16 each)."""


def pack_for_gpu(weight: Tensor, layer: Convolution) -> Tensor:
    """Return weights [out, in / groups, rows, cols] as [taps, in / groups, out], in which the kernel reads them."""
    taps = layer.kernel[0] * layer.kernel[1]
    return weight.permute(2, 3, 1, 0).reshape(taps, -1, layer.out_channels).contiguous()


def list_positions(mask: Tensor, block: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return the pixels of the blocks that a mask names, int32 [pixels], row * columns + column, block by block."""
    chosen = mask.nonzero()
    rows = chosen[:, 0, None] * block[0] + torch.arange(block[0], device=mask.device)
    cols = chosen[:, 1, None] * block[1] + torch.arange(block[1], device=mask.device)
    inside = (rows < size[0])[:, :, None] & (cols < size[1])[:, None, :]
    return (rows[:, :, None] * size[1] + cols[:, None, :])[inside].to(torch.int32)


def sparse_convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    layer: Convolution,
    y: Tensor,
    positions: Tensor,
    activation: str = "none",
    addend: Tensor | None = None,
) -> None:
    """Compute y = activation(conv(x) + bias + addend) at the listed positions, in place; y stays elsewhere.

    Args:
        x: [rows, cols, in_channels], contiguous.
        weight: from `pack_for_gpu`.
        bias: [out_channels] or None.
        layer: the geometry.
        y: [out_rows, out_cols, out_channels], contiguous.
        positions: from `list_positions`.
        activation: one of ACTIVATIONS.
        addend: of y's shape, or y itself to accumulate.
    """
    if activation not in ACTIVATIONS:
        raise InputError(f"sparse_convolve: activation {activation!r} is unknown; {nearest(activation, ACTIVATIONS)}")
    out = (*layer.out_size(x.shape[0], x.shape[1]), layer.out_channels)
    if tuple(y.shape) != out or not (x.is_contiguous() and y.is_contiguous()):
        raise InputError(f"sparse_convolve: x and y must be contiguous, y of shape {list(out)}, got {list(y.shape)}")
    if not len(positions):
        return
    inner, outer = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    # A depthwise layer has no sums over channels: its channels lie side by side in one program.
    wide = layer.out_channels if layer.depthwise else outer
    channels = min(CHANNELS, max(16, triton.next_power_of_2(wide)))
    inputs = min(INPUTS, max(16, triton.next_power_of_2(inner)))
    panels = triton.cdiv(wide, channels)
    grid = (triton.cdiv(len(positions), PIXELS), panels if layer.depthwise else layer.groups * panels)
    _convolve[grid](
        x,
        weight,
        y if bias is None else bias,
        y if addend is None else addend,
        y,
        positions,
        len(positions),
        x.shape[0],
        x.shape[1],
        y.shape[1],
        layer.in_channels,
        layer.out_channels,
        inner,
        outer,
        layer.stride[0],
        layer.stride[1],
        layer.dilation[0],
        layer.dilation[1],
        layer.padding[0],
        layer.padding[2],
        KERNEL_ROWS=layer.kernel[0],
        KERNEL_COLS=layer.kernel[1],
        PANELS=panels,
        DEPTHWISE=layer.depthwise,
        BIAS=bias is not None,
        ADDEND=addend is not None,
        ACTIVATION=ACTIVATIONS[activation],
        PIXELS=PIXELS,
        CHANNELS=channels,
        INPUTS=inputs,
    )


@triton.jit  # type: ignore[untyped-decorator]
def _convolve(  # type: ignore[no-untyped-def]  # Triton reads the annotations itself, and accepts only its own
    x,
    weight,
    bias,
    addend,
    y,
    positions,
    count,
    rows,
    cols,
    out_cols,
    in_channels,
    out_channels,
    inner,
    outer,
    stride_rows,
    stride_cols,
    dilation_rows,
    dilation_cols,
    top,
    left,
    KERNEL_ROWS: tl.constexpr,
    KERNEL_COLS: tl.constexpr,
    PANELS: tl.constexpr,
    DEPTHWISE: tl.constexpr,
    BIAS: tl.constexpr,
    ADDEND: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    listed = pixel < count
    position = tl.load(positions + pixel, mask=listed, other=0).to(tl.int64)
    row = position // out_cols * stride_rows - top
    col = position % out_cols * stride_cols - left
    group = tl.program_id(1) // PANELS
    within = tl.program_id(1) % PANELS * CHANNELS + tl.arange(0, CHANNELS)
    channel = group * outer + within
    wanted = channel < out_channels if DEPTHWISE else within < outer
    total = tl.full((PIXELS, CHANNELS), 0.0, tl.float32)
    for tap in range(KERNEL_ROWS * KERNEL_COLS):
        tap_row = row + tap // KERNEL_COLS * dilation_rows
        tap_col = col + tap % KERNEL_COLS * dilation_cols
        inside = listed & (tap_row >= 0) & (tap_row < rows) & (tap_col >= 0) & (tap_col < cols)
        start = x + (tap_row * cols + tap_col) * in_channels
        if DEPTHWISE:
            values = tl.load(start[:, None] + channel[None, :], mask=inside[:, None] & wanted[None, :], other=0.0)
            factors = tl.load(weight + tap * out_channels + channel, mask=wanted, other=0.0)
            total += values * factors[None, :]
        else:
            for first in range(0, inner, INPUTS):
                k = first + tl.arange(0, INPUTS)
                used = k < inner
                place = start[:, None] + (group * inner + k)[None, :]
                values = tl.load(place, mask=inside[:, None] & used[None, :], other=0.0)
                place = weight + ((tap * inner + k) * out_channels)[:, None] + channel[None, :]
                factors = tl.load(place, mask=used[:, None] & wanted[None, :], other=0.0)
                total = tl.dot(values, factors, total, input_precision="ieee")
    if BIAS:
        total += tl.load(bias + channel, mask=wanted, other=0.0)[None, :]
    offset = (position * out_channels)[:, None] + channel[None, :]
    kept = listed[:, None] & wanted[None, :]
    if ADDEND:
        total += tl.load(addend + offset, mask=kept, other=0.0)
    if ACTIVATION == 1:
        total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if ACTIVATION == 2:
        total = tl.clamp(total, 0.0, 6.0, propagate_nan=tl.PropagateNan.ALL)
    if ACTIVATION == 3:
        total = total / (1.0 + tl.exp(-total))
    tl.store(y + offset, total, mask=kept)
