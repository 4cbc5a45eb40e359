"""Does a banked memory cost what its data sheet says, and do both engines agree about it?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipsim.hwmodels.dram import PARTS, Dram
from skipsim.simulator.banked import fresh_state, serve, system
from skipsim.simulator.reference_banked import BankedMemory
from skipsim.simulator.window import fresh_window, serve_ready_first

Moves = NDArray[np.int64]
EVERY_PART = pytest.mark.parametrize("part", PARTS.values(), ids=lambda part: part.name)


class Memory:
    """One channel (or more) in the part's own clock, so that cycles are clocks."""

    def __init__(self, part: Dram, channels: int = 1) -> None:
        self.system = system(part, channels, part.clock_hz)
        self.state = fresh_state(self.system)
        self.free = 0

    def read(self, moves: Moves, request: int, write: bool = False) -> tuple[int, int]:
        """Return (free, arrival) of a request granted as soon as it can be."""
        grant = max(request, self.free)
        self.free, arrival = serve(self.state, moves, 0, len(moves), write, request, grant)
        return self.free, arrival

    @property
    def tally(self) -> list[int]:
        """Hits, misses, conflicts, refreshes."""
        return self.state.tally


def bursts(addresses: list[int] | Moves, part: Dram) -> Moves:
    return np.array([[address, part.burst_bytes, 1, 0, 1, 0] for address in addresses], np.int64)


@EVERY_PART
def test_latency_of_a_miss_a_hit_and_a_conflict(part: Dram) -> None:
    memory, far = Memory(part), part.row_bytes * part.banks  # the same bank, the next row
    for request, address, clocks in (
        (0, 0, part.row_miss_clocks),
        (1000, 0, part.row_hit_clocks),
        (2000, far, part.row_conflict_clocks),
    ):
        assert memory.read(bursts([address], part), request)[1] - request == clocks
    assert memory.tally == [1, 1, 1, 0]


@EVERY_PART
def test_streaming_reaches_the_bus_but_for_refreshes(part: Dram) -> None:
    """The closed form counts tRFC per tREFI; closing the rows before and opening them after costs up to 1.5 % more."""
    size = 4_000_000
    free, _ = Memory(part).read(np.array([[0, size, 1, 0, 1, 0]], np.int64), 0)
    share = size / (free / part.clock_hz) / part.stream_bytes_per_second
    assert 0.985 < share <= 1.0


@EVERY_PART
def test_row_hits_of_a_stream(part: Dram) -> None:
    """A walk through n rows of every bank group misses once a row and group, and after a refresh once a group."""
    memory, rows = Memory(part), 8
    memory.read(np.array([[0, rows * part.row_bytes * part.bank_groups, 1, 0, 1, 0]], np.int64), 0)
    hits, misses, conflicts, refreshes = memory.tally
    assert hits + misses + conflicts == rows * part.bank_groups * part.row_bytes // part.burst_bytes
    opened = rows * part.bank_groups
    assert opened <= misses + conflicts <= opened + refreshes * part.bank_groups


