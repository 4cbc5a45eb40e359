"""The work of bound kernels: what every step of a whole network will do with the masks that it holds now."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipsim.hwmodels.compiled_work import compiled_work
from skipsim.hwmodels.fit import predict
from skipsim.hwmodels.kernel_work import (
    FLOAT_BYTES,
    LayerShape,
    Work,
    change_work,
    combine_work,
    decide_work,
    features,
    list_work,
    mean_work,
    move_work,
    silu_work,
    watch_work,
)
from skipsim.hwmodels.kernels import ActivePixels, Step
from skipsim.hwmodels.kernels.convolution import PackedConvolution
from skipsim.hwmodels.kernels.feature_map import FeatureMap
from skipsim.hwmodels.kernels.register_tile import Field
from skipsim.hwmodels.mask_pixels import Masks, Touched
from skipsim.hwmodels.processor import Cost, Peaks, Processor, residency_of

PIXEL = (1, 1)


@dataclass(frozen=True)
class Piece:
    """One cost that a step pays: coefficients, the work they multiply, and the map that says where its bytes lie."""

    cost: Cost
    work: Work
    shape: LayerShape


def predict_step(step: Step, layer: LayerShape | None, processor: Processor, footprint_bytes: float) -> float:
    """Predict a step's time with the masks and lists that it holds now, ns.

    `layer`: the geometry of the convolution that the step belongs to, if it belongs to one.
    """
    return sum(_nanoseconds(piece, processor.peaks, footprint_bytes) for piece in pieces_of(step, layer, processor))


def _nanoseconds(piece: Piece, peaks: Peaks, footprint_bytes: float) -> float:
    residency = residency_of(piece.shape, peaks, footprint_bytes)
    return float(predict(features(piece.work, residency), piece.cost)[0])


def pieces_of(step: Step, layer: LayerShape | None, processor: Processor) -> list[Piece]:
    """Return what a step pays; one of a kind that was not measured pays as the nearest one that was."""
    stages = processor.stages
    if step.kind == "convolve":
        return _convolve(step, processor)
    if step.kind in ("decide", "move_reference") and layer is not None:
        masks, block = _mask_of(step, layer)
        if step.kind == "decide":
            return [Piece(stages["decide"], decide_work(layer, masks, block), layer)]
        return [Piece(stages["move"], move_work(layer, masks, block), layer)]
    if step.kind == "list":
        mask, active = step.held
        masks, block = (mask != 0)[None], _block(mask, active.rows, active.cols)
        shape = _map_shape(active.rows, active.cols, 1)
        return [Piece(stages["list"], list_work(shape, masks, block), shape)]
    if step.kind in ("spread", "need", "unite"):
        cells = float(sum(one.size for one in step.held if isinstance(one, np.ndarray)))
        work = Work.of(1, calls=1.0, blocks=cells)
        return [Piece(stages["list"], work, _map_shape(1, 1, 1))]
    maps = [one for one in step.held if isinstance(one, FeatureMap)][:: -1 if step.kind == "pool" else 1]
    shape = _map_shape(maps[0].rows, maps[0].cols, maps[0].channels)
    lists = [one for one in step.held if isinstance(one, ActivePixels)]
    pixels = _pixels(lists[0]) if lists else np.ones((shape.in_rows, shape.in_cols), np.bool_)
    touched = Touched.of(pixels[None], shape.in_channels * FLOAT_BYTES)
    if step.kind == "measure_change":
        return [Piece(stages["change"], change_work(touched, shape.in_channels), shape)]
    if step.kind == "channel_mean":
        return [
            Piece(
                stages["mean"], mean_work(shape, np.zeros((1, 1, 1), np.bool_), (shape.out_rows, shape.out_cols)), shape
            )
        ]
    return [Piece(stages["combine"], _combine(step, maps[0].channels, touched), shape)]


def _combine(step: Step, channels: int, touched: Touched) -> Work:
    """Return the work of what writes a map from others: a pool reads a window, a sum one pixel of every source."""
    if step.kind == "pool":
        rows, cols = step.held[3]
        return combine_work(channels, rows * cols, touched)
    if step.kind != "combine":
        return combine_work(channels, 1, touched)
    sources = step.held[1]
    written = sources[0].map.channels
    return combine_work(written, sum(1 / (one.up[0] * one.up[1]) for one in sources), touched, written < channels)


def _convolve(step: Step, processor: Processor) -> list[Piece]:
    packed, x, _y, active, addend, watch, *_ = step.held
    shape, masks = shape_of_step(packed, x, active), _pixels(active)[None]
    work = compiled_work(shape, masks, PIXEL, processor.registers)
    if addend is not None:
        added = work.pixels * shape.out_channels * FLOAT_BYTES
        work = work.plus(Work.of(1, input_bytes=added))
    pieces = [Piece(processor.kernels["compiled"][shape.kind], work, shape)]
    if step.row[Field.FINISH]:
        pieces.append(Piece(processor.stages["silu"], silu_work(shape, masks, PIXEL), shape))
    if watch is not None:
        pieces.append(Piece(processor.stages["watch"], watch_work(shape, masks, PIXEL), shape))
    return pieces


def shape_of_step(packed: PackedConvolution, x: FeatureMap, active: ActivePixels) -> LayerShape:
    """Return a bound convolution's geometry."""
    layer = packed.convolution
    return LayerShape(
        layer.in_channels, x.rows, x.cols, layer.out_channels, active.rows, active.cols, *layer.kernel, *layer.stride,
        layer.padding[0], layer.padding[2], *layer.dilation, layer.groups,
    )  # fmt: skip


def _mask_of(step: Step, layer: LayerShape) -> tuple[Masks, tuple[int, int]]:
    """Return the mask among what a step holds, and its block."""
    mask = next(one for one in step.held if isinstance(one, np.ndarray) and one.dtype == np.uint8)
    return (mask != 0)[None], _block(mask, layer.out_rows, layer.out_cols)


def _block(mask: NDArray[np.uint8], rows: int, cols: int) -> tuple[int, int]:
    """Return a block size that gives the mask's grid on a map of that size."""
    return -(-rows // mask.shape[0]), -(-cols // mask.shape[1])


def _pixels(active: ActivePixels) -> NDArray[np.bool_]:
    """Return a list of pixels as a map, bool [rows, cols]."""
    pixels = np.zeros((active.rows, active.cols), np.bool_)
    positions = active.positions[: int(active.count[0])]
    pixels[positions >> 16, positions & 0xFFFF] = True
    return pixels


def _map_shape(rows: int, cols: int, channels: int) -> LayerShape:
    return LayerShape(channels, rows, cols, channels, rows, cols)
