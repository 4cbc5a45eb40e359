"""Does each mechanism of lowering move what its closed form says: segments, updates, bursts, packing, splits?"""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator.lowering import lower
from skipsim.simulator.plan import Plan, Share, Traffic, plan, plan_arrays
from skipsim.simulator.tiles import INPUT, LAST, OUTPUT, ROW_COLUMNS, SHARED, STAGE_COLUMNS, UNIT, WORK_COLUMNS
from skipsim.traces.layer import Layer

BASE = load_hardware("systolic-32x32")
Row = dict[str, int]


@dataclass(frozen=True)
class Case:
    """One layer on one machine at one tile size, and what the mask asks for."""

    layer: Layer
    hardware: Hardware
    tile: tuple[int, int]
    traffic: Traffic
    mask: np.ndarray  # bool [grid_rows, grid_cols]

    def table(self) -> tuple[list[Row], Row, Row, Plan, tuple[Share, ...]]:
        """Lower the case: rows, stage and work by name, and how the layer was cut."""
        planned = plan(self.layer, self.hardware, self.tile, self.traffic)
        tiles = lower(self.mask.astype(np.uint8).ravel(), np.zeros(1, np.int64), *plan_arrays([planned]))
        rows = [dict(zip(ROW_COLUMNS, map(int, row), strict=True)) for row in tiles.rows]
        stage = dict(zip(STAGE_COLUMNS, map(int, tiles.stages[0]), strict=True))
        work = dict(zip(WORK_COLUMNS, map(int, tiles.work[0]), strict=True))
        return rows, stage, work, *planned


PLAIN = Layer("plain", 16, 32, 32, 16, 32, 32, 3, 3, padding_top=1, padding_left=1, gate="mask")
DEFAULT_MACHINE = BASE.replace(
    **{
        "gather.setup_cycles": 1000,
        "gather.cycles_per_segment": 1,
        "scatter.setup_cycles": 1000,
        "scatter.cycles_per_segment": 1,
    }
)


def one_tile(layer: Layer, hardware: Hardware, tile: tuple[int, int], at: tuple[int, int], **traffic) -> Case:
    """Make a case whose mask asks for exactly one tile."""
    layer = replace(layer, block_rows=1, block_cols=1)
    mask = np.zeros((layer.out_rows, layer.out_cols), np.bool_)
    mask[at[0] * tile[0], at[1] * tile[1]] = True
    return Case(layer, hardware, tile, Traffic(gated=True, **traffic), mask)


@pytest.mark.parametrize(
    ("layout", "tile", "at", "reads", "writes"),
    [
        ("nhwc", (8, 8), (1, 1), 10, 8),  # a segment per row of the window, all channels in it
        ("nhwc", (8, 8), (0, 0), 9, 8),  # a corner: one row less
        ("nhwc", (8, 32), (1, 0), 1, 1),  # full width: rows follow each other
        ("nchw", (8, 8), (1, 1), 10 * 16, 8 * 16),  # a segment per row and channel
        ("nchw", (8, 32), (1, 0), 16, 16),  # a segment per channel
        ("nchw", (32, 32), (0, 0), 1, 1),  # the whole map is one piece
    ],
)
def test_segments_of_a_window(layout, tile, at, reads, writes):
    rows, *_ = one_tile(PLAIN, DEFAULT_MACHINE.replace(**{"layer.layout": layout}), tile, at).table()
    assert [row["gather"] - 1000 for row in rows] == [reads]
    assert [row["scatter"] - 1000 for row in rows] == [writes]


@pytest.mark.parametrize(
    ("traffic", "read_pixels", "written_pixels", "read_streams", "write_streams"),
    [
        ({}, 100, 64, 1, 1),  # recompute: the window in, the outputs out
        ({"reads_reference": True, "reads_state": True}, 100 + 100 + 64, 64, 3, 1),  # difference
        ({"reads_state": True, "writes_delta": True}, 100 + 64, 64 + 64, 2, 2),  # delta
        ({"writes_reference": True}, 100, 64 + 64, 1, 2),  # a gate that needs the reference input renewed
    ],
)
def test_update_forms_move_what_they_say(traffic, read_pixels, written_pixels, read_streams, write_streams):
    """An 8x8 tile inside the map of a 3x3 layer of 16 channels in and out: 100 pixels of window, 64 of output."""
    memory = {"dram.rule": "stream", "dram.bytes_per_cycle": 1.0, "dram.burst_bytes": 16}
    rows, _, work, *_ = one_tile(PLAIN, DEFAULT_MACHINE.replace(**memory), (8, 8), (1, 1), **traffic).table()
    weights = 16 * 16 * 9
    assert work["dram_read_bytes"] == 16 * read_pixels + weights
    assert work["weight_read_bytes"] == weights
    assert work["dram_write_bytes"] == 16 * written_pixels
    assert rows[0]["read"] == 16 * read_pixels
    assert rows[0]["write"] == 16 * written_pixels
    assert rows[0]["gather"] // 1000 == read_streams
    assert rows[0]["scatter"] // 1000 == write_streams


