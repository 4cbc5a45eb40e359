"""Clip cost: what a schedule costs, summed over frames and over layers, in memory that hardly grows with the clip.

A frame of 300 layers has a quarter of a megabyte of numbers. Only the first frames' are kept; those of later ones are
simulated again when somebody asks for them, which gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipsim.simulator.counters import CAUSES, Counters
from skipsim.simulator.schedule import Schedule
from skipsim.simulator.tiles import WORK_COLUMNS, Machine, Tiles, W, machine
from skipsim.simulator.workspace import Workspace

Engine = Callable[[Tiles, Machine], Counters]
KEPT_FRAMES = 64  # of 300 layers: 17 MB


class FrameCost(NamedTuple):
    """What every layer of one frame costs."""

    cycles: NDArray[np.int64]  # [layers]
    causes: NDArray[np.int64]  # [layers, causes], summed over cores
    work: NDArray[np.int64]  # [layers, work columns]
    causes_by_core: NDArray[np.int64] | None = None  # [cores, causes], summed over layers


@dataclass(frozen=True)
class ClipCost:
    """Sums over a clip, and every frame on demand."""

    cycles_by_layer: NDArray[np.int64]  # [layers], summed over frames, as are the next two
    causes_by_layer: NDArray[np.int64]  # [layers, causes], also summed over cores
    work_by_layer: NDArray[np.int64]  # [layers, work columns]
    cycles_by_frame: NDArray[np.int64]  # [frames], summed over layers, as are the next two
    causes_by_frame: NDArray[np.int64]  # [frames, causes], also summed over cores
    work_by_frame: NDArray[np.int64]  # [frames, work columns]
    causes_by_core: NDArray[np.int64] | None  # [cores, causes]; None: a measured processor
    asked_macs: int  # that the masks ask for, gates left out
    kept: dict[int, FrameCost]  # the first frames; of frames that are alike only the first
    rerun: Callable[[int, Workspace], FrameCost] | None = None  # makes the others again; None: all are kept
    twins: Callable[[int], int | None] | None = None  # the earlier frame that one is like, if any

    @property
    def frames(self) -> int:
        """Frames of the clip."""
        return len(self.cycles_by_frame)

    def frame(self, number: int, workspace: Workspace | None = None) -> FrameCost:
        """Return what one frame costs."""
        twin = self.twins(number) if self.twins else None
        known = self.kept.get(number if twin is None else twin)
        if known is None:
            assert self.rerun is not None, "all frames are kept where none can be simulated again"
            known = self.rerun(number, workspace or Workspace())
        return known

    def each_frame(self) -> Iterator[FrameCost]:
        """Yield what every frame costs; nothing but the frames that are kept stays in memory."""
        workspace = Workspace()
        for number in range(self.frames):
            yield self.frame(number, workspace)


def asked_macs(work: NDArray[np.int64]) -> int:
    """Return the multiply-accumulates of the positions that the masks of one frame ask for, gates left out."""
    macs_per_pixel = work[:, W["computed_macs"]] // np.maximum(1, work[:, W["computed_pixels"]])
    return int((work[:, W["active_pixels"]] * macs_per_pixel).sum())


def clip_cost(schedule: Schedule, run: Engine) -> ClipCost:
    """Run a schedule frame by frame."""
    layers, frames, cores = len(schedule.trace.layers), schedule.trace.frames, schedule.hardware.cores
    cycles = np.zeros(layers, np.int64), np.zeros(frames, np.int64)
    causes = np.zeros((layers, len(CAUSES)), np.int64), np.zeros((frames, len(CAUSES)), np.int64)
    work = np.zeros((layers, len(WORK_COLUMNS)), np.int64), np.zeros((frames, len(WORK_COLUMNS)), np.int64)
    by_core, asked = np.zeros((cores, len(CAUSES)), np.int64), 0
    kept: dict[int, FrameCost] = {}
    rerun = Rerun(schedule, run)
    workspace = Workspace()
    for frame in range(frames):
        twin = schedule.same_as(frame)
        one = rerun(frame, workspace) if twin is None else kept[twin]
        if twin is None and (frame < KEPT_FRAMES or schedule.has_twins(frame)):
            kept[frame] = one
        for (by_layer, by_frame), result in zip((cycles, causes, work), one[:3], strict=True):
            by_layer += result
            by_frame[frame] = result.sum(axis=0)
        assert one.causes_by_core is not None, "an engine has cores"
        by_core += one.causes_by_core
        asked += asked_macs(one.work)
    return ClipCost(
        cycles[0], causes[0], work[0], cycles[1], causes[1], work[1], by_core, asked, kept, rerun, schedule.same_as
    )  # fmt: skip


@dataclass(frozen=True)
class Rerun:
    """Simulates one frame of a schedule."""

    schedule: Schedule
    run: Engine

    def __call__(self, frame: int, workspace: Workspace) -> FrameCost:
        """Return what every layer of the frame costs."""
        tiles = self.schedule.tiles(frame, workspace)
        counters = self.run(tiles, machine(self.schedule.hardware))
        by_core = counters.causes.sum(axis=0)
        return FrameCost(counters.end - counters.begin, counters.causes.sum(axis=1), tiles.work, by_core)


def clip_cost_of_arrays(causes: NDArray[np.int64], work: NDArray[np.int64]) -> ClipCost:
    """Make the cost of a clip from cycles by cause [frames, layers, causes] and work [frames, layers, work columns]."""
    frames = [FrameCost(one.sum(axis=1), one, done) for one, done in zip(causes, work, strict=True)]
    return ClipCost(
        causes.sum(axis=(0, 2)), causes.sum(axis=0), work.sum(axis=0), causes.sum(axis=(1, 2)), causes.sum(axis=1),
        work.sum(axis=1), None, sum(map(asked_macs, work)), dict(enumerate(frames)),
    )  # fmt: skip