@EVERY_PART
def test_random_bursts_over_all_banks_reach_the_activate_limit(part: Dram) -> None:
    """Every burst in another row, banks in turn: bound by tRRD, tFAW and tRC, within 2 % for the refreshes' rims."""
    count, groups, banks = 20_000, part.bank_groups, part.banks_per_group
    number = np.arange(count)
    row = number // (groups * banks) * banks + number // groups % banks
    addresses = (row * (part.row_bytes // part.burst_bytes) * groups + number % groups) * part.burst_bytes
    free, _ = Memory(part).read(bursts(addresses, part), 0)
    share = count * part.burst_bytes / (free / part.clock_hz) / part.random_bytes_per_second
    assert 0.98 < share <= 1.001


@EVERY_PART
def test_turnaround_between_reads_and_writes(part: Dram) -> None:
    memory = Memory(part)
    memory.read(bursts([0], part), 0)
    opened = part.rcd_clocks
    free, _ = memory.read(bursts([0], part), 1, write=True)
    written = max(opened + part.rtw_clocks, opened + part.burst_clocks)
    assert free == written + part.burst_clocks
    free, _ = memory.read(bursts([0], part), 2)
    again = written + part.cwl_clocks + part.burst_clocks + part.wtr_l_clocks
    assert free == max(again, written + part.burst_clocks) + part.burst_clocks


@EVERY_PART
def test_four_activates_fill_the_window(part: Dram) -> None:
    """The fifth row opens tFAW after the first, if that is later than tRRD allows."""
    memory = Memory(part)
    stride = part.row_bytes * part.bank_groups  # the next bank of the same group
    banks = min(part.banks_per_group, 4)
    addresses = [bank * stride for bank in range(banks)]
    addresses += [(bank * stride) + part.burst_bytes for bank in range(5 - banks)] if banks < 5 else []
    groups = [address // part.burst_bytes % part.bank_groups for address in addresses]
    activates: list[int] = []
    for number, group in enumerate(groups):
        at = 0
        if number:
            at = activates[-1] + (part.rrd_l_clocks if group == groups[number - 1] else part.rrd_s_clocks)
        if number >= 4:
            at = max(at, activates[number - 4] + part.faw_clocks)
        activates.append(at)
    if part.bank_groups == 1:
        activates, addresses = activates[:4], addresses[:4]
    free, _ = memory.read(bursts(addresses, part), 0)
    columns: list[int] = []
    for number, (activate, group) in enumerate(zip(activates, groups, strict=False)):
        at = activate + part.rcd_clocks
        if number:
            gap = part.ccd_l_clocks if group == groups[number - 1] else part.ccd_s_clocks
            at = max(at, columns[-1] + max(gap, part.burst_clocks))
        columns.append(at)
    assert free == columns[-1] + part.burst_clocks


@EVERY_PART
def test_a_refresh_closes_all_rows_for_trfc(part: Dram) -> None:
    memory = Memory(part)
    memory.read(bursts([0], part), 0)
    request = part.refi_clocks
    _, arrival = memory.read(bursts([0], part), request)
    # tREFI is long past the first access: the row is precharged, then the refresh takes tRFC.
    assert arrival - request >= part.rfc_clocks + part.row_miss_clocks
    assert arrival - request <= part.rp_clocks + part.rfc_clocks + part.row_miss_clocks + part.ras_clocks
    assert memory.tally == [0, 2, 0, 1]


def test_channels_share_the_work() -> None:
    part = PARTS["DDR4-3200"]
    moves = np.array([[0, 2_000_000, 1, 0, 1, 0]], np.int64)
    one, four = (Memory(part, channels).read(moves, 0)[0] for channels in (1, 4))
    assert 3.9 < one / four < 4.1  # a quarter of the time also means fewer refreshes


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=20), pause=st.integers(0, 300))
def test_without_rows_and_timings_it_is_the_stream_model(sizes: list[int], pause: int) -> None:
    """Endless rows, no timing but the burst itself: a request holds the port for its bursts, as `stream` says."""
    part = PARTS["DDR4-3200"]
    clocks = {name: 0 for name in vars(part) if name.endswith("_clocks")} | {"refi_clocks": 2**40}
    memory = Memory(replace(part, **clocks, row_bytes=2**30))
    asked = free = 0
    for size in sizes:
        asked += pause
        moves = np.array([[0, size, 1, 0, 1, 0]], np.int64)
        expected = max(asked, free) + -(-size // part.burst_bytes) * part.burst_bytes // part.bytes_per_clock
        free, arrival = memory.read(moves, asked)
        assert free == arrival == expected


def test_short_segments_pay_for_whole_bursts() -> None:
    """64 segments of 8 bytes, one per kibibyte: a burst each; the same 512 bytes in one piece: 8 bursts."""
    part = PARTS["DDR4-3200"]
    scattered, whole = Memory(part), Memory(part)
    scattered.read(np.array([[0, 8, 64, 1024, 1, 0]], np.int64), 0)
    whole.read(np.array([[0, 512, 1, 0, 1, 0]], np.int64), 0)
    assert sum(scattered.tally[:3]) == 64
    assert sum(whole.tally[:3]) == 8


# Strides of whole rounds over the channels, and of whole rows, are what maps have: compiled code serves them together.
STRIDE = st.one_of(st.integers(0, 5000), st.integers(0, 40).map(lambda n: n * 256), st.sampled_from([2**15, 2**18]))
MOVE = st.tuples(
    st.one_of(st.integers(0, 10**8), st.integers(0, 4000).map(lambda n: n * 256)),
    st.one_of(st.integers(1, 600), st.sampled_from([32, 256, 512, 4096])), st.integers(1, 12), STRIDE,
    st.integers(1, 3), st.one_of(STRIDE, st.integers(0, 50_000)),
)  # fmt: skip
REQUEST = st.tuples(st.lists(MOVE, min_size=1, max_size=3), st.booleans(), st.sampled_from([0, 1, 50, 1000, 20_000]))


def assert_served_alike(
    memory: Any, serve_compiled: Any, state: Any, requests: list[tuple[list[Moves], bool, int]]
) -> None:
    """Serve the same requests by a compiled rule and by the plain one, and compare their times and counts."""
    plain = BankedMemory(memory)
    asked = free = 0
    for moves, write, pause in requests:
        asked += pause
        grant = max(asked, free)
        table = np.array(moves, np.int64)
        fast = serve_compiled(state, table, 0, len(table), write, asked, grant)
        assert tuple(fast) == plain.serve(table.tolist(), write, asked, grant)
        free = fast[0]
        assert free > grant


@settings(max_examples=150, deadline=None)
@given(
    part=st.sampled_from(sorted(PARTS)),
    channels=st.integers(1, 8),
    clock_hz=st.sampled_from([10**9, 2 * 10**8, 1_333_333_333, 2 * 10**9]),
    requests=st.lists(REQUEST, min_size=1, max_size=12),
)
def test_compiled_equals_plain(
    part: str, channels: int, clock_hz: int, requests: list[tuple[list[Moves], bool, int]]
) -> None:
    memory = system(PARTS[part], channels, clock_hz)
    assert_served_alike(memory, serve, fresh_state(memory), requests)


@settings(max_examples=150, deadline=None)
@given(
    part=st.sampled_from(sorted(PARTS)),
    channels=st.integers(1, 8),
    clock_hz=st.sampled_from([10**9, 2 * 10**8, 1_333_333_333, 2 * 10**9]),
    window=st.sampled_from([1, 2, 3, 8, 64]),
    requests=st.lists(REQUEST, min_size=1, max_size=8),
)
def test_out_of_a_window_compiled_equals_plain(
    part: str, channels: int, clock_hz: int, window: int, requests: list[tuple[list[Moves], bool, int]]
) -> None:
    memory = replace(system(PARTS[part], channels, clock_hz), window=window)
    assert_served_alike(memory, serve_ready_first, fresh_window(memory), requests)


def test_a_window_serves_first_what_another_bank_has_ready() -> None:
    """Rows A and B of one bank, C of another: out of two or more, C comes while B waits for its bank."""
    part = replace(PARTS["LPDDR4X-4266"], refi_clocks=2**40)
    row, burst = part.row_bytes, part.burst_bytes
    moves = np.array([[place, burst, 1, 0, 1, 0] for place in (0, row * part.banks, row)], np.int64)
    ends = {}
    for window in (1, 2, 3):
        state = fresh_window(replace(system(part, 1, part.clock_hz), window=window))
        ends[window] = serve_ready_first(state, moves, 0, 3, False, 0, 0)[1]
    reopened = part.read_cycle_clocks + part.row_miss_clocks  # B is activated tRC after A
    assert ends[1] == reopened + part.rrd_s_clocks  # C is activated tRRD after B
    assert ends[2] == ends[3] == reopened
