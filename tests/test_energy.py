"""Does a run's energy, and a machine's area, follow from the cited tables by the stated formulas?"""

import math
from itertools import pairwise

import pytest

from skipsim.errors import InputError
from skipsim.hwmodels.area import PARTS as AREA_PARTS
from skipsim.hwmodels.area import area_mm2, mac_um2, sram_mm2
from skipsim.hwmodels.dram import PARTS as DRAM_PARTS
from skipsim.hwmodels.energy import (
    ACTIONS,
    CONTROL,
    PARTS,
    add_pj,
    control_pj,
    energy_pj,
    leakage_mw,
    mac_pj,
    multiply_pj,
    prices_pj,
    sram_pj_per_byte,
)
from skipsim.hwmodels.hardware import Hardware, load_hardware, machines
from skipsim.hwmodels.technology import interpolated, scaled_energy, scaled_logic_area

NODES = (180, 130, 90, 65, 45, 40, 32, 28, 22, 20, 16, 14, 12, 10, 8, 7, 5, 3)
PLAIN = load_hardware("systolic-32x32")  # 45 nm, int8, endless buffers
EDGE = load_hardware("edge-npu")


def near(value: float, rel: float = 1e-12) -> float:
    return pytest.approx(value, rel=rel)


# Tables: what the papers say comes back unchanged.


@pytest.mark.parametrize(("node", "bits", "picojoules"), [(45, 8, 0.03), (45, 32, 0.1), (7, 8, 0.007), (7, 32, 0.03)])
def test_additions_are_the_tables(node, bits, picojoules):
    assert add_pj(bits, node) == near(picojoules)


@pytest.mark.parametrize(("node", "bits", "picojoules"), [(45, 8, 0.2), (45, 32, 3.1), (7, 8, 0.07), (7, 32, 1.48)])
def test_multiplications_are_the_tables(node, bits, picojoules):
    assert multiply_pj(bits, bits, node) == near(picojoules)


@pytest.mark.parametrize(
    ("node", "capacity", "picojoules_of_64_bits"),
    [(45, 8192, 10), (45, 32768, 20), (45, 2**20, 100), (7, 8192, 7.5), (7, 32768, 8.5), (7, 2**20, 14)],
)
def test_memories_are_the_tables(node, capacity, picojoules_of_64_bits):
    assert sram_pj_per_byte(capacity, node) == near(picojoules_of_64_bits / 8)


# Formulas between the tables' points.


def test_interpolation_is_a_power_between_points_and_beyond_them():
    cube = {1.0: 2.0, 10.0: 2000.0}
    assert interpolated(4, cube) == near(2 * 4**3)
    assert interpolated(0.5, cube) == near(2 * 0.5**3)
    bent = {1.0: 1.0, 2.0: 4.0, 4.0: 8.0}  # squared, then straight
    assert [interpolated(x, bent) for x in (0.5, 1.5, 2.0, 3.0, 8.0)] == near([0.25, 2.25, 4.0, 6.0, 16.0])


def test_a_multiplication_grows_with_the_product_of_its_widths():
    exponent = math.log(3.1 / 0.2) / math.log(32 / 8)
    assert multiply_pj(16, 16, 45) == near(0.2 * 2**exponent)
    assert multiply_pj(16, 4, 45) == near(0.2)
    assert multiply_pj(4, 4, 45) == near(0.2 / 2**exponent)


def test_a_memory_grows_as_a_power_of_its_capacity():
    assert sram_pj_per_byte(16384, 45) == near(10 / 8 * math.sqrt(2))  # 8 to 32 KiB: doubles when capacity quadruples
    assert sram_pj_per_byte(2048, 45) == near(10 / 8 / 2)
    assert sram_pj_per_byte(2**25, 45) == near(100 / 8 * 5)  # 32 KiB to 1 MiB: five times for 32


def test_a_memory_without_end_is_priced_as_one_mebibyte():
    assert sram_pj_per_byte(math.inf, 45) == near(100 / 8)
    assert sram_mm2(math.inf, 45) == near(sram_mm2(2**20, 45))


