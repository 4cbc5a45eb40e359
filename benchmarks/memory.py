"""How near do the banked memories come to their own bounds, and how fast are they simulated? Prints a table.

Random = uniformly random single bursts, served in order; its bound is what activates allow when banks take turns.
"""

from __future__ import annotations

import time

import numpy as np

from skipsim.hwmodels.dram import PARTS
from skipsim.simulator.banked import fresh_state, serve, system

BURSTS = 100_000


def main() -> None:
    rng = np.random.default_rng(0)
    print(f"{'part':14} {'stream / peak':>14} {'random / bound':>15} {'row hits of stream':>19} {'ns per burst':>13}")
    for part in PARTS.values():
        memory = system(part, 1, part.clock_hz)
        state = fresh_state(memory)
        stream = np.array([[0, BURSTS * part.burst_bytes, 1, 0, 1, 0]], np.int64)
        serve(fresh_state(memory), stream, 0, 1, False, 0, 0)  # compile
        begin = time.perf_counter()
        streamed, _ = serve(state, stream, 0, 1, False, 0, 0)
        seconds = time.perf_counter() - begin
        hits = state.tally[0] / BURSTS
        table = np.ones((BURSTS, 6), np.int64)
        table[:, 0] = rng.integers(0, part.capacity_bytes // part.burst_bytes, BURSTS) * part.burst_bytes
        table[:, 1] = part.burst_bytes
        scattered, _ = serve(fresh_state(memory), table, 0, BURSTS, False, 0, 0)
        bandwidth = [BURSTS * part.burst_bytes * part.clock_hz / clocks for clocks in (streamed, scattered)]
        print(
            f"{part.name:14} {bandwidth[0] / part.peak_bytes_per_second:14.3f} "
            f"{bandwidth[1] / part.random_bytes_per_second:15.3f} {hits:19.4f} {seconds / BURSTS * 1e9:13.1f}"
        )


if __name__ == "__main__":
    main()
