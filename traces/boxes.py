"""BoxLabels: where the objects of a clip are, what they are, and which of them do not count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError


@dataclass(frozen=True)
class BoxLabels:
    """The objects of a clip of `frames` frames of rows x cols pixels: B boxes in all, any number per frame.

    Attributes:
        frames: number of frames.
        rows: height of a frame in pixels.
        cols: width of a frame in pixels.
        classes: names of the classes.
        ids: COCO's category id of each class, for networks that know COCO's 90 classes.
        frame: int [B], the frame of each box, from 0.
        box: float [B, 4], x0, y0, x1, y1 in pixels; the upper left corner of the frame is (0, 0).
        label: int [B], index into `classes`.
        ignored: bool [B]: an object too much hidden, or a whole region; what is found there counts neither as right nor
            as wrong.
        headline: the score that counts, as `average_precision` names it.
        merged: whether all classes count as one.
    """

    frames: int
    rows: int
    cols: int
    classes: tuple[str, ...]
    ids: tuple[int, ...]
    frame: NDArray[np.int64]
    box: NDArray[np.float32]
    label: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    headline: str = "ap"
    merged: bool = False

    def __post_init__(self) -> None:
        """Check that the arrays belong together and that every box is one."""
        count = len(self.frame)
        for name, shape in (("frame", (count,)), ("box", (count, 4)), ("label", (count,)), ("ignored", (count,))):
            if getattr(self, name).shape != shape:
                raise InputError(f"boxes: {name} must have shape {list(shape)}, got {list(getattr(self, name).shape)}")
        if len(self.ids) != len(self.classes):
            raise InputError(f"boxes: {len(self.classes)} classes need as many ids, got {len(self.ids)}")
        bad = ~(np.isfinite(self.box).all(axis=1) & (self.box[:, 2:] > self.box[:, :2]).all(axis=1))
        self._refuse(bad, "box", self.box, "must have x1 > x0 and y1 > y0")
        self._refuse(
            (self.frame < 0) | (self.frame >= self.frames), "frame", self.frame, f"must be 0..{self.frames - 1}"
        )
        outside = (self.label < 0) | (self.label >= len(self.classes))
        self._refuse(outside, "label", self.label, f"must be 0..{len(self.classes) - 1}")

    def _refuse(self, bad: Any, name: str, values: NDArray[np.generic], rule: str) -> None:
        if bad.any():
            first = int(np.argmax(bad))
            raise InputError(f"boxes: {name} of box {first} {rule}, got {values[first].tolist()}")

    def of_frame(self, frame: int) -> NDArray[np.bool_]:
        """Return which boxes lie on a frame, bool [B]."""
        return np.asarray(self.frame == frame, np.bool_)

    def take(self, frames: range) -> BoxLabels:
        """Return the labels of these frames, counted anew from 0; frames that there are not, are left out."""
        there = range(self.frames)[frames.start : frames.stop : frames.step]
        place = np.full(self.frames, -1, np.int64)
        place[there] = np.arange(len(there))
        kept = place[self.frame] >= 0
        arrays = {name: getattr(self, name)[kept] for name in ("box", "label", "ignored")}
        return replace(self, frames=len(there), frame=place[self.frame[kept]], **arrays)


@dataclass(frozen=True)
class DetectionClip:
    """A labelled clip: frames uint8 [T, rows, cols, 3], RGB, and the boxes on them.

    Attributes:
        frames: the pictures.
        labels: the boxes.
        camera: "static" or "pan".
        seed: what the clip was made from.
    """

    frames: NDArray[np.uint8]
    labels: BoxLabels
    camera: str
    seed: int
