"""Anchor: one network as it was measured on a machine, dense and gated; predictions for it are put right by that.

Layers are known by their shapes; what a gated layer is predicted to take is scaled to what layers of its shape took.
What belongs to no layer (sums, pooling, the frame in, the results out) was timed at some densities, and grows between
them as copies of the layers' computed outputs would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from skipsim.hwmodels.kernel_work import LayerShape
from skipsim.hwmodels.table import Number, Numbers, Table

Times = NDArray[np.float64]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class GatedLayer(Protocol):
    """What an anchor asks of a layer beyond its shape: whether it has a gate, and the gate's block."""

    @property
    def gate(self) -> str:
        """The gate's name; "none": no gate."""

    @property
    def block_rows(self) -> int:
        """Output rows that share one decision."""

    @property
    def block_cols(self) -> int:
        """Output columns that share one decision."""


class Anchor(Table):
    """A network measured on a machine."""

    block: Count = Field(description="of its gates, rows and columns, when it was timed")
    threads: Count = Field(description="that ran it")
    dense_ns: Positive = Field(description="a frame of the dense network, PyTorch's fastest of four ways")
    densities: Numbers = Field(description="shares of the MACs that gated frames computed, ascending")
    gated_ns: Numbers = Field(description="gated frames at these densities")
    dense_scale: Positive = Field(description="dense_ns over the sum of its dense layers, as predicted")
    copies_ns: Numbers = Field(description="what copies of their computed outputs would take, as predicted")
    rest_ns: Numbers = Field(description="what belonged to no layer")
    layers: dict[str, Count] = Field(description="how many layers have a shape")
    scales: dict[str, Positive] = Field(description="of gated layers, by shape: measured over predicted time")

    @model_validator(mode="after")
    def _tables_fit_together(self) -> Self:
        if self.layers.keys() != self.scales.keys():
            raise ValueError("layers and scales must name the same shapes")
        lengths = {len(one) for one in (self.densities, self.gated_ns, self.copies_ns, self.rest_ns)}
        if lengths != {len(self.copies_ns)} or len(self.copies_ns) < 2 or np.any(np.diff(self.copies_ns) <= 0):
            raise ValueError(
                "densities, gated_ns, copies_ns, rest_ns must be of the same two or more frames, ascending"
            )
        return self

    def is_of(self, shapes: Iterable[LayerShape]) -> bool:
        """Tell whether a network has just the layers that were measured."""
        return Counter(shape.name for shape in shapes) == self.layers

    def difference(self, layers: Iterable[GatedLayer], threads: int = 1) -> str | None:
        """Say in one line how blocks of these layers' gates, or so many threads, differ from what was timed."""
        blocks = {(layer.block_rows, layer.block_cols) for layer in layers if layer.gate != "none"}
        others = sorted(blocks - {(self.block, self.block)})
        asked = [f"blocks of {', '.join(f'{rows}x{cols}' for rows, cols in others)}"] if others else []
        asked += [f"{threads} thread{'s' * (threads > 1)}"] if threads != self.threads else []
        if not asked:
            return None
        thread = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return (
            f"anchor: timed with blocks of {self.block}x{self.block} on {thread}, asked for {' and '.join(asked)}: "
            "its error is not known there; time the network so, with skipsim anchor --block"
        )

    def rest_of(self, copies_ns: Times) -> Times:
        """Return the time of what belongs to no layer, from that of copying the layers' computed outputs.

        It lies on lines between what was measured; beyond the last it goes on as before it.
        """
        known, rest = np.array(self.copies_ns), np.array(self.rest_ns)
        beyond = np.maximum(0.0, copies_ns - known[-1]) * (rest[-1] - rest[-2]) / (known[-1] - known[-2])
        found: Times = np.maximum(0.0, np.interp(copies_ns, known, rest) + beyond)
        return found


def anchor_of(anchors: dict[str, Anchor], layers: Sequence[GatedLayer]) -> Anchor | None:
    """Return the anchor of a network with these layers, None if it was not measured.

    Of several the last that was timed with the blocks of these gates; if there is none such, the last.
    """
    shapes = [LayerShape.of(layer) for layer in layers]
    found = [anchor for anchor in reversed(anchors.values()) if anchor.is_of(shapes)]
    same = (anchor for anchor in found if anchor.difference(layers, anchor.threads) is None)
    return next(same, next(iter(found), None))
