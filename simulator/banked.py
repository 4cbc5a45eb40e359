"""Banked memory, compiled: what a request of segments costs a part with channels, bank groups, banks and rows.

`bursts.py` finds what a request asks of every channel, `banks.py` what that costs it. The same rules as
`reference_banked.py`, which states them in plain Python; nothing is shared but the data types. Time is in ticks of the
part's command clock; MODEL.md, "Banked memory", explains every rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipsim.compiled import compiled
from skipsim.hwmodels.dram import Dram, dram_part
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.banks import CHANNEL, CLOSED, LONG_AGO, MOST_BANKS
from skipsim.simulator.bursts import serve_moves

INTERLEAVE_BYTES = (
    256  # assumed: neighbouring channels serve neighbouring 256 bytes, as address maps of mobile chips do
)

TIMING = (
    "channels", "interleave", "burst_bytes", "groups", "banks", "row_bursts", "burst", "cl", "cwl", "rcd",
    "rp", "ras", "rc", "rtp", "wr", "wtr_s", "wtr_l", "rtw", "ccd_s", "ccd_l", "rrd_s", "rrd_l", "faw", "rfc",
    "refi", "ticks", "cycles", "burst_shift", "chunk_shift", "line_shift", "bank_shift", "channel_shift", "round",
    "pace", "same_group", "other_group", "read_to_write", "write_to_same", "write_to_other", "write_recovery",
)  # fmt: skip
TIMING_RECORD = np.dtype([(name, np.int64) for name in TIMING])


@dataclass(frozen=True)
class Banked:
    """A memory system as the engines need it; ticks / cycles: its clock / the machine's."""

    timing: NDArray[np.void]  # [1] record of TIMING
    window: int = 1  # pieces of a request that a channel chooses from; 1 = in order

    @property
    def channels(self) -> int:
        """Channels that serve in parallel."""
        return int(self.timing["channels"][0])


def banked(hardware: Hardware) -> Banked | None:
    """Resolve the memory of a machine; None if its rule is not "banked"."""
    memory = hardware.dram
    if memory.rule != "banked":
        return None
    assert memory.part is not None, "checked by Hardware"
    assert memory.channels is not None, "checked by Hardware"
    return replace(system(dram_part(memory.part), memory.channels, hardware.clock_hz), window=memory.window)


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
    assert part.banks <= MOST_BANKS, "the engine's table of banks is that long"
    numbers = tuple((values | same)[name] for name in TIMING)
    return Banked(np.array([numbers], TIMING_RECORD))


def _shift(count: int) -> int:
    assert count & (count - 1) == 0, "standards count bytes, rows and banks in powers of two"
    return count.bit_length() - 1


class MemoryState(NamedTuple):
    """What the engine keeps of a memory: its numbers, and the state of every channel."""

    timing: Any  # [1] record of TIMING
    channels: Any  # [channels] records: banks.CHANNEL

    @property
    def tally(self) -> list[int]:
        """Hits, misses, conflicts and refreshes, summed over the channels."""
        return [int(self.channels[name].sum()) for name in ("hits", "misses", "conflicts", "refreshes")]


def fresh_state(memory: Banked) -> MemoryState:
    """Return the state of a memory at cycle 0."""
    channels = np.zeros(memory.channels, CHANNEL)
    for name in ("last_column", "activate_1", "activate_2", "activate_3", "activate_4"):
        channels[name] = LONG_AGO
    channels["last_group"] = channels["last_activate_group"] = channels["first"] = -1
    channels["refresh_due"] = memory.timing["refi"]
    channels["open_row"] = CLOSED
    return MemoryState(memory.timing, channels)


@compiled
def serve(memory, moves, first, count, write, request, grant):
    """Serve a request asked for at cycle `request` and granted at `grant`.

    Returns (cycle at which the next request may be granted, cycle at which the last byte has left the part).
    """
    t = memory.timing[0]
    asked = -(-request * t.ticks // t.cycles)
    last = serve_moves(t, memory.channels, moves, first, count, write, asked) + t.burst
    granted = -(-grant * t.ticks // t.cycles)
    data = max(granted, last + (t.cwl if write else t.cl))
    free = max(grant + 1, -(-max(granted, last) * t.cycles // t.ticks))
    return free, max(free, -(-data * t.cycles // t.ticks))