def test_a_node_between_two_measured_ones_is_a_power_of_the_node():
    share = math.log(45 / 16) / math.log(45 / 7)
    assert scaled_energy(0.2, 0.07, 16) == near(0.2 * (0.07 / 0.2) ** share)
    assert scaled_energy(0.2, 0.07, 7) == near(0.07)
    assert scaled_energy(0.2, 0.07, 45) == near(0.2)


def test_older_nodes_scale_by_the_published_polynomials():
    at_45 = 1.018 * 0.9**2 - 0.3107 * 0.9 + 0.1539
    at_65 = 3.755 * 1.1**2 - 4.398 * 1.1 + 1.975
    assert scaled_energy(0.2, 0.07, 65) == near(0.2 * at_65 / at_45)
    assert scaled_energy(0.2, 0.07, 180) == near(0.2 * (24.64 * 1.8 - 17.98) / at_45)


def test_logic_area_scales_by_the_published_factors():
    assert [scaled_logic_area(100, node) for node in (65, 45, 16, 7)] == near([150, 100, 19, 5.9])


@pytest.mark.parametrize(
    "quantity",
    [
        lambda node: add_pj(8, node),
        lambda node: add_pj(32, node),
        lambda node: multiply_pj(8, 8, node),
        lambda node: sram_pj_per_byte(2**17, node),
        lambda node: mac_pj(PLAIN.replace(**{"energy.technology_nm": node})),
        lambda node: scaled_logic_area(1, node),
        lambda node: sram_mm2(2**17, node),
    ],
)
def test_a_smaller_node_never_costs_more(quantity):
    values = [quantity(node) for node in NODES]
    assert all(larger > smaller > 0 for larger, smaller in pairwise(values))


def test_wider_numbers_and_larger_memories_never_cost_less():
    adds = [add_pj(bits, 16) for bits in range(1, 65)]
    multiplies = [multiply_pj(bits, 8, 16) for bits in range(1, 65)]
    memories = [sram_pj_per_byte(2.0**power, 16) for power in range(8, 26)]
    for values in (adds, multiplies, memories):
        assert values == sorted(values)
        assert values[0] > 0


# Actions to energy.


@pytest.mark.parametrize(
    ("dataflow", "moving_bits"), [("output_stationary", 48), ("weight_stationary", 40), ("input_stationary", 40)]
)
def test_a_multiply_accumulate_is_multiplier_adder_and_moving_registers(dataflow, moving_bits):
    assert mac_pj(PLAIN.replace(**{"array.dataflow": dataflow})) == near(0.2 + 0.1 + moving_bits * 0.009)


def test_the_energy_of_a_run_is_counts_times_prices():
    actions = {name: 1000 * (place + 1) for place, name in enumerate(ACTIONS) if name != "global_buffer_bytes"}
    energy = energy_pj(PLAIN, actions, cycles=5000)
    assert tuple(energy) == PARTS
    assert energy["mac"] == near(1000 * (0.2 + 0.1 + 48 * 0.009))
    assert energy["gate"] == near(2000 * (0.03 + 0.1))
    assert energy["input_buffer"] == near(3000 * 100 / 8)
    assert energy["weight_buffer"] == near(4000 * 100 / 8)
    assert energy["output_buffer"] == near(5000 * 100 / 8)
    assert energy["global_buffer"] == 0
    assert energy["dram"] == near((7000 + 8000) * 8 * 20.3)  # no part is named
    command, block = 70, 10 / 64 + 0.009
    descriptor, segment = 2 * 16 * 10 / 8, 2 * (0.1 + 32 * 0.009)
    assert energy["control"] == near(9000 * command + 10000 * block + 11000 * descriptor + 12000 * segment)
    assert energy["leakage"] == near(12.4e-3 * area_mm2(PLAIN)["total"] * 5000e-9 * 1e12)  # W x s, in pJ


def test_control_at_7_nm_gains_what_its_memory_its_adder_and_its_registers_do():
    prices = control_pj(7)
    register = 0.009 * 0.007 / 0.03
    assert prices["commands"] == near(25 * 8.5 / 20 + 45 * 0.03 / 0.1)
    assert prices["scanned_blocks"] == near(7.5 / 64 + register)
    assert prices["descriptors"] == near(32 * 7.5 / 8)
    assert prices["segments"] == near(2 * (0.03 + 32 * register))


