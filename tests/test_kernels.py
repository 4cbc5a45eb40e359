"""Does the sparse convolution equal dense PyTorch on active positions, and leave everything else untouched?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional

from skipsim.errors import InputError
from skipsim.hwmodels.kernels import (
    ActivePixels,
    Convolution,
    FeatureMap,
    Program,
    convolve,
    list_pixels,
    pack,
)
from skipsim.hwmodels.kernels.machine_code import LANES

KEPT = 7.0  # what outputs hold before: it must survive wherever nothing is computed
TORCH = {
    "none": lambda v: v,
    "relu": torch.relu,
    "relu6": functional.relu6,
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
}


def dense(layer: Convolution, weight: Any, bias: Any, x: NDArray[np.float32]) -> torch.Tensor:
    """PyTorch's convolution of a map [rows, cols, channels], in float64."""
    top, bottom, left, right = layer.padding
    tensor = torch.from_numpy(x.astype(np.float64)).permute(2, 0, 1)[None]
    padded = functional.pad(tensor, (left, right, top, bottom))
    w, b = (torch.from_numpy(a.astype(np.float64)) for a in (weight, bias))
    out = functional.conv2d(padded, w, b, layer.stride, 0, layer.dilation, layer.groups)
    return out[0].permute(1, 2, 0)


def random_map(rng: np.random.Generator, rows: int, cols: int, channels: int, margin: Any = (0, 0, 0, 0)) -> FeatureMap:
    made = FeatureMap.zeros(rows, cols, channels, margin)
    made.interior[...] = rng.standard_normal((rows, cols, channels))
    return made


def pixels(mask: NDArray[np.uint8], block: tuple[int, int], size: tuple[int, int]) -> NDArray[np.bool_]:
    return np.kron(mask, np.ones(block, np.uint8))[: size[0], : size[1]].astype(bool)


@st.composite
def layers(draw: Any) -> Convolution:
    kind = draw(st.sampled_from(["plain", "depthwise", "grouped"]))
    groups = 1 if kind == "plain" else draw(st.integers(2, 37 if kind == "depthwise" else 4))
    inner, outer = (1, 1) if kind == "depthwise" else (draw(st.integers(1, 20)), draw(st.integers(1, 70)))
    sides = st.integers(1, 5)
    return Convolution(
        groups * inner,
        groups * outer,
        kernel=(draw(sides), draw(sides)),
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        padding=tuple(draw(st.integers(0, 3)) for _ in range(4)),  # type: ignore[arg-type]
        dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        groups=groups,
    )


