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
    "refi", "ticks", "cycles", "burst_shift", "chunk_shift", "line_shift", "bank_shift", "channel_shift", "round",
    "pace", "same_group", "other_group", "read_to_write", "write_to_same", "write_to_other", "write_recovery",
)  # fmt: skip
(
    CHANNELS, INTERLEAVE, BURST_BYTES, GROUPS, BANKS, ROW_BURSTS, BURST, CL, CWL, RCD, RP, RAS, RC, RTP, WR,
    WTR_S, WTR_L, RTW, CCD_S, CCD_L, RRD_S, RRD_L, FAW, RFC, REFI, TICKS, CYCLES, BURST_SHIFT, CHUNK_SHIFT,
    LINE_SHIFT, BANK_SHIFT, CHANNEL_SHIFT, ROUND, PACE, SAME_GROUP, OTHER_GROUP, READ_TO_WRITE, WRITE_TO_SAME,
    WRITE_TO_OTHER, WRITE_RECOVERY,
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
        "line_shift": _shift(row_bursts * part.bank_groups),  # a row in every group
        "bank_shift": _shift(part.banks_per_group),
        "channel_shift": _shift(channels) if channels & (channels - 1) == 0 else -1,
        "round": interleave * channels,
        "pace": max(part.burst_clocks, part.ccd_l_clocks if part.bank_groups == 1 else part.ccd_s_clocks),
        "same_group": max(part.burst_clocks, part.ccd_l_clocks),
        "other_group": max(part.burst_clocks, part.ccd_s_clocks),
        "read_to_write": max(part.burst_clocks, part.rtw_clocks),
        "write_to_same": max(part.burst_clocks, part.cwl_clocks + part.burst_clocks + part.wtr_l_clocks),
        "write_to_other": max(part.burst_clocks, part.cwl_clocks + part.burst_clocks + part.wtr_s_clocks),
        "write_recovery": part.cwl_clocks + part.burst_clocks + part.wr_clocks,
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
def _activate(t, channel, b, group, row, asked, tally):
    """Open a row of bank `b`, once the row before is precharged and the channel may activate another."""
    ready = max(asked, b[ACTIVATE_READY])
    if b[OPEN_ROW] == CLOSED:
        tally[MISSES] += 1
    else:
        tally[CONFLICTS] += 1
        ready = max(ready, max(asked, b[PRECHARGE_READY]) + t[RP])
    gap = t[RRD_L] if group == channel[LAST_ACTIVATE_GROUP] else t[RRD_S]
    oldest = channel[OLDEST]
    ready = max(ready, channel[LAST_ACTIVATE] + gap, channel[FOUR + oldest] + t[FAW])
    channel[FOUR + oldest] = channel[LAST_ACTIVATE] = ready
    channel[OLDEST] = (oldest + 1) & 3
    channel[LAST_ACTIVATE_GROUP] = group
    b[OPEN_ROW] = row
    b[ACTIVATE_READY], b[COLUMN_READY], b[PRECHARGE_READY] = ready + t[RC], ready + t[RCD], ready + t[RAS]


@inlined
def _steady(t, banks, group, bank, row, column):
    """Whether the bursts after one of `group` wait for the bus only: other groups' rows are open and ready."""
    for other in range(t[GROUPS]):
        b = banks[other * t[BANKS] + bank]
        if other != group and (b[OPEN_ROW] != row or b[COLUMN_READY] > column):
            return False
    return True


@inlined
def _pieces(t, channel, banks, begin, end, pieces, apart, write, asked, tally):
    """Serve a channel's bursts `begin` to `end` - 1, and again `apart` bursts on, `pieces` times.

    Bursts go to the bank groups in turn. As soon as those left of a row wait for the bus only, they follow at an even
    pace: in closed form. Returns the tick of the last column command.
    """
    groups, pace, shift = t[GROUPS], t[PACE], t[LINE_SHIFT]
    last, due, last_group = channel[LAST_COLUMN], channel[REFRESH_DUE], channel[LAST_GROUP]
    recovery = t[WRITE_RECOVERY] if write else t[RTP]
    turns, opened = write != channel[LAST_WRITE], 0
    length = end - begin
    in_turn = (apart - length) & (groups - 1) == 0  # the next piece begins with the group after this one's last
    while pieces:
        burst = begin
        while burst < end:
            line, group = burst >> shift, burst & (groups - 1)
            row, bank, row_end = line >> t[BANK_SHIFT], line & (t[BANKS] - 1), (line + 1) << shift
            now = max(asked, last)
            if now >= due:
                _refresh(t, channel, banks, now, tally)
                due = channel[REFRESH_DUE]
            b = banks[group * t[BANKS] + bank]
            if b[OPEN_ROW] != row:
                _activate(t, channel, b, group, row, asked, tally)
                opened += 1
            gap = t[SAME_GROUP] if group == last_group else t[OTHER_GROUP]
            if turns:
                gap = t[READ_TO_WRITE] if write else t[WRITE_TO_SAME] if group == last_group else t[WRITE_TO_OTHER]
                turns = False
            last, run, left = max(asked, b[COLUMN_READY], last + gap), 1, min(end, row_end) - burst
            if left + pieces > 2 and (groups == 1 or _steady(t, banks, group, bank, row, last)):
                run = left
                if last + (left - 2) * pace >= due:  # no further than the burst that the refresh comes before
                    run = max(1, min(left, 1 - (last - due) // pace))
                last += (run - 1) * pace
                while burst + run == end and pieces > 1 and in_turn:  # pieces to come in the same row, likewise
                    if (end + apart - length) >> shift != line or end + apart > row_end:
                        break
                    if last + (length - 1) * pace >= due:
                        break
                    last += length * pace
                    run += length
                    burst, end, pieces = burst + apart - length, end + apart, pieces - 1
            burst += run
            last_group = (burst - 1) & (groups - 1)
            for back in range(min(run, groups)):
                b = banks[((last_group - back) & (groups - 1)) * t[BANKS] + bank]
                b[PRECHARGE_READY] = max(b[PRECHARGE_READY], last - back * pace + recovery)
        pieces -= 1
        end += apart
        begin = end - length
    tally[HITS] -= opened
    channel[LAST_COLUMN], channel[LAST_GROUP], channel[LAST_WRITE] = last, last_group, write
    return last


@inlined
def _segments(t, channel, bank, burst, end, segments, apart, write, asked, tally):
    """Serve bursts `burst` to `end` - 1, and again `apart` bursts of each channel on, `segments` times.

    Chunks go to the channels in turn, so what a channel has of a segment is contiguous in its own count of bursts.
    Returns the tick of the latest column command.
    """
    channels, shift, latest = t[CHANNELS], t[CHUNK_SHIFT], LONG_AGO
    chunk, last_chunk = burst >> shift, (end - 1) >> shift
    chunks = last_chunk - chunk + 1
    if t[CHANNEL_SHIFT] >= 0:
        slot, rounds = chunk >> t[CHANNEL_SHIFT], chunks >> t[CHANNEL_SHIFT]
    else:
        slot, rounds = chunk // channels, chunks // channels
    c, rest = chunk - slot * channels, chunks - rounds * channels
    begin = (slot << shift) + burst - (chunk << shift)
    for number in range(min(chunks, channels)):
        stop = (slot + rounds + (number < rest)) << shift
        if number == (rest if rest else channels) - 1:  # the last chunk may be cut
            stop -= ((last_chunk + 1) << shift) - end
        column = _pieces(t, channel[c], bank[c], begin, stop, segments, apart, write, asked, tally)
        latest = max(latest, column)
        c += 1
        if c == channels:
            c = 0
            slot += 1
        begin = slot << shift
    tally[HITS] += segments * (end - burst)
    return latest


@compiled
def serve(t, channel, bank, tally, moves, first, count, write, request, grant):
    """Serve a request asked for at cycle `request` and granted at `grant`.

    Returns (cycle at which the next request may be granted, cycle at which the last byte has left the part).
    """
    asked = -(-request * t[TICKS] // t[CYCLES])
    latest, shift = LONG_AGO, t[BURST_SHIFT]
    for m in range(first, first + count):
        move = moves[m]
        inner, stride, outer = move[INNER], move[INNER_STRIDE], move[OUTER]
        if inner == 1:
            inner, stride, outer = outer, move[OUTER_STRIDE], 1
        together, apart = 1, 0
        if inner > 1:
            rounds = stride // t[ROUND]
            if rounds * t[ROUND] == stride:  # all segments lie alike on the channels, which serve them one by one
                together, apart = inner, rounds << t[CHUNK_SHIFT]
        for number in range(outer):
            begin = move[ADDRESS] + number * move[OUTER_STRIDE]
            for _ in range(0, inner, together):
                end = ((begin + move[SEGMENT] - 1) >> shift) + 1
                column = _segments(t, channel, bank, begin >> shift, end, together, apart, write, asked, tally)
                latest = max(latest, column)
                begin += stride
    granted, last = -(-grant * t[TICKS] // t[CYCLES]), latest + t[BURST]
    data = max(granted, last + (t[CWL] if write else t[CL]))
    free = max(grant + 1, -(-max(granted, last) * t[CYCLES] // t[TICKS]))
    return free, max(free, -(-data * t[CYCLES] // t[TICKS]))
