"""Convolutions in an assembly: gate, list of positions, kernel, and the reference that the gate compares with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from skipsim.hwmodels import kernels
from skipsim.hwmodels.kernels import Step
from skipsim.traces.execute.assembly import (
    PIXEL,
    POINT,
    Action,
    Assembler,
    Change,
    GateState,
    Grid,
    RunningLayer,
    blocked,
    empty_grid,
    geometry,
)
from skipsim.traces.execute.decision import CustomGate, Dense, Follow, GivenMask, NormGate, Shared
from skipsim.traces.execute.graph import Convolution, MapShape
from skipsim.traces.gates import grid_mask, refine
from skipsim.traces.sharing import resized
from skipsim.traces.skipconv import SIGNALS


def assemble_convolution(assembler: Assembler, operation: Convolution) -> None:
    """Add a convolution to the schedules of an assembly."""
    decision = assembler.decisions[operation.output]
    if isinstance(decision, Dense):
        _assemble_dense(assembler, operation)
        return
    reading = geometry(operation)
    shape = assembler.graph.shapes[operation.output]
    state = assembler.gates.get(operation.output)
    gate: Step | None = None
    if isinstance(decision, Follow):
        size = assembler.graph.shapes[operation.source]
        change = assembler.spread(assembler.changes[operation.source], reading, size, shape, PIXEL)
    elif isinstance(decision, Shared):
        change = _carry_on(assembler, operation, reading, decision)
    else:
        mask = empty_grid(shape, decision.block)
        decided = empty_grid(shape, decision.block) if assembler.replayed else mask
        if isinstance(decision, NormGate):
            assert state is not None
            gate = _assemble_norm_gate(assembler, operation, state, reading, decided, decision)
        elif isinstance(decision, CustomGate):
            assert state is not None
            assembler.emit(_ask_gate(assembler, operation, decision, state, decided), "gate")
        else:
            assembler.emit(_ask_user(operation, decision, decided), "gate")
        change = assembler.listed(mask, decision.block, shape)
        assembler.carried[operation.layer.name] = (mask, decision.block)
    _assemble_kernel(assembler, operation, reading, change)
    if state is not None:
        x = assembler.maps[operation.source]
        reference, moved, full = state.reference, state.change, empty_grid(shape, PIXEL)
        assembler.emit(
            kernels.move_reference(x, reference, moved, reading, change.mask, change.block, change.active),
            "reference",
            reference=kernels.move_reference(x, reference, moved, reading, full, PIXEL, assembler.full(shape)),
        )
    assembler.changes[operation.output] = change
    assembler.layers.append(RunningLayer(operation, decision, change, gate))


def _carry_on(assembler: Assembler, operation: Convolution, reading: kernels.Convolution, decision: Shared) -> Change:
    """Compute what reads a position that the leader, or the one before in its block, computed."""
    size, shape = assembler.graph.shapes[operation.source], assembler.graph.shapes[operation.output]
    mask, block = assembler.carried[decision.leader]
    if decision.network:
        mask, block = _brought_to(assembler, decision.leader, size), PIXEL
    pixels = assembler.reached(mask, block, reading, size, shape, PIXEL)
    if not decision.network:
        assembler.carried[decision.leader] = (pixels, PIXEL)
    if decision.block == PIXEL:
        return assembler.listed(pixels, PIXEL, shape)
    coarse = assembler.reached(pixels, PIXEL, POINT, shape, shape, decision.block)
    return assembler.listed(coarse, decision.block, shape)


def _brought_to(assembler: Assembler, leader: str, size: MapShape) -> Grid:
    """Bring the leader's mask to the size of another map, once for all layers of that size."""
    known = assembler.resized.get((size.rows, size.cols))
    if known is not None:
        return known
    mask, block = assembler.carried[leader]
    first = next(operation for operation in assembler.graph.convolutions if operation.layer.name == leader)
    shape = assembler.graph.shapes[first.output]
    out = assembler.resized[size.rows, size.cols] = empty_grid(size, PIXEL)
    if shape.rows % size.rows == 0 and shape.cols % size.cols == 0:
        cell = (shape.rows // size.rows, shape.cols // size.cols)
        assembler.emit(kernels.spread(mask, block, POINT, out, cell, (shape.rows, shape.cols)), "index")
        return out

    def run() -> None:
        pixels = refine(torch.from_numpy(mask) > 0, block, shape.rows, shape.cols)
        out[...] = resized(pixels, size.rows, size.cols).numpy()

    assembler.emit(run, "index")
    return out


def _assemble_norm_gate(
    assembler: Assembler,
    operation: Convolution,
    state: GateState,
    reading: kernels.Convolution,
    decided: Grid,
    decision: NormGate,
) -> Step:
    """Measure the change and decide; where the producer already measured it while it wrote, only decide."""
    x = assembler.maps[operation.source]
    if assembler.watchers.get(operation.source) != operation.output:
        active = None if assembler.placement == "separate" else assembler.changes[operation.source].active
        assembler.emit(kernels.measure_change(x, state.reference, state.change, active), "gate")
    gate = kernels.decide(state.change, reading, decided, decision.block, decision.threshold)
    assembler.emit(gate, "gate")
    return gate


def _assemble_kernel(
    assembler: Assembler, operation: Convolution, reading: kernels.Convolution, change: Change
) -> None:
    x, y = assembler.maps[operation.source], assembler.maps[operation.output]
    packed = kernels.pack(reading, operation.weight.numpy(), operation.bias.numpy())
    watcher = assembler.watchers.get(operation.output)
    watch = None
    if watcher is not None:
        state = assembler.gates[watcher]
        watch = kernels.Watch(state.reference, state.change)
    full = assembler.full(assembler.graph.shapes[operation.output])
    assembler.emit(
        kernels.convolve(packed, x, y, change.active, activation=operation.activation, watch=watch),
        "convolve",
        reference=kernels.convolve(packed, x, y, full, activation=operation.activation),
    )


def _assemble_dense(assembler: Assembler, operation: Convolution) -> None:
    """Compute the whole map by torch's own convolution; what changes is what reads a changed position."""
    layer, shape = operation.layer, assembler.graph.shapes[operation.output]
    source, size = assembler.changes[operation.source], assembler.graph.shapes[operation.source]
    change = assembler.spread(source, geometry(operation), size, shape, PIXEL)
    x, y = assembler.tensor(operation.source), assembler.tensor(operation.output)
    weight = operation.weight.contiguous(memory_format=torch.channels_last)
    bias, activate = operation.bias, ACTIVATE_IN_PLACE[operation.activation]
    stride, dilation = (layer.stride_rows, layer.stride_cols), (layer.dilation_rows, layer.dilation_cols)
    top, bottom, left, right = operation.padding
    even = top == bottom and left == right

    def run() -> None:
        padded = x if even else functional.pad(x, (left, right, top, bottom))
        padding = (top, left) if even else 0
        y.copy_(activate(functional.conv2d(padded, weight, bias, stride, padding, dilation, layer.groups)))

    assembler.emit(run, "convolve", reference=run)
    assembler.changes[operation.output] = change
    assembler.layers.append(RunningLayer(operation, Dense(), change))


def _ask_gate(
    assembler: Assembler, operation: Convolution, decision: CustomGate, state: GateState, decided: Grid
) -> Action:
    x = assembler.tensor(operation.source)
    reference = torch.from_numpy(state.reference.interior).permute(2, 0, 1)[None]
    layer = blocked(operation, decision.block)
    top, bottom, left, right = operation.absorbed

    def run() -> None:
        residual = SIGNALS[decision.signal](x, reference)
        if any(operation.absorbed):
            residual = functional.pad(residual, (left, right, top, bottom))
        decided[...] = grid_mask(decision.gate.mask(residual, decision.module), layer).numpy()

    return run


def _ask_user(operation: Convolution, decision: GivenMask, decided: Grid) -> Action:
    layer = blocked(operation, decision.block)

    def run() -> None:
        given = decision.ask()
        decided[...] = 1 if given is None else grid_mask(given, layer).numpy()

    return run


ACTIVATE_IN_PLACE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu_,
    "silu": lambda x: functional.silu(x, inplace=True),
    "sigmoid": torch.sigmoid_,
}
