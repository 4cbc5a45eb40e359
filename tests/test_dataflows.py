"""Do arrays of dot products and row-stationary ones take the cycles that their loops take, counted one by one?"""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator.report import Report
from skipsim.simulator.simulate import simulate
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

PLAIN = load_hardware("systolic-32x32")


def machine(dataflow: str, rows: int, cols: int, **changes: object) -> Hardware:
    keys = {f"array.{name}": value for name, value in changes.items()}
    return PLAIN.replace(**{"array.dataflow": dataflow, "array.rows": rows, "array.cols": cols, **keys})


def conv(ins: int, outs: int, side: int, kernel: int = 3, stride: int = 1, gate: str = "none") -> Layer:
    out = side // stride
    return Layer(
        "conv", ins, side, side, outs, out, out, kernel, kernel, stride, stride, kernel // 2, kernel // 2, gate=gate
    )  # fmt: skip


def whole(layer: Layer) -> Trace:
    return Trace.from_masks([layer], [np.ones((1, layer.grid_rows, layer.grid_cols), np.bool_)])


def dot_product_cycles(ins: int, outs: int, kernel: int, rows: int, cols: int, holds: str, fill: int) -> int:
    """Walk the loops of one output position: which products, for which filters, when the pipeline is filled again."""
    products = range(0, kernel * kernel * ins, rows)
    filters = range(0, outs, cols)
    cycles, held = 0, None
    loops = product(products, filters) if holds == "inputs" else ((p, f) for f in filters for p in products)
    for first_product, first_filter in loops:
        now = first_product if holds == "inputs" else first_filter
        cycles += 1 + (fill if now != held else 0)
        held = now
    return cycles


@settings(max_examples=60, deadline=None)
@given(
    ins=st.integers(1, 70),
    outs=st.integers(1, 70),
    kernel=st.sampled_from([1, 3, 5]),
    rows=st.sampled_from([1, 16, 64]),
    cols=st.sampled_from([1, 8, 32]),
    holds=st.sampled_from(["inputs", "sums"]),
    fill=st.sampled_from([0, 14]),
    side=st.integers(1, 5),
)
def test_dot_products_take_their_loops_cycles(ins, outs, kernel, rows, cols, holds, fill, side):
    hardware = machine("dot_product", rows, cols, holds=holds, fill_cycles=fill)
    ours = simulate(whole(conv(ins, outs, side, kernel)), hardware, "full").layers.iloc[0]["array_cycles"]
    assert ours == side * side * dot_product_cycles(ins, outs, kernel, rows, cols, holds, fill)


@pytest.mark.parametrize(("kernel", "stride", "gain"), [(3, 1, 9 / 4), (3, 2, 1), (1, 1, 1), (5, 1, 1)])
def test_winograd_takes_four_products_of_nine_and_sixteen_weights(kernel, stride, gain):
    layer = conv(64, 32, 8, kernel, stride)
    stages = [
        simulate(whole(layer), machine("dot_product", 64, 32, winograd=winograd), "full").layers.iloc[0]
        for winograd in (False, True)
    ]
    assert stages[0]["array_cycles"] == gain * stages[1]["array_cycles"]
    assert stages[1]["weight_read_bytes"] == (16 if gain > 1 else kernel * kernel) * 64 * 32
    assert stages[0]["macs"] == stages[1]["macs"] == layer.macs


