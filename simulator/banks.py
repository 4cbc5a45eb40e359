"""Banks, compiled: what noted bursts cost one channel of a banked memory.

The same rules as `reference_banked.py`, which states them in plain Python burst by burst; nothing is shared. Here a
*run* of bursts is served at once: as soon as those left wait for the bus only, they follow at an even pace.
"""

from __future__ import annotations

import numpy as np

from skipsim.compiled import compiled, inlined

ROOM = 64  # runs that a channel holds before it must serve them
MOST_BANKS = 32  # of one channel, all ranks together

_NUMBERS = (
    "last_column", "last_group", "last_write", "refresh_due", "last_activate_group",
    "activate_1", "activate_2", "activate_3", "activate_4",  # the last four activates, the earliest first
    "hits", "misses", "conflicts", "refreshes",
    "first", "count", "runs",  # the run that is being noted (count 0: none), and how many are waiting
)  # fmt: skip
_OF_BANKS = ("open_row", "activate_ready", "precharge_ready", "column_ready")
# State of one channel, in ticks. A run: `count` bursts from burst `first` of the channel, the bank groups in turn.
CHANNEL = np.dtype(
    [(name, np.int64) for name in _NUMBERS]
    + [(name, np.int64, (MOST_BANKS,)) for name in _OF_BANKS]
    + [(name, np.int64, (ROOM,)) for name in ("run_first", "run_count")]
)
CLOSED = -1  # open_row
LONG_AGO = -(2**40)
at = np.uint64  # numba takes a signed index below zero from the end, which costs time


@compiled
def _refresh(t, channel, now):
    """Refresh all banks if that is due at `now`; refreshes that were due in idle time are past."""
    behind = (now - channel.refresh_due) // t.refi
    if behind > 0:
        channel.refresh_due += behind * t.refi
        channel.refreshes += behind
    start = channel.refresh_due
    for bank in range(t.groups * t.banks):
        if channel.open_row[at(bank)] != CLOSED:
            start = max(start, channel.precharge_ready[at(bank)] + t.rp)
        start = max(start, channel.activate_ready[at(bank)])
    for bank in range(t.groups * t.banks):
        channel.open_row[at(bank)] = CLOSED
        channel.activate_ready[at(bank)] = start + t.rfc
    channel.refresh_due += t.refi
    channel.refreshes += 1


@inlined
def _activate(t, channel, bank, group, row, asked):
    """Open a row of a bank, once the row before is precharged and the channel may activate another."""
    ready = max(asked, channel.activate_ready[bank])
    channel.hits -= 1
    if channel.open_row[bank] == CLOSED:
        channel.misses += 1
    else:
        channel.conflicts += 1
        ready = max(ready, max(asked, channel.precharge_ready[bank]) + t.rp)
    gap = t.rrd_l if group == channel.last_activate_group else t.rrd_s
    ready = max(ready, channel.activate_4 + gap, channel.activate_1 + t.faw)
    channel.activate_1, channel.activate_2 = channel.activate_2, channel.activate_3
    channel.activate_3, channel.activate_4 = channel.activate_4, ready
    channel.last_activate_group = group
    channel.open_row[bank] = row
    channel.activate_ready[bank], channel.column_ready[bank] = ready + t.rc, ready + t.rcd
    channel.precharge_ready[bank] = ready + t.ras


@inlined
def _all_open(t, channel, place, row, column):
    """Whether the row of every group is open and ready by the tick `column`."""
    for group in range(t.groups):
        bank = at(group * t.banks + place)
        if channel.open_row[bank] != row or channel.column_ready[bank] > column:
            return False
    return True


@inlined
def _serve_line(t, channel, line, group, left, write, asked, groups):
    """Serve `left` bursts of a line (one row of every group), the groups in turn from `group` on."""
    recovery = t.write_recovery if write else t.rtp
    row, place = line >> t.bank_shift, line & (t.banks - 1)
    last, last_group, turns = channel.last_column, channel.last_group, write != channel.last_write
    channel.hits += left
    unsure = min(left, groups)  # so many bursts may find their row closed
    while left > 0:
        now = max(asked, last)
        if now >= channel.refresh_due:
            _refresh(t, channel, now)
            unsure = min(left, groups)
        bank = at(group * t.banks + place)
        opens = channel.open_row[bank] != row
        if opens:
            _activate(t, channel, bank, group, row, asked)
        gap = t.same_group if group == last_group else t.other_group
        if turns:
            gap = t.read_to_write if write else t.write_to_same if group == last_group else t.write_to_other
            turns = False
        last, last_group = max(asked, channel.column_ready[bank], last + gap), group
        left, unsure, run = left - 1, unsure - 1, 0
        if groups == 1 or unsure <= 0 or (not opens and _all_open(t, channel, place, row, last)):
            run, unsure = left, 0
            if last + (run - 1) * t.pace >= channel.refresh_due:  # up to the burst that a refresh comes before
                run = max(0, -((last - channel.refresh_due) // t.pace))
            left -= run
        if groups == 1:
            last += run * t.pace
            channel.precharge_ready[bank] = max(channel.precharge_ready[bank], last + recovery)
            continue
        channel.precharge_ready[bank] = max(channel.precharge_ready[bank], last + recovery)
        for number in range(max(1, run - groups + 1), run + 1):  # the last of the run in every group
            other = at(((group + number) & (groups - 1)) * t.banks + place)
            free = last + number * t.pace + recovery
            channel.precharge_ready[other] = max(channel.precharge_ready[other], free)
        last, last_group = last + run * t.pace, (group + run) & (groups - 1)
        group = (last_group + 1) & (groups - 1)
    channel.last_column, channel.last_group, channel.last_write = last, last_group, write


@inlined
def _serve(t, channel, write, asked, groups):
    """Serve all runs; `groups` is a number in the code where it is 1, so that what follows from it is left out."""
    for number in range(channel.runs):
        first, count = channel.run_first[at(number)], channel.run_count[at(number)]
        while count > 0:
            line = first >> t.line_shift
            left = min(count, ((line + 1) << t.line_shift) - first)
            _serve_line(t, channel, line, first & (groups - 1), left, write, asked, groups)
            first, count = first + left, count - left
    channel.runs = 0


@compiled
def serve_runs(t, channel, write, asked):
    """Serve a channel's waiting runs, asked for at tick `asked`."""
    if t.groups == 1:
        _serve(t, channel, write, asked, 1)
    else:
        _serve(t, channel, write, asked, t.groups)
