"""Tiles: the integer table that both engines run, and the contract between lowering and time.

A *stage* is one layer on one frame. Its *rows* are tiles in order. Rows form *passes* (one run of the array each),
passes form *units* (what is dealt to one core as a whole). Every duration is already a number of cycles: an engine
knows nothing of layers, bytes or masks.

Flags stand on the first row of a pass, except LAST, which stands on its last row:

    UNIT    the pass begins a new unit
    INPUT   the pass takes a new part of the input buffer (without it, it reuses the previous pass's inputs)
    OUTPUT  the pass takes a new part of the output buffer (without it, it adds to the previous pass's partial sums)
    SHARED  all cores use the pass's weights: they are fetched once in the stage, by the first core that gets the port
    LAST    the array runs after this row

"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.banked import Banked, banked
from skipsim.simulator.bursts import MOVE_COLUMNS

MODEL_VERSION = 9  # grows with every change of a simulated number

LAST, INPUT, OUTPUT, UNIT, SHARED = 1, 2, 4, 8, 16

ROW_COLUMNS = (
    "flags",  # bits as above
    "group",  # the weights this pass needs; a core that holds others must fetch them first
    "index",  # cycles the index unit takes to emit the tile
    "gather",  # cycles to set up the tile's read: descriptor and segments
    "gather_port",  # cycles its bytes take on the gather DMA's own port
    "read",  # cycles they take on the memory port; 0 = the memory is not used
    "weight_port",  # the same two for fetching `group`; of shared weights: a core's share on its port, all of them on
    "weight_read",  # the memory's
    "compute",  # cycles of the array, on the last row of a pass
    "scatter",  # cycles to set up the tile's write
    "scatter_port",
    "write",
)
STAGE_COLUMNS = (
    "first_row",
    "rows",
    "launch",  # cycles from the start of the stage to the first thing it does
    "gate",  # cycles of the gate unit before any tile is known
    "gate_read",  # cycles of the memory port that feed it
    "index",  # cycles to scan the mask
    "prefetch_port",  # the first weights of this stage, if they may be fetched before it begins, for all cores
    "prefetch_read",
)
WORK_COLUMNS = (
    "macs",  # multiply-accumulates that the masks ask for, gates' own included
    "computed_macs",  # of the active tiles: what the array or the vector unit really does
    "dense_macs",
    "gate_elements",
    "tiles",  # tiles of the map
    "active_tiles",
    "passes",
    "computed_pixels",  # output positions inside active tiles
    "active_pixels",  # output positions that the mask asked for
    "dram_read_bytes",  # as transferred, bursts rounded up
    "dram_write_bytes",
    "weight_read_bytes",  # the weights' share of dram_read_bytes
    "gate_read_bytes",  # the gate's share of dram_read_bytes
    "input_buffer_bytes",  # written plus read, likewise below
    "weight_buffer_bytes",
    "output_buffer_bytes",
    "global_buffer_bytes",
    "commands",  # to start the layer, and one per pass
    "scanned_blocks",  # of the mask, by all cores
    "descriptors",  # of what the movers are told to move: one per stream and fetch of weights
    "segments",  # contiguous pieces of it, each with an address
    "array_cycles",  # the array is occupied, summed over cores
)

R = {name: position for position, name in enumerate(ROW_COLUMNS)}
S = {name: position for position, name in enumerate(STAGE_COLUMNS)}
W = {name: position for position, name in enumerate(WORK_COLUMNS)}


REQUEST_COLUMNS = ("read_first", "read_moves", "weight_first", "weight_moves", "write_first", "write_moves")
STAGE_REQUEST_COLUMNS = ("gate_first", "gate_moves", "prefetch_first", "prefetch_moves")


def _nothing(columns: int) -> NDArray[np.int64]:
    return np.zeros((0, columns), np.int64)


@dataclass(frozen=True)
class Tiles:
    """Stages, their rows, and the work that they stand for; int64 throughout.

    The last three say where the bytes lie. Only a banked memory needs them: then the memory-port columns of rows and
    stages just say whether the port is used, and how long follows from the addresses.
    """

    rows: NDArray[np.int64]  # [rows, len(ROW_COLUMNS)]
    stages: NDArray[np.int64]  # [stages, len(STAGE_COLUMNS)]
    work: NDArray[np.int64]  # [stages, len(WORK_COLUMNS)]
    moves: NDArray[np.int64] = field(default_factory=lambda: _nothing(len(MOVE_COLUMNS)))  # segments: see bursts.py
    requests: NDArray[np.int64] = field(default_factory=lambda: _nothing(len(REQUEST_COLUMNS)))  # per row: its moves
    stage_requests: NDArray[np.int64] = field(default_factory=lambda: _nothing(len(STAGE_REQUEST_COLUMNS)))


@dataclass(frozen=True)
class Machine:
    """The few numbers of a Hardware that an engine needs beside the table."""

    cores: int = 1
    halves: int = 2  # parts of each buffer
    latency: int = 0  # cycles from the end of a memory transfer to the data's arrival
    dynamic: bool = False  # units go to the first core that is ready, not round robin
    prefetch: bool = False  # a core with no tile left to gather fetches the next stage's first weights
    memory: Banked | None = None  # None: the memory-port columns say how long the port is held


def machine(hardware: Hardware) -> Machine:
    """Resolve the numbers that an engine needs."""
    return Machine(
        cores=hardware.cores,
        halves=hardware.buffers.halves,
        latency=hardware.dram.latency_cycles if hardware.dram.rule != "ideal" else 0,
        dynamic=hardware.schedule.distribution == "dynamic",
        prefetch=hardware.schedule.prefetch_weights,
        memory=banked(hardware),
    )
