"""Banked memory in plain Python: the definition that `banked.py` must equal.

A request is served piece by piece: in order, or out of a window of pieces what is ready first; a piece burst by burst,
in order. Column commands keep this order on every channel; activates and precharges of a request may run ahead, from
the cycle in which it was asked for. Rows stay open until another row of the bank is wanted or the channel is refreshed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

from skipsim.simulator.banked import TIMING, Banked

Piece = list[tuple[int, int, int]]  # (bank group, bank in it, row) of each of its bursts


@dataclass
class Bank:
    """One bank: which row is open, and the ticks from which each command is allowed."""

    row: int | None = None
    activate_from: int = 0
    precharge_from: int = 0
    column_from: int = 0


@dataclass
class Channel:
    """One channel: its banks by (group, bank) and the commands that bear on the next one."""

    banks: dict[tuple[int, int], Bank]
    refresh_due: int
    column: tuple[int, int, bool] | None = None  # tick, bank group, write: the last column command
    activates: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=4))  # tick, bank group


class BankedMemory:
    """All channels of a memory; `serve` takes one request at a time, in the order in which they are granted."""

    def __init__(self, memory: Banked) -> None:
        self.t = {name: int(memory.timing[name][0]) for name in TIMING}
        places = [(group, bank) for group in range(self.t["groups"]) for bank in range(self.t["banks"])]
        self.channels = [
            Channel({place: Bank() for place in places}, self.t["refi"]) for _ in range(self.t["channels"])
        ]
        self.window = memory.window
        self.ticks_per_cycle = Fraction(self.t["ticks"], self.t["cycles"])

    def serve(self, moves: Sequence[Sequence[int]], write: bool, request: int, grant: int) -> tuple[int, int]:
        """Return (cycle at which the next request may be granted, cycle at which the last byte has left the part)."""
        asked, begin = (ceil(cycle * self.ticks_per_cycle) for cycle in (request, grant))
        ends = [begin]
        for number, waiting in self.pieces(moves).items():
            channel = self.channels[number]
            while waiting:
                for group, bank, row in self.first_ready(channel, waiting, write, asked):
                    ends.append(self.burst(channel, (group, bank), row, write, asked) + self.t["burst"])
        free = max(grant + 1, ceil(max(ends) / self.ticks_per_cycle))
        data = max([begin, *(end + self.t["cwl" if write else "cl"] for end in ends[1:])])
        return free, max(free, ceil(data / self.ticks_per_cycle))

    def pieces(self, moves: Sequence[Sequence[int]]) -> dict[int, list[Piece]]:
        """Return every channel's pieces in order: what it has of one segment, cut where its row ends."""
        found: dict[int, list[Piece]] = {}
        for segment in self.segments(moves):
            last: dict[int, Piece] = {}  # of this segment
            for address in segment:
                channel, *burst = self.place(address)
                if channel not in last or last[channel][-1][1:] != tuple(burst[1:]):
                    last[channel] = []
                    found.setdefault(channel, []).append(last[channel])
                last[channel].append((burst[0], burst[1], burst[2]))
        return found

    def segments(self, moves: Sequence[Sequence[int]]) -> Iterator[range]:
        """Yield the addresses of the bursts that each segment touches, in order."""
        size = self.t["burst_bytes"]
        for address, length, inner, inner_stride, outer, outer_stride in moves:
            for row in range(outer):
                for segment in range(inner):
                    begin = address + row * outer_stride + segment * inner_stride
                    yield range(begin // size * size, begin + length, size)

    def place(self, address: int) -> tuple[int, int, int, int]:
        """Return (channel, group, bank, row): channels change every `interleave` bytes, bank groups every burst."""
        t = self.t
        chunk, offset = divmod(address, t["interleave"])
        chunk, channel = divmod(chunk, t["channels"])
        burst = (chunk * t["interleave"] + offset) // t["burst_bytes"]
        burst, group = divmod(burst, t["groups"])
        row, bank = divmod(burst // t["row_bursts"], t["banks"])
        return channel, group, bank, row

    def first_ready(self, channel: Channel, waiting: list[Piece], write: bool, asked: int) -> Piece:
        """Take the piece to serve next: of the next `window` the one whose first column command can come earliest.

        Of equally early ones it is the oldest. A refresh that is due comes before the choice.
        """
        self.refresh_if_due(channel, asked)

        def first_column(piece: Piece) -> int:
            group, place, row = piece[0]
            bank = channel.banks[group, place]
            ready = bank.column_from
            if bank.row != row:
                ready = self.activate_tick(channel, bank, group, asked) + self.t["rcd"]
            return self.column_tick(channel, ready, group, write, asked)

        choice = waiting[: self.window]
        return waiting.pop(min(range(len(choice)), key=lambda number: first_column(choice[number])))

    def activate_tick(self, channel: Channel, bank: Bank, group: int, asked: int) -> int:
        """Return when another row of a bank can be opened."""
        t, tick = self.t, max(asked, bank.activate_from)
        if bank.row is not None:
            tick = max(tick, max(asked, bank.precharge_from) + t["rp"])
        if channel.activates:
            last, last_group = channel.activates[-1]
            tick = max(tick, last + t["rrd_l" if last_group == group else "rrd_s"])
        if len(channel.activates) == 4:
            tick = max(tick, channel.activates[0][0] + t["faw"])
        return tick

    def column_tick(self, channel: Channel, ready: int, group: int, write: bool, asked: int) -> int:
        """Return when a column command can be given to a bank that is ready for it at the tick `ready`."""
        t, tick = self.t, max(asked, ready)
        if not channel.column:
            return tick
        last, last_group, last_write = channel.column
        same = last_group == group
        if write and not last_write:
            gap = t["rtw"]
        elif last_write and not write:
            gap = t["cwl"] + t["burst"] + t["wtr_l" if same else "wtr_s"]
        else:
            gap = t["ccd_l" if same else "ccd_s"]
        return max(tick, last + max(gap, t["burst"]))

    def burst(self, channel: Channel, place: tuple[int, int], row: int, write: bool, asked: int) -> int:
        """Serve one burst; return the tick of its column command."""
        t, group, bank = self.t, place[0], channel.banks[place]
        self.refresh_if_due(channel, asked)
        if bank.row != row:
            activate = self.activate_tick(channel, bank, group, asked)
            channel.activates.append((activate, group))
            bank.row = row
            bank.activate_from, bank.column_from = activate + t["rc"], activate + t["rcd"]
            bank.precharge_from = activate + t["ras"]
        column = self.column_tick(channel, bank.column_from, group, write, asked)
        channel.column = column, group, write
        recovered = column + (t["cwl"] + t["burst"] + t["wr"] if write else t["rtp"])
        bank.precharge_from = max(bank.precharge_from, recovered)
        return column

    def refresh_if_due(self, channel: Channel, asked: int) -> None:
        """Refresh before the next burst, if a refresh is due when it could come."""
        now = max(asked, channel.column[0]) if channel.column else asked
        if now >= channel.refresh_due:
            self.refresh(channel, now)

    def refresh(self, channel: Channel, now: int) -> None:
        """Refresh all banks: the last refresh due by `now`; those before it happened while the channel was idle."""
        channel.refresh_due += max(0, (now - channel.refresh_due) // self.t["refi"]) * self.t["refi"]
        start = channel.refresh_due
        for bank in channel.banks.values():
            start = max(start, bank.activate_from)
            if bank.row is not None:
                start = max(start, bank.precharge_from + self.t["rp"])
        for bank in channel.banks.values():
            bank.row, bank.activate_from = None, start + self.t["rfc"]
        channel.refresh_due += self.t["refi"]
