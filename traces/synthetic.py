"""Masks of a wanted density and clustering, for tests and for sweeps that vary one thing at a time.

The generator, named `GENERATOR` in a trace's origin: two fields of independent uniform noise on the image's pixels,
seen as a torus, are each smoothed so that their correlation at a distance of d pixels is exp(-(d / cluster_pixels)^2).
Their sum, one drifting down and right and the other left by a quarter of `cluster_pixels` a frame (of the image where
that is smaller), is a smooth random field whose blobs move and change shape. Every layer sees it sampled at the centres
of its own output pixels, so that the masks of different layers belong together as those of a real network do. A block
counts as its highest pixel; the highest blocks are computed, as many as the density asks for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError, nearest
from skipsim.traces.layer import GATE_KINDS, Layer
from skipsim.traces.topology import read_topology
from skipsim.traces.trace import Trace
from skipsim.traces.trace_files import Mask

GENERATOR = "drifting gaussian field 1"

Field = NDArray[np.float64]


def synthetic_trace(
    network: str | Path | Sequence[Layer],
    *,
    rows: int | None = None,
    cols: int | None = None,
    frames: int,
    density: float,
    cluster_pixels: float,
    block: int | tuple[int, int],
    seed: int = 0,
    update: str = "recompute",
    gate: str = "input_norm",
    reference_frames: Iterable[int] = (0,),
) -> Trace:
    """Make a trace whose masks follow a random field instead of a video.

    Args:
        network: a registered network's name (needs torch), a topology file (.csv, .onnx), or layers. Block and gate of
            the layers are replaced by `block` and `gate`.
        rows: height of the input image in pixels; None, for layers and topologies: that of the first layer's input.
        cols: width likewise.
        frames: number of frames, reference frames included.
        density: computed share of output pixels in [0, 1], blocks included: what a frame misses or exceeds because
            blocks are whole is made up on the next, so that over all gated frames every layer is within half a block.
        cluster_pixels: correlation length in input pixels; 0: every pixel for itself.
        block: output pixels that share a decision, one number or (rows, cols).
        seed: whole number >= 0; the same seed gives the same masks on every machine.
        update: the update form.
        gate: what the masks cost; "mask": nothing.
        reference_frames: frames computed densely.
    """
    layers, name = _layers_of(network, rows, cols)
    rows = layers[0].in_rows if rows is None else rows
    cols = layers[0].in_cols if cols is None else cols
    block_rows, block_cols = block if isinstance(block, tuple) else (block, block)
    for what, value in (
        ("rows", rows),
        ("cols", cols),
        ("frames", frames),
        ("block", block_rows),
        ("block", block_cols),
    ):
        _check_whole(what, value, 1)
    _check_whole("seed", seed, 0)
    if not 0 <= density <= 1:
        raise InputError(f"synthetic trace: density must be in 0..1, got {density!r}")
    if not 0 <= cluster_pixels < math.inf:
        raise InputError(f"synthetic trace: cluster_pixels must be a number >= 0, got {cluster_pixels!r}")
    if gate not in GATE_KINDS or gate == "none":
        raise InputError(f"synthetic trace: gate {gate!r} decides nothing; {nearest(gate, set(GATE_KINDS) - {'none'})}")
    reference = sorted(set(reference_frames))
    layers = [replace(layer, block_rows=block_rows, block_cols=block_cols, gate=gate) for layer in layers]
    masks = _masks(layers, DriftingField(rows, cols, cluster_pixels, seed), frames, density, reference)
    origin: dict[str, Any] = {
        "kind": "synthetic",
        "generator": GENERATOR,
        "network": name,
        "rows": rows,
        "cols": cols,
        "density": density,
        "cluster_pixels": cluster_pixels,
        "block": [block_rows, block_cols],
        "gate": gate,
        "seed": seed,
    }
    return Trace.from_masks(layers, masks, update=update, reference_frames=reference, origin=origin)


class DriftingField:
    """A smooth random field on a torus of image pixels that moves and changes from frame to frame (see the module)."""

    def __init__(self, rows: int, cols: int, cluster_pixels: float, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._falling = smooth_noise(rows, cols, cluster_pixels, generator)
        self._rising = smooth_noise(rows, cols, cluster_pixels, generator)
        self._step = max(1, int(min(cluster_pixels, rows, cols) / 4 + 0.5))

    def sample(self, frame: int, out_rows: int, out_cols: int) -> Field:
        """Return the field at the pixel centres of a map of out_rows x out_cols that covers the whole image."""
        rows, cols = self._falling.shape
        ys = (2 * np.arange(out_rows) + 1) * rows // (2 * out_rows)
        xs = (2 * np.arange(out_cols) + 1) * cols // (2 * out_cols)
        shift = frame * self._step
        falling = self._falling[np.ix_((ys - shift) % rows, (xs - shift) % cols)]
        return falling + self._rising[np.ix_(ys, (xs + shift) % cols)]


def smooth_noise(rows: int, cols: int, cluster_pixels: float, generator: np.random.Generator) -> Field:
    """Return periodic noise whose correlation at a distance of d pixels is exp(-(d / cluster_pixels)^2)."""
    noise = generator.random((rows, cols)) - 0.5
    if cluster_pixels == 0 or noise.size == 1:
        return noise
    frequency_squared = np.fft.fftfreq(rows)[:, None] ** 2 + np.fft.rfftfreq(cols) ** 2
    exponent = -0.5 * (math.pi * cluster_pixels) ** 2 * frequency_squared
    # Without the constant part and relative to the slowest wave, so that clusters larger than the image leave a field
    # of that wave and not of rounding errors.
    exponent[0, 0] = -math.inf
    exponent -= exponent.max()
    return np.fft.irfft2(np.fft.rfft2(noise) * np.exp(exponent), s=(rows, cols))


def highest(values: Field, sizes: NDArray[np.int64], pixels: int) -> Mask:
    """Mark the highest values, so many that their `sizes` add up to `pixels` as nearly as they can.

    Of equal values the first in reading order; of two sums equally near the smaller.
    """
    order = np.argsort(-values.ravel(), kind="stable")
    sums = np.concatenate([[0], np.cumsum(sizes.ravel()[order])])
    marked = np.zeros(values.size, np.bool_)
    marked[order[: int(np.argmin(np.abs(sums - pixels)))]] = True
    return marked.reshape(values.shape)


def _masks(
    layers: Sequence[Layer], field: DriftingField, frames: int, density: float, reference_frames: Sequence[int]
) -> list[Mask]:
    """Return the masks of every layer, bool [frames, grid_rows, grid_cols]; layers of one output size share theirs."""
    by_size: dict[tuple[int, int], Mask] = {}
    for layer in layers:
        size = layer.out_rows, layer.out_cols
        if size in by_size:
            continue
        row_starts, col_starts = np.arange(0, size[0], layer.block_rows), np.arange(0, size[1], layer.block_cols)
        sizes = np.outer(np.diff([*row_starts, size[0]]), np.diff([*col_starts, size[1]]))
        mask = np.ones((frames, layer.grid_rows, layer.grid_cols), np.bool_)
        taken = 0
        gated_frames = (frame for frame in range(frames) if frame not in reference_frames)
        for done, frame in enumerate(gated_frames):
            tall = np.maximum.reduceat(field.sample(frame, *size), row_starts, axis=0)
            peaks = np.maximum.reduceat(tall, col_starts, axis=1)
            mask[frame] = highest(peaks, sizes, _rounded(density * layer.out_pixels * (done + 1)) - taken)
            taken += int(sizes[mask[frame]].sum())
        by_size[size] = mask
    return [by_size[layer.out_rows, layer.out_cols] for layer in layers]


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)


def _layers_of(network: str | Path | Sequence[Layer], rows: int | None, cols: int | None) -> tuple[list[Layer], str]:
    """Return the layers of a network given in any form, and its name."""
    if not isinstance(network, str | Path):
        if not network:
            raise InputError("synthetic trace: network must have at least one layer")
        return list(network), "layers"
    path = Path(network)
    if path.suffix.lower() in (".csv", ".onnx"):
        return list(read_topology(path)), path.name.split(".")[0]
    if rows is None or cols is None:
        raise InputError(f"synthetic trace: network {network!r} needs the image size, rows and cols")
    _check_whole("rows", rows, 1)
    _check_whole("cols", cols, 1)
    if find_spec("torch") is None:
        raise InputError(
            f"synthetic trace: network {network!r} needs torch: pip install 'skipsim[torch]'; or give a topology file"
        )
    from skipsim.traces.record import network_layers

    return list(network_layers(str(network), rows, cols)), str(network)


def _check_whole(what: str, value: object, low: int) -> None:
    if type(value) is not int or value < low:
        raise InputError(f"synthetic trace: {what} must be a whole number >= {low}, got {value!r}")
