"""Does a measured processor's report hold the counts of its kernels times the coefficients in its file?"""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skipsim.errors import InputError
from skipsim.hwmodels.compiled_work import compiled_work
from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.hwmodels.kernel_work import (
    LayerShape,
    Registers,
    combine_work,
    move_work,
)
from skipsim.hwmodels.mask_pixels import Touched, coarsen, computed_pixels, segments, touched_inputs
from skipsim.hwmodels.processor import Peaks
from skipsim.simulator.simulate import simulate
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

SOURCE = {"source": "made up for a test"}
CLASSES = ("plain", "strided", "pointwise", "depthwise", "stem", "grouped")


def machine(kernel: dict[str, float], stages: dict[str, dict[str, float]] | None = None, **more: object) -> Hardware:
    """Make a machine of 1 GHz, on which a nanosecond is a cycle; dense layers cost their multiply-adds / 10."""
    made = {name: {**SOURCE, **(stages or {}).get(name, {})} for name in ("list", "change", "watch", "decide", "move")}
    processor = {
        **SOURCE,
        "date": "2026-11-25",
        "seed": 0,
        "fallback": False,
        "repeatability": 0.0,
        "host": {
            **SOURCE, "device": "cpu", "model": "made up", "instructions": ["avx2"], "cores": 1, "threads": 1,
            "cache_bytes": [32768, 1048576], "memory_bytes": 2**30, "system": "none", "versions": ["numpy 2"],
        },
        "peaks": {
            **SOURCE, "fma_gflops": 100.0, "random_read_ns": 100.0, "footprint_bytes": [2**16, 2**24],
            "stream_gb_per_s": [100.0, 10.0],
        },
        "kernels": {"compiled": {name: {**SOURCE, **kernel} for name in CLASSES}},
        "stages": made,
        "dense": {name: {**SOURCE, "ns_per_mac": 0.1} for name in CLASSES},
        **more,
    }  # fmt: skip
    return Hardware.model_validate({**SOURCE, "name": "toy", "clock_hz": 10**9, "cores": 1, "processor": processor})


def layer(**changes: object) -> Layer:
    sizes = {
        "in_channels": 8, "in_rows": 9, "in_cols": 11, "out_channels": 16, "out_rows": 9, "out_cols": 11,
        "kernel_rows": 3, "kernel_cols": 3, "padding_top": 1, "padding_left": 1, "gate": "mask",
    }  # fmt: skip
    return Layer("conv", **{**sizes, **changes})


def trace_of(one: Layer, density: float = 0.3, frames: int = 3, reference: tuple[int, ...] = ()) -> Trace:
    masks = np.random.default_rng(0).random((frames, one.grid_rows, one.grid_cols)) < density
    masks[list(reference)] = True
    return Trace.from_masks([one], [masks], reference_frames=reference)


def pixels_of(one: Layer, mask: np.ndarray) -> np.ndarray:
    whole = np.kron(mask, np.ones((one.block_rows, one.block_cols), bool))
    return whole[: one.out_rows, : one.out_cols].astype(bool)


def read_by(one: Layer, pixels: np.ndarray) -> set[tuple[int, int]]:
    """Walk through every tap of every pixel."""
    found = set()
    for row, col in np.argwhere(pixels):
        for tap_row, tap_col in itertools.product(range(one.kernel_rows), range(one.kernel_cols)):
            y = row * one.stride_rows - one.padding_top + tap_row * one.dilation_rows
            x = col * one.stride_cols - one.padding_left + tap_col * one.dilation_cols
            if 0 <= y < one.in_rows and 0 <= x < one.in_cols:
                found.add((int(y), int(x)))
    return found


GEOMETRIES = [
    layer(),
    layer(block_rows=4, block_cols=4),
    layer(block_rows=2, block_cols=3),
    layer(stride_rows=2, stride_cols=2, out_rows=5, out_cols=6, block_rows=2, block_cols=2),
    layer(dilation_rows=2, dilation_cols=2, padding_top=2, padding_left=2),
    layer(kernel_rows=5, kernel_cols=1, padding_top=2, padding_left=0, block_rows=1, block_cols=4),
    layer(kernel_rows=1, kernel_cols=1, padding_top=0, padding_left=0, stride_rows=2, out_rows=5),
]


