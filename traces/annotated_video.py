"""AnnotatedVideo: one video of a data set, its pictures on disk and what people have marked on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError, nearest
from skipsim.traces.boxes import BoxLabels
from skipsim.traces.datasets import Clip
from skipsim.traces.video import image_files, read_image


@dataclass(frozen=True)
class AnnotatedVideo:
    """A video as a list of picture files, with joints or boxes.

    Attributes:
        name: as the data set has it.
        files: the pictures, in order.
        joints: of pose data sets; its `frames` are a stand-in of the right shape that holds no pictures.
        boxes: of detection data sets.
    """

    name: str
    files: tuple[Path, ...]
    joints: Clip | None = None
    boxes: BoxLabels | None = None

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.files)

    def take(self, frames: range) -> AnnotatedVideo:
        """Return the video of these frames, as far as there are so many."""
        there = range(len(self))[frames.start : frames.stop : frames.step]
        part = slice(there.start, there.stop, there.step)
        joints = self.joints
        if joints is not None:
            arrays = {name: getattr(joints, name)[part] for name in ("frames", "joints", "visible", "box", "scale")}
            joints = replace(joints, **arrays)
        boxes = None if self.boxes is None else self.boxes.take(there)
        return AnnotatedVideo(self.name, self.files[part], joints, boxes)

    def read(self, frames: Iterable[int] | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures, uint8 [rows, cols, 3], of all frames or of some.

        Raises:
            InputError: a picture that cannot be read, or of another size than the labels'.
        """
        wanted = self._size()
        for file in self.files if frames is None else (self.files[frame] for frame in frames):
            picture = read_image(file)
            if wanted not in (None, picture.shape[:2]):
                rows, cols, _ = picture.shape
                size = " x ".join(map(str, wanted or ()))
                raise InputError(f"{file}: all frames must have the size of the labels, {size}, got {rows} x {cols}")
            yield picture

    def _size(self) -> tuple[int, int] | None:
        """Return (rows, cols) that the labels are for."""
        if self.joints is not None:
            rows, cols, _ = self.joints.frames.shape[1:]
            return rows, cols
        return None if self.boxes is None else (self.boxes.rows, self.boxes.cols)


def pictures_in(folder: Path) -> tuple[Path, ...]:
    """Return the picture files of a folder in natural order (2 before 10); InputError where there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    return tuple(image_files(folder))


def size_of(file: Path) -> tuple[int, int]:
    """Return (rows, cols) of a picture."""
    rows, cols, _ = read_image(file).shape
    return rows, cols


def chosen(names: Sequence[str], wanted: str | None, where: str) -> list[str]:
    """Return the videos asked for: all, or the one of that name."""
    if wanted is None:
        return list(names)
    if wanted not in names:
        raise InputError(f"{where}: no video {wanted!r}; {nearest(wanted, names)}")
    return [wanted]
