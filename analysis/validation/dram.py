"""The banked memory beside DRAMsim3: strided reads of one DDR4-3200 channel under two address mappings.

Published are DRAMsim3's counts with its shipped configuration DDR4_8Gb_x8_3200.ini. The same sequence of banks, rows
and columns is put to the model's own rules, with the same timings. DRAMsim3 reorders inside its queues (FR-FCFS) and
has two ranks; the model serves in order and has one, with twice the banks in it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipsim.analysis.validation.comparison import Comparison, Pair
from skipsim.analysis.validation.oracles import rows
from skipsim.hwmodels.dram import Dram, dram_part
from skipsim.simulator.banked import fresh_state, serve, system

SOURCE = "DRAMsim3 with DDR4_8Gb_x8_3200.ini, as run by Wty2003328/silicon-design-notebook; tests/oracles/dram"
NOTES = (
    "DRAMsim3 counts a read as done one clock after its last beat: 49 instead of 48",
    "rows of 64 bytes under rochrababgco at 8 to 64 queue entries show what a controller gains that takes columns of"
    " the next bank group early; serving in order is its limit at no queue (deviation D2)",
    "8192 bytes under rochrababgco activates as fast as two ranks allow; the model has one rank, and one tFAW",
)
CLOCKS = 200_000  # the published runs; the part's clock is 0.63 ns
CLOCK_NS = 0.63
REORDERED, TWO_RANKS = "in order, against its queue of", "one rank, against its two"

# DDR4_8Gb_x8_3200.ini: [dram_structure] and [timing], in clocks; its rank is a third bank bit here.
PART = replace(
    dram_part("DDR4-3200"), name="DDR4_8Gb_x8_3200.ini", bus_bits=64, beats_per_clock=2, burst_length=8, bank_groups=4,
    banks_per_group=8, rows=65536, row_bytes=8192, cl_clocks=22, output_delay_clocks=0, cwl_clocks=16, rcd_clocks=22,
    rp_clocks=22, ras_clocks=52, rtp_clocks=12, wr_clocks=24, wtr_s_clocks=4, wtr_l_clocks=12, ccd_s_clocks=4,
    ccd_l_clocks=8, rrd_s_clocks=4, rrd_l_clocks=8, faw_clocks=34, rfc_clocks=560, refi_clocks=12480,
)  # fmt: skip

# Bits of an address above the 64 bytes of a burst, lowest first: rochrababgco and chrabgbaroco of one channel.
MAPPINGS = {
    "rochrababgco": (("column", 7), ("group", 2), ("bank", 2), ("rank", 1), ("row", 16)),
    "chrabgbaroco": (("column", 7), ("row", 16), ("bank", 2), ("group", 2), ("rank", 1)),
}


def addresses(mapping: str, stride_bytes: int, count: int) -> NDArray[np.int64]:
    """Return where the model's own mapping has the places that DRAMsim3's gives to reads `stride_bytes` apart."""
    left = (0x10000000 + stride_bytes * np.arange(count, dtype=np.int64)) // PART.burst_bytes
    place: dict[str, NDArray[np.int64]] = {}
    for name, bits in MAPPINGS[mapping]:
        place[name], left = left % (1 << bits), left >> bits
    bank = place["bank"] + 4 * place["rank"]
    line = place["row"] * PART.banks_per_group + bank
    columns = PART.row_bytes // PART.burst_bytes
    return ((line * columns + place["column"]) * PART.bank_groups + place["group"]) * PART.burst_bytes


def run(mapping: str, stride_bytes: int, part: Dram = PART) -> dict[str, float]:
    """Serve reads of one burst, all asked for at once, until the published runs end; return what DRAMsim3 counts."""
    memory = system(part, 1, part.clock_hz)
    state, most = fresh_state(memory), CLOCKS // part.burst_clocks
    moves = np.ones((most, 6), np.int64)
    moves[:, 0], moves[:, 1] = addresses(mapping, stride_bytes, most), part.burst_bytes
    served = free = 0
    while served < most:
        free, _ = serve(state, moves, served, 1, False, 0, free)
        if free > CLOCKS:
            break
        served += 1
    hits, misses, conflicts, _ = state.tally
    return {
        "reads_served": served,
        "row_hit_percent": 100 * hits / (hits + misses + conflicts),
        "activates": misses + conflicts,
        "gigabytes_per_second": served * part.burst_bytes / (CLOCKS * CLOCK_NS),
        "latency_clocks": part.row_miss_clocks,
    }


def compare(folder: Path | None = None) -> Comparison:
    """Compare with every published count."""
    pairs = []
    for row in rows("dram/dramsim3_ddr4_3200.csv", folder):
        mapping, stride, queue = row["mapping"], int(row["stride_bytes"]), row["transaction_queue"]
        group = ""
        if row["quantity"] == "gigabytes_per_second":
            group = f"{REORDERED} {queue}"
        elif (mapping, stride) == ("rochrababgco", 8192):
            group = TWO_RANKS
        name = f"{mapping}, {stride} bytes apart" if stride else "one read of a closed bank"
        predicted = run(mapping, stride or 64)[row["quantity"]]
        pairs.append(Pair(name, row["quantity"], float(row["value"]), predicted, group))
    return Comparison("DRAMsim3", SOURCE, tuple(pairs), "nothing", NOTES)
