"""How good a network's answers are: joints from heat maps, PCK, agreement with the dense network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipsim.errors import InputError
from skipsim.traces.datasets import Clip
from skipsim.traces.procedural.figure import JOINT_COUNT

PCK_THRESHOLDS = (0.05, 0.1, 0.2)
HEADLINE = "pck@0.05"


def decode_heatmaps(heatmaps: ArrayLike, rows: int, cols: int) -> NDArray[np.float32]:
    """Find the joint in each heat map, finer than its grid: the vertex of a parabola through the maximum.

    A parabola is exact where the map is the logarithm of a Gaussian, as networks trained by `skipsim train` put out.

    Args:
        heatmaps: [..., J, heatmap rows, heatmap cols]; any scale, the maximum counts.
        rows: height of the picture in pixels.
        cols: width of the picture in pixels.

    Returns:
        float32 [..., J, 2]: (x, y) in pixels of the picture; the centre of the first pixel is (0, 0).

    Raises:
        InputError: a value that is not finite, or fewer than three dimensions.
    """
    maps = np.asarray(heatmaps, np.float64)
    if maps.ndim < 3 or not maps.size:
        raise InputError(f"heat maps: shape must be [..., joints, rows, cols], got {list(maps.shape)}")
    if not np.isfinite(maps).all():
        raise InputError("heat maps: values must be finite, got NaN or infinity")
    height, width = maps.shape[-2:]
    flat = maps.reshape(-1, height, width)
    each = np.arange(len(flat))
    peak_y, peak_x = np.unravel_index(flat.reshape(len(flat), -1).argmax(axis=1), (height, width))
    y = peak_y + _vertex(flat[each, :, peak_x], peak_y)
    x = peak_x + _vertex(flat[each, peak_y, :], peak_x)
    joints = np.stack(((x + 0.5) * (cols / width) - 0.5, (y + 0.5) * (rows / height) - 0.5), axis=-1)
    return joints.reshape(*maps.shape[:-2], 2).astype(np.float32)


def _vertex(lines: NDArray[np.float64], peaks: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return how far the vertex of the parabola lies from each line's maximum: -0.5..0.5, 0 at the border."""
    length = lines.shape[1]
    each = np.arange(len(lines))
    before, after = lines[each, np.maximum(peaks - 1, 0)], lines[each, np.minimum(peaks + 1, length - 1)]
    curvature = before - 2 * lines[each, peaks] + after
    inside = (peaks > 0) & (peaks < length - 1) & (curvature < 0)
    return np.where(inside, 0.5 * (before - after) / np.where(inside, curvature, 1.0), 0.0)


def pck(
    predicted: ArrayLike, joints: ArrayLike, visible: ArrayLike, scale: ArrayLike, threshold: float = 0.05
) -> float:
    """Return the share of visible joints found within `threshold` x box size: the percentage of correct keypoints.

    The box size is the greater side of the labelled person's box, as is usual on JHMDB; a joint exactly on the limit
    counts.

    Args:
        predicted: [T, J, 2] in pixels.
        joints: [T, J, 2] in pixels, the truth.
        visible: [T, J]; joints that are not visible do not count.
        scale: [T] box size in pixels, > 0.
        threshold: share of the box size, > 0.

    Raises:
        InputError: shapes that do not match, no visible joint, or a number out of range.
    """
    found, truth = np.asarray(predicted, np.float64), np.asarray(joints, np.float64)
    counted, size = np.asarray(visible, bool), np.asarray(scale, np.float64)
    if found.shape != truth.shape or truth.ndim != 3 or truth.shape[2] != 2:
        raise InputError(f"pck: predictions {list(found.shape)} and joints {list(truth.shape)} must both be [T, J, 2]")
    if counted.shape != truth.shape[:2] or size.shape != truth.shape[:1]:
        raise InputError(
            f"pck: visible must be {list(truth.shape[:2])} and scale {list(truth.shape[:1])}, "
            f"got {list(counted.shape)} and {list(size.shape)}"
        )
    if not counted.any():
        raise InputError("pck: no joint is visible, so there is nothing to score")
    if not threshold > 0 or not (size > 0).all():
        raise InputError(f"pck: threshold and every scale must be > 0, got {threshold:g} and {size.min():g}")
    distance = np.sqrt(((found - truth) ** 2).sum(axis=2)) / size[:, None]
    return float((distance <= threshold)[counted].mean())


