"""Does what is kept of a clip stay the same size however long it is, and is nothing lost that way?"""

import json

import numpy as np
import pytest

from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator import clip_cost
from skipsim.simulator.clip_cost import KEPT_FRAMES
from skipsim.simulator.report import Report
from skipsim.simulator.schedule import gated_schedule
from skipsim.simulator.simulate import cycles_of, simulate
from skipsim.traces.layer import Layer
from skipsim.traces.synthetic import synthetic_trace
from skipsim.traces.trace import Trace

LAYERS = [
    Layer("first", 8, 16, 16, 8, 16, 16, 3, 3, padding_top=1, padding_left=1, gate="input_norm"),
    Layer("second", 8, 16, 16, 12, 16, 16, gate="input_norm"),
]
EDGE = load_hardware("edge-npu")
BYTES_A_FRAME = 400  # sums over layers: 22 columns of work, 11 causes, cycles


def clip(frames: int, references: tuple[int, ...] = (0, 5)) -> Trace:
    return synthetic_trace(LAYERS, frames=frames, density=0.3, cluster_pixels=4, block=2, reference_frames=references)


def kept_bytes(report: Report) -> int:
    """Return the bytes of all arrays that a report holds."""
    cost = report.cost
    arrays = [array for array in vars(cost).values() if isinstance(array, np.ndarray)]
    arrays += [array for one in cost.kept.values() for array in one if array is not None]
    return sum(array.nbytes for array in arrays)


def test_a_longer_clip_keeps_no_more_rows():
    short, long = (simulate(clip(frames), EDGE, tile=4) for frames in (KEPT_FRAMES + 8, 3 * KEPT_FRAMES))
    for some, many in ((short, long), (short.dense, long.dense)):
        assert some is not None
        assert many is not None
        assert set(many.cost.kept) == set(some.cost.kept)
        more = kept_bytes(many) - kept_bytes(some)
        assert 0 < more <= BYTES_A_FRAME * (many.frames - some.frames)
    assert len(long.cost.kept) <= KEPT_FRAMES
    assert long.dense is not None
    assert len(long.dense.cost.kept) == 1, "frames of the dense schedule are alike"


@pytest.mark.parametrize("references", [(), (0, 5), (6, 9)], ids=["none", "first kept", "first beyond what is kept"])
def test_frames_that_are_not_kept_come_out_the_same(monkeypatch, references):
    trace = clip(12, references)
    whole = simulate(trace, EDGE, tile=4)
    monkeypatch.setattr(clip_cost, "KEPT_FRAMES", 3)
    partly = simulate(trace, EDGE, tile=4)
    assert len(whole.cost.kept) == 12 - max(0, len(references) - 1)
    assert set(partly.cost.kept) == {0, 1, 2, *references[:1]}
    assert partly.layers.equals(whole.layers)
    assert partly.by_frame.equals(whole.by_frame)
    assert json.dumps(partly.to_dict()) == json.dumps(whole.to_dict())
    assert np.array_equal(partly.work, whole.work)


def test_rows_are_made_one_frame_at_a_time(monkeypatch):
    monkeypatch.setattr(clip_cost, "KEPT_FRAMES", 1)
    made = []
    again = clip_cost.Rerun.__call__

    def watched(self, frame, workspace):
        made.append(frame)
        return again(self, frame, workspace)

    report = simulate(clip(5, ()), EDGE, tile=4)
    monkeypatch.setattr(clip_cost.Rerun, "__call__", watched)
    for number, row in enumerate(report.layer_rows()):
        assert row["frame"] == number // len(LAYERS)
        assert made == list(range(1, row["frame"] + 1))
    assert made == [1, 2, 3, 4]


def test_sums_are_those_of_the_rows():
    report = simulate(clip(9), EDGE, tile=4)
    rows = report.layers.drop(columns=["name", "density", "effective_density", "macs_per_dram_byte", "macs_per_cycle"])
    frames = rows.groupby("frame").sum()
    assert (report.by_frame[frames.columns] == frames).all(axis=None)
    assert report.cycles == rows["cycles"].sum()
    assert report.dram_read_bytes == rows["dram_read_bytes"].sum()
    assert np.array_equal(report.cost.cycles_by_layer, report.cycles_by_stage.sum(axis=0))
    assert sum(report.causes.values()) == report.cycles * EDGE.cores
    gated = [frame for frame in range(9) if frame not in (0, 5)]
    assert np.array_equal(cycles_of(gated_schedule(clip(9), EDGE, (4, 4))), report.cycles_by_stage[gated].sum(axis=0))
