"""Banked memory that takes what is ready first, compiled: the pieces of a request are served out of order.

`banked.py` serves in order and knows ways to do so quickly. Here every burst is served by itself, and a channel chooses
among the next `window` pieces of the request: the rules of `reference_banked.py`, which shares nothing with this. A
*piece* is what a channel has of one segment, cut where its row ends.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skipsim.compiled import compiled, inlined
from skipsim.simulator.banked import Banked
from skipsim.simulator.bursts import MOVE_COLUMNS

RULES = (
    "channels", "interleave", "burst_bytes", "groups", "banks", "row_bursts", "burst", "cl", "cwl", "rcd", "rp", "ras",
    "rc", "rtp", "wr", "wtr_s", "wtr_l", "rtw", "ccd_s", "ccd_l", "rrd_s", "rrd_l", "faw", "rfc", "refi", "ticks",
    "cycles",
)  # fmt: skip
(
    CHANNELS, INTERLEAVE, BURST_BYTES, GROUPS, BANKS, ROW_BURSTS, BURST, CL, CWL, RCD, RP, RAS, RC, RTP, WR, WTR_S,
    WTR_L, RTW, CCD_S, CCD_L, RRD_S, RRD_L, FAW, RFC, REFI, TICKS, CYCLES,
) = range(len(RULES))  # fmt: skip
ADDRESS, SEGMENT, INNER, INNER_STRIDE, OUTER, OUTER_STRIDE = range(len(MOVE_COLUMNS))

# State of a channel: its last column command, its last four activates (the earliest first), its next refresh.
COLUMN, COLUMN_GROUP, COLUMN_WRITE, ACTIVATE_GROUP, REFRESH_DUE, ACTIVATES, CHANNEL_SIZE = 0, 1, 2, 3, 4, 5, 9
OPEN_ROW, ACTIVATE_READY, PRECHARGE_READY, COLUMN_READY, BANK_SIZE = range(5)
CLOSED, LONG_AGO = -1, -(2**40)

# Where the walk over a request has come: the move, the segment in it, and what is left of the segment.
AT_MOVE, AT_OUTER, AT_INNER, LEFT_BEGIN, LEFT_END, WALK_SIZE = range(6)
PIECE_BEGIN, PIECE_COUNT = range(2)  # in the channel's own count of bursts


class Window(NamedTuple):
    """Rules and state of a memory whose channels choose among the next pieces."""

    rules: Any  # [RULES]
    channels: Any  # [channels, CHANNEL_SIZE]
    banks: Any  # [channels, groups x banks, BANK_SIZE]
    pieces: Any  # [window, 2]
    walk: Any  # [WALK_SIZE]


def fresh_window(memory: Banked) -> Window:
    """Return the state of a memory at cycle 0."""
    numbers = {name: int(memory.timing[name][0]) for name in RULES}
    channels = np.full((memory.channels, CHANNEL_SIZE), LONG_AGO, np.int64)
    channels[:, [COLUMN_GROUP, ACTIVATE_GROUP]] = -1
    channels[:, COLUMN_WRITE], channels[:, REFRESH_DUE] = 0, numbers["refi"]
    banks = np.zeros((memory.channels, numbers["groups"] * numbers["banks"], BANK_SIZE), np.int64)
    banks[:, :, OPEN_ROW] = CLOSED
    rules = np.array(list(numbers.values()), np.int64)
    return Window(rules, channels, banks, np.zeros((memory.window, 2), np.int64), np.zeros(WALK_SIZE, np.int64))


# Of a memory that serves in order: nothing to choose from.
IN_ORDER = Window(*(np.zeros(shape, np.int64) for shape in (0, (0, 0), (0, 0, 0), (0, 2), 0)))


@inlined
def _own_bursts(t, first, last, channel):
    """Return (begin, end) of what a channel has of the memory's bursts `first` to `last`, in its own count."""
    each = t[INTERLEAVE] // t[BURST_BYTES]  # bursts before the next channel's turn
    first_chunk, last_chunk = first // each, last // each
    begin_chunk = first_chunk + (channel - first_chunk) % t[CHANNELS]
    end_chunk = last_chunk - (last_chunk - channel) % t[CHANNELS]
    if begin_chunk > end_chunk:
        return 0, 0
    begin, end = begin_chunk // t[CHANNELS] * each, end_chunk // t[CHANNELS] * each + each
    if begin_chunk == first_chunk:
        begin += first - first_chunk * each
    if end_chunk == last_chunk:
        end -= (last_chunk + 1) * each - 1 - last
    return begin, end


