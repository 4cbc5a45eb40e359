"""Do the rows of the table say what really moves? Against plain loops over sets of pixels and explicit addresses."""

from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator.lowering import lower
from skipsim.simulator.plan import Plan, Share, Traffic, plan, plan_arrays
from skipsim.simulator.tiles import (
    INPUT,
    LAST,
    OUTPUT,
    REQUEST_COLUMNS,
    ROW_COLUMNS,
    SHARED,
    STAGE_COLUMNS,
    UNIT,
    WORK_COLUMNS,
    Tiles,
)
from skipsim.traces.layer import Layer

BASE = load_hardware("systolic-32x32")
Pixels = set[tuple[int, int]]
Row = dict[str, int]


@dataclass(frozen=True)
class Case:
    """One layer on one machine at one tile size, and what the mask asks for."""

    layer: Layer
    hardware: Hardware
    tile: tuple[int, int]
    traffic: Traffic
    mask: np.ndarray  # bool [grid_rows, grid_cols]

    def tiles(self, bases: np.ndarray | None = None) -> Tiles:
        """Lower the case."""
        planned = plan(self.layer, self.hardware, self.tile, self.traffic)
        bits = self.mask.astype(np.uint8).ravel()
        return lower(bits, np.zeros(1, np.int64), *plan_arrays([planned]), bases)

    def table(self) -> tuple[list[Row], Row, Row, Plan, tuple[Share, ...]]:
        """Lower the case: rows, stage and work by name, and how the layer was cut."""
        planned = plan(self.layer, self.hardware, self.tile, self.traffic)
        tiles = self.tiles()
        rows = [dict(zip(ROW_COLUMNS, map(int, row), strict=True)) for row in tiles.rows]
        stage = dict(zip(STAGE_COLUMNS, map(int, tiles.stages[0]), strict=True))
        work = dict(zip(WORK_COLUMNS, map(int, tiles.work[0]), strict=True))
        return rows, stage, work, *planned


# What the mask and the geometry mean, pixel by pixel.


