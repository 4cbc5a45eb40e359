"""Bandwidth over time: what every transfer of the memory port moved, and when, in equal steps of time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipsim.simulator.bursts import MOVE_COLUMNS
from skipsim.simulator.counters import TRANSFER_COLUMNS, TRANSFER_KINDS, Counters
from skipsim.simulator.tiles import REQUEST_COLUMNS, STAGE_REQUEST_COLUMNS, S, Tiles, W

Floats = NDArray[np.float64]
KIND, NUMBER, GRANT, FREE = range(len(TRANSFER_COLUMNS))
READ, WEIGHTS, WRITE, GATE, PREFETCH = range(len(TRANSFER_KINDS))
SIZE, INNER, OUTER = (MOVE_COLUMNS.index(name) for name in ("bytes", "inner", "outer"))
# Kinds of a stage's bytes: which transfers carry them, and whether they are written.
CARRIERS = {"tiles": ((READ,), False), "weights": ((WEIGHTS, PREFETCH), False), "gate": ((GATE,), False),
            "outputs": ((WRITE,), True)}  # fmt: skip


def bandwidth(tiles: Tiles, counters: Counters, steps: int) -> tuple[Floats, Floats]:
    """Return bytes per cycle read and written in each of `steps` equal steps of the run.

    Each transfer's bytes pass evenly while it holds the memory port. A stage's bytes of a kind (tiles, weights, gate,
    outputs) are shared out over its transfers by their segments' bytes (banked) or by the cycles that they hold the
    port; bytes that never use it, because the memory is without limit, pass evenly while their stage runs. So the area
    under the curve is what the run moved, to the byte. A banked request may begin before its grant, on idle channels;
    here its bytes pass afterwards, so that a short step may show more than the part's peak.
    """
    assert counters.transfers is not None, "run with events"
    log = counters.transfers
    stage, weight = _stages_of(tiles, log), _weights(tiles, log)
    curves = [np.zeros(steps), np.zeros(steps)]
    for name, (kinds, written) in CARRIERS.items():
        due = _bytes_of_stages(tiles)[name]
        mine = np.isin(log[:, KIND], kinds)
        share = np.bincount(stage[mine], weight[mine], len(due))
        moved = due[stage[mine]] * weight[mine] / np.maximum(share[stage[mine]], 1)
        curves[written] += _spread(log[mine, GRANT], log[mine, FREE], moved, counters.cycles, steps)
        free = np.where(share > 0, 0.0, due)
        curves[written] += _spread(counters.begin, counters.end, free, counters.cycles, steps)
    step = max(counters.cycles, 1) / steps
    return curves[0] / step, curves[1] / step


def port_use(counters: Counters, steps: int) -> Floats:
    """Return the share of each of `steps` equal steps in which the memory port was held."""
    assert counters.transfers is not None, "run with events"
    grant, free = counters.transfers[:, GRANT], counters.transfers[:, FREE]
    return _spread(grant, free, (free - grant).astype(float), counters.cycles, steps) * steps / max(counters.cycles, 1)


def _bytes_of_stages(tiles: Tiles) -> dict[str, Floats]:
    read, written, weights, gate = (
        tiles.work[:, W[name]].astype(float)
        for name in ("dram_read_bytes", "dram_write_bytes", "weight_read_bytes", "gate_read_bytes")
    )
    return {"tiles": read - weights - gate, "weights": weights, "gate": gate, "outputs": written}


def _stages_of(tiles: Tiles, log: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the stage of every transfer."""
    filled = np.flatnonzero(tiles.stages[:, S["rows"]])
    of_row = np.repeat(filled, tiles.stages[filled, S["rows"]])
    by_stage = np.isin(log[:, KIND], (GATE, PREFETCH))
    row = np.where(by_stage, 0, log[:, NUMBER])
    return np.where(by_stage, log[:, NUMBER], of_row[row] if len(of_row) else 0)


def _weights(tiles: Tiles, log: NDArray[np.int64]) -> Floats:
    """Return how much of its stage's bytes each transfer carries, up to a factor: bytes asked for, or cycles held."""
    if not len(tiles.requests):
        return (log[:, FREE] - log[:, GRANT]).astype(float)
    sums = np.concatenate([[0], np.cumsum(tiles.moves[:, SIZE] * tiles.moves[:, INNER] * tiles.moves[:, OUTER])])
    weight = np.zeros(len(log))
    for kind, table, columns, what in (
        (READ, tiles.requests, REQUEST_COLUMNS, "read"),
        (WEIGHTS, tiles.requests, REQUEST_COLUMNS, "weight"),
        (WRITE, tiles.requests, REQUEST_COLUMNS, "write"),
        (GATE, tiles.stage_requests, STAGE_REQUEST_COLUMNS, "gate"),
        (PREFETCH, tiles.stage_requests, STAGE_REQUEST_COLUMNS, "prefetch"),
    ):
        mine = log[:, KIND] == kind
        first, count = (table[log[mine, NUMBER], columns.index(f"{what}_{name}")] for name in ("first", "moves"))
        weight[mine] = sums[first + count] - sums[first]
    return weight


def _spread(begin: NDArray[np.int64], end: NDArray[np.int64], amounts: Floats, cycles: int, steps: int) -> Floats:
    """Spread amounts evenly over [begin, end) each; return how much falls into each of `steps` equal steps."""
    passed = (end > begin) & (amounts > 0)
    since, until, rate = begin[passed].astype(float), end[passed].astype(float), amounts[passed]
    rate = rate / (until - since)
    # The rate changes at every begin and end; its integral is known there, and straight in between.
    times = np.concatenate([since, until])
    order = np.argsort(times, kind="stable")
    times, slope = times[order], np.cumsum(np.concatenate([rate, -rate])[order])
    area = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(times))]) if len(times) else np.zeros(0)
    edges = np.linspace(0, cycles, steps + 1)
    return np.diff(np.interp(edges, times, area)) if len(times) else np.zeros(steps)
