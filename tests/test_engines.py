"""Do the two engines agree, bit for bit, on any table: zeros, ties, several cores, stages and buffer parts?"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipsim.hwmodels.dram import PARTS
from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator import fast, reference
from skipsim.simulator.banked import system
from skipsim.simulator.counters import CAUSES, EVENT_COLUMNS, TRANSFER_COLUMNS, Counters
from skipsim.simulator.lowering import lower
from skipsim.simulator.plan import Traffic, plan, plan_arrays
from skipsim.simulator.residency import addresses
from skipsim.simulator.schedule import gated_schedule
from skipsim.simulator.tiles import (
    INPUT,
    LAST,
    OUTPUT,
    ROW_COLUMNS,
    SHARED,
    STAGE_COLUMNS,
    UNIT,
    WORK_COLUMNS,
    Machine,
    R,
    S,
    Tiles,
    machine,
)
from skipsim.traces.gates import InputNormGate
from skipsim.traces.layer import Layer
from skipsim.traces.record import record
from skipsim.traces.synthetic import synthetic_trace

# Short times make ties, long ones make queues; zero is a time of its own.
cycles = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 60))

ROW_TIMES = ("index", "gather", "gather_port", "read", "scatter", "scatter_port", "write")
STAGE_TIMES = ("launch", "gate", "gate_read", "index", "prefetch_port", "prefetch_read")


@dataclass(frozen=True)
class RandomPass:
    """One run of the array: times of its rows, and which new buffer parts it takes (a unit's first pass takes both)."""

    group: int
    weight_port: int
    weight_read: int
    new_input: bool
    new_output: bool
    shared: bool
    compute: int
    rows: list[tuple[int, ...]]


passes = st.builds(
    RandomPass,
    group=st.integers(0, 2),
    weight_port=cycles,
    weight_read=cycles,
    new_input=st.booleans(),
    new_output=st.booleans(),
    shared=st.booleans(),
    compute=cycles,
    rows=st.lists(st.tuples(*[cycles] * len(ROW_TIMES)), min_size=1, max_size=3),
)
units = st.lists(passes, min_size=1, max_size=3)
stages = st.tuples(st.lists(units, max_size=5), st.tuples(*[cycles] * len(STAGE_TIMES)))
machines = st.builds(
    Machine,
    cores=st.integers(1, 4),
    halves=st.integers(1, 3),
    latency=st.sampled_from([0, 1, 7, 50]),
    dynamic=st.booleans(),
    prefetch=st.booleans(),
)


def tiles_of(drawn: list) -> Tiles:
    """Write drawn stages down as the table that engines read."""
    rows, heads = [], []
    for stage_units, stage_times in drawn:
        head = dict.fromkeys(STAGE_COLUMNS, 0) | dict(zip(STAGE_TIMES, stage_times, strict=True))
        head["first_row"] = len(rows)
        for unit in stage_units:
            for number, one in enumerate(unit):
                for place, times in enumerate(one.rows):
                    row = dict.fromkeys(ROW_COLUMNS, 0) | dict(zip(ROW_TIMES, times, strict=True))
                    row |= {"group": one.group, "weight_port": one.weight_port, "weight_read": one.weight_read}
                    if place == 0:
                        row["flags"] |= UNIT if number == 0 else 0
                        row["flags"] |= INPUT if number == 0 or one.new_input else 0
                        row["flags"] |= SHARED if one.shared else 0
                        row["flags"] |= OUTPUT if number == 0 or one.new_output else 0
                    if place == len(one.rows) - 1:
                        row["flags"] |= LAST
                        row["compute"] = one.compute
                    rows.append([row[name] for name in ROW_COLUMNS])
        head["rows"] = len(rows) - head["first_row"]
        heads.append([head[name] for name in STAGE_COLUMNS])
    return Tiles(
        np.array(rows, np.int64).reshape(-1, len(ROW_COLUMNS)),
        np.array(heads, np.int64).reshape(-1, len(STAGE_COLUMNS)),
        np.zeros((len(heads), len(WORK_COLUMNS)), np.int64),
    )


def assert_equal(ours: Counters, theirs: Counters) -> None:
    """Compare everything that an engine returns, naming the first difference."""
    for name, labels in (
        ("begin", ()),
        ("end", ()),
        ("port_busy", ()),
        ("causes", CAUSES),
        ("events", EVENT_COLUMNS),
        ("transfers", TRANSFER_COLUMNS),
    ):
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert mine.shape == other.shape, name
        places = np.argwhere(mine != other)
        if len(places):
            first = tuple(int(index) for index in places[0])
            label = labels[first[-1]] if labels else ""
            raise AssertionError(
                f"{name}{list(first)} {label}: compiled {mine[first]}, reference {other[first]}; {len(places)} differ"
            )


def agree(tiles: Tiles, numbers: Machine) -> Counters:
    """Run both engines with and without events; return the common counters."""
    theirs = reference.run(tiles, numbers, events=True)
    ours = fast.run(tiles, numbers, events=True)
    theirs.check()
    ours.check()
    assert_equal(ours, theirs)
    silent = fast.run(tiles, numbers)
    assert silent.events is silent.transfers is None
    for name in ("begin", "end", "port_busy", "causes"):
        assert np.array_equal(getattr(silent, name), getattr(ours, name)), f"{name} depends on keeping events"
    return ours


@settings(max_examples=300, derandomize=True)
@given(drawn=st.lists(stages, min_size=1, max_size=3), numbers=machines)
def test_engines_agree_on_any_table(drawn, numbers):
    agree(tiles_of(drawn), numbers)


def queued_tiles(generator: np.random.Generator, most_rows: int) -> Tiles:
    """Make a long table, in which requests queue up for the memory port."""
    longest = int(generator.choice([2, 4, 30, 400]))

    def some(chance_of_zero: float) -> int:
        return 0 if generator.random() < chance_of_zero else int(generator.integers(1, longest))

    drawn = []
    for _ in range(int(generator.integers(1, 4))):
        stage_units, left = [], int(generator.integers(1, most_rows))
        zero = generator.random() * 0.8
        while left > 0:
            unit = []
            for _ in range(int(generator.integers(1, 4))):
                count = int(generator.integers(1, 4))
                times = [tuple(some(zero) for _ in ROW_TIMES) for _ in range(count)]
                group, flips = int(generator.integers(0, 3)), (generator.random(3) < 0.5).tolist()
                unit.append(RandomPass(group, some(zero), some(zero), *flips, compute=some(zero), rows=times))
                left -= count
            stage_units.append(unit)
        drawn.append((stage_units, tuple(some(0.4) for _ in STAGE_TIMES)))
    return tiles_of(drawn)


@pytest.mark.parametrize("seed", range(40))
def test_engines_agree_on_long_tables(seed):
    generator = np.random.default_rng(seed)
    tiles = queued_tiles(generator, 150)
    numbers = Machine(
        cores=int(generator.integers(1, 9)),
        halves=int(generator.integers(1, 5)),
        latency=int(generator.choice([0, 3, 100])),
        dynamic=bool(generator.integers(2)),
        prefetch=bool(generator.integers(2)),
    )
    counters = agree(tiles, numbers)
    assert counters.events is not None
    cores = counters.events[:, EVENT_COLUMNS.index("core")]
    assert cores.max() < numbers.cores, "a row ran on a core that is not there"


def with_addresses(tiles: Tiles, generator: np.random.Generator) -> Tiles:
    """Say where the bytes of every request lie: one to three moves each, near each other or far apart."""
    moves: list[list[int]] = []

    def requests(of: int, kinds: int) -> np.ndarray:
        table = np.zeros((of, 2 * kinds), np.int64)
        for entry in range(of):
            for kind in range(kinds):
                count = int(generator.integers(1, 4))
                table[entry, 2 * kind : 2 * kind + 2] = len(moves), count
                for _ in range(count):
                    shape = generator.integers(1, [200, 4, 600, 3, 9000])
                    moves.append([int(generator.integers(0, 10 ** int(generator.integers(2, 7)))), *map(int, shape)])
        return table

    rows, heads = requests(len(tiles.rows), 3), requests(len(tiles.stages), 2)
    return Tiles(tiles.rows, tiles.stages, tiles.work, np.array(moves, np.int64), rows, heads)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("seed", range(8))
def test_engines_agree_on_banked_memories(part, seed):
    """Zero and one in the port's columns say whether the memory is used; the addresses say how long."""
    generator = np.random.default_rng(100 + seed)
    tiles = with_addresses(queued_tiles(generator, 60), generator)
    memory = system(PARTS[part], int(generator.integers(1, 4)), int(generator.choice([10**9, 333_000_000])))
    memory = replace(memory, window=int(generator.choice([1, 1, 2, 5, 32])))
    numbers = Machine(
        cores=1 + seed % 4, halves=1 + seed % 3, latency=seed * 5, dynamic=seed % 2 == 1, prefetch=seed > 3,
        memory=memory,
    )  # fmt: skip
    agree(tiles, numbers)


EDGE = load_hardware("edge-npu")
SMALL_BUFFERS = {"buffers.input_bytes": 4096, "buffers.weight_bytes": 2048, "buffers.output_bytes": 4096}
HARDWARE = {
    "as shipped": EDGE,
    "one core, input stationary, single-buffered, separate gate": EDGE.replace(
        **{"cores": 1, "array.dataflow": "input_stationary", "buffers.halves": 1, "gate.placement": "separate"}
    ),
    "channels split, dynamic, prefetch": EDGE.replace(
        **SMALL_BUFFERS,
        **{"cores": 4, "schedule.distribution": "dynamic", "schedule.prefetch_weights": True},
    ),
    "channels split, static, prefetch, NCHW": EDGE.replace(
        **SMALL_BUFFERS, **{"layer.layout": "nchw", "schedule.prefetch_weights": True, "schedule.merge_halo": True}
    ),
    "no limits": load_hardware("systolic-32x32"),
    "one tile per pass, depthwise on the array, single-buffered, halos merged": EDGE.replace(
        **{
            "array.pack_tiles": False,
            "array.depthwise": "array",
            "buffers.halves": 1,
            "schedule.merge_halo": True,
            "gate.placement": "array",
        }
    ),
    "banked": EDGE.replace(**{"dram.rule": "banked"}),
    "banked, a window of 8": EDGE.replace(**{"dram.rule": "banked", "dram.window": 8}),
    "banked, dynamic, prefetch, NCHW, channels split": EDGE.replace(
        **SMALL_BUFFERS,
        **{
            "dram.rule": "banked",
            "cores": 3,
            "layer.layout": "nchw",
            "schedule.distribution": "dynamic",
            "schedule.prefetch_weights": True,
        },
    ),
    "weight stationary, slow memory": load_hardware("systolic-32x32").replace(
        **{
            "array.dataflow": "weight_stationary",
            "cores": 3,
            "dram.rule": "stream",
            "dram.bytes_per_cycle": 1.5,
            "dram.latency_cycles": 40,
            "dram.burst_bytes": 16,
        }
    ),
}
LAYERS = (
    Layer("plain", 24, 20, 18, 40, 20, 18, 3, 3, padding_top=1, padding_left=1),
    Layer("strided", 40, 20, 18, 48, 10, 9, 3, 3, 2, 2, 1, 1),
    Layer("depthwise", 48, 10, 9, 48, 10, 9, 3, 3, padding_top=1, padding_left=1, groups=48),
    Layer("grouped", 48, 10, 9, 24, 10, 9, groups=4),
    Layer("dilated", 24, 10, 9, 70, 10, 9, 3, 3, 1, 1, 2, 2, 2, 2),
    Layer("5x5", 16, 10, 9, 16, 10, 9, 5, 5, padding_top=2, padding_left=2),
    Layer("depthwise 5x5, strided", 32, 10, 9, 32, 5, 5, 5, 5, 2, 2, 2, 2, groups=32),
)


def lowered(hardware: Hardware, tile: tuple[int, int], traffic: Traffic, density: float, seed: int) -> Tiles:
    """Lower one frame of a synthetic trace."""
    trace = synthetic_trace(
        LAYERS, frames=1, density=density, cluster_pixels=5, block=1, seed=seed, reference_frames=()
    )
    planned = [plan(layer, hardware, tile, traffic) for layer in trace.layers]
    bases = addresses(trace.layers, hardware)
    return lower(trace.frame_bits(0), np.array(trace.mask_bits, np.int64), *plan_arrays(planned), bases)


TRAFFIC = {
    "dense": Traffic(),
    "recompute": Traffic(gated=True, writes_reference=True),
    "difference": Traffic(gated=True, reads_reference=True, reads_state=True),
    "delta": Traffic(gated=True, reads_state=True, writes_delta=True),
}


@pytest.mark.parametrize("traffic", TRAFFIC)
@pytest.mark.parametrize("hardware", HARDWARE)
def test_engines_agree_on_lowered_masks(hardware, traffic):
    for seed, (tile, density) in enumerate([((1, 1), 0.1), ((2, 2), 0.5), ((4, 3), 0.3), ((8, 8), 1.0)]):
        tiles = lowered(HARDWARE[hardware], tile, TRAFFIC[traffic], density, seed)
        assert len(tiles.rows), "the case must hold work"
        agree(tiles, machine(HARDWARE[hardware]))


def test_what_the_lowered_cases_cover():
    """Each way in which layers and machines differ occurs in the tables above."""
    found = set()
    for hardware in HARDWARE.values():
        for layer in LAYERS:
            for tile in ((1, 1), (8, 8)):
                planned, _ = plan(layer, hardware, tile, TRAFFIC["recompute"])
                found |= {"partial sums"} if planned.chunks > 1 else set()
                found |= {"outputs in slices"} if planned.splits > 1 else set()
                found |= {"packed tiles"} if planned.packed > 1 else {"a tile per pass"}
                found |= {f"depthwise on {hardware.array.depthwise}"} if layer.groups == layer.in_channels else set()
        found |= {hardware.array.dataflow, hardware.schedule.distribution, f"{hardware.buffers.halves} parts"}
    assert found == {
        "partial sums", "outputs in slices", "packed tiles", "a tile per pass", "depthwise on array",
        "depthwise on vector", "output_stationary", "weight_stationary", "input_stationary", "static", "dynamic",
        "1 parts", "2 parts",
    }  # fmt: skip


@pytest.mark.parametrize("rule", ["stream", "banked"])
def test_engines_agree_on_a_recorded_clip(rule):
    """A network with a stride, a depthwise 5x5, a 1x1 and a dilated layer, on a square that moves; its gates decide."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 5, padding=2, groups=8),
        torch.nn.Conv2d(8, 24, 1),
        torch.nn.Conv2d(24, 8, 3, padding=2, dilation=2),
    )
    frames = np.random.default_rng(0).integers(0, 100, (1, 48, 40, 3), np.uint8).repeat(4, axis=0)
    for number, frame in enumerate(frames):
        frame[6 * number : 6 * number + 12, 8:20] += 120
    trace = record(network, list(frames), InputNormGate(threshold=0.02, block=2), progress=False)
    assert trace.layers[1].gate == "input_norm"
    assert 0 < trace.density(frame=2) < 1
    for name in ("edge-npu", "auto-npu"):
        hardware = load_hardware(name).replace(**{"dram.rule": rule})
        for side in (2, 3, 8):
            schedule = gated_schedule(trace, hardware, (side, side))
            for frame in range(trace.frames):
                assert agree(schedule.tiles(frame), machine(hardware)).cycles > 0


def test_engines_agree_when_nothing_is_active():
    tiles = lowered(EDGE, (4, 4), TRAFFIC["recompute"], 0.0, 0)
    assert len(tiles.rows) == 0
    counters = agree(tiles, machine(EDGE))
    launch, scan = S["launch"], S["index"]
    assert (counters.end - counters.begin == tiles.stages[:, launch] + tiles.stages[:, scan]).all()


def test_a_table_without_stages_takes_no_time():
    empty = tiles_of([])
    for run in (fast.run, reference.run):
        counters = run(empty, Machine())
        assert counters.cycles == 0
        counters.check()


def test_running_twice_gives_the_same_and_leaves_the_table_alone():
    tiles = queued_tiles(np.random.default_rng(5), 60)
    rows, heads = tiles.rows.copy(), tiles.stages.copy()
    numbers = Machine(cores=3, dynamic=True, prefetch=True, latency=9)
    assert_equal(fast.run(tiles, numbers, events=True), fast.run(tiles, numbers, events=True))
    assert_equal(reference.run(tiles, numbers, events=True), reference.run(tiles, numbers, events=True))
    assert np.array_equal(tiles.rows, rows)
    assert np.array_equal(tiles.stages, heads)


def test_the_comparison_sees_one_cycle():
    tiles = queued_tiles(np.random.default_rng(6), 60)
    counters = fast.run(tiles, Machine(), events=True)
    changed = tiles.rows.copy()
    changed[-1, R["scatter_port"]] += 1000
    other = reference.run(Tiles(changed, tiles.stages, tiles.work), Machine(), events=True)
    with pytest.raises(AssertionError, match=r"compiled .*, reference"):
        assert_equal(counters, other)
