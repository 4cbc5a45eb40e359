"""Assembly: the kernels, arrays and lists that run one frame of a graph sparsely, bound once for one input size.

Every map is kept from frame to frame, and with it a `Change`: the positions that this frame has written. An operation
computes the positions whose sources changed and leaves the others as they are; only gates make the set smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipsim.hwmodels import kernels
from skipsim.hwmodels.kernels import ActivePixels, FeatureMap, Step
from skipsim.traces.execute.decision import CustomGate, Decision, Dense, Follow, GivenMask, NormGate, Shared
from skipsim.traces.execute.graph import Convolution, Graph, MapShape, Operation, TorchCall
from skipsim.traces.layer import Layer

Action = Callable[[], None]
Item = Step | Action
Block = tuple[int, int]
Grid = NDArray[np.uint8]

PIXEL: Block = (1, 1)
POINT = kernels.Convolution(1, 1, kernel=(1, 1), padding=(0, 0, 0, 0))


@dataclass
class Change:
    """The positions of a map that this frame writes: 1 per block in `mask` [grid rows, grid cols], and as a list."""

    mask: Grid
    block: Block
    active: ActivePixels


@dataclass(frozen=True)
class GateState:
    """What a gate keeps: the input that was last used, and how far each position has moved from it (mean of |x|)."""

    reference: FeatureMap
    change: FeatureMap


@dataclass
class RunningLayer:
    """A convolution in the running network: what decides, and where its mask is.

    Attributes:
        operation: the convolution.
        decision: where its mask comes from.
        change: the positions of its output that the last frame wrote; `change.mask` is the layer's mask.
        gate: the kernel that decides; its `threshold` can be set. None where no norm gate is.
    """

    operation: Convolution
    decision: Decision
    change: Change
    gate: Step | None = None

    @cached_property
    def layer(self) -> Layer:
        """Return the geometry with the block and the kind of gate that it runs with."""
        return replace(blocked(self.operation, self.change.block), gate=KINDS[type(self.decision)])

    @property
    def dense(self) -> bool:
        """Whether the whole map is computed on every frame."""
        return isinstance(self.decision, Dense)


KINDS = {NormGate: "input_norm", CustomGate: "mask", GivenMask: "mask", Shared: "shared", Follow: "none", Dense: "none"}


@dataclass(frozen=True)
class Entry:
    """One thing that runs on a frame: a kernel or Python code, the operation it belongs to, and its part in it."""

    item: Item
    operation: str
    part: str


class Assembler:
    """Bind a graph's operations to kernels, one after the other; `assemble` does it.

    Args:
        graph: the network.
        decide: returns the decision of a convolution.
        replayed: masks come from outside: gates are evaluated, for their cost, but what they say is not used.
        placement: "fused": the change of a map is measured where and when its producer writes it; "separate": over the
            whole map, before every gated convolution.
    """

    def __init__(
        self, graph: Graph, decide: Callable[[Convolution], Decision], *, replayed: bool, placement: str
    ) -> None:
        self.graph = graph
        self.decisions = {operation.output: decide(operation) for operation in graph.convolutions}
        self.replayed = replayed
        self.placement = placement
        self.frame: list[Entry] = []
        self.reference_frame: list[Entry] = []
        self.layers: list[RunningLayer] = []
        self.changes: dict[int, Change] = {}
        self.carried: dict[str, tuple[Grid, Block]] = {}
        self.resized: dict[tuple[int, int], Grid] = {}
        self.others: dict[int, Any] = {}
        self.maps = self._allocate()
        self.gates = self._allocate_gates()
        self.watchers = self._watchers() if placement == "fused" else {}
        self._everywhere: dict[tuple[int, int], ActivePixels] = {}
        self._operation = "input"

    def begin(self, operation: str) -> None:
        """Name the operation that the next kernels belong to."""
        self._operation = operation

    def emit(self, item: Item, part: str, *, reference: Item | None = None) -> None:
        """Add a kernel, and its counterpart on reference frames."""
        self.frame.append(Entry(item, self._operation, part))
        if reference is not None:
            self.reference_frame.append(Entry(reference, self._operation, part))

    def tensor(self, value: int) -> Tensor:
        """Return a map as a tensor [1, channels, rows, cols] on the same memory."""
        return torch.from_numpy(self.maps[value].interior).permute(2, 0, 1)[None]

    def value(self, value: int) -> Any:
        """Return what a value is on this frame: a tensor on a map's memory, or whatever torch returned."""
        return self.tensor(value) if value in self.maps else self.others[value]

    def full(self, shape: MapShape) -> ActivePixels:
        """Return the list of all positions of a map of that size."""
        size = (shape.rows, shape.cols)
        if size not in self._everywhere:
            self._everywhere[size] = ActivePixels.full(*size)
        return self._everywhere[size]

    def listed(self, mask: Grid, block: Block, shape: MapShape) -> Change:
        """List the positions of a mask, as soon as it is known on a frame."""
        active = ActivePixels.zeros(shape.rows, shape.cols)
        self.emit(kernels.list_pixels(mask, block, active), "index")
        return Change(mask, block, active)

    def union(self, sources: Sequence[tuple[int, Block]], shape: MapShape) -> Change:
        """Return the positions of a map where any of several smaller maps, upsampled by its factor, changed."""
        changes = [(self.changes[source], factor) for source, factor in sources]
        first = changes[0][0]
        if all(change is first and factor == PIXEL for change, factor in changes):
            return first
        masks = {(id(c.mask), f): (c.mask, (c.block[0] * f[0], c.block[1] * f[1])) for c, f in changes}
        distinct = list(masks.values())
        block = (math.gcd(*(each[0] for _, each in distinct)), math.gcd(*(each[1] for _, each in distinct)))
        aligned = [
            mask if each == block else self.reached(mask, each, POINT, shape, shape, block) for mask, each in distinct
        ]
        if len(aligned) == 1:
            return self.listed(aligned[0], block, shape)
        out = empty_grid(shape, block)
        self.emit(kernels.unite(aligned, out), "index")
        return self.listed(out, block, shape)

    def spread(
        self, change: Change, reading: kernels.Convolution, size: MapShape, shape: MapShape, block: Block
    ) -> Change:
        """Return the blocks of an output of `shape` that read a changed position of a map of `size`."""
        return self.listed(self.reached(change.mask, change.block, reading, size, shape, block), block, shape)

    def reached(
        self, mask: Grid, mask_block: Block, reading: kernels.Convolution, size: MapShape, shape: MapShape, block: Block
    ) -> Grid:
        """Return the mask of an output's blocks that read a marked block of a map of `size`."""
        out = empty_grid(shape, block)
        step = kernels.spread(mask, mask_block, reading, out, block, (size.rows, size.cols))
        self.emit(step, "index")
        return out

    def any_change(self, source: int) -> Change:
        """Return whether a map changed at all, as the change of a map of one position."""
        change, size = self.changes[source], self.graph.shapes[source]
        out = self.reached(change.mask, change.block, POINT, size, size, (size.rows, size.cols))
        return self.listed(out, PIXEL, MapShape(1, 1, 1))

    def read_where_written(self, value: int, block: Block) -> bool:
        """Whether a map, written in blocks of that size, is read by 1x1 convolutions that share a gate and nobody else.

        Those compute what was written, and read nothing beside it.
        """
        readers = [operation for operation in self.graph.operations if value in operation.sources]
        return value not in self.graph.returned and all(self._shares(reader, block) for reader in readers)

    def _shares(self, reader: Operation, block: Block) -> bool:
        decision = self.decisions.get(reader.output)
        if not isinstance(reader, Convolution) or not isinstance(decision, Shared) or decision.block != block:
            return False
        layer = reader.layer
        return layer.kernel_rows == layer.kernel_cols == layer.stride_rows == layer.stride_cols == 1

    def _allocate(self) -> dict[int, FeatureMap]:
        """Make all maps, each with the margin of zeros that its widest reader needs."""
        margins: dict[int, list[tuple[int, int, int, int]]] = {}
        wanted = set(self.graph.inputs)
        for operation in self.graph.operations:
            if isinstance(operation, Convolution):
                margin = geometry(operation).margin(operation.layer.in_rows, operation.layer.in_cols)
                margins.setdefault(operation.source, []).append(margin)
            if not isinstance(operation, TorchCall):
                wanted.update((*operation.sources, operation.output))
        maps = {}
        for value in sorted(wanted):
            shape = self.graph.shapes[value]
            margin = kernels.widest([(0, 0, 0, 0), *margins.get(value, [])])
            maps[value] = FeatureMap.zeros(shape.rows, shape.cols, shape.channels, margin=margin)
        return maps

    def _allocate_gates(self) -> dict[int, GateState]:
        states = {}
        for operation in self.graph.convolutions:
            if isinstance(self.decisions[operation.output], NormGate | CustomGate):
                shape = self.graph.shapes[operation.source]
                reference = FeatureMap.zeros(shape.rows, shape.cols, shape.channels)
                margin = geometry(operation).margin(shape.rows, shape.cols)
                states[operation.output] = GateState(
                    reference, FeatureMap.zeros(shape.rows, shape.cols, 1, margin=margin)
                )
        return states

    def _watchers(self) -> dict[int, int]:
        """Return for convolutions' outputs the first gate that reads them, which then is evaluated by the producer."""
        made = {operation.output for operation in self.graph.convolutions}
        made -= {value for value, decision in self.decisions.items() if isinstance(decision, Dense)}
        first: dict[int, int] = {}
        for operation in self.graph.convolutions:
            if isinstance(self.decisions[operation.output], NormGate) and operation.source in made:
                first.setdefault(operation.source, operation.output)
        return first


def empty_grid(shape: MapShape, block: Block) -> Grid:
    """Return a mask of a map in blocks, all on."""
    return np.ones((-(-shape.rows // block[0]), -(-shape.cols // block[1])), np.uint8)


def blocked(operation: Convolution, block: Block) -> Layer:
    """Return a convolution's geometry with the block of its gate."""
    return replace(operation.layer, block_rows=block[0], block_cols=block[1])


def geometry(operation: Convolution) -> kernels.Convolution:
    """Return a convolution's sizes as the kernels see them."""
    layer = operation.layer
    return kernels.Convolution(
        layer.in_channels,
        layer.out_channels,
        kernel=(layer.kernel_rows, layer.kernel_cols),
        stride=(layer.stride_rows, layer.stride_cols),
        padding=operation.padding,
        dilation=(layer.dilation_rows, layer.dilation_cols),
        groups=layer.groups,
    )
