"""Does a timeline show what happened, in a form that Chrome-trace viewers open?"""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator import fast
from skipsim.simulator.bandwidth import bandwidth, port_use
from skipsim.simulator.counters import C
from skipsim.simulator.schedule import Schedule, gated_schedule
from skipsim.simulator.simulate import simulate
from skipsim.simulator.tiles import (
    INPUT,
    LAST,
    OUTPUT,
    ROW_COLUMNS,
    STAGE_COLUMNS,
    UNIT,
    WORK_COLUMNS,
    Machine,
    Tiles,
    machine,
)
from skipsim.simulator.timeline import COUNTER_STEPS, UNITS, timeline_events, write_timeline
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


def test_a_core_is_a_group_of_its_own_and_so_is_the_memory(drawn: tuple[Schedule, list[dict[str, Any]]]) -> None:
    laid_out, events = drawn
    name, cores = laid_out.hardware.name, laid_out.hardware.cores
    groups = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert groups == {core: f"{name} core {core}" for core in range(cores)} | {cores: f"{name} memory"}
    assert {e["pid"] for e in events if e["ph"] == "X"} == set(range(cores))
    assert {e["pid"] for e in events if e["ph"] == "C"} == {cores}


def test_events_of_a_lane_come_in_order_of_time(drawn: tuple[Schedule, list[dict[str, Any]]]) -> None:
    _, events = drawn
    for kind, key in (("X", "tid"), ("C", "name")):
        last: dict[Any, float] = {}
        for event in (e for e in events if e["ph"] == kind):
            lane = event["pid"], event[key]
            assert event["ts"] >= last.get(lane, 0.0)
            last[lane] = event["ts"]


@pytest.mark.parametrize("rule", ["stream", "banked"])
def test_the_share_of_the_port_is_what_the_engine_booked(rule: str) -> None:
    laid_out = schedule(load_hardware("auto-npu").replace(**{"dram.rule": rule}))
    shown = [e for e in timeline_events(laid_out, FRAME) if "percent" in e.get("args", ())]
    counters = fast.run(laid_out.tiles(FRAME), machine(laid_out.hardware))
    assert all(0 <= e["args"]["percent"] <= 100.001 for e in shown)
    held = sum(one["args"]["percent"] / 100 * (after["ts"] - one["ts"]) for one, after in pairwise(shown))
    assert held == pytest.approx(counters.port_busy.sum() / laid_out.hardware.clock_hz * 1e6, rel=1e-3)


@pytest.mark.parametrize("rule", ["stream", "banked"])
def test_the_area_of_the_bandwidth_is_what_was_moved(rule: str) -> None:
    hardware = load_hardware("auto-npu").replace(
        **{"dram.rule": rule, "gate.placement": "separate", "schedule.prefetch_weights": True}
    )
    laid_out = schedule(hardware)
    shown = [e for e in timeline_events(laid_out, FRAME) if e["ph"] == "C" and "read" in e["args"]]
    table = simulate(laid_out.trace, hardware, (8, 8)).by_frame.loc[FRAME]
    for kind in ("read", "write"):
        moved = sum(one["args"][kind] * (after["ts"] - one["ts"]) for one, after in pairwise(shown))  # GB/s x us = kB
        assert moved * 1e3 == pytest.approx(table[f"dram_{kind}_bytes"], rel=1e-3)


def table(rows: list[dict[str, int]], *, read_bytes: int, write_bytes: int) -> Tiles:
    """One stage of these rows, one pass each."""
    heads = dict.fromkeys(STAGE_COLUMNS, 0) | {"rows": len(rows)}
    work = dict.fromkeys(WORK_COLUMNS, 0) | {"dram_read_bytes": read_bytes, "dram_write_bytes": write_bytes}
    flags = {"flags": UNIT | INPUT | OUTPUT | LAST}
    columns = [dict.fromkeys(ROW_COLUMNS, 0) | flags | row for row in rows]
    tables = [[list(row.values()) for row in some] for some in (columns, [heads], [work])]
    return Tiles(*(np.array(one, np.int64) for one in tables))


def test_every_transfer_shows_its_bytes_while_it_holds_the_port() -> None:
    """Read 10 cycles, compute 20, write 5; then a second read of 10, granted when the first is done."""
    rows = [{"read": 10, "compute": 20, "write": 5}, {"read": 10, "compute": 20}]
    tiles = table(rows, read_bytes=160, write_bytes=20)
    counters = fast.run(tiles, Machine(), events=True)
    assert counters.cycles == 50  # 10 to read, 20 + 20 to compute
    assert counters.transfers is not None
    assert counters.transfers.tolist() == [[0, 0, 0, 10], [0, 1, 10, 20], [2, 0, 30, 35]]
    read, written = bandwidth(tiles, counters, 10)  # steps of 5 cycles
    assert read == pytest.approx([8] * 4 + [0] * 6)
    assert written == pytest.approx([0] * 6 + [4] + [0] * 3)
    assert port_use(counters, 10) == pytest.approx([1] * 4 + [0] * 2 + [1] + [0] * 3)
    assert port_use(counters, 5) == pytest.approx([1, 1, 0, 0.5, 0])


def test_a_memory_without_limit_moves_its_bytes_while_the_layer_runs() -> None:
    tiles = table([{"compute": 20}], read_bytes=160, write_bytes=40)
    read, written = bandwidth(tiles, fast.run(tiles, Machine(), events=True), 4)
    assert read == pytest.approx([8] * 4)
    assert written == pytest.approx([2] * 4)


def test_the_file_stays_small_however_long_the_frame(drawn: tuple[Schedule, list[dict[str, Any]]]) -> None:
    _, events = drawn
    assert sum(e["ph"] == "C" for e in events) <= 2 * (COUNTER_STEPS + 1)


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
