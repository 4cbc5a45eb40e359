"""Is a table that is made in a used workspace the one that is made in a new one?"""

from dataclasses import fields

import numpy as np
import pytest

from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator.schedule import Schedule, gated_schedule
from skipsim.simulator.tiles import Tiles
from skipsim.simulator.workspace import Workspace
from skipsim.traces.layer import Layer
from skipsim.traces.synthetic import synthetic_trace

LAYERS = [
    Layer("3x3", 8, 24, 20, 24, 24, 20, 3, 3, padding_top=1, padding_left=1, gate="input_norm"),
    Layer("5x5 depthwise", 24, 24, 20, 24, 24, 20, 5, 5, padding_top=2, padding_left=2, groups=24, gate="input_norm"),
    Layer("1x1", 24, 24, 20, 40, 24, 20, gate="mask"),
]
ARRAYS = [field.name for field in fields(Tiles)]


class Dirty(Workspace):
    """A workspace full of large numbers that no table has."""

    def array(self, name: str, rows: int, columns: int) -> np.ndarray:
        """Return what a workspace returns, overwritten."""
        array = super().array(name, rows, columns)
        array[:] = 2**50
        return array


def schedule(machine: str, rule: str, side: int) -> Schedule:
    """Lay two frames out in square tiles."""
    trace = synthetic_trace(LAYERS, frames=2, density=0.3, cluster_pixels=5, block=2, reference_frames=())
    return gated_schedule(trace, load_hardware(machine).replace(**{"dram.rule": rule}), (side, side))


@pytest.mark.parametrize("rule", ["stream", "banked"])
@pytest.mark.parametrize("machine", ["edge-npu", "auto-npu"])
def test_what_lies_in_a_workspace_is_not_seen(machine, rule):
    dirty = Dirty()
    for side in (4, 2, 8):  # it grows, then holds more than is needed
        laid_out = schedule(machine, rule, side)
        for frame in range(2):
            new, again = laid_out.tiles(frame), laid_out.tiles(frame, dirty)
            for name in ARRAYS:
                assert np.array_equal(getattr(again, name), getattr(new, name)), name


def test_a_workspace_is_reused_and_a_table_without_one_is_kept():
    workspace, large, small = Workspace(), schedule("edge-npu", "banked", 2), schedule("edge-npu", "banked", 8)
    kept = large.tiles(0)
    before = {name: getattr(kept, name).copy() for name in ARRAYS}
    first, second = large.tiles(0, workspace), small.tiles(0, workspace)
    for name in ("rows", "requests", "moves"):
        assert np.shares_memory(getattr(first, name), getattr(second, name)), name
    assert not np.shares_memory(first.work, second.work), "a report keeps the work of every frame"
    assert all(np.array_equal(getattr(kept, name), before[name]) for name in ARRAYS)
