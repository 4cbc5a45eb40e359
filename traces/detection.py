"""From a detection network's maps to boxes: anchors, decoding, and the suppression of doubles.

Anchors and box coding are those of EfficientDet's published checkpoints (Lin et al., "Focal Loss for Dense Object
Detection", section 4, with the shapes of efficientdet-pytorch), so that their outputs mean the same here. Boxes are
x0, y0, x1, y1 in pixels; the upper left corner of the picture is (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipsim.errors import InputError

FINEST_STRIDE = 8
OCTAVES = (0.0, 1 / 3, 2 / 3)
SHAPES = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))  # width and height in anchor sizes
ANCHORS = len(OCTAVES) * len(SHAPES)  # per position
MAX_DETECTIONS = 100  # COCO counts no more per picture
MAX_CANDIDATES = 1000  # of one picture, before doubles are suppressed
LEAST_SCORE = 0.02
# Two boxes of one class that overlap more than this are one object.
OVERLAP = 0.5

Boxes = NDArray[np.float32]


def anchors(sizes: Sequence[tuple[int, int]], scale: float) -> Boxes:
    """Return the anchors of all levels, finest first, [A, 4]: by row, column, octave, shape.

    Args:
        sizes: (rows, cols) of every level's map; level l has a stride of 8 * 2^l pixels.
        scale: size of the smallest square anchor in strides.
    """
    levels = []
    for level, (rows, cols) in enumerate(sizes):
        stride = FINEST_STRIDE << level
        edges = [scale * stride * 2**octave for octave in OCTAVES]
        reach = np.array([(edge * width / 2, edge * height / 2) for edge in edges for width, height in SHAPES])
        y, x = np.meshgrid((np.arange(rows) + 0.5) * stride, (np.arange(cols) + 0.5) * stride, indexing="ij")
        centres = np.stack((x, y), axis=-1)[:, :, None]
        levels.append(np.concatenate((centres - reach, centres + reach), axis=-1).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


def flatten(maps: Sequence[ArrayLike], values: int) -> NDArray[np.float32]:
    """Return the values of every anchor, [A, values], in the order of `anchors`.

    Args:
        maps: one per level, [9 * values, rows, cols] or [1, 9 * values, rows, cols].
        values: per anchor: the number of classes, or 4.
    """
    parts = []
    for entry in maps:
        array = np.asarray(entry, np.float32)
        array = array[0] if array.ndim == 4 and len(array) == 1 else array
        if array.ndim != 3 or array.shape[0] != ANCHORS * values:
            raise InputError(
                f"detection: a level's map must be [{ANCHORS * values}, rows, cols], got {list(array.shape)}"
            )
        parts.append(array.transpose(1, 2, 0).reshape(-1, values))
    return np.concatenate(parts)


def decode_boxes(offsets: ArrayLike, boxes: Boxes) -> Boxes:
    """Map offsets (dy, dx, log height, log width) from anchors [A, 4] to boxes [A, 4].

    A centre moves by so many anchor heights and widths; logarithms are limited to a factor of 64.
    """
    given = np.asarray(offsets, np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2 + given[:, 1::-1] * sides
    reach = np.exp(np.minimum(given[:, :1:-1], np.log(np.float32(64)))) * sides / 2
    boxes_found: Boxes = np.concatenate((centres - reach, centres + reach), axis=1)
    return boxes_found


def overlaps(one: ArrayLike, other: ArrayLike) -> NDArray[np.float32]:
    """Return intersection over union of every pair of boxes, [N, 4] and [M, 4] to [N, M]."""
    first, second = np.asarray(one, np.float32), np.asarray(other, np.float32)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common: NDArray[np.float32] = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - common
    return np.asarray(common / np.maximum(union, np.float32(1e-9)), np.float32)


def suppress(boxes: Boxes, scores: NDArray[np.floating[Any]], limit: float = OVERLAP) -> NDArray[np.int64]:
    """Return which boxes stay, best first: one that overlaps a better one by more than `limit` goes."""
    order = np.argsort(-scores, kind="stable")
    kept = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[overlaps(boxes[[best]], boxes[order])[0] <= limit]
    return np.array(kept, np.int64)


def decode(
    class_maps: Sequence[ArrayLike], box_maps: Sequence[ArrayLike], outputs: int, scale: float, rows: int, cols: int
) -> NDArray[np.float32]:
    """Return the detections in one picture, best first: [D, 6] of x0, y0, x1, y1, score, class; at most 100.

    Args:
        class_maps: logits per level, [9 * outputs, rows, cols].
        box_maps: offsets per level, [9 * 4, rows, cols].
        outputs: number of classes.
        scale: of the anchors.
        rows: height of the picture in pixels; boxes are cut at its border.
        cols: width likewise.

    Raises:
        InputError: maps of another shape, or a value that is not finite.
    """
    logits = flatten(class_maps, outputs)
    offsets = flatten(box_maps, 4)
    if not np.isfinite(logits).all() or not np.isfinite(offsets).all():
        raise InputError("detection: maps must be finite, got NaN or infinity")
    least = np.log(LEAST_SCORE / (1 - LEAST_SCORE))
    candidates = np.flatnonzero(logits.ravel() > least)
    if candidates.size > MAX_CANDIDATES:
        best = np.argpartition(-logits.ravel()[candidates], MAX_CANDIDATES)[:MAX_CANDIDATES]
        candidates = np.sort(candidates[best])
    anchor, label = np.divmod(candidates, outputs)
    scores = 1 / (1 + np.exp(-logits.ravel()[candidates]))
    sizes = [tuple(np.shape(entry)[-2:]) for entry in class_maps]
    boxes = decode_boxes(offsets[anchor], anchors(sizes, scale)[anchor])
    # Boxes of different classes are moved apart, so that they never suppress one another.
    apart = boxes + (label * (4.0 * max(rows, cols)))[:, None].astype(np.float32)
    kept = suppress(apart, scores)[:MAX_DETECTIONS]
    boxes = np.clip(boxes[kept], 0, np.array((cols, rows, cols, rows), np.float32))
    found = np.concatenate((boxes, scores[kept, None], label[kept, None]), axis=1).astype(np.float32)
    return found[(found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])]