@inlined
def _next_piece(t, walk, moves, end_move, channel, piece):
    """Walk on to a channel's next piece; return whether there is one."""
    while walk[LEFT_BEGIN] == walk[LEFT_END]:
        if walk[AT_MOVE] == end_move:
            return False
        move = moves[walk[AT_MOVE]]
        address = move[ADDRESS] + walk[AT_OUTER] * move[OUTER_STRIDE] + walk[AT_INNER] * move[INNER_STRIDE]
        first, last = address // t[BURST_BYTES], (address + move[SEGMENT] - 1) // t[BURST_BYTES]
        walk[LEFT_BEGIN], walk[LEFT_END] = _own_bursts(t, first, last, channel)
        walk[AT_INNER] += 1
        if walk[AT_INNER] == move[INNER]:
            walk[AT_INNER], walk[AT_OUTER] = 0, walk[AT_OUTER] + 1
        if walk[AT_OUTER] == move[OUTER]:
            walk[AT_OUTER], walk[AT_MOVE] = 0, walk[AT_MOVE] + 1
    line = t[ROW_BURSTS] * t[GROUPS]
    end = min(walk[LEFT_END], (walk[LEFT_BEGIN] // line + 1) * line)
    piece[PIECE_BEGIN], piece[PIECE_COUNT] = walk[LEFT_BEGIN], end - walk[LEFT_BEGIN]
    walk[LEFT_BEGIN] = end
    return True


@inlined
def _refresh(t, channel, banks, now):
    """Refresh all banks if that is due at `now`; refreshes that were due in idle time are past."""
    if now < channel[REFRESH_DUE]:
        return
    channel[REFRESH_DUE] += max(0, (now - channel[REFRESH_DUE]) // t[REFI]) * t[REFI]
    start = channel[REFRESH_DUE]
    for number in range(len(banks)):
        start = max(start, banks[number, ACTIVATE_READY])
        if banks[number, OPEN_ROW] != CLOSED:
            start = max(start, banks[number, PRECHARGE_READY] + t[RP])
    for number in range(len(banks)):
        banks[number, OPEN_ROW], banks[number, ACTIVATE_READY] = CLOSED, start + t[RFC]
    channel[REFRESH_DUE] += t[REFI]


@inlined
def _activate_tick(t, channel, bank, group, asked):
    """Return when another row of a bank can be opened."""
    tick = max(asked, bank[ACTIVATE_READY])
    if bank[OPEN_ROW] != CLOSED:
        tick = max(tick, max(asked, bank[PRECHARGE_READY]) + t[RP])
    gap = t[RRD_L] if group == channel[ACTIVATE_GROUP] else t[RRD_S]
    return max(tick, channel[ACTIVATES + 3] + gap, channel[ACTIVATES] + t[FAW])


@inlined
def _column_tick(t, channel, ready, group, write, asked):
    """Return when a column command can be given to a bank that is ready for it at the tick `ready`."""
    same = group == channel[COLUMN_GROUP]
    if write and not channel[COLUMN_WRITE]:
        gap = t[RTW]
    elif channel[COLUMN_WRITE] and not write:
        gap = t[CWL] + t[BURST] + (t[WTR_L] if same else t[WTR_S])
    else:
        gap = t[CCD_L] if same else t[CCD_S]
    return max(asked, ready, channel[COLUMN] + max(gap, t[BURST]))


@inlined
def _place(t, burst):
    """Return (group, bank in the channel's table, row) of a channel's burst."""
    group, line = burst % t[GROUPS], burst // (t[GROUPS] * t[ROW_BURSTS])
    return group, group * t[BANKS] + line % t[BANKS], line // t[BANKS]


@inlined
def _serve_burst(t, channel, banks, burst, write, asked):
    """Serve one burst; return the tick of its column command."""
    _refresh(t, channel, banks, max(asked, channel[COLUMN]))
    group, number, row = _place(t, burst)
    bank = banks[number]
    if bank[OPEN_ROW] != row:
        tick = _activate_tick(t, channel, bank, group, asked)
        for older in range(3):
            channel[ACTIVATES + older] = channel[ACTIVATES + older + 1]
        channel[ACTIVATES + 3], channel[ACTIVATE_GROUP] = tick, group
        bank[OPEN_ROW], bank[ACTIVATE_READY], bank[COLUMN_READY] = row, tick + t[RC], tick + t[RCD]
        bank[PRECHARGE_READY] = tick + t[RAS]
    column = _column_tick(t, channel, bank[COLUMN_READY], group, write, asked)
    channel[COLUMN], channel[COLUMN_GROUP], channel[COLUMN_WRITE] = column, group, write
    recovery = t[CWL] + t[BURST] + t[WR] if write else t[RTP]
    bank[PRECHARGE_READY] = max(bank[PRECHARGE_READY], column + recovery)
    return column


@inlined
def _first_ready(t, channel, banks, pieces, waiting, write, asked):
    """Return which of the waiting pieces could give its first column command earliest; of equal ones the oldest."""
    best, earliest = 0, 2**62
    for number in range(waiting):
        group, place, row = _place(t, pieces[number, PIECE_BEGIN])
        bank = banks[place]
        ready = bank[COLUMN_READY]
        if bank[OPEN_ROW] != row:
            ready = _activate_tick(t, channel, bank, group, asked) + t[RCD]
        tick = _column_tick(t, channel, ready, group, write, asked)
        if tick < earliest:
            best, earliest = number, tick
    return best


@compiled
def serve_ready_first(memory, moves, first, count, write, request, grant):
    """Serve a request asked for at cycle `request` and granted at `grant`; returns what `banked.serve` does."""
    t, pieces, walk, latest = memory.rules, memory.pieces, memory.walk, LONG_AGO
    asked = -(-request * t[TICKS] // t[CYCLES])
    for number in range(t[CHANNELS]):
        channel, banks, waiting = memory.channels[number], memory.banks[number], 0
        walk[:] = 0
        walk[AT_MOVE] = first
        while True:
            while waiting < len(pieces) and _next_piece(t, walk, moves, first + count, number, pieces[waiting]):
                waiting += 1
            if waiting == 0:
                break
            _refresh(t, channel, banks, max(asked, channel[COLUMN]))
            chosen = _first_ready(t, channel, banks, pieces, waiting, write, asked)
            begin = pieces[chosen, PIECE_BEGIN]
            for burst in range(begin, begin + pieces[chosen, PIECE_COUNT]):
                latest = max(latest, _serve_burst(t, channel, banks, burst, write, asked))
            waiting -= 1
            for later in range(chosen, waiting):
                for column in range(2):
                    pieces[later, column] = pieces[later + 1, column]
    granted, last = -(-grant * t[TICKS] // t[CYCLES]), latest + t[BURST]
    data = max(granted, last + (t[CWL] if write else t[CL]))
    free = max(grant + 1, -(-max(granted, last) * t[CYCLES] // t[TICKS]))
    return free, max(free, -(-data * t[CYCLES] // t[TICKS]))
