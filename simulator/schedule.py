"""Schedule: a trace laid out on a machine, one table of tiles per frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError, nearest
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.baseline import WHOLE_MAP, dense_tile
from skipsim.simulator.lowering import lower
from skipsim.simulator.plan import Tile, Tiling, Traffic, plan, plan_arrays
from skipsim.simulator.residency import addresses, dense_traffic, gated_traffic, reference_traffic
from skipsim.simulator.shapes import Shapes, shapes_of
from skipsim.simulator.tiles import Tiles
from skipsim.simulator.workspace import Workspace
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

NO_BITS = np.zeros(0, np.uint8)


@dataclass(frozen=True)
class Schedule:
    """Tile size and traffic of every layer; `tiles(frame)` makes the table that an engine runs.

    Layers without a gate, and all layers on reference frames, run at the dense schedule's own best tile.
    """

    trace: Trace
    hardware: Hardware
    sizes: tuple[Tile, ...]
    traffic: tuple[Traffic, ...]

    def tiles(self, frame: int, workspace: Workspace | None = None) -> Tiles:
        """Return the table of one frame; one that is made in a workspace holds until the next is."""
        if not self._differs:
            return self._whole
        if self.trace.reference(frame):
            return self._renewed
        return lower(self.trace.frame_bits(frame), self._offsets, *self._arrays, self._bases, workspace, self._shapes)

    def same_as(self, frame: int) -> int | None:
        """Return which earlier frame has the same table for certain, if any: frames without masks are all alike."""
        if not self._differs:
            return 0 if frame else None
        first = self.trace.reference_frames[0] if self.trace.reference_frames else frame
        return first if self.trace.reference(frame) and frame != first else None

    def has_twins(self, frame: int) -> bool:
        """Whether later frames may have the same table as this one: see `same_as`."""
        return frame == 0 if not self._differs else frame in self.trace.reference_frames[:1]

    @cached_property
    def _differs(self) -> bool:
        """Whether masks or skipped channels make frames different from one another, or from reference frames."""
        return any(one.gated or one.kept for one in self.traffic)

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        return np.array(self.trace.mask_bits, np.int64)

    @cached_property
    def _bases(self) -> NDArray[np.int64] | None:
        return addresses(self.trace.layers, self.hardware) if self.hardware.dram.rule == "banked" else None

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        return self._planned(self.sizes, self.traffic)

    @cached_property
    def _shapes(self) -> Shapes:
        return shapes_of(*self._arrays)

    @cached_property
    def _whole(self) -> Tiles:
        return lower(NO_BITS, self._offsets, *self._arrays, self._bases)

    @cached_property
    def _renewed(self) -> Tiles:
        traffic = reference_traffic(self.traffic)
        return lower(NO_BITS, self._offsets, *self._planned(self._dense_sizes(traffic), traffic), self._bases)

    def _dense_sizes(self, traffic: tuple[Traffic, ...]) -> tuple[Tile, ...]:
        return tuple(
            dense_tile(layer, self.hardware, one) for layer, one in zip(self.trace.layers, traffic, strict=True)
        )

    def _planned(
        self, sizes: tuple[Tile, ...], traffic: tuple[Traffic, ...]
    ) -> tuple[NDArray[np.void], NDArray[np.void]]:
        layers = zip(self.trace.layers, sizes, traffic, strict=True)
        return plan_arrays([plan(layer, self.hardware, size, one) for layer, size, one in layers])


def gated_schedule(trace: Trace, hardware: Hardware, tile: Tile | Tiling | None) -> Schedule:
    """Lay out a trace at one tile size, or at one for each layer; if no layer is gated, `tile` holds for all of them.

    A layer whose tile is None stays dense: no gate, no index, everything computed, whatever its mask says.
    `tile` None, where no layer is gated: every layer at the dense schedule's own best.
    """
    if isinstance(tile, Mapping):
        by_layer = tiles_by_layer(trace.layers, tile)
        dense = [replace(layer, gate="none") if one is None else layer for layer, one in by_layer]
        trace, wanted = replace(trace, layers=tuple(dense)), tuple(one for _, one in by_layer)
    else:
        wanted = (tile,) * len(trace.layers)
    traffic = tuple(gated_traffic(trace, hardware))
    any_gated = any(one.gated for one in traffic)
    sizes = tuple(
        size if size and (one.gated or not any_gated) else dense_tile(layer, hardware, one)
        for layer, one, size in zip(trace.layers, traffic, wanted, strict=True)
    )
    return Schedule(trace, hardware, sizes, traffic)


def tiles_by_layer(layers: tuple[Layer, ...], tiling: Tiling) -> list[tuple[Layer, Tile | None]]:
    """Pair layers with their tiles; every gated layer needs one, and no other name may be there."""
    labels = [layer.label for layer in layers]
    for name in tiling:
        if name not in labels:
            raise InputError(f"tile: no layer {name!r}; {nearest(name, labels)}")
    for layer in layers:
        if layer.gate != "none" and layer.label not in tiling:
            raise InputError(f"tile: layer {layer.label!r} has a gate and no tile; name every gated layer")
    return [(layer, tiling.get(layer.label)) for layer in layers]


def dense_schedule(trace: Trace, hardware: Hardware, tile: Tile | None = None) -> Schedule:
    """Lay out the dense network: no gate, no index, no state; at `tile`, or each layer at its own best."""
    traffic = tuple(dense_traffic(trace.layers, hardware))
    sizes = tuple(tile or dense_tile(layer, hardware, one) for layer, one in zip(trace.layers, traffic, strict=True))
    return Schedule(trace, hardware, sizes, traffic)


def tile_name(tile: Tile) -> str:
    """Return "8x8", or "full" for the whole map."""
    return "full" if tile == WHOLE_MAP else f"{tile[0]}x{tile[1]}"