def test_every_segment_is_rounded_up_to_bursts():
    """A row of the 10-pixel window holds 160 bytes: at bursts of 64 bytes 192 move, at 256 bytes 256."""
    for burst, each in ((1, 160), (64, 192), (256, 256)):
        hardware = DEFAULT_MACHINE.replace(**{"dram.burst_bytes": burst})
        _, _, work, *_ = one_tile(PLAIN, hardware, (8, 8), (1, 1)).table()
        assert work["dram_read_bytes"] - work["weight_read_bytes"] == 10 * each
        assert work["weight_read_bytes"] == -(-16 * 16 * 9 // burst) * burst
        assert work["dram_write_bytes"] == 8 * -(-128 // burst) * burst


def test_merged_halos_fetch_every_column_once():
    """Four 4x4 tiles in a row of a 3x3 layer: 6 + 6 + 6 + 6 columns apart, 6 + 4 + 4 + 4 together."""
    mask = np.zeros((32, 32), np.bool_)
    mask[8:12, 8:24] = True
    for merged, columns in ((False, 24), (True, 18)):
        hardware = BASE.replace(**{"schedule.merge_halo": merged, "array.rows": 64})
        case = Case(PLAIN, hardware, (4, 4), Traffic(gated=True), mask)
        rows, _, work, planned, _ = case.table()
        assert planned.packed == 4
        assert len(rows) == 4
        assert work["dram_read_bytes"] - work["weight_read_bytes"] == columns * 6 * 16


@pytest.mark.parametrize(
    ("tile", "array_rows", "packed"),
    [
        ((4, 4), 32, 2),  # 2 x 16 = 32 rows
        ((8, 8), 32, 1),  # two folds, both full
        ((1, 1), 32, 32),
        ((3, 3), 32, 7),  # 63 of 64 rows
        ((4, 4), 16, 1),
        ((2, 2), 128, 32),
        ((32, 32), 32, 1),
    ],
)
@pytest.mark.parametrize("dataflow", ["output_stationary", "input_stationary"])
def test_tiles_are_packed_until_the_array_is_full(tile, array_rows, packed, dataflow):
    """Pixels lie on the array's rows, or input stationary on its columns."""
    side = "array.rows" if dataflow == "output_stationary" else "array.cols"
    case = one_tile(PLAIN, BASE.replace(**{side: array_rows, "array.dataflow": dataflow}), tile, (0, 0))
    assert case.table()[3].packed == packed
    alone = replace(case, hardware=case.hardware.replace(**{"array.pack_tiles": False}))
    assert alone.table()[3].packed == 1


def test_a_pass_holds_no_more_tiles_than_a_buffer_part():
    """1x1 tiles of a 3x3 layer have windows of 9 x 16 bytes; outputs of 16 sums of 4 bytes."""
    for buffers, packed in (
        ({"buffers.input_bytes": 2 * 9 * 16 * 5}, 5),
        ({"buffers.output_bytes": 2 * 16 * 4 * 3}, 3),
        ({"buffers.input_bytes": 2 * 9 * 16}, 1),
    ):
        assert one_tile(PLAIN, BASE.replace(**buffers), (1, 1), (0, 0)).table()[3].packed == packed


def test_weights_that_do_not_fit_split_the_outputs():
    """Weights of 32 outputs fit a part, so 100 outputs need 4 slices; one 8x8 tile needs all of them, once each."""
    layer = replace(PLAIN, out_channels=100)
    hardware = BASE.replace(**{"buffers.weight_bytes": 2 * 9 * 16 * 32})
    rows, _, work, planned, shares = one_tile(layer, hardware, (8, 8), (0, 0)).table()
    assert [share.out_channels for share in shares] == [32, 32, 32, 4]
    assert (planned.splits, planned.chunks) == (4, 1)
    assert work["weight_read_bytes"] == 9 * 16 * 100
    assert [row["group"] for row in rows] == [0, 1, 2, 3]


@pytest.mark.parametrize("tiles", [1, 2, 40])
def test_the_cheaper_loop_order_is_taken(tiles):
    """Two slices of outputs: either the inputs of every tile move twice, or all weights move for every pass."""
    layer = Layer("split", 64, 8, 320, 64, 8, 320, gate="mask")
    hardware = BASE.replace(**{"buffers.weight_bytes": 2 * 64 * 32, "array.cols": 32})
    mask = np.zeros((8, 320), np.bool_)
    mask[0, : 8 * tiles] = True
    rows, _, work, planned, _ = Case(layer, hardware, (8, 8), Traffic(gated=True), mask).table()
    weights, inputs = 64 * 64, tiles * 64 * 64
    assert (planned.splits, planned.packed) == (2, 1)
    assert work["dram_read_bytes"] == min(2 * inputs + weights, inputs + tiles * weights)
    new_inputs = sum(bool(row["flags"] & INPUT) for row in rows)
    assert new_inputs == (2 * tiles if 2 * inputs + weights <= inputs + tiles * weights else tiles)


def test_inputs_that_do_not_fit_are_summed_in_chunks():
    """A part holds the 8x8 window of 5 of 16 channels: 4 chunks of 4, one output part for all, written once."""
    layer = replace(PLAIN, kernel_rows=1, kernel_cols=1, padding_top=0, padding_left=0)
    rows, _, work, planned, shares = one_tile(
        layer, BASE.replace(**{"buffers.input_bytes": 2 * 64 * 5}), (8, 8), (0, 0)
    ).table()
    assert [share.in_channels for share in shares] == [4, 4, 4, 4]
    assert (planned.splits, planned.chunks) == (1, 4)
    assert [row["flags"] for row in rows] == [
        flags | SHARED for flags in [LAST | INPUT | OUTPUT | UNIT] + [LAST | INPUT] * 3
    ]
    assert [row["compute"] for row in rows] == [2 * (4 + 62)] * 4  # ceil(64 / 32) folds of K + R + C - 2
    assert work["dram_read_bytes"] == 64 * 16 + 16 * 16
    assert work["dram_write_bytes"] == 64 * 16


def test_several_layers_follow_each_other_in_one_table():
    """A table of many layers holds each layer's own rows, whatever lies before it."""
    generator = np.random.default_rng(3)
    hardware = BASE.replace(**{"dram.rule": "stream", "dram.bytes_per_cycle": 3.0, "gather.setup_cycles": 4})
    shapes = [(7, 5, 2), (4, 9, 1), (8, 8, 3), (1, 1, 1)]
    cases_ = []
    for rows, cols, block in shapes:
        layer = Layer("layer", 3, rows, cols, 5, rows, cols, block_rows=block, block_cols=block, gate="mask")
        mask = generator.random((layer.grid_rows, layer.grid_cols)) < 0.6
        cases_.append(Case(layer, hardware, (2, 3), Traffic(gated=True), mask))
    pieces, offsets, length = [], [], 0
    for case in cases_:
        offsets.append(length)
        pieces.append(np.pad(case.mask.ravel(), (0, -case.mask.size % 8)).astype(np.uint8))
        length += len(pieces[-1])
    planned = [plan(case.layer, case.hardware, case.tile, case.traffic) for case in cases_]
    together = lower(np.concatenate(pieces), np.array(offsets, np.int64), *plan_arrays(planned))
    at = 0
    for number, case in enumerate(cases_):
        rows, stage, work, *_ = case.table()
        assert [dict(zip(ROW_COLUMNS, row, strict=True)) for row in together.rows[at : at + len(rows)].tolist()] == rows
        wanted = stage | {"first_row": at}
        assert dict(zip(STAGE_COLUMNS, together.stages[number].tolist(), strict=True)) == wanted
        assert dict(zip(WORK_COLUMNS, together.work[number].tolist(), strict=True)) == work
        at += len(rows)
    assert at == len(together.rows)


@pytest.mark.parametrize(("cores", "on_each_port"), [(1, 288), (2, 144), (5, 58)])
def test_prefetched_weights_are_the_first_fetch_brought_forward(cores, on_each_port):
    """2304 bytes of weights once over the memory port, shared out over the cores' own; no more bytes than without."""
    hardware = BASE.replace(
        **{
            "cores": cores,
            "dram.rule": "stream",
            "dram.bytes_per_cycle": 4.0,
            "dram.burst_bytes": 32,
            "gather.bytes_per_cycle": 8.0,
            "schedule.prefetch_weights": True,
        }
    )
    planned = plan(PLAIN, hardware, (8, 8), Traffic())
    tiles = lower(np.zeros(0, np.uint8), np.zeros(2, np.int64), *plan_arrays([planned, planned]))
    for stage, work in zip(tiles.stages.tolist(), tiles.work.tolist(), strict=True):
        columns = dict(zip(STAGE_COLUMNS, stage, strict=True))
        assert columns["prefetch_port"] == on_each_port
        assert columns["prefetch_read"] == 2304 // 4
        assert dict(zip(WORK_COLUMNS, work, strict=True))["weight_read_bytes"] == 2304


def test_weights_that_change_with_every_pass_or_meet_no_active_tile_are_not_prefetched():
    """One active tile takes all weights in turn: two cores cannot share a fetch, one has its own brought forward."""
    layer = Layer("split", 64, 8, 320, 64, 8, 320, gate="mask")
    changes = {"buffers.weight_bytes": 2 * 64 * 32, "dram.rule": "stream", "dram.bytes_per_cycle": 4.0}
    hardware = BASE.replace(**changes, **{"schedule.prefetch_weights": True})
    slices = 64 * 32  # bytes of each half of the weights
    for cores, active, prefetched, fetched in ((1, 0, 0, 0), (2, 1, 0, 2 * slices), (1, 1, slices // 4, 2 * slices)):
        planned = plan(layer, hardware.replace(cores=cores), (8, 8), Traffic(gated=True))
        mask = np.zeros((8, 320), np.uint8)
        mask[:, : 8 * active] = 1
        tiles = lower(mask.ravel(), np.array([0]), *plan_arrays([planned]))
        assert dict(zip(STAGE_COLUMNS, tiles.stages[0].tolist(), strict=True))["prefetch_read"] == prefetched
        assert dict(zip(WORK_COLUMNS, tiles.work[0].tolist(), strict=True))["weight_read_bytes"] == fetched


@pytest.mark.parametrize(("cores", "tiles_of_a_pass"), [(1, 4), (2, 4), (4, 2), (8, 1), (16, 1)])
def test_packing_leaves_a_pass_for_every_core(cores, tiles_of_a_pass):
    """Eight active tiles of 4x4 fill 64 rows four at a time, unless that would leave cores without work."""
    layer = Layer("small", 8, 32, 32, 8, 32, 32, gate="mask")
    hardware = BASE.replace(**{"cores": cores, "array.rows": 64, "array.pack_tiles": True})
    mask = np.zeros((32, 32), np.uint8)
    mask[:4] = 1
    tiles = lower(mask.ravel(), np.array([0]), *plan_arrays([plan(layer, hardware, (4, 4), Traffic(gated=True))]))
    assert len(tiles.rows) == 8
    assert dict(zip(WORK_COLUMNS, tiles.work[0].tolist(), strict=True))["passes"] == -(-8 // tiles_of_a_pass)


@pytest.mark.parametrize(
    ("dataflow", "inputs", "weights", "outputs"),
    [
        # M pixels, K products, N filters on R x C: operands enter once per fold of the other side
        ("output_stationary", 64 * 144 * 2, 2 * 144 * 48, 64 * 48),
        ("weight_stationary", 64 * 144 * 2, 144 * 48, 64 * 48 * (2 * 5 - 1)),
        ("input_stationary", 64 * 144, 2 * 144 * 48, 64 * 48 * (2 * 5 - 1)),
    ],
)
def test_the_array_reads_its_buffers_once_per_fold(dataflow, inputs, weights, outputs):
    """An 8x8 tile of 48 filters with K = 144 on 32x32: 2 folds of pixels, 2 of filters, 5 of products."""
    layer = replace(PLAIN, out_channels=48)
    _, _, work, *_ = one_tile(layer, BASE.replace(**{"array.dataflow": dataflow}), (8, 8), (1, 1)).table()
    assert work["input_buffer_bytes"] == 100 * 16 + inputs
    assert work["weight_buffer_bytes"] == 144 * 48 + weights
    assert work["output_buffer_bytes"] == 64 * 48 + 4 * outputs  # sums of 32 bits
