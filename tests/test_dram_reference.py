"""Does the banked memory take the time that DRAMsim3 takes, part by part? Bounds as VALIDATION.md states them."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from skipsim.analysis.validation import dram_parts
from skipsim.analysis.validation.comparison import Comparison, Pair
from skipsim.analysis.validation.dram_parts import ACTIVATES, CLOCKS, LATENCY, READY_FIRST, ROW_HITS
from skipsim.analysis.validation.dram_patterns import PATTERNS, STRIDES, bursts, scattered
from skipsim.analysis.validation.oracles import rows
from skipsim.hwmodels.dram import PARTS, dram_part

ORACLES = Path(__file__).parent / "oracles"
EVERY_PART = pytest.mark.parametrize("part", PARTS)


@pytest.fixture(scope="module")
def compared() -> Comparison:
    return dram_parts.compare(ORACLES)


def pairs(compared: Comparison, part: str, group: str, quantity: str) -> list[Pair]:
    found = [
        pair
        for pair in compared.pairs
        if pair.name.startswith(part) and pair.group.startswith(group) and pair.quantity == quantity
    ]
    assert found
    return found


@EVERY_PART
def test_the_reference_has_every_part_and_pattern(part: str) -> None:
    held = [(row["pattern"], row["queue"]) for row in rows("dram/dramsim3_parts.csv", ORACLES) if row["part"] == part]
    queues = ("one queue", "queue per bank")
    assert sorted(held) == sorted([(case, queues[0]) for case in STRIDES] + [(p, q) for p in PATTERNS for q in queues])


@EVERY_PART
def test_an_idle_memory_answers_as_soon_but_for_the_clock_that_dramsim3_adds(compared: Comparison, part: str) -> None:
    for pair in pairs(compared, part, "", LATENCY):
        assert pair.predicted == pair.published - 1, pair.name


@EVERY_PART
def test_streams_take_as_long_and_hit_as_many_open_rows(compared: Comparison, part: str) -> None:
    assert max(abs(pair.error) for pair in pairs(compared, part, "streams, one queue", CLOCKS)) < 0.015
    assert max(abs(pair.error) for pair in pairs(compared, part, "streams, queue per bank", CLOCKS)) < 0.05
    for pair in pairs(compared, part, "streams", ROW_HITS):
        assert pair.predicted == pytest.approx(pair.published, abs=0.2), pair.name


@EVERY_PART
def test_tiles_activate_as_many_rows(compared: Comparison, part: str) -> None:
    found = pairs(compared, part, "tiles, one queue", ACTIVATES)
    assert median(abs(pair.error) for pair in found) < 0.02
    assert (
        max(abs(pair.error) for pair in found if (part, pair.name) != ("HBM2E-3200", f"{part}, 4x4 tiles, update"))
        < 0.03
    )


@pytest.mark.parametrize(
    ("part", "middle", "most"),
    [("LPDDR4X-4266", 0.02, 0.07), ("LPDDR5-6400", 0.02, 0.18), ("DDR4-3200", 0.02, 0.08), ("HBM2E-3200", 0.19, 0.33)],
)
def test_tiles_take_as_long_but_for_what_reordering_gains(
    compared: Comparison, part: str, middle: float, most: float
) -> None:
    errors = [pair.error for pair in pairs(compared, part, "tiles, one queue", CLOCKS)]
    assert median(map(abs, errors)) < middle
    assert max(errors) < most
    assert min(errors) > -0.05, "serving in order is never much faster than serving what is ready"


@pytest.mark.parametrize(
    ("part", "middle", "most"),
    [("LPDDR4X-4266", 0.02, 0.07), ("LPDDR5-6400", 0.02, 0.03), ("DDR4-3200", 0.02, 0.04), ("HBM2E-3200", 0.12, 0.31)],
)
def test_a_window_gains_on_tiles_what_reordering_gains(
    compared: Comparison, part: str, middle: float, most: float
) -> None:
    errors = [pair.error for pair in pairs(compared, part, "tiles, one queue", READY_FIRST)]
    assert median(map(abs, errors)) < middle
    assert max(errors) < most
    assert min(errors) > -0.05


@EVERY_PART
def test_a_window_serves_scattered_bursts_as_fast_and_streams_as_before(compared: Comparison, part: str) -> None:
    assert max(abs(pair.error) for pair in pairs(compared, part, "random bursts, one queue", READY_FIRST)) < 0.06
    assert max(abs(pair.error) for pair in pairs(compared, part, "streams, one queue", READY_FIRST)) < 0.015


@EVERY_PART
def test_scattered_bursts_are_where_reordering_pays(compared: Comparison, part: str) -> None:
    for pair in pairs(compared, part, "random bursts", CLOCKS):
        assert 0.5 < pair.error < 1.35, pair.name  # deviation D2


def test_scattered_places_are_those_of_the_formula() -> None:
    assert [scattered(number, 2**10) for number in range(4)] == [0, 632, 241, 874]


def test_a_pattern_is_the_bursts_of_its_segments() -> None:
    part = dram_part("DDR4-3200")
    assert list(bursts(part, iter([(True, [(60, 8, 2, 1000, 1, 0)])]))) == [(0, True), (64, True), (1024, True)]