def row_stationary_cycles(layer: Layer, tile_rows: int, rows: int, cols: int, per_cycle: int) -> int:
    """Place filter planes x strips of output rows on the array, as many as fit side by side, round by round."""
    strip = min(tile_rows, cols)
    strips = -(-tile_rows // strip)
    work = [(plane, part) for plane in range(layer.in_channels * layer.out_channels) for part in range(strips)]
    sets = max(1, rows // layer.kernel_rows) * (cols // strip)
    rounds = len(range(0, len(work), sets))
    loads = len(work) // strips * len(range(0, strips, sets)) * layer.kernel_rows * layer.kernel_cols
    return rounds * layer.kernel_cols * layer.out_cols + -(-loads // per_cycle)


@pytest.mark.parametrize(
    ("layer", "tile_rows"),
    [
        (Layer("a", 3, 59, 227, 96, 13, 55, 11, 11, 4, 4), 13),
        (Layer("b", 3, 35, 227, 96, 7, 55, 11, 11, 4, 4), 7),
        (Layer("c", 48, 27, 27, 128, 27, 27, 5, 5, padding_top=2, padding_left=2), 27),
        (Layer("d", 20, 13, 13, 30, 13, 13, 3, 3, padding_top=1, padding_left=1), 13),
        (Layer("e", 20, 52, 13, 30, 52, 13, 3, 3, padding_top=1, padding_left=1), 52),
        (Layer("f", 7, 5, 9, 11, 5, 9), 5),
    ],
)
def test_row_stationary_takes_rounds_of_sets(layer, tile_rows):
    hardware = machine("row_stationary", 12, 14, weights_per_cycle=4)
    ours = simulate(whole(layer), hardware, (tile_rows, layer.out_cols)).layers.iloc[0]["array_cycles"]
    assert ours == row_stationary_cycles(layer, tile_rows, 12, 14, 4)


def pruned(masks: list[np.ndarray], stride: int) -> Trace:
    """A 1x1 layer and a 3x3 one after it, both masked by position."""
    side = masks[0].shape[0]
    layers = [conv(8, 8, side, 1, gate="mask"), conv(8, 8, side, 3, stride, gate="mask")]
    layers = [
        Layer(**{**layer.to_dict(), "name": name}) for layer, name in zip(layers, ("first", "second"), strict=True)
    ]
    return Trace.from_masks(layers, [mask[None] for mask in masks])


def valid_taps(masks: list[np.ndarray], stride: int) -> int:
    """Count, for every computed output position, the taps on inputs that the layer before computed."""
    side, count = masks[0].shape[0], 0
    for row, col in zip(*np.nonzero(masks[1]), strict=True):
        for tap_row, tap_col in product(range(3), range(3)):
            y, x = row * stride - 1 + tap_row, col * stride - 1 + tap_col
            count += 0 <= y < side and 0 <= x < side and bool(masks[0][y, x])
    return count


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999), side=st.sampled_from([4, 6, 10]), stride=st.sampled_from([1, 2]), density=st.floats(0, 1)
)
def test_skipped_inputs_take_no_time(seed, side, stride, density):
    generator = np.random.default_rng(seed)
    masks = [generator.random((side, side)) < density, generator.random((side // stride, side // stride)) < density]
    hardware = machine("dot_product", 8, 4, skip_taps=True, pack_tiles=False)
    trace = pruned(masks, stride)
    reports: list[Report] = [simulate(trace, hardware, (1, 1), engine) for engine in ("fast", "reference")]
    ours = reports[0].layers["array_cycles"]
    assert ours[1] == valid_taps(masks, stride) * 2  # 8 channels at once, two groups of four filters
    assert ours[0] == masks[0].sum() * 2  # the first layer's inputs are all there
    assert reports[0].macs == 64 * masks[0].sum() + 9 * 64 * masks[1].sum()  # MACs asked for count all taps
    assert (reports[0].layers == reports[1].layers).all().all()
    dense = simulate(trace, hardware, dense=True).layers["array_cycles"]
    assert dense[1] == masks[1].size * 9 * 2


@pytest.mark.parametrize(
    ("key", "value", "dataflow"),
    [
        ("fill_cycles", 3, "dot_product"),
        ("holds", "sums", "dot_product"),
        ("winograd", True, "dot_product"),
        ("skip_taps", True, "dot_product"),
        ("weights_per_cycle", 4, "row_stationary"),
    ],
)
def test_keys_of_other_dataflows_are_refused(key, value, dataflow):
    with pytest.raises(InputError, match=f'{key} is only for dataflow = "{dataflow}"'):
        PLAIN.replace(**{f"array.{key}": value})
