"""Do gates decide by the numbers they promise? Compared with loops over every tap of every output position."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skipsim.errors import InputError
from skipsim.traces.gates import (
    InputNormGate,
    OutputNormGate,
    coarsen,
    grid_mask,
    is_gate,
    make_gate,
    refine,
    residual_norm,
    weight_norm,
)
from skipsim.traces.layer import Layer
from skipsim.traces.receptive_field import ReceptiveField, layer_of

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, int, int]:
    """A random convolution and a map size that it accepts."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding: Any = draw(
        st.one_of(
            st.sampled_from(["valid", "same"]), st.integers(0, 2), st.tuples(st.integers(0, 2), st.integers(0, 2))
        )
    )
    if padding == "same":
        stride = (1, 1)
    groups, group_in, group_out = draw(st.sampled_from([1, 2, 3])), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    rows, cols = draw(st.integers(8, 13)), draw(st.integers(8, 13))
    conv = nn.Conv2d(
        groups * group_in,
        groups * group_out,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(PADDING_MODES)),
    )
    return conv, rows, cols


def source(position: int, size: int, mode: str) -> int | None:
    """Return the real pixel that a position of the padded map holds; None where zero padding holds nothing."""
    if 0 <= position < size:
        return position
    if mode == "zeros":
        return None
    if mode == "replicate":
        return min(max(position, 0), size - 1)
    if mode == "circular":
        return position % size
    return -position if position < 0 else 2 * (size - 1) - position


def reads(conv: nn.Conv2d, rows: int, cols: int) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """List the pixels that each output position reads, tap by tap."""
    outputs = conv(torch.zeros(1, conv.in_channels, rows, cols)).shape[-2:]
    starts = []
    for axis in (0, 1):
        if conv.padding == "same":
            starts.append((conv.dilation[axis] * (conv.kernel_size[axis] - 1)) // 2)
        else:
            starts.append(0 if conv.padding == "valid" else int(conv.padding[axis]))
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for r, c in itertools.product(range(outputs[0]), range(outputs[1])):
        taps = []
        for i, j in itertools.product(range(conv.kernel_size[0]), range(conv.kernel_size[1])):
            row = source(r * conv.stride[0] + i * conv.dilation[0] - starts[0], rows, conv.padding_mode)
            col = source(c * conv.stride[1] + j * conv.dilation[1] - starts[1], cols, conv.padding_mode)
            if row is not None and col is not None:
                taps.append((row, col))
        found[r, c] = taps
    return found


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=60)
@given(convolutions(), st.integers(0, 2**31))
def test_the_norm_is_the_mean_over_the_taps_on_the_map(case: tuple[nn.Conv2d, int, int], seed: int) -> None:
    conv, rows, cols = case
    residual = torch.randn(1, conv.in_channels, rows, cols, generator=torch.Generator().manual_seed(seed))
    per_pixel = residual[0].abs().double().numpy().mean(axis=0)
    norm = residual_norm(residual, conv)
    for (r, c), taps in reads(conv, rows, cols).items():
        expected = np.mean([per_pixel[tap] for tap in taps]) if taps else 0.0
        assert float(norm[r, c]) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=60)
@given(convolutions(), st.integers(0, 2**31))
def test_a_pixel_is_settled_if_all_its_readers_are_computed(case: tuple[nn.Conv2d, int, int], seed: int) -> None:
    conv, rows, cols = case
    taken = reads(conv, rows, cols)
    shape = max(r for r, _ in taken) + 1, max(c for _, c in taken) + 1
    computed = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.8
    expected = np.ones((rows, cols), bool)
    for position, taps in taken.items():
        for tap in taps:
            expected[tap] &= bool(computed[position])
    settled = ReceptiveField.of(conv, rows, cols).settled(computed)
    np.testing.assert_array_equal(settled.numpy(), expected)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=40)
@given(convolutions(), st.integers(0, 2**31))
def test_threshold_zero_computes_exactly_the_readers_of_what_changed(
    case: tuple[nn.Conv2d, int, int], seed: int
) -> None:
    conv, rows, cols = case
    rng = np.random.default_rng(seed)
    pixel = int(rng.integers(rows)), int(rng.integers(cols))
    residual = torch.zeros(1, conv.in_channels, rows, cols)
    residual[0, rng.integers(conv.in_channels), pixel[0], pixel[1]] = 1e-30
    mask = InputNormGate(threshold=0).mask(residual, conv)
    for (r, c), taps in reads(conv, rows, cols).items():
        assert bool(mask[r, c]) == (pixel in taps)


