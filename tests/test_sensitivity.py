"""Is every number of a machine changed alone, by the stated factor, and are the gains those of that machine?"""

from __future__ import annotations

import math

import pytest

from skipsim.analysis.advice.sensitivity import FACTOR, most_helpful, sensitivities
from skipsim.hwmodels.area import area_mm2
from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator.simulate import simulate
from skipsim.traces.layer import Layer
from skipsim.traces.synthetic import synthetic_trace

EDGE = load_hardware("edge-npu")
PLAIN = load_hardware("systolic-32x32")  # one core, ideal memory
LAYERS = (
    Layer("first", 16, 24, 20, 24, 24, 20, 3, 3, padding_top=1, padding_left=1),
    Layer("second", 24, 24, 20, 40, 24, 20),
)


def trace(seed: int = 4):
    return synthetic_trace(LAYERS, frames=2, density=0.3, cluster_pixels=8, block=2, seed=seed, reference_frames=(0,))


def test_launch_cycles_are_worth_half_of_themselves():
    stages, without = 2 * len(LAYERS), simulate(trace(), PLAIN, 4).cycles
    assert PLAIN.layer.launch_cycles == 0
    machine = PLAIN.replace(**{"layer.launch_cycles": 1000})
    (found,) = [one for one in sensitivities([trace()], machine, "4x4", both=False) if one.key == "layer.launch_cycles"]
    assert (found.before, found.after, found.direction) == (1000, 500, "better")
    assert found.latency_change == pytest.approx(-500 * stages / (without + 1000 * stages))
    assert found.area_change == 0


@pytest.mark.parametrize("key", ["dram.bytes_per_cycle", "gather.setup_cycles", "buffers.global_bytes", "cores"])
def test_changes_are_those_of_the_changed_machine(key):
    clips = [trace(4), trace(5)]
    for one in sensitivities(clips, EDGE, "4x4"):
        if one.key == key:
            grows = key != "gather.setup_cycles"
            assert one.after == (one.before * FACTOR if grows == (one.direction == "better") else one.before / FACTOR)
            changed = EDGE.replace(**{key: one.after})
            before, after = (
                sum(simulate(clip, machine, 4).latency_ms for clip in clips) for machine in (EDGE, changed)
            )
            assert one.latency_change == pytest.approx(after / before - 1)
            assert one.area_change == pytest.approx(area_mm2(changed)["total"] / area_mm2(EDGE)["total"] - 1)


def test_only_what_is_in_use_is_changed():
    keys = {one.key for one in sensitivities([trace()], PLAIN, "4x4")}
    assert not {key for key in keys if key.startswith("dram.")}  # its memory is ideal
    assert "schedule.distribution" not in keys  # one core
    assert "array.rows" in keys
    stream = {one.key for one in sensitivities([trace()], EDGE, "4x4")}
    assert {"dram.bytes_per_cycle", "schedule.distribution", "schedule.merge_halo"} <= stream
    assert "dram.channels" not in stream
    assert "gate.placement" not in stream  # fused already
    banked = {one.key for one in sensitivities([trace()], EDGE.replace(**{"dram.rule": "banked"}), "4x4", both=False)}
    assert "dram.channels" in banked
    assert "dram.bytes_per_cycle" not in banked


def test_the_largest_gains_come_first_and_three_are_named():
    found = sensitivities([trace()], EDGE, "4x4")
    better = [one.latency_change for one in found if one.direction == "better"]
    assert better == sorted(better)
    assert found[: len(better)] == [one for one in found if one.direction == "better"]
    named = most_helpful(found)
    assert len(named) == 3
    assert [one.latency_change for one in named] == better[:3]
    assert named[0].words().startswith(f"{named[0].key} from ")
    assert f"latency {100 * better[0]:+.1f}%" in named[0].words()


def test_a_change_that_cannot_be_says_why():
    tight = PLAIN.replace(**{"buffers.input_bytes": 2 * 6 * 6 * 16})  # a half holds the window of a 4x4 tile, no less
    found = sensitivities([trace()], tight, "4x4")
    (worse,) = [one for one in found if (one.key, one.direction) == ("buffers.input_bytes", "worse")]
    assert math.isnan(worse.latency_change) or worse.latency_change >= 0
    assert bool(worse.reason) == math.isnan(worse.latency_change)
