"""Do tiles by layer run each layer at its own tile, in both engines, and does "per-layer" find each layer's best?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skipsim.errors import InputError
from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator import fast
from skipsim.simulator.simulate import schedule_of, simulate
from skipsim.simulator.tiles import machine
from skipsim.traces.layer import Layer
from skipsim.traces.synthetic import synthetic_trace
from skipsim.traces.trace import Trace

EDGE = load_hardware("edge-npu")
PLAIN = load_hardware("systolic-32x32")  # ideal memory: layers don't share anything
LAYERS = (
    Layer("wide", 16, 48, 40, 24, 48, 40, 3, 3, padding_top=1, padding_left=1),
    Layer("down", 24, 48, 40, 40, 24, 20, 3, 3, 2, 2, 1, 1),
    Layer("head", 40, 24, 20, 17, 24, 20),
    Layer("head", 40, 24, 20, 17, 24, 20, call=1),
)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace(LAYERS, frames=3, density=0.3, cluster_pixels=8, block=4, seed=4, reference_frames=(0,))


def test_every_layer_runs_at_its_own_tile(trace):
    tiling = {"wide": "8x8", "down": (4, 4), "head": 16, "head@1": "full"}
    mixed = simulate(trace, PLAIN, tile=tiling)
    assert mixed.tile == "per-layer"
    assert mixed.tiling == {"wide": (8, 8), "down": (4, 4), "head": (16, 16), "head@1": (1 << 30, 1 << 30)}
    for place, tile in enumerate(tiling.values()):
        alone = simulate(trace, PLAIN, tile=tile)
        assert (mixed.cycles_by_stage[:, place] == alone.cycles_by_stage[:, place]).all()
        assert (mixed.work[:, place] == alone.work[:, place]).all()


def test_one_tile_for_all_is_that_tile(trace):
    same = simulate(trace, EDGE, tile=dict.fromkeys(("wide", "down", "head", "head@1"), 8))
    assert (same.cycles_by_stage == simulate(trace, EDGE, tile=8).cycles_by_stage).all()


def test_the_engines_agree(trace):
    tiling = {"wide": "dense", "down": "4x4", "head": "2x8", "head@1": "dense"}
    fast, slow = (simulate(trace, EDGE, tile=tiling, engine=engine) for engine in ("fast", "reference"))
    assert (fast.cycles_by_stage == slow.cycles_by_stage).all()
    assert (fast.causes_by_stage == slow.causes_by_stage).all()


def test_a_layer_that_stays_dense_has_no_gate_and_computes_everything(trace):
    mixed = simulate(trace, PLAIN, tile={"wide": "dense", "down": 4, "head": 4, "head@1": 4})
    rows = mixed.layers[mixed.layers["name"] == "wide"]
    assert (rows["macs"] == LAYERS[0].macs).all()
    assert (rows["effective_density"] == 1).all()
    assert (rows["gate_read_bytes"] == 0).all()
    # on an ideal memory nothing depends on the neighbours: as the dense schedule
    assert mixed.dense is not None
    assert (mixed.cycles_by_stage[:, 0] == mixed.dense.cycles_by_stage[:, 0]).all()
    everything = simulate(trace, EDGE, tile=dict.fromkeys(("wide", "down", "head", "head@1"), "dense"))
    assert everything.speedup == 1


def test_per_layer_is_at_least_as_fast_as_any_uniform_tile(trace):
    best = simulate(trace, PLAIN, tile="per-layer")
    uniform = [simulate(trace, PLAIN, tile=tile) for tile in ("full", 64, 32, 16, 8, 4)]
    least = np.min([report.cycles_by_stage.sum(axis=0) for report in uniform], axis=0)
    assert (best.cycles_by_stage.sum(axis=0) <= least).all()
    again = simulate(trace, PLAIN, tile=best.tiling)
    assert again.cycles == best.cycles


def test_per_layer_leaves_a_full_layer_dense(trace):
    """A gate that asks for everything only costs: on the edge NPU the layer's references have to be written as well."""
    full = synthetic_trace(LAYERS, frames=3, density=1.0, cluster_pixels=8, block=4, seed=4, reference_frames=(0,))
    report = simulate(full, EDGE, tile="per-layer")
    assert set(report.tiling.values()) == {None}
    assert report.speedup == 1


def test_a_layer_too_large_for_a_tile_takes_a_smaller_one(trace):
    small = PLAIN.replace(**{"buffers.input_bytes": 2 * 16 * 10 * 10})  # a half holds the window of 8x8, 16 channels
    with pytest.raises(InputError, match="largest square tile that fits"):
        simulate(trace, small, tile="full")
    assert simulate(trace, small, tile="per-layer").tile == "per-layer"


def test_the_schedule_of_a_report_runs_as_it_did(trace):
    for options in ({"tile": "per-layer"}, {"tile": "4x4"}, {"tile": "full"}, {"dense": True}):
        report = simulate(trace, EDGE, **options)
        schedule = schedule_of(trace, report)
        for frame in range(trace.frames):
            assert fast.run(schedule.tiles(frame), machine(EDGE)).cycles == report.cycles_by_stage[frame].sum()


def test_bad_tilings_are_one_line(trace):
    for tiling, message in (
        ({"wide": 8}, "tile: layer 'down' has a gate and no tile; name every gated layer"),
        ({"wide": 8, "donw": 8}, "tile: no layer 'donw'; did you mean 'down'"),
        ({"wide": "auto"}, "tile of layer 'wide': must be ROWSxCOLUMNS, 'full' or 'dense', got 'auto'"),
        ({"wide": "0x4"}, "tile '0x4': must be ROWSxCOLUMNS"),
    ):
        with pytest.raises(InputError) as error:
            simulate(trace, EDGE, tile=tiling)
        assert message in str(error.value)
    with pytest.raises(InputError, match="the dense schedule takes one tile for all layers"):
        simulate(trace, EDGE, tile="per-layer", dense=True)
    ungated = replace(trace, layers=tuple(replace(layer, gate="none") for layer in trace.layers))
    assert simulate(ungated, EDGE, tile="per-layer").speedup == 1
