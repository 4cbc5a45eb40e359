"""Counters: what an engine returns, its sums and its laws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CAUSES = (
    "launch",  # starting the layer
    "gate",  # evaluating the gate before any tile is known
    "index",  # scanning the mask, and waiting for the next active tile's number
    "compute",  # the array runs
    "weights",  # the array waits for weights
    "gather_issue",  # ... for descriptors and segments to be set up
    "gather_queue",  # ... for the memory port to be granted
    "gather_transfer",  # ... for bytes to move
    "gather_latency",  # ... for the memory's latency
    "scatter",  # ... for room in the output buffer, and for the last outputs to leave
    "barrier",  # this core is done, another is not
)
C = {name: position for position, name in enumerate(CAUSES)}

EVENT_COLUMNS = (
    "core",
    "gather_begin",  # the gather unit turns to this row
    "weights_end",  # it has fetched the weights, if any were needed
    "issue_begin",  # the tile's number is known
    "request",  # the read asks for the memory port
    "grant",
    "gather_end",  # the gather unit is free again
    "compute_begin",  # of the row's pass
    "compute_end",
    "scatter_begin",
    "write_request",
    "write_grant",
    "scatter_end",
)
E = {name: position for position, name in enumerate(EVENT_COLUMNS)}

TRANSFER_KINDS = (
    "read",  # of a row; the log's number is the row
    "weights",  # for the row's pass
    "write",
    "gate",  # what it streams before any tile is known; the number is the stage
    "prefetch",  # the first weights of the stage, before it begins
)
TRANSFER_COLUMNS = ("kind", "number", "grant", "free")  # the memory port was held from grant to free


@dataclass(frozen=True)
class Counters:
    """Cycles of a run of Tiles: when each stage ran, and where every cycle of every core went."""

    begin: NDArray[np.int64]  # [stages]
    end: NDArray[np.int64]  # [stages]
    causes: NDArray[np.int64]  # [stages, cores, len(CAUSES)]; each [stage, core] sums to end - begin
    port_busy: NDArray[
        np.int64
    ]  # [stages] cycles in which the memory port was granted, booked where the request was made
    events: NDArray[np.int64] | None = None  # [rows, len(EVENT_COLUMNS)], only if asked for, as the next
    transfers: NDArray[np.int64] | None = None  # [transfers, len(TRANSFER_COLUMNS)], in the order of grants

    @property
    def cycles(self) -> int:
        """Cycles from the first stage's begin to the last one's end."""
        return int(self.end[-1] - self.begin[0]) if len(self.end) else 0

    def check(self) -> None:
        """Assert the laws that every run keeps."""
        duration = (self.end - self.begin)[:, None]
        assert (self.causes >= 0).all(), "negative cycles"
        assert (self.causes.sum(axis=2) == duration).all(), "a core's cycles by cause do not sum to the stage"
        assert (self.begin[1:] == self.end[:-1]).all(), "stages overlap or leave a gap"
