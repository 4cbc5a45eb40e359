"""UnlabelledVideo: a video of the user's, of which nothing is known but its pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipsim.traces.video import image_files, read_frames


@dataclass(frozen=True)
class UnlabelledVideo:
    """Some frames of a video file, a folder of images or a .npy array, as `read_frames` takes them.

    Attributes:
        name: where it lies.
        frames: which of its frames.
    """

    name: str
    frames: range
    joints: None = None
    boxes: None = None

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames)

    def take(self, frames: range) -> UnlabelledVideo:
        """Return the video of these of its frames, as far as there are so many."""
        return replace(self, frames=self.frames[frames.start : frames.stop : frames.step])

    def read(self, frames: Iterable[int] | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures, uint8 [rows, cols, 3], of all frames or of some, in rising order; decodes all before."""
        wanted = list(self.frames if frames is None else (self.frames[frame] for frame in frames))
        chosen = set(wanted)
        for number, picture in enumerate(islice(read_frames(self.name), max(wanted, default=-1) + 1)):
            if number in chosen:
                yield picture


def unlabelled_video(name: str) -> UnlabelledVideo:
    """Open a video and count its frames; InputError where it cannot be read."""
    path = Path(name)
    count = len(image_files(path)) if path.is_dir() else sum(1 for _ in read_frames(name))
    return UnlabelledVideo(name, range(count))
