"""Does a timeline show what happened, in a form that Chrome-trace viewers open?"""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator import fast
from skipsim.simulator.counters import C
from skipsim.simulator.schedule import Schedule, gated_schedule
from skipsim.simulator.simulate import simulate
from skipsim.simulator.tiles import R, machine
from skipsim.simulator.timeline import UNITS, timeline_events, write_timeline
from skipsim.traces.layer import Layer
from skipsim.traces.synthetic import synthetic_trace

LAYERS = [
    Layer("stem", 3, 48, 64, 16, 48, 64, 3, 3, 1, 1, 1, 1),
    Layer("head", 16, 48, 64, 32, 24, 32, 3, 3, 2, 2, 1, 1),
    Layer("head", 32, 24, 32, 32, 24, 32, 1, 1, call=1),
]
FRAME = 2


def schedule(hardware: Hardware) -> Schedule:
    trace = synthetic_trace(LAYERS, frames=3, density=0.3, cluster_pixels=12, block=4, seed=5)
    return gated_schedule(trace, hardware, (8, 8))


@pytest.fixture(params=["edge-npu", "auto-npu"])
def drawn(request: pytest.FixtureRequest) -> tuple[Schedule, list[dict[str, Any]]]:
    laid_out = schedule(load_hardware(request.param))
    return laid_out, list(timeline_events(laid_out, FRAME))


def test_every_unit_has_a_named_lane(drawn: tuple[Schedule, list[dict[str, Any]]]) -> None:
    laid_out, events = drawn
    lanes = {(e["pid"], e["args"]["name"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    assert lanes == {(core, unit) for core in range(laid_out.hardware.cores) for unit in UNITS}


def test_slices_of_a_lane_follow_one_another(drawn: tuple[Schedule, list[dict[str, Any]]]) -> None:
    laid_out, events = drawn
    slices = [e for e in events if e["ph"] == "X"]
    assert {e["args"]["layer"] for e in slices} == {"stem", "head", "head@1"}
    for lane in {(e["pid"], e["tid"]) for e in slices}:
        ordered = sorted((e["ts"], e["ts"] + e["dur"]) for e in slices if (e["pid"], e["tid"]) == lane)
        for (_, end), (begin, _) in pairwise(ordered):
            assert begin >= end - 1e-9
    last = max(e["ts"] + e["dur"] for e in slices)
    cycles = fast.run(laid_out.tiles(FRAME), machine(laid_out.hardware)).cycles
    assert last == pytest.approx(cycles / laid_out.hardware.clock_hz * 1e6)


def test_compute_slices_are_the_cycles_booked_as_compute(drawn: tuple[Schedule, list[dict[str, Any]]]) -> None:
    laid_out, events = drawn
    counters = fast.run(laid_out.tiles(FRAME), machine(laid_out.hardware))
    names = {"stem", "head", "head@1"}
    for core in range(laid_out.hardware.cores):
        shown = sum(e["dur"] for e in events if e["ph"] == "X" and e["pid"] == core and e["name"] in names)
        booked = int(counters.causes[:, core, C["compute"]].sum())
        assert shown == pytest.approx(booked / laid_out.hardware.clock_hz * 1e6)


def test_the_counter_is_the_share_of_the_port() -> None:
    """One core, no gate, no weights worth speaking of: the mean of the counter is the port's busy share."""
    hardware = load_hardware("edge-npu").replace(**{"cores": 1, "gate.placement": "none"})
    laid_out = schedule(hardware)
    values = [e["args"]["percent"] for e in timeline_events(laid_out, FRAME) if "percent" in e.get("args", ())]
    tiles = laid_out.tiles(FRAME)
    counters = fast.run(tiles, machine(hardware))
    busy = tiles.rows[:, [R["read"], R["write"]]].sum()
    assert all(0 <= value <= 100 for value in values)
    assert sum(values) / len(values) == pytest.approx(100 * busy / counters.cycles, abs=0.1)


@pytest.mark.parametrize("rule", ["stream", "banked"])
def test_the_area_of_the_bandwidth_is_what_was_moved(rule: str) -> None:
    hardware = load_hardware("auto-npu").replace(**{"dram.rule": rule, "gate.placement": "separate"})
    laid_out = schedule(hardware)
    shown = [e for e in timeline_events(laid_out, FRAME) if e["ph"] == "C" and "read" in e["args"]]
    table = simulate(laid_out.trace, hardware, (8, 8)).by_frame.loc[FRAME]
    for kind in ("read", "write"):
        moved = sum(one["args"][kind] * (after["ts"] - one["ts"]) for one, after in pairwise(shown))  # GB/s x us = kB
        assert moved * 1e3 == pytest.approx(table[f"dram_{kind}_bytes"], rel=1e-3)


def test_files_are_json_compressed_by_name(tmp_path: Path) -> None:
    laid_out = schedule(load_hardware("edge-npu"))
    for name in ("frame.json", "frame.json.gz"):
        write_timeline(tmp_path / name, laid_out, FRAME)
    plain = (tmp_path / "frame.json").read_text()
    assert gzip.decompress((tmp_path / "frame.json.gz").read_bytes()).decode() == plain
    assert {event["ph"] for event in json.loads(plain)["traceEvents"]} == {"M", "X", "C"}


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    laid_out = schedule(load_hardware("edge-npu"))
    with pytest.raises(InputError, match=r"timeline: frame must be in 0\.\.2, got 3"):
        write_timeline(tmp_path / "frame.json", laid_out, 3)
    with pytest.raises(InputError, match=r"no such folder"):
        write_timeline(tmp_path / "nowhere" / "frame.json", laid_out, 0)
    assert list(tmp_path.iterdir()) == []