@pytest.mark.parametrize("one", GEOMETRIES, ids=lambda one: f"{one.kernel_rows}x{one.kernel_cols}b{one.block_rows}")
def test_counts_are_those_of_walking_through_every_pixel_and_tap(one):
    trace = trace_of(one)
    shape = LayerShape(**{name: getattr(one, name) for name in LayerShape.__dataclass_fields__})
    tile, masks = (one.block_rows, one.block_cols), trace.masks(0)
    found = computed_pixels(masks, shape, tile), segments(masks, shape, tile), touched_inputs(masks, shape, tile)
    settled = move_work(shape, masks, tile).pixels
    for frame, mask in enumerate(masks):
        pixels = pixels_of(one, mask)
        runs = sum(len(list(group)) > 0 for row in pixels for on, group in itertools.groupby(row) if on)
        assert found[0][frame] == pixels.sum()
        assert found[1][frame] == runs
        assert found[2][frame] == len(read_by(one, pixels))
        assert settled[frame] == len(read_by(one, pixels) - read_by(one, ~pixels))


@pytest.mark.parametrize("tile", [(1, 1), (2, 2), (4, 4), (5, 3), (64, 64)])
def test_a_tile_is_active_if_any_block_in_it_is(tile):
    one = layer(block_rows=2, block_cols=2)
    shape = LayerShape(**{name: getattr(one, name) for name in LayerShape.__dataclass_fields__})
    masks = trace_of(one, 0.1).masks(0)
    for mask, tiles in zip(masks, coarsen(masks, shape, (2, 2), tile), strict=True):
        pixels = pixels_of(one, mask)
        for row, col in np.ndindex(tiles.shape):
            inside = pixels[row * tile[0] : (row + 1) * tile[0], col * tile[1] : (col + 1) * tile[1]]
            assert tiles[row, col] == inside.any()


@pytest.mark.parametrize(
    ("coefficient", "cause", "amount"),
    [
        ("launch_ns", "launch", lambda one, pixels: 1),
        ("ns_per_pixel", "gather_issue", lambda one, pixels: pixels.sum()),
        ("ns_per_cached_weight_byte", "weights", lambda one, pixels: 4 * one.weights),
    ],
)
def test_cycles_are_counts_times_coefficients_under_their_cause(coefficient, cause, amount):
    one = layer(block_rows=2, block_cols=2)
    trace = trace_of(one)
    report = simulate(trace, machine({coefficient: 2.0}, footprint_bytes=1.0), tile=(2, 2))
    expected = sum(2 * amount(one, pixels_of(one, mask)) for mask in trace.masks(0))
    assert report.cycles == report.causes[cause] == expected
    assert report.cycles == sum(report.causes.values())


def test_bytes_out_of_caches_and_memory_are_told_apart_and_split_into_gather_and_scatter():
    one = layer()
    trace = trace_of(one)
    inputs = sum(4 * 8 * len(read_by(one, pixels_of(one, mask))) for mask in trace.masks(0))
    outputs = sum(4 * 16 * pixels_of(one, mask).sum() for mask in trace.masks(0))
    cached = simulate(
        trace,
        machine({"ns_per_cached_input_byte": 1.0, "ns_per_cached_output_byte": 1.0}, footprint_bytes=1.0),
        tile=(1, 1),
    )
    assert (cached.causes["gather_transfer"], cached.causes["scatter"]) == (inputs, outputs)
    assert cached.dram_read_bytes == 0
    # at a footprint beyond the curve's end state is in memory; the input, just written and small, is not
    cold = simulate(
        trace,
        machine({"ns_per_memory_input_byte": 1.0, "ns_per_memory_output_byte": 1.0}, footprint_bytes=2.0**30),
        tile=(1, 1),
    )
    assert (cold.causes["gather_transfer"], cold.causes["scatter"]) == (0, outputs)


