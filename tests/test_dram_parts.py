"""Do the memory parts' tables agree with themselves, with JEDEC's nanoseconds, and with the bandwidths people know?"""

import dataclasses
import math

import pytest

from skipsim.errors import InputError
from skipsim.hwmodels.dram import PARTS, Dram, dram_part

ALL = [pytest.param(part, id=name) for name, part in PARTS.items()]

# Minimum times in nanoseconds, from the standards and not from our table.
TIMES = ("rcd", "rp", "ras", "rtp", "wr", "wtr_s", "wtr_l", "rrd_s", "rrd_l", "faw", "rfc")
JEDEC_NS = {
    "LPDDR4X-4266": (18, 18, 42, 7.5, 18, 10, 10, 10, 10, 40, 280),  # JESD209-4; 8 Gb per channel
    "LPDDR5-6400": (18, 18, 42, 7.5, 34, 6.25, 12, 5, 5, 20, 210),  # JESD209-5; bank group mode, 8 Gb
    "DDR4-3200": (13.75, 13.75, 32, 7.5, 15, 2.5, 7.5, 2.5, 4.9, 21, 350),  # JESD79-4; bin AA, 1 KiB page, 8 Gb
    "HBM2E-3200": (14, 14, 34, 5, 16, 6, 8, 4, 4, 15, 350),  # Ramulator 2, HBM2_2000Mbps, whose clock is 1 ns; JESD235D
}
REFRESH_NS = {"LPDDR4X-4266": 3904, "LPDDR5-6400": 3906, "DDR4-3200": 7800, "HBM2E-3200": 3900}
CLOCK_HZ = {"LPDDR4X-4266": 2133e6, "LPDDR5-6400": 800e6, "DDR4-3200": 1600e6, "HBM2E-3200": 1600e6}


def test_the_four_families_are_there():
    assert set(PARTS) == set(JEDEC_NS) == set(REFRESH_NS) == set(CLOCK_HZ)
    assert all(part.name == name for name, part in PARTS.items())


@pytest.mark.parametrize("part", ALL)
def test_times_are_the_standards_nanoseconds_rounded_up(part: Dram):
    hertz = CLOCK_HZ[part.name]
    assert part.clock_hz == hertz
    for name, nanoseconds in zip(TIMES, JEDEC_NS[part.name], strict=True):
        clocks = getattr(part, f"{name}_clocks")
        assert clocks == max(math.ceil(nanoseconds * hertz / 1e9 - 1e-6), 4), (
            name
        )  # every one of them is also at least 4 clocks
    assert part.refi_clocks == math.floor(REFRESH_NS[part.name] * hertz / 1e9)  # a maximum: rounded down


@pytest.mark.parametrize("part", ALL)
def test_every_number_is_a_positive_integer_and_every_part_has_sources(part: Dram):
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name in ("name", "source", "energy_source"):
            assert len(value) > 8, field.name
        elif field.name == "energy_pj_per_bit":
            assert 1 < value < 50
        else:
            assert isinstance(value, int), field.name
            assert value > 0 or field.name == "output_delay_clocks", field.name
    assert "JEDEC JESD" in part.source


@pytest.mark.parametrize("part", ALL)
def test_the_table_is_consistent_with_itself(part: Dram):
    assert part.rc_clocks == part.ras_clocks + part.rp_clocks
    assert part.ras_clocks >= part.rcd_clocks + part.ccd_s_clocks
    assert part.burst_length % part.beats_per_clock == 0
    assert part.burst_clocks * part.bytes_per_clock == part.burst_bytes
    assert part.row_bytes % part.burst_bytes == 0
    assert part.ccd_s_clocks == part.burst_clocks  # bank groups in turn fill the data bus
    assert part.ccd_s_clocks <= part.ccd_l_clocks
    assert part.rrd_s_clocks <= part.rrd_l_clocks
    assert part.wtr_s_clocks <= part.wtr_l_clocks
    assert part.faw_clocks >= 3 * part.rrd_s_clocks  # else it would never bind
    assert part.cwl_clocks < part.cl_clocks
    # a write burst behind a read burst finds the bus free, and not more than three bursts later
    gap = part.rtw_clocks + part.cwl_clocks - (part.row_hit_clocks)
    assert 0 <= gap <= 3 * part.burst_clocks
    assert 0.03 < part.refresh_share < 0.10


