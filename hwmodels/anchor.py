"""Anchor: one network as it was measured on a machine, dense and gated; predictions for it are put right by that.

Layers are known by their shapes; what a gated layer is predicted to take is scaled to what layers of its shape took.
What belongs to no layer (sums, pooling, the frame in, the results out) was timed with nothing to compute too, and grows
as copies of the layers' computed outputs would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from skipsim.hwmodels.kernel_work import LayerShape
from skipsim.hwmodels.table import Number, Table

Times = NDArray[np.float64]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]


class Anchor(Table):
    """A network measured on a machine."""

    dense_ns: Positive = Field(description="a frame of the dense network, PyTorch's fastest of four ways")
    gated_ns: Positive = Field(description="a frame of the gated network at `density`")
    density: Annotated[Number, Field(gt=0, le=1)] = Field(description="share of the MACs that was computed")
    dense_scale: Positive = Field(description="dense_ns over the sum of its dense layers, as predicted")
    rest_offset_ns: Number = Field(description="what belongs to no layer, less the part that grows")
    rest_scale: NotNegative = Field(description="... its growth over that of copies of the computed outputs")
    layers: dict[str, Annotated[int, Field(ge=1)]] = Field(description="how many layers have a shape")
    scales: dict[str, Positive] = Field(description="of gated layers, by shape: measured over predicted time")

    @model_validator(mode="after")
    def _tables_have_the_same_shapes(self) -> Self:
        if self.layers.keys() != self.scales.keys():
            raise ValueError("layers and scales must name the same shapes")
        return self

    def is_of(self, shapes: Iterable[LayerShape]) -> bool:
        """Tell whether a network has just the layers that were measured."""
        return Counter(shape.name for shape in shapes) == self.layers

    def rest_ns(self, sums_ns: Times) -> Times:
        """Return the time of what belongs to no layer, from that of copying the layers' computed outputs."""
        return self.rest_offset_ns + self.rest_scale * sums_ns


def anchor_of(anchors: dict[str, Anchor], shapes: Iterable[LayerShape]) -> Anchor | None:
    """Return the anchor of a network with these layers, None if it was not measured; of several the last."""
    listed = list(shapes)
    return next((anchor for anchor in reversed(anchors.values()) if anchor.is_of(listed)), None)