def agreement(outputs: ArrayLike, dense: ArrayLike) -> float:
    """Return how much of the dense network's output the gated one keeps: 1 - |outputs - dense|^2 / |dense - mean|^2.

    1 means equal; 0 means no better than a constant. Serves videos without labels; shapes must be equal.
    """
    got, wanted = np.asarray(outputs, np.float64), np.asarray(dense, np.float64)
    if got.shape != wanted.shape or not wanted.size:
        raise InputError(f"agreement: outputs must have one shape, got {list(got.shape)} and {list(wanted.shape)}")
    variation = ((wanted - wanted.mean()) ** 2).sum()
    difference = ((got - wanted) ** 2).sum()
    if variation == 0:
        return 1.0 if difference == 0 else 0.0
    return float(1 - difference / variation)


def pose_quality(heatmaps: ArrayLike | Sequence[ArrayLike], clips: Clip | Sequence[Clip]) -> dict[str, Any]:
    """Score heat maps against labelled clips: PCK over all their frames at the usual thresholds.

    Args:
        heatmaps: [T, J, rows, cols] of one clip, or one such array per clip.
        clips: the clip or clips; all frames count alike.

    Returns:
        {"pck@0.05": ..., "pck@0.1": ..., "pck@0.2": ..., "headline": "pck@0.05"}
    """
    labelled = [clips] if isinstance(clips, Clip) else list(clips)
    maps = [np.asarray(heatmaps)] if isinstance(clips, Clip) else [np.asarray(entry) for entry in heatmaps]  # type: ignore[union-attr]
    if len(maps) != len(labelled) or not labelled:
        raise InputError(f"pose quality: one array of heat maps per clip, got {len(maps)} for {len(labelled)} clips")
    found = [decode_heatmaps(entry, *clip.frames.shape[1:3]) for entry, clip in zip(maps, labelled, strict=True)]
    arguments = (
        np.concatenate(found),
        np.concatenate([clip.joints for clip in labelled]),
        np.concatenate([clip.visible for clip in labelled]),
        np.concatenate([clip.scale for clip in labelled]),
    )
    scores: dict[str, Any] = {f"pck@{threshold:g}": pck(*arguments, threshold) for threshold in PCK_THRESHOLDS}
    return {**scores, "headline": HEADLINE}


def is_pose(output: Any) -> bool:
    """Tell whether an output is a heat map for each of the 15 joints, [J, rows, cols] or [N, J, rows, cols]."""
    shape: Sequence[int] = getattr(output, "shape", ())
    return len(shape) in (3, 4) and shape[-3] == JOINT_COUNT


def pose_scorer(clips: Clip | Sequence[Clip]) -> Callable[[Sequence[ArrayLike]], dict[str, Any]]:
    """Return a function that scores the outputs on clips run one after the other, as `record(quality=...)` takes it.

    It is given one output per frame, [J, rows, cols] or [1, J, rows, cols], and returns what `pose_quality` returns.
    """
    labelled = [clips] if isinstance(clips, Clip) else list(clips)

    def score(outputs: Sequence[ArrayLike]) -> dict[str, Any]:
        frames = [len(clip.frames) for clip in labelled]
        if len(outputs) != sum(frames):
            raise InputError(f"pose quality: needs one output per frame, got {len(outputs)} for {sum(frames)} frames")
        maps = np.stack([np.asarray(output) for output in outputs])
        maps = maps.reshape(len(maps), *maps.shape[-3:])
        return pose_quality(np.split(maps, np.cumsum(frames)[:-1]), labelled)

    return score
