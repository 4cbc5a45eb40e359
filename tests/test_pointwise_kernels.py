"""Do the sparse operations between convolutions equal PyTorch's on active pixels, and leave the others alone?"""

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
    FeatureMap,
    Program,
    Source,
    channel_mean,
    combine,
    list_pixels,
    pool,
    resize_bilinear,
    scale_channels,
)

KEPT = 7.0
TORCH = {
    "none": lambda v: v,
    "relu": torch.relu,
    "relu6": functional.relu6,
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
}


def filled(rng: np.random.Generator, rows: int, cols: int, channels: int, margin: Any = (0, 0, 0, 0)) -> FeatureMap:
    made = FeatureMap.zeros(rows, cols, channels, margin)
    made.interior[...] = rng.standard_normal((rows, cols, channels))
    return made


def half(rng: np.random.Generator, rows: int, cols: int) -> tuple[NDArray[np.uint8], ActivePixels, Any]:
    mask, active = (rng.random((rows, cols)) < 0.5).astype(np.uint8), ActivePixels.zeros(rows, cols)
    return mask, active, list_pixels(mask, (1, 1), active)


def tensor(map_: FeatureMap) -> torch.Tensor:
    return torch.from_numpy(map_.interior.astype(np.float64)).permute(2, 0, 1)[None]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4),
    st.sampled_from(sorted(TORCH)),
    st.integers(1, 3),
    st.integers(0, 1 << 20),
)
def test_weighted_sum_of_upsampled_maps(
    channels: int, ups: list[tuple[int, int]], activation: str, threads: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, cols = 13, 10
    y = FeatureMap.zeros(rows, cols, channels, (1, 0, 0, 2))
    y.interior[...] = KEPT
    sources = [
        Source(filled(rng, -(-rows // up[0]), -(-cols // up[1]), channels, (1, 1, 1, 1)), up, float(rng.normal()))
        for up in ups
    ]
    mask, active, listing = half(rng, rows, cols)
    Program([listing, combine(y, sources, active, activation)]).run(threads)
    total = sum(
        source.weight
        * tensor(source.map).repeat_interleave(source.up[0], 2).repeat_interleave(source.up[1], 3)[..., :rows, :cols]
        for source in sources
    )
    expected = TORCH[activation](total)[0].permute(1, 2, 0).numpy()
    on = mask != 0
    np.testing.assert_allclose(y.interior[on], expected[on], atol=3e-6)
    assert (y.interior[~on] == KEPT).all()
    y.interior[...] = 0
    assert not y.data.any(), "the margin must stay zero"


def test_maps_are_joined_along_the_channels() -> None:
    rng = np.random.default_rng(5)
    parts = [filled(rng, 6, 4, 3), filled(rng, 3, 2, 18), filled(rng, 6, 4, 1)]
    y = FeatureMap.zeros(6, 4, 24)
    y.interior[...] = KEPT
    mask, active, listing = half(rng, 6, 4)
    steps = [
        combine(y, [Source(parts[0])], active),
        combine(y, [Source(parts[1], (2, 2))], active, first_channel=3),
        combine(y, [Source(parts[2])], active, first_channel=21),
    ]
    Program([listing, *steps]).run()
    upsampled = parts[1].interior.repeat(2, 0).repeat(2, 1)
    rest = np.full((6, 4, 2), KEPT)
    expected = np.concatenate([parts[0].interior, upsampled, parts[2].interior, rest], 2)
    assert np.array_equal(y.interior, np.where((mask != 0)[..., None], expected, KEPT))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.integers(1, 35),
    st.booleans(),
)
def test_bilinear_resizing(size: tuple[int, int], out: tuple[int, int], channels: int, corners: bool) -> None:
    rng = np.random.default_rng(channels)
    x, y = filled(rng, *size, channels), FeatureMap.zeros(*out, channels, (0, 1, 1, 0))
    y.interior[...] = KEPT
    mask, active, listing = half(rng, *out)
    Program([listing, resize_bilinear(y, x, active, corners)]).run(2)
    expected = functional.interpolate(tensor(x), out, mode="bilinear", align_corners=corners)[0].permute(1, 2, 0)
    on = mask != 0
    np.testing.assert_allclose(y.interior[on], expected.numpy()[on], atol=1e-5)
    assert (y.interior[~on] == KEPT).all()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["max", "average"]),
    st.integers(1, 35),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(0, 1 << 20),
)
def test_pooling(kind: str, channels: int, kernel: tuple[int, int], stride: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    pad = (kernel[0] // 2, kernel[1] // 2)
    x = filled(rng, 11, 9, channels)
    if kind == "max":
        expected = functional.max_pool2d(tensor(x), kernel, stride, pad)
    else:
        expected = functional.avg_pool2d(tensor(x), kernel, stride, pad, count_include_pad=False)
    out = expected[0].permute(1, 2, 0).numpy()
    y = FeatureMap.zeros(*out.shape)
    y.interior[...] = KEPT
    mask, active, listing = half(rng, *out.shape[:2])
    Program([listing, pool(kind, x, y, kernel, stride, (pad[0], pad[0], pad[1], pad[1]), active)]).run(2)
    on = mask != 0
    np.testing.assert_allclose(y.interior[on], out[on], atol=1e-6)
    assert (y.interior[~on] == KEPT).all()


@pytest.mark.parametrize("channels", [1, 16, 37])
def test_scaling_and_mean_of_channels(channels: int) -> None:
    rng = np.random.default_rng(channels)
    x, y = filled(rng, 6, 7, channels, (2, 1, 0, 1)), FeatureMap.zeros(6, 7, channels)
    mean, scale = np.full(channels, 9, np.float32), rng.standard_normal(channels).astype(np.float32)
    mask, active, listing = half(rng, 6, 7)
    Program([listing, channel_mean(x, mean), scale_channels(y, x, scale, active)]).run()
    np.testing.assert_allclose(mean, x.interior.mean((0, 1)), atol=1e-6)
    assert np.array_equal(y.interior, np.where((mask != 0)[..., None], x.interior * scale, 0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: combine(MAP, [], FULL), r"combine: sources must be 1 to 4, got 0"),
        (lambda: combine(MAP, [Source(MAP, (2, 2))], FULL), r"combine: a map upsampled by \(2, 2\) must have ceil of"),
        (
            lambda: combine(MAP, [Source(MAP)], FULL, first_channel=1),
            r"2 channels from first_channel=1 on must fit into",
        ),
        (lambda: combine(MAP, [Source(MAP)], FULL, "gelu"), r"combine: activation 'gelu' is unknown; did you mean"),
        (lambda: pool("median", MAP, MAP, (1, 1), (1, 1), NONE, FULL), r"pool: kind 'median' is unknown; .*average"),
        (
            lambda: pool("max", MAP, MAP, (1, 1), (1, 1), (1, 0, 0, 0), FULL),
            r"pool: padding must be smaller than the 1x1",
        ),
        (
            lambda: channel_mean(MAP, np.zeros(3, np.float32)),
            r"channel_mean: mean must be float32 \[2\], got float32 \[3\]",
        ),
        (
            lambda: scale_channels(MAP, FeatureMap.zeros(4, 3, 2), np.zeros(2, np.float32), FULL),
            r"x and y must be equally",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


NONE = (0, 0, 0, 0)
MAP = FeatureMap.zeros(4, 4, 2)
FULL = ActivePixels.full(4, 4)