def test_dense_layers_and_reference_frames_cost_their_macs_or_what_was_measured():
    one = layer(gate="input_norm")
    trace = trace_of(one, reference=(0,))
    report = simulate(trace, machine({"launch_ns": 5.0}), tile=(1, 1))
    assert list(report.dense.by_frame["cycles"]) == [round(one.macs / 10)] * 3
    assert list(report.by_frame["cycles"]) == [round(one.macs / 10), 5, 5]
    name = "8x9x11-16x9x11 k3x3 s1x1 g1"
    anchored = simulate(trace, machine({"launch_ns": 5.0}, dense_layers_ns={name: 777.0}), tile=(1, 1))
    assert list(anchored.dense.by_frame["cycles"]) == [777] * 3


def test_a_gate_costs_what_its_placement_says():
    one = layer(gate="input_norm")
    trace, stages = trace_of(one), {"change": {"ns_per_element": 1.0}, "watch": {"ns_per_element": 1.0}}
    separate = machine({"launch_ns": 1.0}, stages)
    computed = sum(pixels_of(one, mask).sum() for mask in trace.masks(0))
    assert simulate(trace, separate, tile=(1, 1)).causes["gate"] == 8 * computed
    fused = simulate(trace, separate.replace(**{"gate.placement": "fused"}), tile=(1, 1))
    assert fused.causes["gate"] == 16 * computed
    none = simulate(trace, separate.replace(**{"gate.placement": "none"}), tile=(1, 1))
    assert none.causes["gate"] == 0
    with pytest.raises(InputError, match=r"gate\.placement: a processor has no array"):
        simulate(trace, separate.replace(**{"gate.placement": "array"}))


def test_a_layer_falls_back_to_dense_where_that_is_faster():
    one = layer()
    trace, slow = trace_of(one), {"launch_ns": 1e9}
    assert simulate(trace, machine(slow)).speedup < 0.001
    assert simulate(trace, machine(slow, fallback=True)).speedup == 1.0


def test_auto_takes_the_fastest_tile():
    trace = trace_of(layer(block_rows=2, block_cols=2))
    report = simulate(trace, machine({"ns_per_pixel": 1.0}))
    assert report.tile == "2x2"
    assert simulate(trace, machine({"ns_per_pixel": 1.0}), tile="full").cycles == 3 * 99


def test_every_layer_may_have_a_tile_of_its_own():
    """A layer with tiny tiles' price takes large ones, one whose pixels cost takes small ones."""
    deep, wide = layer(block_rows=2, block_cols=2), layer(kernel_rows=1, kernel_cols=1, padding_top=0, padding_left=0)
    board = np.indices((3, 5, 6)).sum(axis=0) % 2 == 0  # of blocks: larger tiles hold one and are all active
    masks = [board, np.zeros((3, 9, 11), bool)]
    masks[1][:, 0, 0] = True
    trace = Trace.from_masks([deep, replace(wide, name="wide")], masks)
    costs = {"plain": {**SOURCE, "ns_per_segment": 1.0}, "pointwise": {**SOURCE, "ns_per_pixel": 1.0}}
    toy = machine({}, kernels={"compiled": costs})
    best = simulate(trace, toy, tile="per-layer")
    whole_runs, pixels = 3 * 9, 3  # one run for each of nine rows; one pixel a frame
    assert best.tiling == {"conv": (2**30, 2**30), "wide": (1, 1)}
    assert best.cycles == whole_runs + pixels
    assert simulate(trace, toy, tile=best.tiling).cycles == best.cycles
    mixed = simulate(trace, toy, tile={"conv": "dense", "wide": "full"})
    assert mixed.cycles == 3 * round(deep.macs / 10) + 3 * 99


def test_macs_and_energy_are_those_of_the_trace_and_not_known():
    one = layer(gate="input_norm")
    trace = trace_of(one)
    report = simulate(trace, machine({"launch_ns": 1.0}), tile=(1, 1))
    asked = sum(pixels_of(one, mask).sum() for mask in trace.masks(0)) * one.macs_per_pixel
    assert report.macs == asked + 3 * one.gate_macs
    assert report.mac_reduction == trace.dense_macs / trace.macs
    assert math.isnan(report.energy_uj)
    assert math.isnan(report.area_mm2)