def asked_pixels(case: Case) -> Pixels:
    """Output positions whose block is on; without a gate all of them."""
    layer = case.layer
    return {
        (row, col)
        for row, col in product(range(layer.out_rows), range(layer.out_cols))
        if not case.traffic.gated or case.mask[row // layer.block_rows, col // layer.block_cols]
    }


def map_tiles(case: Case) -> list[tuple[tuple[int, int], Pixels]]:
    """All tiles of the map in reading order: (number of row and column, output positions)."""
    tiles: dict[tuple[int, int], Pixels] = {}
    for row, col in product(range(case.layer.out_rows), range(case.layer.out_cols)):
        tiles.setdefault((row // case.tile[0], col // case.tile[1]), set()).add((row, col))
    return sorted(tiles.items())


def window(layer: Layer, outputs: Pixels) -> Pixels:
    """Input positions inside the box that all taps of these outputs span, padding left out."""
    taps = {
        (
            row * layer.stride_rows - layer.padding_top + tap_row * layer.dilation_rows,
            col * layer.stride_cols - layer.padding_left + tap_col * layer.dilation_cols,
        )
        for (row, col), tap_row, tap_col in product(outputs, range(layer.kernel_rows), range(layer.kernel_cols))
    }
    rows, cols = {tap[0] for tap in taps}, {tap[1] for tap in taps}
    return {
        (row, col)
        for row, col in product(range(layer.in_rows), range(layer.in_cols))
        if min(rows) <= row <= max(rows) and min(cols) <= col <= max(cols)
    }


def footprint(layer: Layer, outputs: Pixels) -> Pixels:
    """Input positions that these outputs stand on: their own stride's worth each, no halo."""
    return {
        (row, col)
        for row, col in product(range(layer.in_rows), range(layer.in_cols))
        if (row // layer.stride_rows, col // layer.stride_cols) in outputs
    }


@dataclass
class Moved:
    """What moves in one direction for one tile."""

    burst: int
    streams: int = 0
    segments: int = 0
    bytes: int = 0
    dram_bytes: int = 0
    chip_bytes: int = 0
    cells: list[tuple[str, frozenset[int]]] = field(default_factory=list)  # region and addresses of streams in DRAM

    def add(self, addresses: set[int], bits: int, in_dram: bool, region: str) -> None:
        """Add a stream: find its runs of neighbouring addresses one by one."""
        if not addresses:
            return
        if in_dram:
            self.cells.append((region, frozenset(addresses)))
        lengths, previous = [], None
        for address in sorted(addresses):
            if previous is not None and address == previous + 1:
                lengths[-1] += 1
            else:
                lengths.append(1)
            previous = address
        sizes = [-(-length * bits // 8) for length in lengths]
        self.streams += 1
        self.segments += len(sizes)
        self.bytes += sum(sizes)
        if in_dram:
            self.dram_bytes += sum(-(-size // self.burst) * self.burst for size in sizes)
        else:
            self.chip_bytes += sum(sizes)


def addresses(hardware: Hardware, pixels: Pixels, map_size: tuple[int, int, int], channels: range) -> set[int]:
    """Addresses, in values, of some channels of some positions of a map [channels, rows, cols]."""
    all_channels, rows, cols = map_size
    if hardware.layer.layout == "nchw":
        return {(channel * rows + row) * cols + col for (row, col), channel in product(pixels, channels)}
    return {(row * cols + col) * all_channels + channel for (row, col), channel in product(pixels, channels)}


def cycles(amount: int, rate: float) -> int:
    """Whole cycles at a rate, counted one by one."""
    if rate == float("inf"):
        return 0
    count = 0
    while count * rate < amount - 1e-9:
        count += 1
    return count


def array_cycles(layer: Layer, hardware: Hardware, pixels: int, ins: int, outs: int) -> int:
    """Cycles of one pass: SCALE-Sim's formulas, a group after the other; depthwise layers may have their own unit."""
    rows, cols = hardware.array.rows, hardware.array.cols
    per_group_in, per_group_out = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    groups = outs // per_group_out if layer.groups > 1 else 1
    taps = layer.kernel_rows * layer.kernel_cols
    if layer.groups > 1 and per_group_in == 1 and hardware.array.depthwise == "vector":
        return cycles(pixels * outs * taps, hardware.array.vector_macs_per_cycle)
    products = taps * (per_group_in if layer.groups > 1 else ins)
    filters = per_group_out if layer.groups > 1 else outs
    if hardware.array.dataflow == "output_stationary":
        folds, each = -(-pixels // rows) * -(-filters // cols), products + rows + cols - 2
    elif hardware.array.dataflow == "weight_stationary":
        folds, each = -(-products // rows) * -(-filters // cols), pixels + 2 * rows + cols - 2
    else:
        folds, each = -(-products // rows) * -(-pixels // cols), filters + 2 * rows + cols - 2
    return groups * folds * each


def packs(case: Case, packed: int) -> list[list[tuple[tuple[int, int], Pixels]]]:
    """Active tiles in reading order, so many to a pass."""
    asked = asked_pixels(case)
    active = [tile for tile in map_tiles(case) if tile[1] & asked]
    return [active[first : first + packed] for first in range(0, len(active), packed)]


def inputs_of(case: Case, pack: list, number: int) -> Pixels:
    """Input positions to gather for one tile of a pass; with merged halos, what its left neighbour fetched is there."""
    (tile_row, tile_col), outputs = pack[number]
    wanted = window(case.layer, outputs)
    if case.hardware.schedule.merge_halo and number:
        neighbour, its_outputs = pack[number - 1]
        if neighbour == (tile_row, tile_col - 1):
            wanted -= window(case.layer, its_outputs)
    return wanted


def weights_once_is_cheaper(case: Case, all_packs: list, shares: tuple[Share, ...], splits: int) -> bool:
    """Whether reading inputs again for every slice of outputs costs no more than weights again for every pass."""
    layer, traffic = case.layer, case.traffic
    inputs = Moved(case.hardware.dram.burst_bytes)
    size = layer.in_channels, layer.in_rows, layer.in_cols
    for pack in all_packs:
        for _, outputs in pack:
            cells = addresses(case.hardware, window(layer, outputs), size, range(layer.in_channels))
            inputs.add(cells, case.hardware.precision.activation_bits, traffic.input_in_dram, "input")
            if traffic.reads_reference:
                inputs.add(cells, case.hardware.precision.activation_bits, traffic.reference_in_dram, "reference")
    weights = sum(share.weight_bytes for share in shares)
    return splits * inputs.dram_bytes + weights <= inputs.dram_bytes + len(all_packs) * weights


def expected(case: Case, planned: Plan, shares: tuple[Share, ...]) -> tuple[list[Row], Row, list[tuple[Moved, Moved]]]:
    """Make rows, work and what each row reads and writes, for the cut that the plan chose, by loops over everything."""
    layer, hardware, traffic = case.layer, case.hardware, case.traffic
    bits, memory = hardware.precision, hardware.dram
    rate = float("inf") if memory.rule == "ideal" else memory.bytes_per_cycle
    splits, chunks = planned.splits, planned.chunks
    active = sum(map(len, packs(case, 1)))
    all_packs = packs(case, min(planned.packed, max(1, -(-active // hardware.cores))))  # work for every core
    depth_first = splits > 1 and layer.groups == 1 and chunks == 1
    if depth_first:
        depth_first = not weights_once_is_cheaper(case, all_packs, shares, splits)
    changing = depth_first or (chunks > 1 and shares[0].weight_group != shares[1].weight_group)
    sharers = 1 if changing else max(1, min(hardware.cores, len(all_packs)))
    in_map, out_map = (
        (layer.in_channels, layer.in_rows, layer.in_cols),
        (layer.out_channels, layer.out_rows, layer.out_cols),
    )
    order = (
        [(split, pack) for pack in range(len(all_packs)) for split in range(splits)]
        if depth_first
        else [(split, pack) for split in range(splits) for pack in range(len(all_packs))]
    )
    rows: list[Row] = []
    moves: list[tuple[Moved, Moved]] = []
    work = dict.fromkeys(WORK_COLUMNS, 0)
    state_bits = (bits.state_bits or bits.activation_bits) if traffic.reads_state else bits.activation_bits
    fetched_once: set[int] = set()
    for split, pack_number in order:
        pack = all_packs[pack_number]
        for chunk in range(chunks):
            share = shares[split * chunks + chunk]
            first_in = sum(one.in_channels for one in shares[split * chunks : split * chunks + chunk])
            if layer.groups > 1:
                first_in = sum(one.in_channels for one in shares[:split])
            ins = range(first_in, first_in + share.in_channels)
            first_out = sum(one.out_channels for one in shares[: split * chunks : chunks])
            outs = range(first_out, first_out + share.out_channels)
            weight_bytes = -(-share.weight_bytes // memory.burst_bytes) * memory.burst_bytes
            if changing or share.weight_group not in fetched_once:
                work["weight_read_bytes"] += weight_bytes
                work["descriptors"] += 1
                work["segments"] += 1
                fetched_once.add(share.weight_group)
            begins_unit = chunk == 0 and (split == 0 or not depth_first)
            gathers = split == 0 or not depth_first
            pixels = 0
            for number, (_, outputs) in enumerate(pack):
                read, write = Moved(memory.burst_bytes), Moved(memory.burst_bytes)
                its_outputs = addresses(hardware, outputs, out_map, outs)
                if gathers:
                    cells = addresses(hardware, inputs_of(case, pack, number), in_map, ins)
                    read.add(cells, bits.activation_bits, traffic.input_in_dram, "input")
                    if traffic.reads_reference:
                        read.add(cells, bits.activation_bits, traffic.reference_in_dram, "reference")
                    work["input_buffer_bytes"] += read.bytes
                if chunk == 0 and traffic.reads_state:
                    read.add(its_outputs, state_bits, traffic.output_in_dram, "output")
                fused = traffic.gated and hardware.gate.placement == "fused"
                if chunk == 0 and fused and not traffic.writes_delta:
                    read.add(its_outputs, bits.activation_bits, traffic.reference_in_dram, "next_reference")
                compared = 0
                if chunk == chunks - 1:
                    write.add(its_outputs, state_bits, traffic.output_in_dram, "output")
                    work["output_buffer_bytes"] += write.bytes
                    if traffic.writes_delta:
                        write.add(its_outputs, bits.activation_bits, traffic.output_in_dram, "delta")
                    if traffic.writes_reference and split == 0:
                        moved = addresses(hardware, footprint(layer, outputs), in_map, range(layer.in_channels))
                        write.add(moved, bits.activation_bits, traffic.reference_in_dram, "reference")
                    compared = len(outputs) * len(outs) * fused
                moves.append((read, write))
                pixels += len(outputs)
                flags = 0
                if number == 0:
                    flags |= (INPUT if gathers else 0) | (OUTPUT if chunk == 0 else 0) | (UNIT if begins_unit else 0)
                    flags |= 0 if changing else SHARED
                if number == len(pack) - 1:
                    flags |= LAST
                gather, scatter, gate = hardware.gather, hardware.scatter, hardware.gate
                rows.append(
                    {
                        "flags": flags,
                        "group": share.weight_group,
                        "index": hardware.index.cycles_per_tile if traffic.gated and split == 0 and chunk == 0 else 0,
                        "gather": read.streams * gather.setup_cycles + read.segments * gather.cycles_per_segment,
                        "gather_port": cycles(read.bytes, gather.bytes_per_cycle),
                        "read": cycles(read.dram_bytes, rate),
                        "weight_port": cycles(-(-weight_bytes // sharers), gather.bytes_per_cycle),
                        "weight_read": cycles(weight_bytes, rate),
                        "compute": 0,
                        "scatter": write.streams * scatter.setup_cycles + write.segments * scatter.cycles_per_segment,
                        "scatter_port": max(
                            cycles(write.bytes, scatter.bytes_per_cycle), cycles(compared, gate.elements_per_cycle)
                        ),
                        "write": cycles(write.dram_bytes, rate),
                    }
                )
                work["dram_read_bytes"] += read.dram_bytes
                work["dram_write_bytes"] += write.dram_bytes
                work["global_buffer_bytes"] += read.chip_bytes + write.chip_bytes
                work["gate_elements"] += compared
                work["descriptors"] += read.streams + write.streams
                work["segments"] += read.segments + write.segments
            rows[-1]["compute"] = array_cycles(layer, hardware, pixels, share.in_channels, share.out_channels)
            work["array_cycles"] += rows[-1]["compute"]
            work["passes"] += 1
    asked = asked_pixels(case)
    computed = sum(len(outputs) for pack in all_packs for _, outputs in pack)
    per_pixel = layer.kernel_rows * layer.kernel_cols * layer.in_channels // layer.groups * layer.out_channels
    gate_values, gate_bytes, gate_chip_bytes, _ = gate_before(case)
    work |= {
        "macs": len(asked) * per_pixel + (layer.gate_macs if traffic.gated else 0),
        "computed_macs": computed * per_pixel,
        "dense_macs": layer.out_rows * layer.out_cols * per_pixel,
        "gate_elements": work["gate_elements"] + gate_values,
        "tiles": len(map_tiles(case)),
        "active_tiles": sum(len(pack) for pack in all_packs),
        "computed_pixels": computed,
        "active_pixels": len(asked),
        "dram_read_bytes": work["dram_read_bytes"] + work["weight_read_bytes"] + gate_bytes,
        "gate_read_bytes": gate_bytes,
        "commands": 1 + work["passes"],
        "scanned_blocks": hardware.cores * layer.grid_rows * layer.grid_cols * traffic.gated,
        "global_buffer_bytes": work["global_buffer_bytes"] + gate_chip_bytes,
    }
    return rows, work, moves


def gate_before(case: Case) -> tuple[int, int, int, int]:
    """What the gate looks at before any tile is known: (elements, bytes from DRAM, bytes on chip, cycles)."""
    layer, hardware, traffic = case.layer, case.hardware, case.traffic
    if not traffic.gated or hardware.gate.placement not in ("separate", "array"):
        return 0, 0, 0, 0
    values = layer.in_channels * layer.in_rows * layer.in_cols
    each = -(-values * hardware.precision.activation_bits // 8)
    maps = [traffic.input_in_dram] + ([] if traffic.writes_delta else [traffic.reference_in_dram])
    elements = values
    if layer.gate == "gumbel":
        elements = layer.kernel_rows * layer.kernel_cols * layer.in_channels * layer.out_pixels
    if hardware.gate.placement == "separate":
        time = cycles(-(-elements // hardware.cores), hardware.gate.elements_per_cycle)
    else:  # one filter over this core's share of the positions
        plain = replace(layer, groups=1, out_channels=1)
        time = array_cycles(plain, hardware, -(-layer.out_pixels // hardware.cores), layer.in_channels, 1)
    return elements, sum(each for dram in maps if dram), sum(each for dram in maps if not dram), time


# Random cases.


@st.composite
def layers(draw) -> Layer:
    """Small layers of every kind; the map is as large as padding and stride make it, or cut at the bottom and right."""
    kernel = draw(st.tuples(*[st.sampled_from([1, 1, 3, 5])] * 2))
    dilation, stride = (draw(st.tuples(*[st.sampled_from([1, 1, 1, 2])] * 2)) for _ in range(2))
    stride = draw(st.sampled_from([stride, (3, 1)]))
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    in_size = tuple(draw(st.integers(1, 9)) for _ in range(2))
    padding = tuple(draw(st.sampled_from([0, extent[axis] // 2])) for axis in range(2))
    # what PyTorch gives for this padding on both sides; at least one output, for tiny maps by more padding behind
    out = tuple(max(1, (in_size[a] + 2 * padding[a] - extent[a]) // stride[a] + 1) for a in range(2))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    ins, outs = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    if draw(st.booleans()) and groups > 1:
        ins = outs = 1  # depthwise
    return Layer(
        "layer", groups * ins, *in_size, groups * outs, *out, *kernel, *stride, *padding, *dilation, groups,
        draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.sampled_from(["input_norm", "gumbel"])),
    )  # fmt: skip


traffics = st.one_of(
    st.builds(Traffic, input_in_dram=st.booleans(), output_in_dram=st.booleans(), writes_reference=st.booleans()),
    st.builds(
        Traffic,
        gated=st.just(True),
        reads_reference=st.booleans(),
        reads_state=st.booleans(),
        writes_delta=st.booleans(),
        writes_reference=st.booleans(),
        input_in_dram=st.booleans(),
        output_in_dram=st.booleans(),
        reference_in_dram=st.booleans(),
    ),
)
rates = st.sampled_from([float("inf"), 1.0, 4.0, 2.5, 0.3])
machines = st.fixed_dictionaries(
    {
        "cores": st.integers(1, 4),
        "array.rows": st.sampled_from([1, 4, 8]),
        "array.cols": st.sampled_from([1, 3, 4]),
        "array.dataflow": st.sampled_from(["output_stationary", "weight_stationary", "input_stationary"]),
        "array.pack_tiles": st.booleans(),
        "array.depthwise": st.sampled_from(["array", "vector"]),
        "array.vector_macs_per_cycle": st.just(7),
        "buffers.halves": st.integers(1, 3),
        "buffers.input_bytes": st.sampled_from([60, 200, 1000, float("inf")]),
        "buffers.weight_bytes": st.sampled_from([40, 150, 600, float("inf")]),
        "buffers.output_bytes": st.sampled_from([100, 400, float("inf")]),
        "precision.activation_bits": st.sampled_from([4, 8, 8, 16]),
        "precision.weight_bits": st.sampled_from([3, 8]),
        "precision.state_bits": st.sampled_from([None, 12, 32]),
        "layer.launch_cycles": st.integers(0, 50),
        "layer.layout": st.sampled_from(["nhwc", "nchw"]),
        "gate.placement": st.sampled_from(["none", "separate", "fused", "array"]),
        "gate.elements_per_cycle": rates,
        "index.blocks_per_cycle": rates,
        "index.cycles_per_tile": st.integers(0, 3),
        "gather.setup_cycles": st.integers(0, 9),
        "gather.cycles_per_segment": st.integers(0, 5),
        "gather.bytes_per_cycle": rates,
        "scatter.setup_cycles": st.integers(0, 9),
        "scatter.cycles_per_segment": st.integers(0, 5),
        "scatter.bytes_per_cycle": rates,
        "dram.rule": st.sampled_from(["ideal", "stream"]),
        "dram.bytes_per_cycle": st.sampled_from([1.0, 7.0, 1.7]),
        "dram.burst_bytes": st.sampled_from([1, 4, 32]),
        "schedule.merge_halo": st.booleans(),
    }
)


@st.composite
def cases(draw) -> Case:
    """A layer, a machine, a tile, what moves, and a mask of any density."""
    layer = draw(layers())
    density, seed = draw(st.sampled_from([0.0, 0.2, 0.5, 0.5, 1.0])), draw(st.integers(0, 999))
    mask = np.random.default_rng(seed).random((layer.grid_rows, layer.grid_cols)) < density
    tile = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    return Case(layer, BASE.replace(**draw(machines)), tile, draw(traffics), mask)


def part_bits(size: float, halves: int) -> float:
    """Bits in one part of a buffer."""
    return size if size == float("inf") else int(size) // halves * 8


def check_cut(case: Case, planned: Plan, shares: tuple[Share, ...]) -> None:
    """Check that slices cover all channels once and that what a pass needs fits one part of each buffer."""
    layer, bits, buffers = case.layer, case.hardware.precision, case.hardware.buffers
    assert len(shares) == planned.splits * planned.chunks
    taps = layer.kernel_rows * layer.kernel_cols
    if layer.groups > 1:
        assert planned.chunks == 1
        assert sum(share.in_channels for share in shares) == layer.in_channels
    else:
        for split in range(planned.splits):
            slices = shares[split * planned.chunks : (split + 1) * planned.chunks]
            assert sum(share.in_channels for share in slices) == layer.in_channels
            assert len({share.out_channels for share in slices}) == 1
    assert sum(share.out_channels for share in shares[:: planned.chunks]) == layer.out_channels
    largest = 1
    for pack in packs(replace(case, traffic=Traffic()), planned.packed):
        inputs = [inputs_of(case, pack, number) for number in range(len(pack))]
        pixels = sum(len(outputs) for _, outputs in pack)
        largest = max(largest, len(pack))
        for share in shares:
            held = sum(map(len, inputs)) * share.in_channels * bits.activation_bits
            assert held <= part_bits(buffers.input_bytes, buffers.halves), "inputs do not fit"
            sums = pixels * share.out_channels * bits.accumulator_bits
            assert sums <= part_bits(buffers.output_bytes, buffers.halves), "outputs do not fit"
    groups: dict[int, int] = {}
    for share in shares:
        per_filter = taps * (layer.in_channels // layer.groups if layer.groups > 1 else share.in_channels)
        groups[share.weight_group] = groups.get(share.weight_group, 0) + per_filter * share.out_channels
    for share in shares:
        weight_bits = groups[share.weight_group] * bits.weight_bits
        assert share.weight_bytes == -(-weight_bits // 8)
        assert weight_bits <= part_bits(buffers.weight_bytes, buffers.halves), "weights do not fit"
    assert largest == 1 or case.hardware.array.pack_tiles


@settings(max_examples=300, derandomize=True)
@given(case=cases())
def test_the_table_is_what_loops_over_pixels_and_addresses_give(case):
    refused = refusal(case)
    if refused:
        assert "does not fit the buffers" in refused
        assert smallest_need(case), f"a pass of one channel would fit: {refused}"
        return
    rows, stage, work, planned, shares = case.table()
    check_cut(case, planned, shares)
    expected_rows, expected_work, _ = expected(case, planned, shares)
    assert len(rows) == len(expected_rows)
    for number, (row, wanted) in enumerate(zip(rows, expected_rows, strict=True)):
        assert row == wanted, f"row {number}"
    _, gate_bytes, _, gate_cycles = gate_before(case)
    memory = case.hardware.dram
    blocks = case.layer.grid_rows * case.layer.grid_cols if case.traffic.gated else 0
    assert stage == {
        "first_row": 0,
        "rows": len(rows),
        "launch": case.hardware.layer.launch_cycles,
        "gate": gate_cycles,
        "gate_read": 0 if memory.rule == "ideal" else cycles(gate_bytes, memory.bytes_per_cycle),
        "index": cycles(blocks, case.hardware.index.blocks_per_cycle),
        "prefetch_port": 0,
        "prefetch_read": 0,
    }
    for name in WORK_COLUMNS:
        if name not in ("input_buffer_bytes", "weight_buffer_bytes", "output_buffer_bytes"):
            assert work[name] == expected_work[name], name
    # What the array itself reads and writes comes on top of what the movers do; tested in closed form below.
    assert work["input_buffer_bytes"] >= expected_work["input_buffer_bytes"]
    assert work["weight_buffer_bytes"] >= work["weight_read_bytes"]
    assert work["output_buffer_bytes"] >= expected_work["output_buffer_bytes"]


def refusal(case: Case) -> str | None:
    """Return the message if the tile is refused."""
    try:
        plan(case.layer, case.hardware, case.tile, case.traffic)
    except InputError as error:
        return str(error)
    return None


def smallest_need(case: Case) -> bool:
    """Whether even one channel (of a grouped layer: one group) in and out overflows a part of some buffer."""
    layer, bits, buffers = case.layer, case.hardware.precision, case.hardware.buffers
    ins = layer.in_channels // layer.groups if layer.groups > 1 else 1
    outs = layer.out_channels // layer.groups if layer.groups > 1 else 1
    tile = min(case.tile[0], layer.out_rows), min(case.tile[1], layer.out_cols)
    # of an inner tile, wherever it lies: no padding to leave out
    rows = (tile[0] - 1) * layer.stride_rows + (layer.kernel_rows - 1) * layer.dilation_rows + 1
    cols = (tile[1] - 1) * layer.stride_cols + (layer.kernel_cols - 1) * layer.dilation_cols + 1
    held = min(rows, layer.in_rows) * min(cols, layer.in_cols) * ins * bits.activation_bits
    weights = layer.kernel_rows * layer.kernel_cols * ins * outs * bits.weight_bits
    sums = tile[0] * tile[1] * outs * bits.accumulator_bits
    return any(
        need > part_bits(size, buffers.halves)
        for need, size in (
            (held, buffers.input_bytes),
            (weights, buffers.weight_bytes),
            (sums, buffers.output_bytes),
        )
    )


# A banked memory is told where the bytes lie instead of how long they take.

REGIONS = ("input", "reference", "output", "next_reference", "delta", "weights")
BASES = np.array([[0, 10_000, 20_000, 30_000, 40_000, 50_000]], np.int64) * 7  # unaligned, and far enough apart
BURST = 32  # bytes, of the part below


@settings(max_examples=150, derandomize=True)
@given(case=cases(), activation_bits=st.sampled_from([8, 16]), state_bits=st.sampled_from([8, 32]))
def test_a_banked_memory_is_asked_for_exactly_the_bytes_of_the_real_layout(case, activation_bits, state_bits):
    banked = {"dram.rule": "banked", "dram.part": "LPDDR4X-4266", "dram.channels": 2}
    widths = {"precision.activation_bits": activation_bits, "precision.state_bits": state_bits}
    case = replace(case, hardware=case.hardware.replace(**banked, **widths))
    assume(refusal(case) is None)
    tiles = case.tiles(BASES)
    # the same cut and order of loops as with a streaming memory; where orders compete, bursts decide differently
    same_bursts = replace(case, hardware=case.hardware.replace(**{"dram.rule": "stream", "dram.burst_bytes": BURST}))
    planned = plan(case.layer, case.hardware, case.tile, case.traffic)
    assume(planned[0].splits == 1 or planned[0].chunks > 1 or not planned[0].regroups)
    _, _, moves = expected(same_bursts, *planned)
    touched = 0
    for row, request, (read, write) in zip(tiles.rows, tiles.requests, moves, strict=True):
        named = dict(zip(ROW_COLUMNS, map(int, row), strict=True))
        for what, moved in (("read", read), ("write", write)):
            first, count = (int(request[REQUEST_COLUMNS.index(f"{what}_{n}")]) for n in ("first", "moves"))
            assert named[what] == (1 if moved.cells else 0)
            asked = [segments(move) for move in tiles.moves[first : first + count].tolist()]
            assert sorted(map(sorted, asked)) == sorted(sorted(byte_runs(case, *cells)) for cells in moved.cells)
            if what == "read":
                touched += sum((at + size - 1) // BURST - at // BURST + 1 for runs in asked for at, size in runs)
    work = dict(zip(WORK_COLUMNS, map(int, tiles.work[0]), strict=True))
    assert work["dram_read_bytes"] - work["weight_read_bytes"] - work["gate_read_bytes"] == touched * BURST


def segments(move: list[int]) -> list[tuple[int, int]]:
    """Return (address, bytes) of every segment of a move."""
    address, size, inner, inner_stride, outer, outer_stride = move
    return [(address + high * outer_stride + low * inner_stride, size) for high in range(outer) for low in range(inner)]


def byte_runs(case: Case, region: str, cells: frozenset[int]) -> list[tuple[int, int]]:
    """Return (address, bytes) of every run of neighbouring values of a map that begins at its region's base."""
    bits = case.hardware.precision
    width = bits.state_bits if region == "output" and case.traffic.reads_state else bits.activation_bits
    assert width is not None
    base, runs = int(BASES[0, REGIONS.index(region)]), []
    for cell in sorted(cells):
        if cell - 1 not in cells:
            runs.append([base + cell * width // 8, 0])
        runs[-1][1] += width // 8
    return [(address, size) for address, size in runs]
