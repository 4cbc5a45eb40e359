"""The sparse convolution that people write in PyTorch: gather, convolve, scatter. The baseline of the kernels.

blocks    windows of the active blocks, with their halo, become a batch of a dense convolution without padding
columns   the receptive fields of the active pixels become the rows of a matrix product
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from skipsim.errors import InputError, nearest
from skipsim.hwmodels.kernels.convolution import Convolution, Pair


def gather_convolve_scatter(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    layer: Convolution,
    y: Tensor,
    mask: Tensor,
    block: Pair,
    path: str = "blocks",
) -> None:
    """Compute the blocks that a mask names into y, in place; y stays elsewhere.

    Args:
        x: [1, in_channels, rows, cols], in any memory format.
        weight: [out_channels, in_channels / groups, kernel rows, kernel cols].
        bias: [out_channels] or None.
        layer: the geometry.
        y: [1, out_channels, out_rows, out_cols].
        mask: bool [ceil(out_rows / block rows), ceil(out_cols / block cols)].
        block: output pixels (rows, cols) of one decision.
        path: one of PATHS.
    """
    if path not in PATHS:
        raise InputError(f"gather_convolve_scatter: path {path!r} is unknown; {nearest(path, PATHS)}")
    chosen = mask.nonzero()
    if len(chosen):
        rows = chosen[:, 0, None] * block[0] + torch.arange(block[0], device=mask.device)  # [blocks, block rows]
        cols = chosen[:, 1, None] * block[1] + torch.arange(block[1], device=mask.device)
        PATHS[path](_padded(x, layer, block), weight, bias, layer, y, rows, cols)


def _padded(x: Tensor, layer: Convolution, block: Pair) -> Tensor:
    """Pad x so that every window of a block that sticks out at the bottom or on the right lies on it."""
    top, bottom, left, right = layer.padding
    return functional.pad(x, (left, right + block[1] * layer.stride[1], top, bottom + block[0] * layer.stride[0]))


def _blocks(
    padded: Tensor, weight: Tensor, bias: Tensor | None, layer: Convolution, y: Tensor, rows: Tensor, cols: Tensor
) -> None:
    sides = (rows.shape[1], cols.shape[1])
    spans = [layer.stride[a] * (sides[a] - 1) + layer.dilation[a] * (layer.kernel[a] - 1) + 1 for a in (0, 1)]
    first = [layer.stride[0] * rows[:, 0], layer.stride[1] * cols[:, 0]]
    in_rows, in_cols = (
        start[:, None] + torch.arange(span, device=start.device) for start, span in zip(first, spans, strict=True)
    )
    windows = padded[0][:, in_rows[:, :, None], in_cols[:, None, :]].transpose(0, 1)
    out = functional.conv2d(windows, weight, bias, layer.stride, 0, layer.dilation, layer.groups)
    inside = (rows < y.shape[2])[:, :, None] & (cols < y.shape[3])[:, None, :]
    at = (rows[:, :, None] * y.shape[3] + cols[:, None, :])[inside]
    y[0, :, at // y.shape[3], at % y.shape[3]] = out.transpose(0, 1)[:, inside]


def _columns(
    padded: Tensor, weight: Tensor, bias: Tensor | None, layer: Convolution, y: Tensor, rows: Tensor, cols: Tensor
) -> None:
    inside = (rows < y.shape[2])[:, :, None] & (cols < y.shape[3])[:, None, :]
    row, col = (grid.expand(inside.shape)[inside] for grid in (rows[:, :, None], cols[:, None, :]))
    taps = [
        (r * layer.dilation[0], c * layer.dilation[1]) for r in range(layer.kernel[0]) for c in range(layer.kernel[1])
    ]
    last = padded[0].permute(1, 2, 0).contiguous()  # channels last, so that a pixel is one piece of memory
    flat = last.reshape(-1, last.shape[2])
    start = row * layer.stride[0] * last.shape[1] + col * layer.stride[1]
    columns = torch.stack([flat.index_select(0, start + r * last.shape[1] + c) for r, c in taps], 1)
    # [pixels, taps, groups, in / groups] by [groups, out / groups, taps, in / groups]
    groups = layer.groups
    columns = columns.reshape(len(row), len(taps), groups, -1).permute(2, 0, 1, 3).reshape(groups, len(row), -1)
    matrix = weight.reshape(groups, layer.out_channels // groups, -1, len(taps)).transpose(2, 3).flatten(2)
    out = torch.bmm(columns, matrix.transpose(1, 2)).transpose(1, 2).reshape(layer.out_channels, -1)
    y[0, :, row, col] = out if bias is None else out + bias[:, None]


PATHS: dict[str, Callable[..., None]] = {"blocks": _blocks, "columns": _columns}
"""By name: how the active part becomes dense work."""