def test_a_norm_exactly_at_the_threshold_is_skipped() -> None:
    conv = nn.Conv2d(4, 1, 1)
    residual = torch.zeros(1, 4, 1, 3)
    residual[0, :, 0, 0] = 0.5  # mean 0.5: a tie
    residual[0, 0, 0, 1] = -2.0  # mean 0.5 from one channel, negative
    residual[0, :, 0, 2] = 0.5 + 2**-20
    assert InputNormGate(threshold=0.5).mask(residual, conv).tolist() == [[False, False, True]]


@pytest.mark.parametrize(("rows", "cols"), [(4, 4), (16, 8), (33, 17)])
@pytest.mark.parametrize("channels", [2, 12])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_uniform_change_has_one_norm_at_every_size(rows: int, cols: int, channels: int, kernel: int) -> None:
    """The method's public code divides by the map's height, so that its thresholds depend on the resolution."""
    for groups in (1, channels):
        conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups)
        norm = residual_norm(torch.full((1, channels, rows, cols), -0.25), conv)
        assert norm.shape == (rows, cols)
        torch.testing.assert_close(norm, torch.full((rows, cols), 0.25))


def test_the_output_norm_scales_with_the_mean_filter() -> None:
    conv = nn.Conv2d(2, 3, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1.0, -1.0], [0.5, 0.5], [-2.0, 1.0]]).reshape(3, 2, 1, 1))
    filter_norm = (2 + 1 + 3) / 3
    residual = torch.zeros(1, 2, 1, 2)
    residual[0, 0, 0, 0], residual[0, 0, 0, 1] = 1.0, 1.5  # means 0.5 and 0.75; times 2: 1.0 and 1.5
    assert weight_norm(conv) == filter_norm
    assert OutputNormGate(threshold=1.0).mask(residual, conv).tolist() == [[False, True]]
    with torch.no_grad():
        conv.weight *= 2
    assert weight_norm(conv) == 2 * filter_norm, "the norm follows the weights"
    assert OutputNormGate(threshold=1.0).mask(residual, conv).tolist() == [[True, True]]


@settings(max_examples=60)
@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.one_of(st.sampled_from([1, 2, 4, 8, 16]), st.tuples(st.integers(1, 9), st.integers(1, 9))),
    st.integers(0, 2**31),
)
def test_a_block_is_on_if_any_of_its_pixels_is(rows: int, cols: int, block: Any, seed: int) -> None:
    residual = torch.rand(1, 1, rows, cols, generator=torch.Generator().manual_seed(seed))
    gate = InputNormGate(threshold=0.9, block=block)
    mask = gate.mask(residual, nn.Conv2d(1, 1, 1))
    height, width = block if isinstance(block, tuple) else (block, block)
    pixels = residual[0, 0].numpy() > 0.9
    expected = [
        [bool(pixels[top : top + height, left : left + width].any()) for left in range(0, cols, width)]
        for top in range(0, rows, height)
    ]
    assert mask.tolist() == expected
    back = refine(mask, gate.block_shape, rows, cols)
    assert back.shape == (rows, cols)
    assert all(bool(back[r, c]) == expected[r // height][c // width] for r in range(rows) for c in range(cols))


def test_the_gate_runs_on_half_precision_and_double() -> None:
    conv = nn.Conv2d(64, 1, 3, padding=1)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        norm = residual_norm(torch.full((1, 64, 9, 9), 0.5, dtype=dtype), conv)
        assert bool((norm == 0.5).all())


def test_geometry_of_a_layer() -> None:
    conv = nn.Conv2d(6, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 3), groups=2)
    x = torch.zeros(1, 6, 11, 9)
    layer = layer_of(conv, x, conv(x), name="a.b", call=2, block=(4, 8), gate="mask")
    assert layer == Layer(
        name="a.b", in_channels=6, in_rows=11, in_cols=9, out_channels=4, out_rows=6, out_cols=6, kernel_rows=3,
        kernel_cols=2, stride_rows=2, stride_cols=1, padding_top=1, padding_left=0, dilation_rows=1, dilation_cols=3,
        groups=2, block_rows=4, block_cols=8, gate="mask", call=2,
    )  # fmt: skip
    same = nn.Conv2d(1, 1, 4, padding="same", dilation=(1, 2))
    padded = layer_of(same, torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9), name="same")
    assert (padded.padding_top, padded.padding_left) == (1, 3), "three and six pixels, the odd one at the far side"