@settings(max_examples=80, deadline=None)
@given(
    layers(),
    st.tuples(st.integers(9, 20), st.integers(9, 20)),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.sampled_from(sorted(TORCH)),
    st.sampled_from(["nothing", "residual", "itself"]),
    st.sampled_from(LANES),
    st.sampled_from([1, 2, 3]),
    st.integers(0, 1 << 20),
)
def test_equals_pytorch_where_active_and_is_untouched_elsewhere(
    layer: Convolution,
    size: tuple[int, int],
    block: tuple[int, int],
    density: float,
    activation: str,
    adding: str,
    lanes: int,
    threads: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((layer.out_channels, layer.in_channels // layer.groups, *layer.kernel))
    bias = rng.standard_normal(layer.out_channels)
    x = random_map(rng, *size, layer.in_channels, layer.margin(*size))
    out = layer.out_size(*size)
    y = FeatureMap.zeros(*out, layer.out_channels, tuple(rng.integers(0, 3, 4).tolist()))
    y.interior[...] = KEPT
    residual = random_map(rng, *out, layer.out_channels, (1, 0, 0, 1))
    addend = {"nothing": None, "residual": residual, "itself": y}[adding]
    added = {"nothing": 0.0, "residual": residual.interior.astype(np.float64), "itself": KEPT}[adding]
    mask = (rng.random((-(-out[0] // block[0]), -(-out[1] // block[1]))) < density).astype(np.uint8)
    active = ActivePixels.zeros(*out)
    step = convolve(pack(layer, weight, bias, lanes), x, y, active, activation, addend)
    Program([list_pixels(mask, block, active), step]).run(threads)

    on = pixels(mask, block, out)
    expected = TORCH[activation](dense(layer, weight, bias, x.interior) + torch.as_tensor(added)).numpy()
    assert active.count[0] == on.sum()
    # Float32: a few roundings (6e-8) of the result, and one of a value below 4 for each of K products of unit variance.
    tolerance = 2.4e-7 * (np.abs(expected).max() + KEPT + layer.reduction)
    assert np.abs(y.interior - expected)[on].max(initial=0.0) <= tolerance
    assert (y.interior[~on] == KEPT).all()
    y.interior[...] = 0.0
    assert not y.data.any(), "the margin must stay zero"


def test_full_list_computes_every_position() -> None:
    rng = np.random.default_rng(0)
    layer = Convolution(5, 33, (3, 3), padding=(1, 1, 1, 1))
    weight = rng.standard_normal((33, 5, 3, 3))
    x = random_map(rng, 70, 51, 5, layer.margin(70, 51))
    y = FeatureMap.zeros(70, 51, 33)
    Program([convolve(pack(layer, weight), x, y, ActivePixels.full(70, 51))]).run(2)
    expected = dense(layer, weight, np.zeros(33), x.interior).numpy()
    np.testing.assert_allclose(y.interior, expected, atol=2e-5)


def test_not_a_number_is_not_hidden_by_an_activation() -> None:
    layer = Convolution(1, 1)
    for activation in TORCH:
        x, y = FeatureMap.zeros(1, 2, 1), FeatureMap.zeros(1, 2, 1)
        x.interior[0, :, 0] = [np.nan, 1.0]
        Program([convolve(pack(layer, np.ones((1, 1, 1, 1))), x, y, ActivePixels.full(1, 2), activation)]).run()
        assert np.isnan(y.interior[0, 0, 0])
        assert np.isfinite(y.interior[0, 1, 0])


def test_silu_at_the_ends_of_its_range() -> None:
    values = np.array([-3e38, -1000, -88, -20, -1e-3, 0, 1e-3, 20, 88, 1000, 3e38], np.float32)
    x, y = FeatureMap.zeros(1, len(values), 1), FeatureMap.zeros(1, len(values), 1)
    x.interior[0, :, 0] = values
    layer = pack(Convolution(1, 1), np.ones((1, 1, 1, 1)))
    Program([convolve(layer, x, y, ActivePixels.full(1, len(values)), "silu")]).run()
    expected = values.astype(np.float64) / (1 + np.exp(np.minimum(-values.astype(np.float64), 700)))
    np.testing.assert_allclose(y.interior[0, :, 0], expected, rtol=1e-6, atol=1e-35)


def test_denormal_numbers_count_as_zero() -> None:
    x, y = FeatureMap.zeros(1, 1, 1), FeatureMap.zeros(1, 1, 1)
    x.interior[...] = 1e-40
    weight = np.full((1, 1, 1, 1), 1e30)
    Program([convolve(pack(Convolution(1, 1), weight), x, y, ActivePixels.full(1, 1))]).run()
    from skipsim.hwmodels.kernels.machine_code import is_x86

    assert y.interior[0, 0, 0] == (0.0 if is_x86() else pytest.approx(1e-10))
    assert np.float32(1e-40) * np.float32(1e30) > 0, "the caller's own arithmetic is as before"


def test_time_per_step_is_given_for_every_step_and_repeat() -> None:
    layer = pack(Convolution(16, 16, (3, 3), padding=(1, 1, 1, 1)), np.ones((16, 16, 3, 3)))
    x, y = FeatureMap.zeros(32, 32, 16, (1, 1, 1, 1)), FeatureMap.zeros(32, 32, 16)
    none, every = ActivePixels.zeros(32, 32), ActivePixels.full(32, 32)
    for threads in (1, 2):
        y.interior[...] = 0
        x.interior[...] = threads
        times = Program([convolve(layer, x, y, none), convolve(layer, x, y, every)]).time(3, threads)
        assert times.shape == (3, 2)
        assert (times > 0).all()
        assert y.interior[16, 16, 0] == 9 * 16 * threads


def test_steps_are_timed_together_where_compiled_code_has_no_clock(monkeypatch) -> None:
    from skipsim.hwmodels.kernels import program

    machine = program._machine_calls().copy()
    machine[program._CLOCK] = 0
    monkeypatch.setattr(program, "_machine_calls", lambda: machine)
    x, y = FeatureMap.zeros(4, 4, 1), FeatureMap.zeros(4, 4, 1)
    x.interior[...] = 2
    one = Program([convolve(pack(Convolution(1, 1), np.ones((1, 1, 1, 1))), x, y, ActivePixels.full(4, 4))])
    assert one.time(2, threads=2).shape == one.time(2).shape == (2, 1)
    assert (y.interior == 2).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (8, 8, 3)}, r"convolve: x must have in_channels=4 channels, got 3"),
        ({"margin": (1, 1, 0, 1)}, r"convolve: x must have a margin of at least \(1, 1, 1, 1\) .* got \(1, 1, 0, 1\)"),
        ({"y": (8, 7, 5)}, r"convolve: y must be a map of \(8, 8, 5\) \(rows, cols, channels\), got \(8, 7, 5\)"),
        ({"activation": "rely"}, r"convolve: activation 'rely' is unknown; did you mean 'relu'\? choices: none, relu"),
        ({"active": (8, 9)}, r"convolve: active must list pixels of \(8, 8\) \(rows, cols\), got \(8, 9\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], message: str) -> None:
    layer = pack(Convolution(4, 5, (3, 3), padding=(1, 1, 1, 1)), np.ones((5, 4, 3, 3)))
    x = FeatureMap.zeros(*change.get("x", (8, 8, 4)), margin=change.get("margin", (1, 1, 1, 1)))
    y = FeatureMap.zeros(*change.get("y", (8, 8, 5)))
    active = ActivePixels.zeros(*change.get("active", (8, 8)))
    with pytest.raises(InputError, match=message):
        convolve(layer, x, y, active, change.get("activation", "none"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Convolution(6, 4, groups=3), r"convolution: out_channels must be a multiple of groups=3, got 4"),
        (lambda: Convolution(4, 4, stride=(0, 1)), r"convolution: stride must be at least 1, got \(0, 1\)"),
        (lambda: Convolution(4, 4, (9, 9)).out_size(4, 4), r"a 9x9 kernel .* does not fit on a map of 4x4"),
        (lambda: pack(Convolution(4, 4), np.ones((4, 4, 3, 3))), r"weight must have shape \[4, 4, 1, 1\], got"),
        (lambda: pack(Convolution(4, 4), np.ones((4, 4, 1, 1)), lanes=7), r"lanes must be one of 4, 8, 16, got 7"),
        (lambda: FeatureMap.zeros(1, 1 << 16, 1), r"feature map: at most 65535 rows and columns .* got 1x65536"),
        (
            lambda: list_pixels(np.zeros((2, 2), np.uint8), (4, 4), ActivePixels.zeros(9, 8)),
            r"mask: must be a contiguous uint8 array with one entry per 4x4 block \[3, 2\], got uint8 \[2, 2\]",
        ),
        (lambda: Program([]).run(threads=0), r"program: threads must be at least 1, got 0"),
    ],
)
def test_bad_sizes_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
