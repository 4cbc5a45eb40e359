"""Everything but convolutions in an assembly: sums, scales, pools, concatenations, and calls of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from skipsim.hwmodels import kernels
from skipsim.traces.execute.assembly import PIXEL, Assembler, empty_grid
from skipsim.traces.execute.graph import (
    Affine,
    ChannelScale,
    Concatenate,
    GlobalMean,
    Operation,
    Pad,
    Pool,
    Reference,
    Resize,
    Sum,
    TorchCall,
)


def assemble_sum(assembler: Assembler, operation: Sum) -> None:
    """y = act(sum of weighted, upsampled maps), where any of them changed."""
    shape = assembler.graph.shapes[operation.output]
    change = assembler.union([(s, f) for s, f in zip(operation.sources, operation.factors, strict=True)], shape)
    terms = zip(operation.sources, operation.factors, operation.scales, strict=True)
    sources = [kernels.Source(assembler.maps[source], up=up, weight=scale) for source, up, scale in terms]
    y = assembler.maps[operation.output]
    assembler.emit(
        kernels.combine(y, sources, change.active, activation=operation.activation),
        "combine",
        reference=kernels.combine(y, sources, assembler.full(shape), activation=operation.activation),
    )
    assembler.changes[operation.output] = change


def assemble_affine(assembler: Assembler, operation: Affine) -> None:
    """y = act(scale x + shift) per channel: a depthwise convolution of one tap."""
    shape = assembler.graph.shapes[operation.output]
    one = kernels.Convolution(shape.channels, shape.channels, groups=shape.channels)
    packed = kernels.pack(one, operation.scale.reshape(-1, 1, 1, 1).numpy(), operation.shift.numpy())
    x, y, change = (
        assembler.maps[operation.source],
        assembler.maps[operation.output],
        assembler.changes[operation.source],
    )
    assembler.emit(
        kernels.convolve(packed, x, y, change.active, activation=operation.activation),
        "combine",
        reference=kernels.convolve(packed, x, y, assembler.full(shape), activation=operation.activation),
    )
    assembler.changes[operation.output] = change


def assemble_channel_scale(assembler: Assembler, operation: ChannelScale) -> None:
    """y = x * vector: a change of the vector is a change everywhere, except for layers that share a gate."""
    shape = assembler.graph.shapes[operation.output]
    x, y = assembler.maps[operation.source], assembler.maps[operation.output]
    vector = assembler.maps[operation.vector].interior[0, 0]
    source = assembler.changes[operation.source]
    change = source
    if not assembler.read_where_written(operation.output, source.block):
        change = assembler.union([(operation.source, (1, 1)), (operation.vector, (shape.rows, shape.cols))], shape)
    assembler.emit(
        kernels.scale_channels(y, x, vector, change.active),
        "combine",
        reference=kernels.scale_channels(y, x, vector, assembler.full(shape)),
    )
    assembler.changes[operation.output] = change


def assemble_global_mean(assembler: Assembler, operation: GlobalMean) -> None:
    """The mean over all positions, computed anew on every frame."""
    x, y = assembler.maps[operation.source], assembler.maps[operation.output]
    step = kernels.channel_mean(x, y.interior[0, 0])
    assembler.emit(step, "combine", reference=step)
    assembler.changes[operation.output] = assembler.any_change(operation.source)


def assemble_pool(assembler: Assembler, operation: Pool) -> None:
    """Maximum or mean over windows, where a window holds a changed position."""
    source, shape = assembler.graph.shapes[operation.source], assembler.graph.shapes[operation.output]
    window = kernels.Convolution(1, 1, kernel=operation.kernel, stride=operation.stride, padding=operation.padding)
    change = assembler.spread(assembler.changes[operation.source], window, source, shape, PIXEL)
    x, y = assembler.maps[operation.source], assembler.maps[operation.output]

    def pool(active: kernels.ActivePixels) -> kernels.Step:
        return kernels.pool(operation.kind, x, y, operation.kernel, operation.stride, operation.padding, active)

    assembler.emit(pool(change.active), "combine", reference=pool(assembler.full(shape)))
    assembler.changes[operation.output] = change


def assemble_resize(assembler: Assembler, operation: Resize) -> None:
    """Bilinear interpolation; sparse where every pixel becomes a whole number of pixels.

    What belongs to pixel r then reads r - 1 to r + 1: a change reaches its own cell and the ones around it.
    """
    size, shape = assembler.graph.shapes[operation.source], assembler.graph.shapes[operation.output]
    if shape.rows % size.rows or shape.cols % size.cols:
        _assemble_whole_resize(assembler, operation)
        return
    around = kernels.Convolution(1, 1, kernel=(3, 3), padding=(1, 1, 1, 1))
    source, cell = assembler.changes[operation.source], (shape.rows // size.rows, shape.cols // size.cols)
    reached = assembler.reached(source.mask, source.block, around, size, size, PIXEL)
    change = assembler.listed(reached, cell, shape)
    x, y = assembler.maps[operation.source], assembler.maps[operation.output]
    assembler.emit(
        kernels.resize_bilinear(y, x, change.active, operation.align_corners),
        "combine",
        reference=kernels.resize_bilinear(y, x, assembler.full(shape), operation.align_corners),
    )
    assembler.changes[operation.output] = change


def _assemble_whole_resize(assembler: Assembler, operation: Resize) -> None:
    shape = assembler.graph.shapes[operation.output]
    scales = [scale or None for scale in operation.scales]

    def resize(x: Tensor) -> Tensor:
        size = [shape.rows, shape.cols]
        resized: Tensor = torch.ops.aten.upsample_bilinear2d(x, size, operation.align_corners, scales[0], scales[1])
        return resized

    _assemble_whole(assembler, operation, resize)


def assemble_pad(assembler: Assembler, operation: Pad) -> None:
    """A padding that no convolution and no maximum took as its own."""
    top, bottom, left, right = operation.padding
    _assemble_whole(
        assembler, operation, lambda x: functional.pad(x, (left, right, top, bottom), value=operation.value)
    )


def assemble_concatenate(assembler: Assembler, operation: Concatenate) -> None:
    """Maps one after the other along the channels, each copied where it changed itself."""
    shape, y, first = assembler.graph.shapes[operation.output], assembler.maps[operation.output], 0
    for source in operation.sources:
        term = [kernels.Source(assembler.maps[source])]
        copy = kernels.combine(y, term, assembler.changes[source].active, first_channel=first)
        assembler.emit(copy, "combine", reference=kernels.combine(y, term, assembler.full(shape), first_channel=first))
        first += assembler.graph.shapes[source].channels
    assembler.changes[operation.output] = assembler.union([(source, PIXEL) for source in operation.sources], shape)


def assemble_torch_call(assembler: Assembler, operation: TorchCall) -> None:
    """Any function of torch, on whole tensors."""

    def value_of(argument: Any) -> Any:
        return assembler.value(argument.value) if isinstance(argument, Reference) else argument

    def call() -> Any:
        arguments, options = pytree.tree_map(value_of, (operation.arguments, operation.options))
        return operation.function(*arguments, **options)

    if operation.output in assembler.maps:
        _assemble_compared(assembler, operation, call)
        return

    def run() -> None:
        assembler.others[operation.output] = call()

    assembler.emit(run, "torch", reference=run)


def _assemble_whole(assembler: Assembler, operation: Operation, function: Callable[..., Tensor]) -> None:
    """Compute a map from maps by a function of torch; what changed is what differs."""
    sources = [assembler.tensor(source) for source in operation.sources]
    _assemble_compared(assembler, operation, lambda: function(*sources))


def _assemble_compared(assembler: Assembler, operation: Operation, compute: Callable[[], Tensor]) -> None:
    y = assembler.tensor(operation.output)
    shape = assembler.graph.shapes[operation.output]
    mask = empty_grid(shape, PIXEL)

    def run() -> None:
        fresh = compute()
        mask[...] = (fresh != y)[0].any(0).numpy()
        y.copy_(fresh)

    assembler.emit(run, "torch", reference=run)
    assembler.changes[operation.output] = assembler.listed(mask, PIXEL, shape)


ASSEMBLE: dict[type, Callable[[Assembler, Any], None]] = {
    Sum: assemble_sum,
    Affine: assemble_affine,
    ChannelScale: assemble_channel_scale,
    GlobalMean: assemble_global_mean,
    Pool: assemble_pool,
    Pad: assemble_pad,
    Resize: assemble_resize,
    Concatenate: assemble_concatenate,
    TorchCall: assemble_torch_call,
}
