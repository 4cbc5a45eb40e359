"""TrainingVideos: videos on disk as the clips of a training, cut into windows of successive frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError
from skipsim.traces.boxes import BoxLabels
from skipsim.traces.datasets import FRAMES_PER_SECOND, Clip
from skipsim.traces.video import read_frames

HELD_OUT = 6  # one part in so many of what is trained on, for validation


class Video(Protocol):
    """What is cut into windows: an `AnnotatedVideo` or an `UnlabelledVideo`."""

    @property
    def name(self) -> str:
        """As its data set has it, or where it lies."""

    @property
    def joints(self) -> Clip | None:
        """Where a person's joints are, in pixels of the video."""

    @property
    def boxes(self) -> BoxLabels | None:
        """Where objects are, in pixels of the video."""

    def __len__(self) -> int:
        """Return the number of frames."""

    def take(self, frames: range) -> Video:
        """Return the video of these frames."""

    def read(self, frames: Iterable[int] | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures of all frames, or of some in rising order."""


@dataclass(frozen=True)
class VideoWindow:
    """A labelled clip of T frames out of a video.

    Attributes:
        frames: uint8 [T, rows, cols, 3], resized as `skipsim record` resizes them.
        video: the same frames with their labels, in pixels of the video as it is.
        camera: "own": nothing is known of it.
    """

    frames: NDArray[np.uint8]
    video: Video
    camera: str = "own"


@dataclass(frozen=True)
class TrainingVideos:
    """The videos of a training, by what they are for; called, it yields windows as `Task.clips` does.

    Attributes:
        name: of the clips, as the user has given it.
        train: what is trained on.
        validation: what the curve of a training is measured on.
        test: what its final score is measured on.
    """

    name: str
    train: tuple[Video, ...]
    validation: tuple[Video, ...]
    test: tuple[Video, ...]

    def __post_init__(self) -> None:
        """Check that all videos are labelled alike."""
        every = (*self.train, *self.validation, *self.test)
        if len({(video.joints is None, video.boxes is None) for video in every}) > 1:
            raise InputError(
                f"clips {self.name!r}: videos to train on and to score must be labelled alike: with joints, boxes or "
                "nothing"
            )

    def facts(self) -> dict[str, dict[str, int]]:
        """Return how many videos and frames serve for what."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: {"videos": len(part), "frames": sum(map(len, part))} for name, part in parts.items()}

    def __call__(
        self,
        split: str,
        count: int,
        *,
        frames: int,
        rows: int,
        cols: int,
        frames_per_second: float = FRAMES_PER_SECOND,
    ) -> Iterator[VideoWindow]:
        """Yield windows, the same ones in every call, every video's in turn: as many as there are, at most `count`.

        Args:
            split: "train", "validation" or "test".
            count: windows asked for.
            frames: of a window. Training takes no shorter ones, and those may overlap; the others take what there is.
            rows: height in pixels.
            cols: width in pixels.
            frames_per_second: of a window; a video counts as one of 25, and where it is too short for windows of so
                low a rate, they have a higher one.

        Raises:
            InputError: training videos that are all too short, or windows in which nothing is labelled.
        """
        videos: tuple[Video, ...] = getattr(self, split)
        step = max(1, round(FRAMES_PER_SECOND / frames_per_second))
        if split == "train":
            places = [_overlapping(len(video), frames, step) for video in videos]
            if not any(places):
                longest = max(videos, key=len)
                raise InputError(
                    f"clips {self.name!r}: a video to be trained on must have at least {frames} frames (pool_frames, "
                    f"in whole clip_frames); the longest, {longest.name!r}, has {len(longest)} of them"
                )
        else:
            places = [_successive(len(video), frames) for video in videos]
        drawn = _drawn(places, count)
        windows = [video.take(window) for video, part in zip(videos, drawn, strict=True) for window in part]
        _check_labels(self.name, split, windows)
        return (window for video, part in zip(videos, drawn, strict=True) for window in _cut(video, part, (rows, cols)))


def held_out(videos: Sequence[Video]) -> tuple[tuple[Video, ...], tuple[Video, ...]]:
    """Return (what is trained on, what is kept for validation): the last sixth of the videos, of one its last sixth."""
    if len(videos) == 1:
        kept = max(2, len(videos[0]) // HELD_OUT)  # gates are scored on two frames at least
        cut = max(0, len(videos[0]) - kept)
        return (videos[0].take(range(cut)),), (videos[0].take(range(cut, len(videos[0]))),)
    kept = max(1, len(videos) // HELD_OUT)
    return tuple(videos[:-kept]), tuple(videos[-kept:])


def _overlapping(length: int, frames: int, step: int) -> list[range]:
    """Return all windows of so many frames, `step` apart, closer where a video is too short for that."""
    if length < frames:
        return []
    step = min(step, (length - 1) // (frames - 1)) if frames > 1 else 1
    span = (frames - 1) * step + 1
    return [range(start, start + span, step) for start in range(length - span + 1)]


def _successive(length: int, frames: int) -> list[range]:
    """Return windows one after the other; of a video that is shorter than one, the whole."""
    frames = min(frames, length)
    return [range(start, start + frames) for start in range(0, length - frames + 1, frames)]


def _drawn(places: Sequence[Sequence[range]], count: int) -> list[list[range]]:
    """Draw windows at random, one of every video in turn; return those of each video, in order."""
    rng = np.random.default_rng(0)
    shuffled = [[part[index] for index in rng.permutation(len(part))] for part in places]
    order = rng.permutation(len(places))
    turns = [(turn, index) for turn in range(max(map(len, places))) for index in order if turn < len(places[index])]
    drawn: list[list[range]] = [[] for _ in places]
    for turn, index in turns[:count]:
        drawn[index].append(shuffled[index][turn])
    return [sorted(part, key=lambda window: window.start) for part in drawn]


def _check_labels(name: str, split: str, windows: Sequence[Video]) -> None:
    """Refuse windows of labelled videos in which nothing is labelled: they teach nothing and cannot be scored."""
    if any(window.joints is None and window.boxes is None for window in windows):
        return
    joints = any(window.joints.visible.any() for window in windows if window.joints is not None)
    boxes = any((~window.boxes.ignored).any() for window in windows if window.boxes is not None)
    if not joints and not boxes:
        what = "no joint is visible" if windows[0].boxes is None else "no box that counts is labelled"
        raise InputError(f"clips {name!r}: {what} in any of the {len(windows)} windows for {split}")


def _cut(video: Video, windows: Sequence[range], size: tuple[int, int]) -> Iterator[VideoWindow]:
    """Yield windows of a video, in order; reads each frame once, and keeps it only while a window needs it."""
    wanted = sorted({frame for window in windows for frame in window})
    pictures = zip(wanted, read_frames(video.read(wanted), size=size), strict=True)
    held: dict[int, NDArray[np.uint8]] = {}
    for window in windows:
        held = {frame: picture for frame, picture in held.items() if frame >= window.start}
        while window[-1] not in held:
            frame, picture = next(pictures)
            held[frame] = picture
        yield VideoWindow(np.stack([held[frame] for frame in window]), video.take(window))