def test_the_share_out_of_memory_follows_the_measured_curve():
    curve = Peaks(
        **SOURCE,
        fma_gflops=1.0,
        random_read_ns=1.0,
        footprint_bytes=(2.0**10, 2.0**20, 2.0**30),
        stream_gb_per_s=(10.0, 10.0, 1.0),
    )
    assert curve.memory_share(1) == curve.memory_share(2**20) == 0
    assert curve.memory_share(2**25) == pytest.approx(0.5)  # half way in cost, on a logarithmic scale of sizes
    assert curve.memory_share(2**30) == curve.memory_share(2**40) == 1


def test_a_measured_machine_survives_a_round_trip_and_holds_no_table_that_nobody_uses(tmp_path):
    file = tmp_path / "toy.toml"
    saved = machine({"launch_ns": 12.5}, dense_layers_ns={"8x9x11-16x9x11 k3x3 s1x1 g1": 777.0})
    saved.save(file)
    assert load_hardware(file) == saved
    text = file.read_text(encoding="utf-8")
    assert "[processor.kernels.compiled.plain]" in text
    assert "[array]" not in text
    assert "[buffers]" not in text


def test_numbers_that_a_processor_does_not_use_cannot_be_changed():
    toy = machine({"launch_ns": 1.0})
    with pytest.raises(InputError, match=r"hardware 'toy': dram\.bytes_per_cycle changes nothing"):
        toy.replace(**{"dram.bytes_per_cycle": 8})
    assert toy.replace(**{"processor.kernels.compiled.plain.launch_ns": 3.0}).processor is not None
    with pytest.raises(InputError, match=r"unknown key 'processor\.pace'"):
        toy.replace(**{"processor.pace": 3.0})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("launch_ns = 1.0", "launch_ns = -1.0", "greater than or equal to 0, got -1.0"),
        ("launch_ns = 1.0", "launch_nanoseconds = 1.0", "unknown key"),
        ("seed = 0", 'seed = 0\npath = "triton"', "path 'triton' was not measured; choices: compiled"),
        ("footprint_bytes = [65536.0, 16777216.0]", "footprint_bytes = [65536.0]", "footprint_bytes must ascend"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(tmp_path: Path, old, new, message):
    file = tmp_path / "toy.toml"
    machine({"launch_ns": 1.0}).save(file)
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_hardware(file)


def test_pixels_side_by_side_in_memory_are_one_run_across_rows():
    """Two pixels at the end of a row and two at the start of the next are one run; of each its first 8 KiB count."""
    pixels = np.zeros((2, 4, 6), np.bool_)
    pixels[0, 0, 4:] = pixels[0, 1, :2] = pixels[0, 3, 2] = True
    touched = Touched.of(pixels, 4096)
    assert touched.pixels.tolist() == [5, 0]
    assert touched.runs.tolist() == [2, 0]
    assert touched.start_bytes.tolist() == [8192 + 4096, 0]


def test_a_sum_that_fills_a_part_of_the_channels_starts_anew_at_every_pixel():
    touched = Touched.of(np.ones((1, 4, 6), np.bool_), 64)
    whole, part = combine_work(16, 1, touched), combine_work(16, 1, touched, scattered=True)
    assert (whole.output_runs[0], part.output_runs[0]) == (1, 24)
    assert whole.output_start_bytes[0] == part.output_start_bytes[0] == 24 * 64


def test_depthwise_pixels_side_by_side_share_what_they_load():
    """A row of 12 pixels reads 14 vectors of 16 channels per row of a 3x3 kernel; at stride 2 each reads 9."""
    near = LayerShape(16, 1, 12, 16, 1, 12, 3, 3, padding_top=1, padding_left=1, groups=16)
    far = LayerShape(16, 1, 24, 16, 1, 12, 3, 3, 1, 2, padding_top=1, padding_left=1, groups=16)
    loads = [compiled_work(shape, np.ones((1, 1, 12), np.bool_), (1, 1), Registers()).taps[0] for shape in (near, far)]
    assert loads == [3 * 14, 9 * 12]
