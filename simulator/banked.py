"""Banked memory, compiled: what a request of segments costs a part with channels, bank groups, banks and rows.

The same rules as `reference_banked.py`, which states them in plain Python; nothing is shared but the data types.
Time is in ticks of the part's command clock; MODEL.md, "Banked memory", explains every rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from skipsim.compiled import compiled, inlined
from skipsim.hwmodels.dram import Dram, dram_part
from skipsim.hwmodels.hardware import Hardware

INTERLEAVE_BYTES = (
    256  # assumed: neighbouring channels serve neighbouring 256 bytes, as address maps of mobile chips do
)

# One move: `outer` x `inner` contiguous segments of `bytes` each.
MOVE_COLUMNS = ("address", "bytes", "inner", "inner_stride", "outer", "outer_stride")
ADDRESS, SEGMENT, INNER, INNER_STRIDE, OUTER, OUTER_STRIDE = range(6)

TIMING = (
    "channels", "interleave", "burst_bytes", "groups", "banks", "row_bursts", "burst", "cl", "cwl", "rcd",
    "rp", "ras", "rc", "rtp", "wr", "wtr_s", "wtr_l", "rtw", "ccd_s", "ccd_l", "rrd_s", "rrd_l", "faw", "rfc",
    "refi", "ticks", "cycles", "burst_shift", "chunk_shift", "row_shift", "bank_shift",
)  # fmt: skip
(
    CHANNELS, INTERLEAVE, BURST_BYTES, GROUPS, BANKS, ROW_BURSTS, BURST, CL, CWL, RCD, RP, RAS, RC, RTP, WR,
    WTR_S, WTR_L, RTW, CCD_S, CCD_L, RRD_S, RRD_L, FAW, RFC, REFI, TICKS, CYCLES, BURST_SHIFT, CHUNK_SHIFT,
    ROW_SHIFT, BANK_SHIFT,
) = range(len(TIMING))  # fmt: skip

# State of one channel, then of its banks.
LAST_COLUMN, LAST_GROUP, LAST_WRITE, REFRESH_DUE, LAST_ACTIVATE, LAST_ACTIVATE_GROUP, OLDEST, FOUR = range(8)
CHANNEL_STATE = FOUR + 4
OPEN_ROW, ACTIVATE_READY, PRECHARGE_READY, COLUMN_READY, BANK_STATE = range(5)
CLOSED = -1
LONG_AGO = -(2**40)

HITS, MISSES, CONFLICTS, REFRESHES = range(4)


@dataclass(frozen=True)
class Banked:
    """A memory system as the engines need it: `timing` follows TIMING; ticks / cycles: its clock / the machine's."""

    timing: NDArray[np.int64]

    @property
    def channels(self) -> int:
        """Channels that serve in parallel."""
        return int(self.timing[CHANNELS])


def banked(hardware: Hardware) -> Banked | None:
    """Resolve the memory of a machine; None if its rule is not "banked"."""
    memory = hardware.dram
    if memory.rule != "banked":
        return None
    assert memory.part is not None, "checked by Hardware"
    assert memory.channels is not None, "checked by Hardware"
    return system(dram_part(memory.part), memory.channels, hardware.clock_hz)


def system(part: Dram, channels: int, clock_hz: int) -> Banked:
    """Put `channels` of a part beside a machine of that clock."""
    ratio = Fraction(part.clock_hz, clock_hz)
    interleave, row_bursts = max(INTERLEAVE_BYTES, part.burst_bytes), part.row_bytes // part.burst_bytes
    chunk_bursts = interleave // part.burst_bytes
    assert chunk_bursts % part.bank_groups == 0, "a chunk has as many bursts in every group"
    assert chunk_bursts <= row_bursts * part.bank_groups, "a chunk lies in one row"
    values = {
        "channels": channels,
        "interleave": interleave,
        "burst_bytes": part.burst_bytes,
        "groups": part.bank_groups,
        "banks": part.banks_per_group,
        "row_bursts": row_bursts,
        "burst": part.burst_clocks,
        "cl": part.cl_clocks + part.output_delay_clocks,
        "rc": part.rc_clocks,
        "ticks": ratio.numerator,
        "cycles": ratio.denominator,
        "burst_shift": _shift(part.burst_bytes),
        "chunk_shift": _shift(chunk_bursts),
        "row_shift": _shift(row_bursts),
        "bank_shift": _shift(part.banks_per_group),
    }
    same = {name: getattr(part, f"{name}_clocks") for name in TIMING if name not in values}
    return Banked(np.array([(values | same)[name] for name in TIMING], np.int64))