def test_nothing_done_costs_nothing_but_time_leaks():
    assert set(energy_pj(EDGE, {}, cycles=0).values()) == {0.0}
    idle = energy_pj(EDGE, {}, cycles=1_000_000)
    assert {part for part, value in idle.items() if value} == {"leakage"}
    slow = EDGE.replace(clock_hz=EDGE.clock_hz // 2)
    assert energy_pj(slow, {}, cycles=1_000_000)["leakage"] == near(2 * idle["leakage"])


@pytest.mark.parametrize("part", sorted(DRAM_PARTS))
def test_a_named_memory_part_brings_its_own_price(part):
    machine = EDGE.replace(**{"dram.part": part})
    picojoules = 8 * DRAM_PARTS[part].energy_pj_per_bit
    assert energy_pj(machine, {"dram_read_bytes": 3, "dram_write_bytes": 4}, cycles=0)["dram"] == near(7 * picojoules)


def test_an_unknown_memory_part_is_named():
    machine = EDGE.model_copy(update={"dram": EDGE.dram.model_copy(update={"part": "LPDDR4X-4267"})})
    with pytest.raises(
        InputError, match=r"^dram part 'LPDDR4X-4267' is unknown; did you mean 'LPDDR4X-4266'\? choices: "
    ):
        energy_pj(machine, {}, cycles=0)


@pytest.mark.parametrize(
    ("key", "actions", "part"),
    [
        ("mac_pj", ["macs"], "mac"),
        ("gate_pj_per_element", ["gate_elements"], "gate"),
        ("input_buffer_pj_per_byte", ["input_buffer_bytes"], "input_buffer"),
        ("weight_buffer_pj_per_byte", ["weight_buffer_bytes"], "weight_buffer"),
        ("output_buffer_pj_per_byte", ["output_buffer_bytes"], "output_buffer"),
        ("global_buffer_pj_per_byte", ["global_buffer_bytes"], "global_buffer"),
        ("dram_pj_per_byte", ["dram_read_bytes", "dram_write_bytes"], "dram"),
    ],
)
@pytest.mark.parametrize("picojoules", [0.0, 1.25])
def test_an_override_replaces_the_derived_price_and_no_other(key, actions, part, picojoules):
    counts = dict.fromkeys(ACTIONS, 8)
    before = energy_pj(EDGE, counts, cycles=100)
    after = energy_pj(EDGE.replace(**{f"energy.{key}": picojoules}), counts, cycles=100)
    assert after.pop(part) == 8 * len(actions) * picojoules
    assert before.pop(part) > 0
    assert after == before


def test_prices_of_control_are_overridden_one_by_one():
    keys = ("command_pj", "scan_pj_per_block", "descriptor_pj", "segment_pj")
    machine, left = EDGE, dict.fromkeys(CONTROL, 8)
    for key, name in zip(keys, CONTROL, strict=True):
        machine = machine.replace(**{f"energy.{key}": 1.5})
        prices = prices_pj(machine)
        assert prices[name] == 1.5
        left.pop(name)
        assert energy_pj(machine, dict.fromkeys(CONTROL, 8), 0)["control"] == near(
            8 * 1.5 * (len(CONTROL) - len(left)) + sum(8 * prices[one] for one in left)
        )


def test_leakage_can_be_overridden():
    machine = EDGE.replace(**{"energy.leakage_mw": 50})
    assert leakage_mw(machine) == 50
    assert energy_pj(machine, {}, cycles=1000)["leakage"] == near(0.050 * 1000 / EDGE.clock_hz * 1e12)


def test_a_wrong_action_is_refused():
    choices = ", ".join(ACTIONS)
    with pytest.raises(ValueError, match=f"^action 'mac': must be one of {choices} and not negative, got 3$"):
        energy_pj(EDGE, {"mac": 3}, cycles=0)
    with pytest.raises(ValueError, match=f"^action 'macs': must be one of {choices} and not negative, got -1$"):
        energy_pj(EDGE, {"macs": -1}, cycles=0)


def test_traffic_of_a_global_buffer_that_is_not_there_is_refused():
    said = "^hardware 'systolic-32x32': global_buffer_bytes counted, but it has no global buffer$"
    with pytest.raises(ValueError, match=said):
        energy_pj(PLAIN, {"global_buffer_bytes": 1}, cycles=0)


@pytest.mark.parametrize("name", machines())
def test_prices_rise_with_the_distance_from_the_array(name):
    price = prices_pj(load_hardware(name))
    assert tuple(price) == ACTIONS
    assert 0 < price["gate_elements"] < price["macs"] < price["input_buffer_bytes"] < price["dram_read_bytes"]


# Area.


@pytest.mark.parametrize("name", machines())
def test_parts_sum_to_the_total(name):
    area = area_mm2(load_hardware(name))
    assert tuple(area) == AREA_PARTS
    total = area.pop("total")
    assert total == near(sum(area.values()))
    assert area.pop("movers_and_control") == near(8 / 59 * sum(area.values()))
    assert all(value >= 0 for value in area.values())


def test_area_is_counts_times_cells():
    cells_um2 = 282 + 137 + 48 * 5.98
    assert mac_um2(PLAIN) == near(2.6 * cells_um2)
    sizes = {"buffers.input_bytes": 1000, "buffers.global_bytes": 500}
    machine = PLAIN.replace(**{"cores": 3, "array.vector_macs_per_cycle": 16, **sizes})
    area = area_mm2(machine)
    assert area["array"] == near(3 * 1024 * 2.6 * cells_um2 * 1e-6)
    assert area["vector"] == near(3 * 16 * 2.6 * cells_um2 * 1e-6)
    assert area["input_buffer"] == near(3 * 8000 * 0.346 / 0.355 * 1e-6)
    assert area["global_buffer"] == near(4000 * 0.346 / 0.355 * 1e-6)  # shared: once


# Chips that somebody built. The bounds say how far the model may be off, not how good it is.


def gemmini() -> Hardware:
    return PLAIN.replace(**{"array.rows": 16, "array.cols": 16, "energy.technology_nm": 22})


def test_gemminis_layout_is_met():
    """Genc et al., DAC 2021, 22 nm: 16x16 array 116k um2, 256 KiB scratchpad 544k um2, 64 KiB accumulator 146k um2."""
    assert 256 * mac_um2(gemmini()) == near(116e3, rel=0.02)  # sets LAYOUT_FACTOR
    assert 1e6 * sram_mm2(2**18, 22) == near(544e3, rel=0.02)  # sets SRAM_EFFICIENCY
    assert 1e6 * sram_mm2(2**16, 22) == near(146e3, rel=0.10)  # a prediction; the accumulator has adders too


def test_tpu_v1_is_met_within_a_factor_of_two():
    """Jouppi et al., ISCA 2017, table 2, figure 2: 28 nm, <= 331 mm2, matrix unit 24 %, 24 MiB buffer 29 %, 40 W."""
    array = {"array.rows": 256, "array.cols": 256, "array.dataflow": "weight_stationary"}
    tpu = PLAIN.replace(**{**array, "energy.technology_nm": 28})
    assert 0.5 < 256 * 256 * mac_um2(tpu) * 1e-6 / (0.24 * 331) < 1
    assert 0.5 < sram_mm2(24 * 2**20, 28) / (0.29 * 331) < 1
    assert 10 < 256 * 256 * 0.7e9 * mac_pj(tpu) * 1e-12 < 40  # W at full rate: a good part of the chip's, but not all


def test_teslas_accelerator_is_met_within_a_factor_of_two():
    """WikiChip Fuse, Inside Tesla's Neural Processor, 2019: 14 nm, 96x96 MACs, 384 SRAM bytes a cycle, 2 GHz, 7.5 W."""
    tesla = PLAIN.replace(**{"clock_hz": 2 * 10**9, "array.rows": 96, "array.cols": 96, "energy.technology_nm": 14})
    array_w = 96 * 96 * 2e9 * mac_pj(tesla) * 1e-12
    assert 0.5 * 7.5 < array_w < 7.5
    assert array_w + 384 * 2e9 * sram_pj_per_byte(2**20, 14) * 1e-12 < 2 * 7.5  # banks of 1 MiB