@pytest.mark.parametrize(
    ("name", "channels", "gigabytes_per_second"),
    [
        ("LPDDR4X-4266", 4, 34.1),  # SK hynix, 9 January 2017: 34.1 GB/s on 64 bits
        ("LPDDR5-6400", 16, 204.8),  # NVIDIA Jetson AGX Orin data sheet: 256 bits
        ("LPDDR5-6400", 1, 12.8),  # Micron MT62F data sheet: 12.8 GB/s maximum bandwidth per channel
        ("DDR4-3200", 1, 25.6),  # PC4-25600
        ("HBM2E-3200", 16, 409.6),  # 1024 bits of one stack
    ],
)
def test_peak_bandwidth_is_the_known_one(name, channels, gigabytes_per_second):
    assert channels * PARTS[name].peak_bytes_per_second / 1e9 == pytest.approx(gigabytes_per_second, abs=0.05)


@pytest.mark.parametrize(
    ("name", "gibibytes", "banks", "burst_bytes"),
    [("LPDDR4X-4266", 1, 8, 32), ("LPDDR5-6400", 1, 16, 32), ("DDR4-3200", 8, 16, 64), ("HBM2E-3200", 1, 16, 32)],
)
def test_organisation_is_the_known_one(name, gibibytes, banks, burst_bytes):
    part = PARTS[name]
    assert (part.capacity_bytes, part.banks, part.burst_bytes) == (gibibytes * 2**30, banks, burst_bytes)


@pytest.mark.parametrize("part", ALL)
def test_latencies_add_up(part: Dram):
    assert part.row_hit_clocks == part.cl_clocks + part.output_delay_clocks + part.burst_length // part.beats_per_clock
    assert part.row_miss_clocks - part.row_hit_clocks == part.rcd_clocks
    assert part.row_conflict_clocks - part.row_miss_clocks == part.rp_clocks
    assert part.nanoseconds(part.clock_hz) == 1e9
    assert 10 < part.nanoseconds(part.row_hit_clocks) < part.nanoseconds(part.row_conflict_clocks) < 100


def clocks_of_reads(part: Dram, banks: list[int]) -> int:
    """Return the clocks that single reads of new rows take, walked command by command and not solved."""
    activates: list[int] = []
    ready = [0] * part.banks
    bus = 0
    for number, bank in enumerate(banks):
        earliest = max(ready[bank], activates[-1] + part.rrd_s_clocks if activates else 0)
        if number >= 4:
            earliest = max(earliest, activates[-4] + part.faw_clocks)
        read = max(earliest + part.rcd_clocks, bus)
        bus = read + max(part.burst_clocks, part.ccd_s_clocks)
        activates.append(earliest)
        ready[bank] = max(earliest + part.ras_clocks, read + part.rtp_clocks) + part.rp_clocks
    return activates[-1] - activates[0]


@pytest.mark.parametrize("part", ALL)
def test_random_bandwidth_is_what_walking_the_commands_gives(part: Dram):
    reads = 4000
    clocks = clocks_of_reads(part, [number % part.banks for number in range(reads + 1)])
    walked = reads * part.burst_bytes * part.clock_hz / clocks * (1 - part.refresh_share)
    assert part.random_bytes_per_second == pytest.approx(walked, rel=0.01)


@pytest.mark.parametrize("part", ALL)
def test_streams_are_faster_than_random_reads_and_slower_than_the_peak(part: Dram):
    assert part.stream_bytes_per_second == pytest.approx(part.peak_bytes_per_second * (1 - part.refresh_share))
    assert 0.2 * part.peak_bytes_per_second < part.random_bytes_per_second < 0.6 * part.stream_bytes_per_second


def test_a_part_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PARTS["DDR4-3200"].cl_clocks = 1  # type: ignore[misc]


def test_parts_are_found_by_name():
    assert dram_part("HBM2E-3200") is PARTS["HBM2E-3200"]
    with pytest.raises(InputError) as caught:
        dram_part("HBM2E-3600")
    assert str(caught.value) == (
        "dram part 'HBM2E-3600' is unknown; did you mean 'HBM2E-3200'?"
        " choices: DDR4-3200, HBM2E-3200, LPDDR4X-4266, LPDDR5-6400"
    )
