"""Energy: picojoules per action of a machine, by part, with sources.

[H14] Horowitz, "Computing's Energy Problem", ISSCC 2014, figure 1.1.9: operations and memories at 45 nm, 0.9 V
[J21] Jouppi et al., "Ten Lessons From Three Generations Shaped Google's TPUv4i", ISCA 2021, table 2: the same at 7 nm
[A14] Shao et al., "Aladdin", ISCA 2014: registers at 40 nm, as in Accelergy's library plug-in

Nodes between 45 and 7 nm are interpolated (technology.py). Not priced: clock tree beyond the array's registers, on-chip
network, DRAM standby and refresh, the host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from skipsim.hwmodels.area import MEMORY_WITHOUT_END_BYTES, area_mm2
from skipsim.hwmodels.dram import dram_part
from skipsim.hwmodels.hardware import Hardware
from skipsim.hwmodels.technology import interpolated, scaled_energy

ACTIONS = (
    "macs",  # multiply-accumulates of array and vector unit
    "gate_elements",  # elements whose absolute difference the gate unit added up
    "input_buffer_bytes",  # read plus written, likewise below
    "weight_buffer_bytes",
    "output_buffer_bytes",
    "global_buffer_bytes",
    "dram_read_bytes",
    "dram_write_bytes",
    "commands",  # that start a layer or a pass
    "scanned_blocks",  # bits of masks that index units looked at
    "descriptors",  # of streams that movers were told to move
    "segments",  # contiguous pieces of them
)
PARTS = ("mac", "gate", "input_buffer", "weight_buffer", "output_buffer", "global_buffer", "dram", "control", "leakage")
PART_NAMES = {part: part.replace("_", " ") for part in PARTS} | {"mac": "MACs", "gate": "gates", "dram": "DRAM"}
CONTROL = ("commands", "scanned_blocks", "descriptors", "segments")

# pJ per operation of an integer width: {bits: (at 45 nm, at 7 nm)}
ADD_PJ = {8: (0.03, 0.007), 32: (0.1, 0.03)}  # source: [H14] figure 1.1.9, [J21] table 2
MULTIPLY_PJ = {8: (0.2, 0.07), 32: (3.1, 1.48)}  # source: [H14] figure 1.1.9, [J21] table 2
# pJ per 64-bit access of an SRAM of that many bytes
SRAM_PJ = {2**13: (10.0, 7.5), 2**15: (20.0, 8.5), 2**20: (100.0, 14.0)}  # source: [H14] figure 1.1.9, [J21] table 2
SRAM_ACCESS_BYTES = 8  # source: [H14] figure 1.1.9: cache, 64 bit
# pJ per bit and cycle; assumed: to 7 nm a register gains what the 8-bit adder does, both small cells on short wires
REGISTER_PJ = (0.009, 0.009 * 0.007 / 0.03)  # source: [A14] 40 nm register, dynamic energy
# Control. A command is priced as an instruction of a simple processor: fetched, decoded, its operands read.
INSTRUCTION_PJ = 70.0  # source: [H14] figure 1.1.9, at 45 nm, of it 25 pJ for the instruction cache
FETCH_PJ = (
    25.0  # source: [H14] figure 1.1.9; to 7 nm it gains what the 32 KiB memory does, the rest what the adder does
)
CONTROL_MEMORY_BYTES = 2**13  # assumed: masks and descriptors wait in a memory of the smallest size that is priced
DESCRIPTOR_BYTES = 16  # assumed: an address of 8 bytes, and rows, columns, two strides of 2 bytes each
ADDRESS_BITS = 32  # assumed: of the address that a segment advances, and of the count that it lowers
# of a memory without a named part
DRAM_PJ_PER_BIT = 20.3  # source: [J21] table 2, DDR3/4: 1300 pJ per 64 bits
# 7.4e-5 mW on 5.98 um2; assumed: SRAM and other nodes leak alike per mm2, the density that designs are held to
LEAKAGE_MW_PER_MM2 = 12.4  # source: [A14] 40 nm register, leakage and area


def add_pj(bits: float, technology_nm: float) -> float:
    """Return pJ of one integer addition: a power of the width through the 8- and 32-bit values."""
    return interpolated(bits, {width: scaled_energy(*ends, technology_nm) for width, ends in ADD_PJ.items()})


def multiply_pj(first_bits: int, second_bits: int, technology_nm: float) -> float:
    """Return pJ of one integer multiplication; unequal widths cost what their geometric mean does."""
    width = math.sqrt(first_bits * second_bits)
    return interpolated(width, {bits: scaled_energy(*ends, technology_nm) for bits, ends in MULTIPLY_PJ.items()})


def mac_pj(hardware: Hardware) -> float:
    """Return pJ of one multiply-accumulate: multiplier, adder, and the registers of a processing element that change.

    Output stationary: both operands pass by and the sum changes. The other two keep one operand and pass the sum on.
    """
    node, width = hardware.energy.technology_nm, hardware.precision
    moving_bits = width.activation_bits + width.weight_bits + width.accumulator_bits
    if hardware.array.dataflow == "weight_stationary":
        moving_bits -= width.weight_bits
    elif hardware.array.dataflow == "input_stationary":
        moving_bits -= width.activation_bits
    return (
        multiply_pj(width.activation_bits, width.weight_bits, node)
        + add_pj(width.accumulator_bits, node)
        + moving_bits * scaled_energy(*REGISTER_PJ, node)
    )


def sram_pj_per_byte(capacity_bytes: float, technology_nm: float) -> float:
    """Return pJ per byte read or written (assumed: alike) of an SRAM; one without end is priced as 1 MiB."""
    capacity = MEMORY_WITHOUT_END_BYTES if math.isinf(capacity_bytes) else capacity_bytes
    access = interpolated(capacity, {size: scaled_energy(*ends, technology_nm) for size, ends in SRAM_PJ.items()})
    return access / SRAM_ACCESS_BYTES


def control_pj(technology_nm: float) -> dict[str, float]:
    """Return pJ per action of CONTROL.

    A command is an instruction. A scanned block reads one bit of the mask and moves it through a register. A descriptor
    is written to memory and read from it once. A segment adds its stride to an address, lowers a count, and keeps both.
    """
    memory, register = sram_pj_per_byte(CONTROL_MEMORY_BYTES, technology_nm), scaled_energy(*REGISTER_PJ, technology_nm)
    fetch = FETCH_PJ * scaled_energy(*SRAM_PJ[2**15], technology_nm) / SRAM_PJ[2**15][0]
    rest = (INSTRUCTION_PJ - FETCH_PJ) * add_pj(32, technology_nm) / ADD_PJ[32][0]
    return {
        "commands": fetch + rest,
        "scanned_blocks": memory / 8 + register,
        "descriptors": 2 * DESCRIPTOR_BYTES * memory,
        "segments": 2 * (add_pj(ADDRESS_BITS, technology_nm) + ADDRESS_BITS * register),
    }


def prices_pj(hardware: Hardware) -> dict[str, float]:
    """Return pJ per action; an override in the machine's [energy] replaces the derived price.

    Keys: ACTIONS. The price of `global_buffer_bytes` is 0 where there is no global buffer.
    """
    given, node, width, sizes = hardware.energy, hardware.energy.technology_nm, hardware.precision, hardware.buffers
    bit = dram_part(hardware.dram.part).energy_pj_per_bit if hardware.dram.part else DRAM_PJ_PER_BIT
    difference = add_pj(width.activation_bits, node) + add_pj(width.accumulator_bits, node)  # its sign steers the sum
    shared = sram_pj_per_byte(sizes.global_bytes, node) if sizes.global_bytes else 0.0
    control = control_pj(node)

    def price(override: float | None, derived: float) -> float:
        return derived if override is None else override

    return {
        "macs": price(given.mac_pj, mac_pj(hardware)),
        "gate_elements": price(given.gate_pj_per_element, difference),
        "input_buffer_bytes": price(given.input_buffer_pj_per_byte, sram_pj_per_byte(sizes.input_bytes, node)),
        "weight_buffer_bytes": price(given.weight_buffer_pj_per_byte, sram_pj_per_byte(sizes.weight_bytes, node)),
        "output_buffer_bytes": price(given.output_buffer_pj_per_byte, sram_pj_per_byte(sizes.output_bytes, node)),
        "global_buffer_bytes": price(given.global_buffer_pj_per_byte, shared),
        "dram_read_bytes": price(given.dram_pj_per_byte, 8 * bit),
        "dram_write_bytes": price(given.dram_pj_per_byte, 8 * bit),
        "commands": price(given.command_pj, control["commands"]),
        "scanned_blocks": price(given.scan_pj_per_block, control["scanned_blocks"]),
        "descriptors": price(given.descriptor_pj, control["descriptors"]),
        "segments": price(given.segment_pj, control["segments"]),
    }


def leakage_mw(hardware: Hardware) -> float:
    """Return the power that the whole machine leaks."""
    if hardware.energy.leakage_mw is not None:
        return hardware.energy.leakage_mw
    return LEAKAGE_MW_PER_MM2 * area_mm2(hardware)["total"]


def energy_pj(hardware: Hardware, actions: Mapping[str, int], cycles: int) -> dict[str, float]:
    """Return the energy of a run by part (PARTS), in picojoules; their sum is the whole.

    `actions` counts ACTIONS (one left out is zero), `cycles` is the length of the run in the machine's clock.
    Raises ValueError for an action that is not in ACTIONS, a negative count, or traffic of an absent global buffer.
    """
    for name, count in actions.items():
        if name not in ACTIONS or count < 0:
            raise ValueError(f"action {name!r}: must be one of {', '.join(ACTIONS)} and not negative, got {count!r}")
    if actions.get("global_buffer_bytes") and not hardware.buffers.global_bytes:
        raise ValueError(f"hardware {hardware.name!r}: global_buffer_bytes counted, but it has no global buffer")
    spent = {name: price * actions.get(name, 0) for name, price in prices_pj(hardware).items()}
    return {
        "mac": spent["macs"],
        "gate": spent["gate_elements"],
        "input_buffer": spent["input_buffer_bytes"],
        "weight_buffer": spent["weight_buffer_bytes"],
        "output_buffer": spent["output_buffer_bytes"],
        "global_buffer": spent["global_buffer_bytes"],
        "dram": spent["dram_read_bytes"] + spent["dram_write_bytes"],
        "control": sum(spent[name] for name in CONTROL),
        "leakage": leakage_mw(hardware) * 1e9 * cycles / hardware.clock_hz,  # mW x s = 1e9 pJ
    }