def _shift(count: int) -> int:
    assert count & (count - 1) == 0, "standards count bytes, rows and banks in powers of two"
    return count.bit_length() - 1


def fresh_state(memory: Banked) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return channel state, bank state and tallies (hits, misses, conflicts, refreshes) of a memory at cycle 0."""
    timing = memory.timing
    channel = np.full((memory.channels, CHANNEL_STATE), LONG_AGO, np.int64)
    channel[:, LAST_WRITE] = channel[:, OLDEST] = 0
    channel[:, LAST_GROUP] = channel[:, LAST_ACTIVATE_GROUP] = -1
    channel[:, REFRESH_DUE] = timing[REFI]
    bank = np.zeros((memory.channels, timing[GROUPS] * timing[BANKS], BANK_STATE), np.int64)
    bank[:, :, OPEN_ROW] = CLOSED
    return channel, bank, np.zeros(4, np.int64)


@compiled
def _refresh(t, channel, banks, now, tally):
    """Refresh all banks of a channel if it is due at `now`; refreshes that were due in idle time are past."""
    behind = (now - channel[REFRESH_DUE]) // t[REFI]
    if behind > 0:
        channel[REFRESH_DUE] += behind * t[REFI]
        tally[REFRESHES] += behind
    start = channel[REFRESH_DUE]
    for b in range(len(banks)):
        if banks[b, OPEN_ROW] != CLOSED:
            start = max(start, banks[b, PRECHARGE_READY] + t[RP])
        start = max(start, banks[b, ACTIVATE_READY])
    for b in range(len(banks)):
        banks[b, OPEN_ROW] = CLOSED
        banks[b, ACTIVATE_READY] = start + t[RFC]
    channel[REFRESH_DUE] += t[REFI]
    tally[REFRESHES] += 1


@inlined
def _burst(t, channel, banks, group, bank, row, write, asked, tally):
    """Serve one burst; return the tick of its column command."""
    now = max(asked, channel[LAST_COLUMN])
    if now >= channel[REFRESH_DUE]:
        _refresh(t, channel, banks, now, tally)
    b = banks[group * t[BANKS] + bank]
    if b[OPEN_ROW] == row:
        tally[HITS] += 1
    else:
        ready = max(asked, b[ACTIVATE_READY])
        if b[OPEN_ROW] == CLOSED:
            tally[MISSES] += 1
        else:
            tally[CONFLICTS] += 1
            ready = max(ready, max(asked, b[PRECHARGE_READY]) + t[RP])
        gap = t[RRD_L] if group == channel[LAST_ACTIVATE_GROUP] else t[RRD_S]
        ready = max(ready, channel[LAST_ACTIVATE] + gap, channel[FOUR + channel[OLDEST]] + t[FAW])
        channel[FOUR + channel[OLDEST]] = channel[LAST_ACTIVATE] = ready
        channel[OLDEST] = (channel[OLDEST] + 1) % 4
        channel[LAST_ACTIVATE_GROUP] = group
        b[OPEN_ROW] = row
        b[ACTIVATE_READY], b[COLUMN_READY], b[PRECHARGE_READY] = ready + t[RC], ready + t[RCD], ready + t[RAS]
    same_group = group == channel[LAST_GROUP]
    gap = t[CCD_L] if same_group else t[CCD_S]
    if write and not channel[LAST_WRITE]:
        gap = t[RTW]
    elif channel[LAST_WRITE] and not write:
        gap = t[CWL] + t[BURST] + (t[WTR_L] if same_group else t[WTR_S])
    column = max(asked, b[COLUMN_READY], channel[LAST_COLUMN] + max(gap, t[BURST]))
    channel[LAST_COLUMN], channel[LAST_GROUP], channel[LAST_WRITE] = column, group, write
    busy_until = column + (t[CWL] + t[BURST] + t[WR] if write else t[RTP])
    b[PRECHARGE_READY] = max(b[PRECHARGE_READY], busy_until)
    return column


@inlined
def _hits(t, channel, banks, group, bank, row, count, write, tally):
    """Serve `count` bursts at once, after one of the same request in every group: column commands at an even pace.

    Return the tick of the last column command; -1, with nothing served, if a row is closed or a refresh comes between.
    """
    gap = max(t[CCD_L] if t[GROUPS] == 1 else t[CCD_S], t[BURST])
    column = channel[LAST_COLUMN] + count * gap
    if column - gap >= channel[REFRESH_DUE]:
        return -1
    for other in range(t[GROUPS]):
        if banks[other * t[BANKS] + bank, OPEN_ROW] != row:
            return -1
    recovery = t[CWL] + t[BURST] + t[WR] if write else t[RTP]
    for back in range(min(count, t[GROUPS])):
        b = banks[(group + count - 1 - back) % t[GROUPS] * t[BANKS] + bank]
        b[PRECHARGE_READY] = max(b[PRECHARGE_READY], column - back * gap + recovery)
    channel[LAST_COLUMN], channel[LAST_GROUP] = column, (group + count - 1) % t[GROUPS]
    tally[HITS] += count
    return column


@inlined
def _chunk(t, channel, banks, group, bank, row, count, write, asked, tally):
    """Serve the bursts of one chunk, all of one row in every group; return the tick of the last column command."""
    column, left = 0, count
    while left:
        if count - left == t[GROUPS]:
            column = _hits(t, channel, banks, group, bank, row, left, write, tally)
            if column >= 0:
                return column
        column = _burst(t, channel, banks, group, bank, row, write, asked, tally)
        left -= 1
        group += 1
        if group == t[GROUPS]:
            group = 0
    return column


@compiled
def serve(t, channel, bank, tally, moves, first, count, write, request, grant):
    """Serve a request asked for at cycle `request` and granted at `grant`.

    Returns (cycle at which the next request may be granted, cycle at which the last byte has left the part).
    """
    asked = -(-request * t[TICKS] // t[CYCLES])
    last = -(-grant * t[TICKS] // t[CYCLES])
    delay = t[CWL] if write else t[CL]
    data = last
    chunk_bursts = t[INTERLEAVE] // t[BURST_BYTES]
    places = chunk_bursts // t[GROUPS]  # columns that a chunk takes in every group
    for m in range(first, first + count):
        move = moves[m]
        for outer in range(move[OUTER]):
            for inner in range(move[INNER]):
                begin = move[ADDRESS] + outer * move[OUTER_STRIDE] + inner * move[INNER_STRIDE]
                burst = begin >> t[BURST_SHIFT]
                end = ((begin + move[SEGMENT] - 1) >> t[BURST_SHIFT]) + 1
                chunk, skipped = burst >> t[CHUNK_SHIFT], burst & (chunk_bursts - 1)
                slot = chunk // t[CHANNELS]
                c, place = chunk - slot * t[CHANNELS], slot * places
                line, place = place >> t[ROW_SHIFT], place & (t[ROW_BURSTS] - 1)
                row, b, group = line >> t[BANK_SHIFT], line & (t[BANKS] - 1), skipped & (t[GROUPS] - 1)
                while burst < end:  # the bursts of one chunk lie in one channel, one after the other
                    served = min(end - burst, chunk_bursts - skipped)
                    column = _chunk(t, channel[c], bank[c], group, b, row, served, write, asked, tally)
                    last = max(last, column + t[BURST])
                    data = max(data, column + t[BURST] + delay)
                    burst += served
                    group = skipped = 0
                    c += 1
                    if c == t[CHANNELS]:
                        c = 0
                        place += places
                        if place == t[ROW_BURSTS]:
                            place, b = 0, b + 1
                            if b == t[BANKS]:
                                b, row = 0, row + 1
    free = max(grant + 1, -(-last * t[CYCLES] // t[TICKS]))
    return free, max(free, -(-data * t[CYCLES] // t[TICKS]))
