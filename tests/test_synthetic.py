"""Have synthetic masks the density, the clustering and the reproducibility that were asked for?"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipsim.errors import InputError
from skipsim.traces.layer import Layer
from skipsim.traces.synthetic import highest, smooth_noise, synthetic_trace

LAYERS = [
    Layer("stem", 3, 64, 48, 8, 32, 24, 3, 3, 2, 2, 1, 1),
    Layer("body", 8, 32, 24, 8, 32, 24, 3, 3, 1, 1, 1, 1),
    Layer("deep", 8, 32, 24, 8, 11, 7, 3, 3, 3, 3),
    Layer("pool", 8, 11, 7, 8, 1, 1, 11, 7),
]
COMMON: dict[str, Any] = {"rows": 64, "cols": 48, "frames": 6, "density": 0.3, "cluster_pixels": 9, "block": 1}


@given(
    density=st.floats(0, 1),
    cluster_pixels=st.one_of(st.just(0), st.floats(0.1, 1000)),
    seed=st.integers(0, 2**40),
    reference=st.sets(st.integers(0, 5), max_size=4),
)
def test_density_is_as_exact_as_the_pixels_allow(
    density: float, cluster_pixels: float, seed: int, reference: set[int]
) -> None:
    options = COMMON | {"density": density, "cluster_pixels": cluster_pixels, "seed": seed}
    trace = synthetic_trace(LAYERS, **options, reference_frames=reference)
    gated = [frame for frame in range(6) if frame not in reference]
    assert trace.reference_frames == tuple(sorted(reference))
    for index, layer in enumerate(LAYERS):
        computed = trace.computed_pixels[gated, index]
        assert computed.sum() == math.floor(density * layer.out_pixels * len(gated) + 0.5)
        assert np.all(np.abs(computed - density * layer.out_pixels) <= 1)
    for frame in reference:
        assert trace.density(frame=frame) == 1.0


@pytest.mark.parametrize("cluster_pixels", [0, 5, 1e6])
@pytest.mark.parametrize("block", [1, 4, (3, 50)])
def test_nothing_and_everything_are_exact(cluster_pixels: float, block: int | tuple[int, int]) -> None:
    for density in (0.0, 1.0):
        options = COMMON | {"density": density, "cluster_pixels": cluster_pixels, "block": block}
        trace = synthetic_trace(LAYERS, **options, reference_frames=())
        assert trace.density() == density


@pytest.mark.parametrize("density", [0.02, 0.2, 0.77])
@pytest.mark.parametrize("block", [2, 4, 8, 16, (1, 5)])
def test_density_counts_whole_blocks(block: int | tuple[int, int], density: float) -> None:
    """What a layer computes over all gated frames is within half a block of what was asked for."""
    block_rows, block_cols = block if isinstance(block, tuple) else (block, block)
    trace = synthetic_trace(LAYERS, **COMMON | {"block": block, "density": density}, reference_frames=(2,))
    gated = [frame for frame in range(6) if frame != 2]
    for index, layer in enumerate(trace.layers):
        assert (layer.block_rows, layer.block_cols) == (block_rows, block_cols)
        wanted = math.floor(density * layer.out_pixels * len(gated) + 0.5)
        assert abs(int(trace.computed_pixels[gated, index].sum()) - wanted) <= block_rows * block_cols / 2


def test_the_blocks_of_the_highest_pixels_are_computed() -> None:
    """Blocks of any size follow one field: the pixel of the finest mask's only block lies in every coarser one's."""
    options = COMMON | {"density": 1 / LAYERS[0].out_pixels}
    fine = synthetic_trace(LAYERS, **options, reference_frames=())
    ((row, col),) = np.argwhere(fine.mask(0, 0))
    for block in (2, 4, 8, 16):
        layer = replace(LAYERS[0], block_rows=block, block_cols=block)
        share = block * block / layer.out_pixels
        mask = synthetic_trace([layer], **COMMON | {"density": share, "block": block}, reference_frames=()).mask(0, 0)
        assert np.argwhere(mask).tolist() == [[row // block, col // block]]


@given(
    values=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    share=st.floats(0, 1),
)
def test_highest_takes_the_first_of_equal_values(values: list[int], share: float) -> None:
    count = int(share * len(values))
    order = sorted(range(len(values)), key=lambda place: (-values[place], place))
    expected = [place in order[:count] for place in range(len(values))]
    assert highest(np.array([values], float), np.ones((1, len(values)), int), count).tolist() == [expected]


def test_highest_adds_up_sizes_as_nearly_as_it_can() -> None:
    values, sizes = np.array([[5.0, 4.0, 3.0]]), np.array([[4, 2, 3]])
    expected = {0: 0, 1: 0, 2: 0, 3: 1, 5: 1, 6: 2, 7: 2, 8: 3, 9: 3}
    for pixels, count in expected.items():
        assert highest(values, sizes, pixels).tolist() == [[place < count for place in range(3)]], pixels


def test_correlation_falls_as_documented() -> None:
    """exp(-(d / L)^2), averaged over 512 x 512 pixels: some 3000 independent patches, so within 0.05."""
    field = smooth_noise(512, 512, 8.0, np.random.default_rng(1))
    field = field - field.mean()
    for axis in (0, 1):
        for distance in (2, 4, 8, 12, 16):
            measured = np.mean(field * np.roll(field, distance, axis)) / np.mean(field**2)
            assert abs(measured - math.exp(-((distance / 8.0) ** 2))) < 0.05


def test_larger_clusters_touch_fewer_tiles() -> None:
    """The same pixels lie in fewer 8x8 tiles when they keep together; without clusters in 1 - (1 - p)^64 of them."""
    shares = []
    for cluster in (0, 4, 16, 64):
        layer = Layer("stem", 3, 256, 256, 8, 256, 256)
        options = COMMON | {"rows": 256, "cols": 256, "density": 0.05, "cluster_pixels": cluster}
        masks = synthetic_trace([layer], **options, reference_frames=()).masks(0)
        shares.append(masks.reshape(-1, 32, 8, 32, 8).any(axis=(2, 4)).mean())
    assert shares == sorted(shares, reverse=True)
    assert abs(shares[0] - (1 - 0.95**64)) < 0.01
    assert 0.05 < shares[-1] < 0.15


def test_layers_see_the_same_field() -> None:
    trace = synthetic_trace(LAYERS, **COMMON | {"cluster_pixels": 24}, reference_frames=())
    np.testing.assert_array_equal(trace.masks("stem"), trace.masks("body"))  # the same output size
    rows = np.arange(11) * 32 // 11 + 1  # a pixel of the 32 x 24 map near the centre of each of the 11 x 7 map
    cols = np.arange(7) * 24 // 7 + 1
    fine = trace.masks("body")[:, rows][:, :, cols]
    assert np.mean(fine == trace.masks("deep")) > 0.9  # independent masks would agree on 0.3^2 + 0.7^2 = 0.58


def test_blobs_move_a_quarter_of_their_size() -> None:
    """Frames correlate, less with time, but no frame is the one before."""
    layer = Layer("stem", 3, 256, 256, 8, 256, 256)
    options = COMMON | {"rows": 256, "cols": 256, "cluster_pixels": 32}
    masks = synthetic_trace([layer], **options, reference_frames=()).masks(0)
    kept = [np.mean(masks[0] == masks[frame]) for frame in range(6)]
    assert kept == sorted(kept, reverse=True)
    assert 0.8 < kept[1] < 0.97


def test_same_seed_same_trace() -> None:
    first, again = (synthetic_trace(LAYERS, **COMMON, seed=3) for _ in range(2))
    other = synthetic_trace(LAYERS, **COMMON, seed=4)
    assert first.hash == again.hash != other.hash
    assert first.origin == again.origin
    assert first.origin["kind"] == "synthetic"
    assert (first.origin["seed"], first.origin["density"], first.origin["block"]) == (3, 0.3, [1, 1])


def test_masks_follow_from_the_documented_generator() -> None:
    """Rebuild one frame without the Fourier transform: noise convolved on the torus with exp(-2 (d / L)^2)."""
    rows, cols, cluster, seed, frame = 16, 12, 4.0, 5, 3
    layer = Layer("only", 1, rows, cols, 1, 8, 12, stride_rows=2)
    options = COMMON | {"rows": rows, "cols": cols, "cluster_pixels": cluster, "density": 0.25, "seed": seed}
    mask = synthetic_trace([layer], **options, reference_frames=()).mask(0, frame)

    generator = np.random.default_rng(seed)
    images = np.arange(-5, 6)
    ys = np.arange(rows)[:, None] + images * rows
    xs = np.arange(cols)[:, None] + images * cols
    kernel = np.outer(np.exp(-2 * (ys / cluster) ** 2).sum(axis=1), np.exp(-2 * (xs / cluster) ** 2).sum(axis=1))
    falling, rising = np.zeros((rows, cols)), np.zeros((rows, cols))
    for field in (falling, rising):
        noise = generator.random((rows, cols)) - 0.5
        for y in range(rows):
            for x in range(cols):
                field += noise[y, x] * np.roll(kernel, (y, x), (0, 1))
    total = np.roll(falling, (frame, frame), (0, 1)) + np.roll(rising, -frame, 1)  # a quarter of 4 pixels a frame
    seen = total[1::2]  # the centre of a map row of two image rows is the upper edge of the second
    expected = np.zeros(8 * 12, bool)
    expected[np.argsort(-seen, axis=None)[:24]] = True
    np.testing.assert_array_equal(mask, expected.reshape(8, 12))


def test_topology_takes_its_image_from_the_first_layer(tmp_path: Path) -> None:
    file = tmp_path / "net.csv"
    header = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"
    file.write_text(header + "a, 34, 34, 3, 3, 3, 8, 1,\nb, 32, 32, 2, 2, 8, 8, 2,\n")
    options: dict[str, Any] = {"frames": 3, "density": 0.5, "cluster_pixels": 8, "block": 4}
    trace = synthetic_trace(file, **options, gate="mask", update="previous")
    assert [(layer.name, layer.gate, layer.grid_rows) for layer in trace.layers] == [("a", "mask", 8), ("b", "mask", 4)]
    assert (trace.origin["network"], trace.origin["rows"], trace.update) == ("net", 34, "previous")
    layers = [replace(layer, gate="none") for layer in trace.layers]
    assert synthetic_trace(layers, **options, gate="mask", update="previous").hash == trace.hash


def test_network_is_taken_by_name() -> None:
    """HRNet-W32, 17 joints, 256 x 192: the multiply-accumulates of its public code (leoxiaobin, pose_hrnet.py)."""
    options = COMMON | {"rows": 256, "cols": 192, "frames": 2, "block": 8}
    trace = synthetic_trace("hrnet_w32", **options, gate="output_norm")
    assert trace.dense_macs == 2 * 7_645_003_776
    assert trace.origin["network"] == "hrnet_w32"
    assert len(trace.layers) == 293
    assert {(layer.gate, layer.block_rows) for layer in trace.layers} == {("output_norm", 8)}


def test_layers_need_no_torch_and_networks_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert synthetic_trace(LAYERS, **COMMON).frames == 6
    with pytest.raises(InputError) as error:
        synthetic_trace("hrnet_w32", **COMMON)
    assert str(error.value) == (
        "synthetic trace: network 'hrnet_w32' needs torch: pip install 'skipsim[torch]'; or give a topology file"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": -0.1}, "density must be in 0..1, got -0.1"),
        ({"density": float("nan")}, "density must be in 0..1, got nan"),
        ({"cluster_pixels": -1}, "cluster_pixels must be a number >= 0, got -1"),
        ({"cluster_pixels": float("inf")}, "cluster_pixels must be a number >= 0, got inf"),
        ({"frames": 0}, "frames must be a whole number >= 1, got 0"),
        ({"frames": 2.5}, "frames must be a whole number >= 1, got 2.5"),
        ({"rows": 0}, "rows must be a whole number >= 1, got 0"),
        ({"block": 0}, "block must be a whole number >= 1, got 0"),
        ({"block": (4, -1)}, "block must be a whole number >= 1, got -1"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"gate": "none"}, "gate 'none' decides nothing; choices: gumbel, hold, input_norm, mask, output_norm, shared"),
        ({"gate": "input-norm"}, "gate 'input-norm' decides nothing; did you mean 'input_norm'? choices: "),
    ],
)
def test_impossible_wishes_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        synthetic_trace(LAYERS, **COMMON | options)
    assert str(error.value).startswith(f"synthetic trace: {message}")


def test_wrong_networks_are_one_line() -> None:
    with pytest.raises(InputError, match=r"^synthetic trace: network must have at least one layer$"):
        synthetic_trace([], **COMMON)
    with pytest.raises(InputError, match=r"^synthetic trace: network 'small' needs the image size, rows and cols$"):
        synthetic_trace("small", **COMMON | {"rows": None})
    with pytest.raises(InputError, match=r"network 'hrnet_w31' is unknown; did you mean 'hrnet_w32'\?"):
        synthetic_trace("hrnet_w31", **COMMON)
    with pytest.raises(InputError, match=r"^nowhere\.csv: no such file$"):
        synthetic_trace("nowhere.csv", **COMMON)
    with pytest.raises(InputError, match=r"^trace: reference frames must be in 0\.\.5, got 6$"):
        synthetic_trace(LAYERS, **COMMON, reference_frames=[6])
    with pytest.raises(InputError, match=r"^update: 'recomputed' is unknown; did you mean 'recompute'\?"):
        synthetic_trace(LAYERS, **COMMON, update="recomputed")
