"""Dataflows: how many cycles, and how many operands, a pass over the array takes.

Cycles of a dense pass of the first three follow SCALE-Sim (Samajdar et al., ISPASS 2020, section III; also in its
version 3): with M output pixels, N filters, K products per output value and an array of R x C,

    output stationary  ceil(M/R) ceil(N/C) (K + R + C - 2)
    weight stationary  ceil(K/R) ceil(N/C) (M + 2R + C - 2)
    input stationary   ceil(K/R) ceil(M/C) (N + 2R + C - 2)

A new dataflow is one function here and one line in DATAFLOWS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from skipsim.hwmodels.hardware import Array, Hardware, ratio
from skipsim.traces.layer import Layer

WHOLE_PASS = 2**62  # fold_pixels of a dataflow that streams all pixels of a pass through


class ArrayCost(NamedTuple):
    """Cost of a pass over m output pixels, linear in m and in the number of folds f = ceil(m / fold_pixels)."""

    fold_pixels: int
    cycles_per_fold: int
    cycles_per_pixel: int  # divided by `pixel_divisor`, rounded up once per pass
    pixel_divisor: int
    inputs_per_pixel: int  # values read from the input buffer
    weights_per_fold: int  # values read from the weight buffer
    outputs_per_pixel: int  # values written to or read back from the output buffer

    def cycles(self, pixels: int) -> int:
        """Return the cycles of a pass over `pixels` output pixels."""
        folds = -(-pixels // self.fold_pixels)
        return self.cycles_per_fold * folds - (-self.cycles_per_pixel * pixels // self.pixel_divisor)

    def times(self, runs: int) -> ArrayCost:
        """Return the cost of `runs` such passes one after the other (the groups of a grouped layer)."""
        return self._replace(
            cycles_per_fold=self.cycles_per_fold * runs,
            cycles_per_pixel=self.cycles_per_pixel * runs,
            inputs_per_pixel=self.inputs_per_pixel * runs,
            weights_per_fold=self.weights_per_fold * runs,
            outputs_per_pixel=self.outputs_per_pixel * runs,
        )


class Convolution(NamedTuple):
    """What the array is given in one pass: a slice of the channels of one group, on tiles of one size."""

    filters: int
    channels: int
    kernel_rows: int = 1
    kernel_cols: int = 1
    tile_rows: int = 1
    tile_cols: int = 1
    stride_rows: int = 1
    stride_cols: int = 1

    @property
    def reduction(self) -> int:
        """Products summed into one output value."""
        return self.kernel_rows * self.kernel_cols * self.channels


def output_stationary(work: Convolution, array: Array) -> ArrayCost:
    """Pixels on rows, filters on columns; each processing element sums one output value."""
    filters, reduction, rows, cols = work.filters, work.reduction, array.rows, array.cols
    filter_folds = -(-filters // cols)
    return ArrayCost(
        rows, filter_folds * (reduction + rows + cols - 2), 0, 1, reduction * filter_folds, reduction * filters, filters
    )


def weight_stationary(work: Convolution, array: Array) -> ArrayCost:
    """Products on rows, filters on columns; weights stay while pixels stream; K folds meet in the output buffer."""
    filters, reduction, rows, cols = work.filters, work.reduction, array.rows, array.cols
    reduction_folds = -(-reduction // rows)
    folds = reduction_folds * -(-filters // cols)
    partial_sums = (2 * reduction_folds - 1) * filters  # every fold but the first reads back what the one before wrote
    return ArrayCost(
        WHOLE_PASS,
        folds * (2 * rows + cols - 2),
        folds,
        1,
        reduction * -(-filters // cols),
        reduction * filters,
        partial_sums,
    )


def input_stationary(work: Convolution, array: Array) -> ArrayCost:
    """Products on rows, pixels on columns; inputs stay while filters stream."""
    filters, reduction, rows, cols = work.filters, work.reduction, array.rows, array.cols
    reduction_folds = -(-reduction // rows)
    partial_sums = (2 * reduction_folds - 1) * filters
    return ArrayCost(
        cols, reduction_folds * (filters + 2 * rows + cols - 2), 0, 1, reduction, reduction * filters, partial_sums
    )


def dot_product(work: Convolution, array: Array) -> ArrayCost:
    """Each column sums R products of one filter in one cycle.

    A pixel takes ceil(K/R) ceil(N/C) cycles, and fills the pipeline for every group of R inputs held while all filters
    pass, or for every group of C sums held while all inputs pass. NVDLA's array (unit description, "Convolution MAC")
    with R = Atomic-C and C = Atomic-K has no fill: weights stay for a stripe of pixels; the units of DPACS drain
    their pipeline (CASR-HKU/DPACS, conv.h: 3x3 hold inputs, 1x1 hold sums). Winograd F(2x2, 3x3): 16 products for 4
    outputs (Lavin and Gray, CVPR 2016).
    """
    winograd = array.winograd and uses_winograd(work)
    products = 4 * work.channels if winograd else work.reduction
    steps, groups = -(-products // array.rows), -(-work.filters // array.cols)
    fills = steps if array.holds == "inputs" else groups
    weights = work.filters * (16 * work.channels if winograd else work.reduction)
    cycles = steps * groups + fills * array.fill_cycles
    return ArrayCost(WHOLE_PASS, 0, cycles, 1, products, weights, work.filters)


def uses_winograd(work: Convolution) -> bool:
    """Whether an array that knows Winograd F(2x2, 3x3) uses it: 3x3 kernels at stride 1."""
    return work[2:4] == (3, 3) and work[6:8] == (1, 1)


def row_stationary(work: Convolution, array: Array) -> ArrayCost:
    """One filter row and one input row meet in a processing element and give sums of one output row.

    Chen et al., Eyeriss, IEEE JSSC 52 (2017), section III: a filter plane on a tile takes kernel_rows x tile_rows
    elements for kernel_cols x tile_cols cycles. Tiles of more rows than the array has columns are cut into strips; as
    many sets as fit run side by side (strips, filters, channels). Before it runs, each filter plane is loaded: once for
    all strips that run together, `weights_per_cycle` values at a time.
    """
    strip = min(work.tile_rows, array.cols)
    strips = -(-work.tile_rows // strip)
    sets = max(1, array.rows // work.kernel_rows) * (array.cols // strip)
    parts = -(-work.kernel_rows // array.rows)  # a filter of more rows than the array runs part by part
    planes = work.filters * work.channels
    cycles = -(-strips * planes // sets) * parts * work.kernel_cols * work.tile_cols
    values, per_cycles = ratio(array.weights_per_cycle)
    loads = planes * work.kernel_rows * work.kernel_cols * -(-strips // sets)
    cycles += -(-loads * per_cycles // values) if values else 0
    pixels = work.tile_rows * work.tile_cols
    return ArrayCost(
        WHOLE_PASS, 0, cycles, pixels, work.channels, loads, (2 * work.channels - 1) * work.filters
    )  # fmt: skip


DATAFLOWS: dict[str, Callable[[Convolution, Array], ArrayCost]] = {
    "output_stationary": output_stationary,
    "weight_stationary": weight_stationary,
    "input_stationary": input_stationary,
    "dot_product": dot_product,
    "row_stationary": row_stationary,
}


def vector(filters: int, reduction: int, macs_per_cycle: int) -> ArrayCost:
    """The vector unit beside the array: so many multiply-accumulates per cycle, nothing to fill or drain."""
    return ArrayCost(
        WHOLE_PASS, 0, filters * reduction, macs_per_cycle, filters * reduction, filters * reduction, filters
    )


def array_cost(
    layer: Layer, hardware: Hardware, in_channels: int, out_channels: int, tile: tuple[int, int] = (1, 1)
) -> ArrayCost:
    """Return the array's cost of a slice of the layer's channels; groups run one after the other."""
    groups = 1 if layer.groups == 1 else layer.groups * in_channels // layer.in_channels
    work = convolution(layer, out_channels // groups, in_channels // groups, tile)
    if layer.depthwise and hardware.array.depthwise == "vector":
        assert hardware.array.vector_macs_per_cycle is not None, "checked by Hardware"
        return vector(out_channels, work.reduction, hardware.array.vector_macs_per_cycle)
    return DATAFLOWS[hardware.array.dataflow](work, hardware.array).times(groups)


def convolution(layer: Layer, filters: int, channels: int, tile: tuple[int, int]) -> Convolution:
    """Return what a slice of a layer's channels asks of the array."""
    return Convolution(
        filters, channels, layer.kernel_rows, layer.kernel_cols, *tile, layer.stride_rows, layer.stride_cols
    )  # fmt: skip


def stored_values(layer: Layer, hardware: Hardware) -> int:
    """Return the values that are kept of a filter and channel: its taps, or the 4x4 that Winograd makes of 3x3."""
    winograd = hardware.array.winograd and uses_winograd(convolution(layer, 1, 1, (1, 1)))
    return 16 if winograd else layer.kernel_rows * layer.kernel_cols
