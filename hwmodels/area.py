"""Area: square millimetres of a machine, by part, with sources.

Counted: array, vector unit, buffers, movers and control. Not counted: DRAM controller and PHY (parts of the chip, not
of the accelerator; TPU v1 spends 3 % of its die on DRAM ports), host interface, pads.
"""

from __future__ import annotations

import math

from skipsim.hwmodels.hardware import Hardware
from skipsim.hwmodels.technology import SRAM_CELL_UM2, interpolated, scaled_logic_area

BUFFERS = ("input_buffer", "weight_buffer", "output_buffer", "global_buffer")
PARTS = ("array", "vector", *BUFFERS, "movers_and_control", "total")
MEMORY_WITHOUT_END_BYTES = 2**20  # assumed: a buffer without end stands for one of 1 MiB

# um2 at 45 nm of a synthesised unit by bits; Dally, High-Performance Hardware for Machine Learning, NIPS 2015 tutorial
ADD_UM2 = {8: 36.0, 16: 67.0, 32: 137.0}  # source: Dally 2015, cost of operations
MULTIPLY_UM2 = {8: 282.0, 32: 3495.0}  # source: Dally 2015, cost of operations
# um2 of one register bit; Aladdin's table, as in Accelergy's library plug-in
REGISTER_UM2 = 5.98  # source: Shao et al., Aladdin, ISCA 2014, 40 nm register
# Gemmini's 22 nm layout gives 116 000 um2 to an array of 256 elements of 173 um2 of cells; the rest is wires and clock
LAYOUT_FACTOR = 2.6  # source: Genc et al., Gemmini, DAC 2021, area breakdown
# ... and 544 000 um2 to a scratchpad of 256 KiB, 193 000 um2 of cells; the rest is decoders and sense amplifiers
SRAM_EFFICIENCY = 0.355  # source: Genc et al., Gemmini, DAC 2021, area breakdown
# TPU v1's die: activation pipeline 6 % + control 2 % beside unified buffer 29 % + matrix unit 24 % + accumulators 6 %
CONTROL_SHARE = 8 / 59  # source: Jouppi et al., In-Datacenter Performance Analysis, ISCA 2017, figure 2


def mac_um2(hardware: Hardware) -> float:
    """Return um2 of one placed and wired multiply-accumulate element with registers for both operands and the sum."""
    width = hardware.precision
    cells = (
        interpolated(math.sqrt(width.activation_bits * width.weight_bits), MULTIPLY_UM2)
        + interpolated(width.accumulator_bits, ADD_UM2)
        + (width.activation_bits + width.weight_bits + width.accumulator_bits) * REGISTER_UM2
    )
    return LAYOUT_FACTOR * scaled_logic_area(cells, hardware.energy.technology_nm)


def sram_mm2(capacity_bytes: float, technology_nm: float) -> float:
    """Return mm2 of an SRAM; one without end counts as 1 MiB."""
    capacity = MEMORY_WITHOUT_END_BYTES if math.isinf(capacity_bytes) else capacity_bytes
    return 8 * capacity * interpolated(technology_nm, SRAM_CELL_UM2) / SRAM_EFFICIENCY * 1e-6


def area_mm2(hardware: Hardware) -> dict[str, float]:
    """Return the area of a machine by part (PARTS), in mm2, all cores together."""
    node, cores, sizes, array = hardware.energy.technology_nm, hardware.cores, hardware.buffers, hardware.array
    element_mm2 = mac_um2(hardware) * 1e-6
    parts = {
        "array": cores * array.rows * array.cols * element_mm2,
        "vector": cores * (array.vector_macs_per_cycle or 0) * element_mm2,
        "input_buffer": cores * sram_mm2(sizes.input_bytes, node),
        "weight_buffer": cores * sram_mm2(sizes.weight_bytes, node),
        "output_buffer": cores * sram_mm2(sizes.output_bytes, node),
        "global_buffer": sram_mm2(sizes.global_bytes, node),
    }
    parts["movers_and_control"] = CONTROL_SHARE * sum(parts.values())
    return parts | {"total": sum(parts.values())}