def test_masks_of_the_user_come_in_several_forms() -> None:
    layer = Layer("l", 1, 5, 7, 1, 5, 7, block_rows=2, block_cols=4)
    grid = np.array([[1, 0], [0, 0], [0, 1]], bool)
    pixels = np.zeros((5, 7), bool)
    pixels[1, 3] = pixels[4, 6] = True
    for value in (grid, grid.astype(int), torch.from_numpy(grid)[None, None], grid.astype(np.float32), pixels,
                  torch.from_numpy(pixels)[None]):  # fmt: skip
        result = grid_mask(value, layer)
        assert result.dtype == torch.bool
        np.testing.assert_array_equal(result.numpy(), grid)
    one = replace(layer, block_rows=1, block_cols=1)
    np.testing.assert_array_equal(grid_mask(pixels, one).numpy(), pixels)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            np.ones((3, 3), bool),
            "layer 'l': mask must have one entry per output pixel [5, 7] or per 2x4 block [3, 2], got shape [3, 3]",
        ),
        (np.full((3, 2), 0.5), "layer 'l': mask must hold True and False, or 1 and 0, got other values"),
        ("all", "layer 'l': mask must be a tensor or an array of True and False, got 'all'"),
    ],
)
def test_masks_that_do_not_fit_are_named(value: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        grid_mask(value, Layer("l", 1, 5, 7, 1, 5, 7, block_rows=2, block_cols=4))
    assert str(error.value) == message


@pytest.mark.parametrize("kind", ["input_norm", "output_norm"])
def test_gates_are_made_by_name(kind: str) -> None:
    gate = make_gate(kind, threshold=np.float32(0.5), block=np.int64(4))
    assert is_gate(gate)
    assert (gate.kind, gate.block_shape) == (kind, (4, 4))
    assert gate.parameters() == {"threshold": 0.5, "block": [4, 4]}
    assert make_gate(kind, threshold=1, block=(2, 8)).block_shape == (2, 8)


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (
            "input_nrom",
            {},
            "gate 'input_nrom' is unknown; did you mean 'input_norm'? choices: hold, input_norm, output_norm",
        ),
        (
            "input_norm",
            {"thres": 1},
            "gate 'input_norm': unknown parameter 'thres'; did you mean 'threshold'? choices: block, threshold",
        ),
        (
            "input_norm",
            {"block": 1},
            "gate 'input_norm': threshold is missing; a number >= 0 such as 0.02, or a table by layer",
        ),
        ("input_norm", {"threshold": -0.1}, "gate 'input_norm': threshold must be a finite number >= 0, got -0.1"),
        ("input_norm", {"threshold": np.nan}, "gate 'input_norm': threshold must be a finite number >= 0, got nan"),
        ("output_norm", {"threshold": 1e999}, "gate 'output_norm': threshold must be a finite number >= 0, got inf"),
        ("input_norm", {"threshold": "1"}, "gate 'input_norm': threshold must be a finite number >= 0, got '1'"),
        ("input_norm", {"threshold": True}, "gate 'input_norm': threshold must be a finite number >= 0, got True"),
        *(
            (
                "input_norm",
                {"threshold": 1, "block": block},
                f"gate: block must be a whole number >= 1 or a pair (rows, cols) of them, got {block!r}",
            )
            for block in (0, -1, 1.5, True, (4,), (4, 0), (1, 2, 3), "4", None)
        ),
    ],
)  # fmt: skip
def test_bad_parameters_are_named(kind: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        make_gate(kind, **parameters)
    assert str(error.value) == message


def test_coarsen_keeps_values() -> None:
    values = torch.arange(15.0).reshape(3, 5)
    assert coarsen(values, (2, 2)).tolist() == [[6, 8, 9], [11, 13, 14]]
    assert coarsen(values, (8, 8)).tolist() == [[14]]
