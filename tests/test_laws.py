"""Do the laws of DESIGN hold on any trace and machine? Work is conserved, time lies between its bounds."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skipsim.errors import InputError
from skipsim.hwmodels.dram import PARTS, dram_part
from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator import fast
from skipsim.simulator.counters import CAUSES, TRANSFER_KINDS, C, Counters, E
from skipsim.simulator.report import Report
from skipsim.simulator.schedule import dense_schedule, gated_schedule
from skipsim.simulator.simulate import simulate
from skipsim.simulator.tiles import LAST, REQUEST_COLUMNS, STAGE_REQUEST_COLUMNS, R, S, Tiles, W, machine
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

PLAIN = load_hardware("systolic-32x32")
EDGE = load_hardware("edge-npu")


@st.composite
def traces(draw) -> Trace:
    """One to three small layers, not necessarily of one network, with masks of any density over two frames."""
    layers, masks = [], []
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    for number in range(draw(st.integers(1, 3))):
        rows, cols = draw(st.integers(1, 12)), draw(st.integers(1, 12))
        groups = draw(st.sampled_from([1, 1, 2, 6]))
        ins, outs = (6, 6) if groups == 6 else (groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4)))
        kernel, stride = draw(st.sampled_from([1, 3])), draw(st.integers(1, 2))
        layer = Layer(
            f"layer{number}", ins, rows * stride, cols * stride, outs, rows, cols, kernel, kernel, stride, stride,
            kernel // 2, kernel // 2, groups=groups, block_rows=draw(st.integers(1, 3)),
            block_cols=draw(st.integers(1, 3)), gate=draw(st.sampled_from(["input_norm", "gumbel", "mask"])),
        )  # fmt: skip
        layers.append(layer)
        density = draw(st.sampled_from([0.0, 0.3, 1.0]))
        masks.append(generator.random((2, layer.grid_rows, layer.grid_cols)) < density)
    references = draw(st.sampled_from([(), (0,)]))
    for frame in references:
        for mask in masks:
            mask[frame] = True
    update = draw(st.sampled_from(["recompute", "previous", "accumulate"]))
    return Trace.from_masks(layers, masks, update=update, reference_frames=references)


machines = st.fixed_dictionaries(
    {
        "cores": st.integers(1, 3),
        "array.dataflow": st.sampled_from(["output_stationary", "weight_stationary", "input_stationary"]),
        "array.rows": st.sampled_from([4, 16]),
        "array.cols": st.sampled_from([2, 16]),
        "buffers.halves": st.integers(1, 2),
        "buffers.input_bytes": st.sampled_from([400, float("inf")]),
        "buffers.weight_bytes": st.sampled_from([100, float("inf")]),
        "buffers.global_bytes": st.sampled_from([0, 300, 10**6]),
        "layer.launch_cycles": st.sampled_from([0, 20]),
        "layer.layout": st.sampled_from(["nhwc", "nchw"]),
        "gate.placement": st.sampled_from(["none", "separate", "fused", "array"]),
        "gate.elements_per_cycle": st.sampled_from([3.0, float("inf")]),
        "index.blocks_per_cycle": st.sampled_from([2.0, float("inf")]),
        "index.cycles_per_tile": st.integers(0, 2),
        "gather.setup_cycles": st.integers(0, 5),
        "gather.bytes_per_cycle": st.sampled_from([4.0, float("inf")]),
        "scatter.bytes_per_cycle": st.sampled_from([4.0, float("inf")]),
        "dram.rule": st.sampled_from(["stream", "banked"]),
        "dram.bytes_per_cycle": st.just(1.0),  # of a stream, a byte a cycle: bytes are cycles of the port
        "dram.part": st.sampled_from(sorted(PARTS)),
        "dram.channels": st.integers(1, 3),
        "dram.latency_cycles": st.sampled_from([0, 30]),
        "dram.burst_bytes": st.sampled_from([1, 16]),
        "schedule.prefetch_weights": st.booleans(),
        "schedule.distribution": st.sampled_from(["static", "dynamic"]),
        "schedule.merge_halo": st.booleans(),
    }
)
tile_sizes = st.sampled_from([(1, 1), (2, 2), (3, 2), (4, 4), (99, 99)])


@dataclass(frozen=True)
class Ran:
    """A frame of a trace on a machine."""

    tiles: Tiles
    counters: Counters
    hardware: Hardware

    def work(self, column: str) -> np.ndarray:
        return self.tiles.work[:, W[column]]


def run(trace: Trace, hardware: Hardware, tile: tuple[int, int], frame: int = 1) -> Ran:
    """Run one frame; a combination that no buffer holds is no example."""
    try:
        tiles = gated_schedule(trace, hardware, tile).tiles(frame)
    except InputError as error:
        assume("does not fit the buffers" not in str(error))
        raise
    return Ran(tiles, fast.run(tiles, machine(hardware), events=True), hardware)


def simulated(trace: Trace, hardware: Hardware, tile: tuple[int, int]) -> Report:
    """Simulate the whole trace; a combination that no buffer holds is no example."""
    try:
        return simulate(trace, hardware, tile=tile)
    except InputError as error:
        assume("does not fit the buffers" not in str(error))
        raise


# Work.


@settings(max_examples=80, derandomize=True)
@given(trace=traces(), changes=machines, tile=tile_sizes)
def test_executed_and_skipped_macs_are_the_dense_ones(trace, changes, tile):
    hardware = EDGE.replace(**changes)
    for frame in range(trace.frames):
        ran = run(trace, hardware, tile, frame)
        for number, layer in enumerate(trace.layers):
            grid = np.repeat(np.repeat(trace.mask(number, frame), layer.block_rows, axis=0), layer.block_cols, axis=1)
            executed = int(grid[: layer.out_rows, : layer.out_cols].sum()) * layer.macs_per_pixel
            skipped = int((~grid[: layer.out_rows, : layer.out_cols]).sum()) * layer.macs_per_pixel
            gates = 0 if trace.reference(frame) else layer.gate_macs
            assert ran.work("macs")[number] == executed + gates
            assert ran.work("dense_macs")[number] == executed + skipped == layer.macs
            assert executed <= ran.work("computed_macs")[number] <= layer.macs


@settings(max_examples=40, derandomize=True)
@given(trace=traces(), changes=machines, tile=tile_sizes)
def test_a_report_counts_the_macs_that_the_trace_counts(trace, changes, tile):
    report = simulated(trace, EDGE.replace(**changes), tile)
    assert report.macs == trace.macs
    assert report.dense_macs == report.dense.dense_macs == report.dense.macs == trace.dense_macs
    assert report.density * report.dense_macs == pytest.approx(
        sum(
            layer.macs * trace.density(number, frame)
            for number, layer in enumerate(trace.layers)
            for frame in range(trace.frames)
        )
    )


@settings(max_examples=150, derandomize=True)
@given(trace=traces(), changes=machines, tile=tile_sizes)
def test_bytes_booked_are_bytes_moved(trace, changes, tile):
    """At a byte a cycle the port is busy for exactly the bytes that the table books, layer by layer."""
    changes |= {"dram.rule": "stream"}
    ran = run(trace, EDGE.replace(**changes), tile)
    booked = ran.work("dram_read_bytes") + ran.work("dram_write_bytes")
    if changes["schedule.prefetch_weights"]:  # a stage's first weights are fetched while the one before runs
        assert ran.counters.port_busy.sum() == booked.sum()
    else:
        assert ran.counters.port_busy.tolist() == booked.tolist()
    assert (ran.work("weight_read_bytes") + ran.work("gate_read_bytes") <= ran.work("dram_read_bytes")).all()


KINDS = {  # of a transfer: where the table says which moves are its
    "read": ("requests", REQUEST_COLUMNS, "read"),
    "weights": ("requests", REQUEST_COLUMNS, "weight"),
    "write": ("requests", REQUEST_COLUMNS, "write"),
    "gate": ("stage_requests", STAGE_REQUEST_COLUMNS, "gate"),
    "prefetch": ("stage_requests", STAGE_REQUEST_COLUMNS, "prefetch"),
}


def bursts_of(ran: Ran, kind: str, number: int) -> int:
    """Count the bursts that a transfer touches, segment by segment."""
    name, columns, what = KINDS[kind]
    request = getattr(ran.tiles, name)[number]
    first, count = (int(request[columns.index(f"{what}_{column}")]) for column in ("first", "moves"))
    size, bursts = dram_part(ran.hardware.dram.part).burst_bytes, 0
    for address, length, inner, inner_stride, outer, outer_stride in ran.tiles.moves[first : first + count].tolist():
        for far in range(outer):
            for near in range(inner):
                begin = address + far * outer_stride + near * inner_stride
                bursts += (begin + length - 1) // size - begin // size + 1
    return bursts


@settings(max_examples=40, derandomize=True)
@given(trace=traces(), changes=machines, tile=tile_sizes)
def test_bytes_booked_are_bursts_of_a_banked_memory(trace, changes, tile):
    """Whole bursts at the addresses that were asked for, over all that the memory port let pass."""
    ran = run(trace, EDGE.replace(**changes | {"dram.rule": "banked"}), tile)
    assert ran.counters.transfers is not None
    burst = dram_part(ran.hardware.dram.part).burst_bytes
    moved = dict.fromkeys(KINDS, 0)
    for kind, number, _, _ in ran.counters.transfers.tolist():
        moved[TRANSFER_KINDS[kind]] += burst * bursts_of(ran, TRANSFER_KINDS[kind], number)
    read, weights, gate, written = (
        int(ran.work(f"{name}_bytes").sum()) for name in ("dram_read", "weight_read", "gate_read", "dram_write")
    )
    assert moved["write"] == written
    assert moved["weights"] + moved["prefetch"] == weights
    assert moved["gate"] == gate
    assert moved["read"] == read - weights - gate


@settings(max_examples=60, derandomize=True)
@given(trace=traces())
def test_finer_tiles_never_compute_more(trace):
    computed = []
    for size in (8, 4, 2, 1):
        ran = run(trace, PLAIN, (size, size))
        computed.append(ran.work("computed_pixels"))
        assert (ran.work("active_pixels") <= computed[-1]).all()
        assert (ran.work("active_tiles") <= ran.work("tiles")).all()
    for coarse, fine in pairwise(computed):
        assert (fine <= coarse).all()
    blocks = [replace(layer, block_rows=1, block_cols=1) for layer in trace.layers]
    masks = [np.zeros((trace.frames, layer.out_rows, layer.out_cols), np.bool_) for layer in blocks]
    for number, layer in enumerate(trace.layers):
        grid = np.repeat(np.repeat(trace.masks(number), layer.block_rows, axis=1), layer.block_cols, axis=2)
        masks[number] = np.ascontiguousarray(grid[:, : layer.out_rows, : layer.out_cols])
    pixels = Trace.from_masks(blocks, masks, update=trace.update, reference_frames=trace.reference_frames)
    exact = run(pixels, PLAIN, (1, 1))
    assert exact.work("computed_pixels").tolist() == exact.work("active_pixels").tolist()
    assert exact.work("active_pixels").tolist() == ran.work("active_pixels").tolist()


# Time.


def held_cycles(ran: Ran, kind: str) -> np.ndarray:
    """How long each row's transfers of a kind (stage's: gate, prefetch) held the memory port."""
    assert ran.counters.transfers is not None
    held = np.zeros(len(ran.tiles.rows if KINDS[kind][0] == "requests" else ran.tiles.stages), np.int64)
    log = ran.counters.transfers[ran.counters.transfers[:, 0] == TRANSFER_KINDS.index(kind)]
    np.add.at(held, log[:, 1], log[:, 3] - log[:, 2])
    return held


def busy_cycles(ran: Ran) -> dict[str, int]:
    """Cycles in which each resource is certainly busy, over the whole run."""
    rows, events, counters = ran.tiles.rows, ran.counters.events, ran.counters
    assert events is not None
    read, write = held_cycles(ran, "read"), held_cycles(ran, "write")
    busy = {"memory port": int(counters.port_busy.sum())}
    last = (rows[:, R["flags"]] & LAST) != 0
    for core in range(ran.hardware.cores):
        mine = events[:, E["core"]] == core
        own = rows[mine]
        busy[f"array {core}"] = int(rows[mine & last, R["compute"]].sum())
        moved = np.maximum(own[:, R["gather_port"]], read[mine])
        busy[f"gather {core}"] = int((own[:, R["gather"]] + moved).sum())
        written = np.maximum(own[:, R["scatter_port"]], write[mine])
        busy[f"scatter {core}"] = int((own[:, R["scatter"]] + written).sum())
    return busy


def serial_cycles(ran: Ran) -> int:
    """Cycles if nothing ever overlapped."""
    rows, stages, latency = ran.tiles.rows, ran.tiles.stages, ran.hardware.dram.latency_cycles
    if ran.hardware.dram.rule == "banked":  # data leave the part after the last column command
        part = dram_part(ran.hardware.dram.part)
        answer = max(part.cl_clocks + part.output_delay_clocks, part.cwl_clocks)
        latency += -(-answer * ran.hardware.clock_hz // part.clock_hz) + 1
    held = {kind: held_cycles(ran, kind) for kind in KINDS}
    heads = stages[:, [S[name] for name in ("launch", "gate", "index")]].sum() + held["gate"].sum()
    ahead = np.maximum(stages[:, S["prefetch_port"]], held["prefetch"]) + latency
    weights = np.maximum(rows[:, R["weight_port"]], held["weights"]) + latency
    tiles = (
        rows[:, [R[name] for name in ("index", "gather", "compute", "scatter")]].sum(axis=1)
        + np.maximum(rows[:, R["gather_port"]], held["read"])
        + np.maximum(rows[:, R["scatter_port"]], held["write"])
        + latency
    )
    return int(heads + ahead.sum() * ran.hardware.cores + len(stages) * latency + weights.sum() + tiles.sum())


@settings(max_examples=150, derandomize=True)
@given(trace=traces(), changes=machines, tile=tile_sizes, dynamic=st.booleans())
def test_time_lies_between_the_busiest_resource_and_the_serial_sum(trace, changes, tile, dynamic):
    changes |= {"schedule.distribution": "dynamic" if dynamic else "static"}
    ran = run(trace, EDGE.replace(**changes), tile)
    ran.counters.check()
    busy = busy_cycles(ran)
    busiest = max(busy, key=lambda name: busy[name])
    assert busy[busiest] <= ran.counters.cycles <= serial_cycles(ran), busiest
    compute = ran.counters.causes[:, :, C["compute"]].sum(axis=0)
    assert compute.tolist() == [busy[f"array {core}"] for core in range(ran.hardware.cores)]
    assert ran.counters.causes[:, :, C["compute"]].sum(axis=1).tolist() == ran.work("array_cycles").tolist()


@settings(max_examples=40, derandomize=True)
@given(trace=traces(), changes=machines, tile=tile_sizes)
def test_causes_of_a_report_sum_to_its_cycles_on_every_core(trace, changes, tile):
    hardware = EDGE.replace(**changes)
    report = simulated(trace, hardware, tile)
    for one in (report, report.dense):
        assert tuple(one.causes) == CAUSES
        assert sum(one.causes.values()) == one.cycles * hardware.cores
        table = one.layers
        each = table[[f"cause_{name}" for name in CAUSES]].sum(axis=1)
        assert each.tolist() == (table["cycles"] * hardware.cores).tolist()
        assert table["cycles"].sum() == one.cycles


@settings(max_examples=80, derandomize=True)
@given(trace=traces(), changes=machines, tile=tile_sizes)
def test_without_limits_only_the_arrays_cycles_are_left(trace, changes, tile):
    """Infinite bandwidth and no overheads, one core: whatever the mask, the tile and what has to be split."""
    array = {key: changes[key] for key in changes if key.startswith(("array.", "buffers.", "layer.layout"))}
    ran = run(trace, PLAIN.replace(**array), tile)
    assert (ran.counters.end - ran.counters.begin).tolist() == ran.work("array_cycles").tolist()
    assert ran.counters.causes.sum(axis=(0, 1)).tolist() == [
        ran.counters.cycles if cause == "compute" else 0 for cause in CAUSES
    ]


@settings(max_examples=60, derandomize=True)
@given(trace=traces(), changes=machines)
def test_a_full_mask_on_one_tile_costs_the_dense_schedule_plus_its_overheads(trace, changes):
    """Given masks cost the scan and one tile's number per layer and nothing else."""
    trace = Trace.from_masks(trace.layers, [np.ones_like(trace.masks(n)) for n in range(len(trace.layers))])
    changes |= {"dram.rule": "stream"}  # a later read meets a banked memory in another state: other refreshes
    changes |= {"gate.placement": "none", "buffers.global_bytes": 0, "schedule.prefetch_weights": False}
    changes |= {"buffers.input_bytes": float("inf"), "buffers.weight_bytes": float("inf")}
    hardware = EDGE.replace(**changes, **{"buffers.output_bytes": float("inf")})
    gated, dense = run(trace, hardware, (99, 99)), dense_schedule(trace, hardware, (99, 99)).tiles(0)
    plain = fast.run(dense, machine(hardware))
    for number, layer in enumerate(trace.layers):
        blocks, rate = layer.grid_rows * layer.grid_cols, hardware.index.blocks_per_cycle
        scan = 0 if rate == float("inf") else -(-blocks // int(rate))
        ours, theirs = (int(c.end[number] - c.begin[number]) for c in (gated.counters, plain))
        # the tile's number is looked up while the first weights are on their way
        weights = theirs - ours + scan + hardware.index.cycles_per_tile
        assert 0 <= weights <= hardware.index.cycles_per_tile
        assert ours >= theirs + scan
        for column in ("dram_read_bytes", "dram_write_bytes", "array_cycles", "computed_macs"):
            assert gated.work(column)[number] == dense.work[number, W[column]]


def test_a_full_mask_with_a_separate_gate_adds_exactly_what_it_streams():
    """No weights to hide behind: launch + gate + scan + the tile's number + the new reference to write."""
    layer = Layer("layer", 8, 16, 16, 8, 16, 16, gate="input_norm")
    trace = Trace.from_masks([layer], [np.ones((1, 16, 16), np.bool_)])
    hardware = PLAIN.replace(
        **{
            "layer.launch_cycles": 50,
            "gate.placement": "separate",
            "gate.elements_per_cycle": 16.0,
            "index.blocks_per_cycle": 8.0,
            "index.cycles_per_tile": 3,
            "scatter.bytes_per_cycle": 4.0,
            "scatter.setup_cycles": 7,
            "scatter.cycles_per_segment": 2,
        }
    )
    report = simulate(trace, hardware, tile="full")
    dense = simulate(trace, hardware, tile="full", dense=True)
    values = 8 * 16 * 16
    assert dense.cycles == 50 + report.layers["array_cycles"][0] + 7 + 2 + values // 4
    gate, scan, number = values // 16, 256 // 8, 3
    assert report.cycles - dense.cycles == gate + scan + number + (7 + 2 + values // 4)


@settings(max_examples=40, derandomize=True)
@given(trace=traces(), changes=machines, tile=tile_sizes)
def test_nothing_to_do_costs_launch_gate_and_scan(trace, changes, tile):
    trace = Trace.from_masks(
        trace.layers, [np.zeros_like(trace.masks(n)) for n in range(len(trace.layers))], update=trace.update
    )
    changes |= {"schedule.prefetch_weights": False}
    ran = run(trace, EDGE.replace(**changes), tile)
    assert len(ran.tiles.rows) == 0
    assert (ran.work("dram_write_bytes") == 0).all()
    assert ran.work("dram_read_bytes").tolist() == ran.work("gate_read_bytes").tolist()
    causes = ran.counters.causes.sum(axis=(0, 1))
    heads = causes[[C["launch"], C["gate"], C["index"]]].sum()
    assert causes.sum() == heads == ran.counters.cycles * ran.hardware.cores
