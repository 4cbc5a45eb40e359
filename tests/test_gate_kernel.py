"""Do the compiled gate and its reference decide and move as the gates that record traces do?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipsim.errors import InputError
from skipsim.hwmodels.kernels import (
    ActivePixels,
    Convolution,
    FeatureMap,
    Program,
    Watch,
    convolve,
    decide,
    list_pixels,
    measure_change,
    move_everywhere,
    move_reference,
    need,
    pack,
    set_threshold,
    spread,
    unite,
)
from skipsim.traces.gates import coarsen, refine
from skipsim.traces.receptive_field import ReceptiveField

SIDES = st.tuples(st.integers(1, 5), st.integers(1, 5))
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def layers(draw: Any) -> Convolution:
    padding = tuple(draw(st.integers(0, 3)) for _ in range(4))
    return Convolution(draw(st.integers(1, 40)), 2, draw(SIDES), draw(PAIRS), padding, draw(PAIRS))  # type: ignore[arg-type]


def field(layer: Convolution, rows: int, cols: int) -> ReceptiveField:
    top, bottom, left, right = layer.padding
    return ReceptiveField(rows, cols, layer.kernel, layer.stride, layer.dilation, top, bottom, left, right)


def filled(rng: np.random.Generator, rows: int, cols: int, channels: int, margin: Any = (0, 0, 0, 0)) -> FeatureMap:
    made = FeatureMap.zeros(rows, cols, channels, margin)
    made.interior[...] = rng.standard_normal((rows, cols, channels))
    return made


def some(rng: np.random.Generator, size: tuple[int, int], block: tuple[int, int], density: float) -> NDArray[np.uint8]:
    return (rng.random((-(-size[0] // block[0]), -(-size[1] // block[1]))) < density).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(layers(), st.tuples(st.integers(13, 20), st.integers(13, 20)), SIDES, st.integers(1, 3), st.integers(0, 1 << 20))
def test_a_frame_of_the_gate_equals_the_recorder(
    layer: Convolution, size: tuple[int, int], block: tuple[int, int], threads: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, reference = filled(rng, *size, layer.in_channels, (1, 0, 2, 1)), filled(rng, *size, layer.in_channels)
    unchanged = rng.random(size) < 0.8
    reference.interior[unchanged] = x.interior[unchanged]
    change = FeatureMap.zeros(*size, 1, layer.margin(*size))
    delta = FeatureMap.zeros(*size, layer.in_channels, layer.margin(*size))
    delta_of_last_frame = rng.random(size) < 0.3
    out = layer.out_size(*size)
    mask, active = some(rng, out, block, 0.5), ActivePixels.zeros(*out)
    before = reference.interior.copy()
    residual = torch.from_numpy(x.interior.astype(np.float64) - before)
    geometry = field(layer, *size)
    means = geometry.mean(residual.abs().mean(-1))
    threshold = float(means.median())
    steps = [
        measure_change(x, reference, change),
        decide(change, layer, mask, block, threshold),
        list_pixels(mask, block, active),
        move_reference(x, reference, change, layer, mask, block, active, delta),
    ]
    Program(steps[:3]).run(threads)
    np.testing.assert_allclose(change.interior[..., 0], residual.abs().mean(-1), atol=1e-6)
    peaks = coarsen(means, block).numpy()
    clear = np.abs(peaks - threshold) > 1e-6  # float32 may decide differently on a tie
    assert ((mask != 0) == (peaks > threshold))[clear].all()
    on = refine(torch.from_numpy(mask != 0), block, *out)
    positions = active.positions[: active.count[0]]
    assert np.array_equal(np.stack([positions >> 16, positions & 0xFFFF], 1), np.argwhere(on.numpy()))

    Program(steps[3:]).run(threads)
    read = geometry.total(torch.ones(size, dtype=torch.float64)).numel() > 0
    assert read
    settled = geometry.settled(on).numpy() & _read_by_somebody(geometry, out)
    assert np.array_equal(reference.interior, np.where(settled[..., None], x.interior, before))
    assert (change.interior[settled] == 0).all()
    assert np.array_equal(delta.interior, np.where(settled[..., None], x.interior - before, 0))

    x.interior[delta_of_last_frame] += 1
    mask[...] = 0
    Program(steps[2:]).run(threads)
    assert not delta.data.any(), "nothing is settled where nothing is computed: the last frame's delta is gone"


def _read_by_somebody(geometry: ReceptiveField, out: tuple[int, int]) -> NDArray[np.bool_]:
    # A pixel without readers counts as settled even when nothing is computed.
    unread = geometry.settled(torch.zeros(out, dtype=torch.bool)).numpy()
    return ~unread


def test_change_at_listed_pixels_only() -> None:
    rng = np.random.default_rng(1)
    x, reference, change = filled(rng, 9, 7, 19), filled(rng, 9, 7, 19), FeatureMap.zeros(9, 7, 1)
    change.interior[...] = -1
    active, mask = ActivePixels.zeros(9, 7), some(rng, (9, 7), (2, 2), 0.4)
    Program([list_pixels(mask, (2, 2), active), measure_change(x, reference, change, active)]).run()
    on = np.kron(mask, np.ones((2, 2)))[:9, :7] != 0
    expected = np.where(on, np.abs(x.interior - reference.interior).mean(-1), -1)
    np.testing.assert_allclose(change.interior[..., 0], expected, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_watch_sees_what_a_separate_gate_sees(threads: int) -> None:
    rng = np.random.default_rng(2)
    layer = Convolution(8, 70, (3, 3), padding=(1, 1, 1, 1))
    packed = pack(layer, rng.standard_normal((70, 8, 3, 3)))
    x, y, reference = filled(rng, 40, 40, 8, (1, 1, 1, 1)), FeatureMap.zeros(40, 40, 70), filled(rng, 40, 40, 70)
    fused, separate = FeatureMap.zeros(40, 40, 1), FeatureMap.zeros(40, 40, 1)
    active, mask = ActivePixels.zeros(40, 40), some(rng, (40, 40), (4, 4), 0.5)
    steps = [
        list_pixels(mask, (4, 4), active),
        convolve(packed, x, y, active, "relu", watch=Watch(reference, fused)),
        measure_change(y, reference, separate, active),
    ]
    Program(steps).run(threads)
    assert separate.interior.any()
    assert np.array_equal(fused.interior, separate.interior)
    expected = packed.convolution.out_size(40, 40)
    whole = FeatureMap.zeros(*expected, 70)
    Program([convolve(packed, x, whole, ActivePixels.full(40, 40), "relu")]).run()
    on = np.kron(mask, np.ones((4, 4))) != 0
    assert np.array_equal(y.interior[on], whole.interior[on])


def test_threshold_of_a_bound_gate_can_change() -> None:
    change, mask = FeatureMap.zeros(4, 4, 1), np.zeros((4, 4), np.uint8)
    change.interior[..., 0] = np.arange(16).reshape(4, 4)
    step = decide(change, Convolution(1, 1), mask, (1, 1), 7.5)
    Program([step]).run()
    assert mask.sum() == 8
    set_threshold(step, 15.0)
    Program([step]).run()
    assert mask.sum() == 0, "a change of exactly the threshold is skipped"


def test_previous_form_moves_everything() -> None:
    rng = np.random.default_rng(3)
    x, reference, delta = filled(rng, 5, 6, 21, (1, 1, 1, 1)), filled(rng, 5, 6, 21), FeatureMap.zeros(5, 6, 21)
    expected = x.interior - reference.interior
    Program([move_everywhere(x, reference, delta)]).run(2)
    assert np.array_equal(delta.interior, expected)
    assert np.array_equal(reference.interior, x.interior)


@settings(max_examples=60, deadline=None)
@given(layers(), st.tuples(st.integers(13, 20), st.integers(13, 20)), SIDES, SIDES, st.integers(0, 1 << 20))
def test_masks_spread_to_readers_and_back(
    layer: Convolution, size: tuple[int, int], block: tuple[int, int], out_block: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    out, geometry = layer.out_size(*size), field(layer, *size)
    source = some(rng, size, block, 0.1)
    target = some(rng, out, out_block, 0.5)
    Program([spread(source, block, layer, target, out_block, size)]).run()
    on = refine(torch.from_numpy(source != 0), block, *size).double()
    assert np.array_equal(target != 0, coarsen(geometry.total(on), out_block).numpy() > 0)

    asked, needed = some(rng, out, out_block, 0.1), some(rng, size, block, 0.5)
    Program([need(asked, out_block, layer, needed, block, size)]).run()
    wanted = refine(torch.from_numpy(asked != 0), out_block, *out)
    # A pixel is read by a wanted position unless all of its readers are among the others.
    read = ~geometry.settled(~wanted).numpy()
    assert np.array_equal(needed != 0, coarsen(torch.from_numpy(read).double(), block).numpy() > 0)


def test_union_of_masks() -> None:
    rng = np.random.default_rng(4)
    masks = [some(rng, (8, 9), (1, 1), 0.2) for _ in range(3)]
    out = np.full((8, 9), 5, np.uint8)
    Program([unite(masks, out)]).run()
    assert np.array_equal(out, masks[0] | masks[1] | masks[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: decide(FeatureMap.zeros(4, 4, 1), Convolution(1, 1, (3, 3), padding=(1, 1, 1, 1)), MASK, (1, 1), 1),
            r"decide: change must have a margin of at least \(1, 1, 1, 1\), got \(0, 0, 0, 0\)",
        ),
        (
            lambda: measure_change(FeatureMap.zeros(4, 4, 2), FeatureMap.zeros(4, 4, 2), FeatureMap.zeros(4, 4, 2)),
            r"measure_change: change must be a map of \(4, 4, 1\) \(rows, cols, channels\), got \(4, 4, 2\)",
        ),
        (
            lambda: spread(MASK, (1, 1), Convolution(1, 1), MASK, (2, 2), (4, 4)),
            r"spread: out_mask: must be a contiguous uint8 array .* per 2x2 block \[2, 2\], got uint8 \[4, 4\]",
        ),
        (lambda: unite([], MASK), r"unite: masks must be 1 to 16, got 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


MASK = np.zeros((4, 4), np.uint8)
