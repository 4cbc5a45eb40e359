"""Dataflows: how many cycles, and how many operands, a pass over the array takes.

Cycles of a dense pass follow SCALE-Sim (Samajdar et al., ISPASS 2020, section III; also in its version 3): with M output pixels, N filters,
K products per output value and an array of R x C,

    output stationary  ceil(M/R) ceil(N/C) (K + R + C - 2)
    weight stationary  ceil(K/R) ceil(N/C) (M + 2R + C - 2)
    input stationary   ceil(K/R) ceil(M/C) (N + 2R + C - 2)

A new dataflow is one function here and one line in DATAFLOWS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

WHOLE_PASS = 2**62  # fold_pixels of a dataflow that streams all pixels of a pass through


@dataclass(frozen=True)
class ArrayCost:
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
        return replace(
            self,
            cycles_per_fold=self.cycles_per_fold * runs,
            cycles_per_pixel=self.cycles_per_pixel * runs,
            inputs_per_pixel=self.inputs_per_pixel * runs,
            weights_per_fold=self.weights_per_fold * runs,
            outputs_per_pixel=self.outputs_per_pixel * runs,
        )


def output_stationary(filters: int, reduction: int, rows: int, cols: int) -> ArrayCost:
    """Pixels on rows, filters on columns; each processing element sums one output value."""
    filter_folds = -(-filters // cols)
    return ArrayCost(
        rows, filter_folds * (reduction + rows + cols - 2), 0, 1, reduction * filter_folds, reduction * filters, filters
    )


def weight_stationary(filters: int, reduction: int, rows: int, cols: int) -> ArrayCost:
    """Products on rows, filters on columns; weights stay while pixels stream; partial sums of K folds meet in the output buffer."""
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


def input_stationary(filters: int, reduction: int, rows: int, cols: int) -> ArrayCost:
    """Products on rows, pixels on columns; inputs stay while filters stream."""
    reduction_folds = -(-reduction // rows)
    partial_sums = (2 * reduction_folds - 1) * filters
    return ArrayCost(
        cols, reduction_folds * (filters + 2 * rows + cols - 2), 0, 1, reduction, reduction * filters, partial_sums
    )


DATAFLOWS: dict[str, Callable[[int, int, int, int], ArrayCost]] = {
    "output_stationary": output_stationary,
    "weight_stationary": weight_stationary,
    "input_stationary": input_stationary,
}


def vector(filters: int, reduction: int, macs_per_cycle: int) -> ArrayCost:
    """The vector unit beside the array: so many multiply-accumulates per cycle, nothing to fill or drain."""
    return ArrayCost(
        WHOLE_PASS, 0, filters * reduction, macs_per_cycle, filters * reduction, filters * reduction, filters
    )
