"""Frames from a video file, a folder of images, an array, or a procedural clip."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError, nearest

if TYPE_CHECKING:
    from skipsim.traces.boxes import DetectionClip
    from skipsim.traces.datasets import Clip

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
CLIPS = ("detection", "pose")

Frame = NDArray[np.uint8]


def read_frames(
    source: str | Path | Frame | Iterable[Frame], *, limit: int | None = None, size: tuple[int, int] | None = None
) -> Iterator[Frame]:
    """Yield the frames of `source`, each an array of its own: uint8 [rows, cols, 3], RGB, all of one size.

    Args:
        source: a video file (needs the `video` extra), a folder of images (in natural order: 2 before 10), a .npy or
            .npz file or an array of uint8 [frames, rows, cols, 3], an iterable of uint8 [rows, cols, 3], or the name of
            a procedural clip, "pose:SEED" or "pose:SEED:CAMERA" (or "detection:..."). Images are turned as their EXIF
            orientation says, videos as they are stored.
        limit: stop after this many frames; None: all (of a procedural clip: its default number).
        size: (rows, cols) to resize to, bilinear; a procedural clip is drawn in that size. None: as they are.

    Raises:
        InputError: before the first frame if the source cannot be read at all, later if a frame is damaged or, with no
            `size` given, differs in size from the first.
    """
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InputError(f"limit: must be a whole number of frames >= 1, got {limit!r}")
    if size is not None and not (len(size) == 2 and all(type(side) is int and side >= 1 for side in size)):
        raise InputError(f"size: must be (rows, cols), whole numbers >= 1, got {size!r}")
    name, frames = _open(source, limit, size)
    return _uniform(name, islice(frames, limit), size)


def _open(
    source: str | Path | Frame | Iterable[Frame], limit: int | None, size: tuple[int, int] | None
) -> tuple[str, Iterable[tuple[str, Any]]]:
    """Return the name of a source, and its frames as they are, each with its own name for error messages."""
    if isinstance(source, np.ndarray):
        return "array", _numbered("array", _clip(source, "array"))
    if not isinstance(source, str | Path):
        return "frames", _numbered("frames", source)
    path = Path(source)
    clip = re.fullmatch(r"([A-Za-z]\w+):(.*)", str(source))  # two letters at least: "C:..." is a path
    if clip and not path.exists():
        return str(source), _numbered(str(source), _procedural(clip[1], clip[2], limit, size))
    if path.is_dir():
        return str(path), _read_images(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.suffix.lower() in (".npy", ".npz"):
        return str(path), _numbered(str(path), _read_array(path))
    return str(path), _numbered(str(path), _read_video(path))


def _numbered(name: str, frames: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{name}, frame {index}", frame) for index, frame in enumerate(frames))


def _uniform(name: str, frames: Iterable[tuple[str, Any]], size: tuple[int, int] | None) -> Iterator[Frame]:
    """Check every frame, resize it if asked, and copy it."""
    first: tuple[int, ...] | None = None
    for where, frame in frames:
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            got = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise InputError(f"{where}: must be a uint8 array [rows, cols, 3], got {got}")
        first = first or frame.shape
        if size is None and frame.shape != first:
            raise InputError(
                f"{where}: all frames must have one size, {first[0]} x {first[1]} like the first, "
                f"got {frame.shape[0]} x {frame.shape[1]}; or give a size to resize to"
            )
        yield np.array(frame) if size is None else _resize(frame, size)
    if first is None:
        raise InputError(f"{name}: holds no frame")


def _resize(frame: Frame, size: tuple[int, int]) -> Frame:
    if frame.shape[:2] == size:
        return np.array(frame)
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(frame))
    return np.array(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def shrink(frame: Frame, share: float) -> Frame:
    """Return a frame uint8 [rows, cols, 3] with this share of its sides; every pixel is the mean of what it covers."""
    from PIL import Image

    rows, cols = (round(side * share) for side in frame.shape[:2])
    return np.array(Image.fromarray(frame).resize((cols, rows), Image.Resampling.BOX))


def _clip(array: NDArray[Any], name: str) -> Frame:
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape:
        raise InputError(
            f"{name}: must be uint8 [frames, rows, cols, 3] (RGB, 0 to 255), got {array.dtype} {list(array.shape)}"
        )
    return array


def _read_array(path: Path) -> Frame:
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(content, np.ndarray):
            return _clip(content, str(path))
        with content:
            if len(content.files) != 1 and "frames" not in content.files:
                raise InputError(f"{path}: must hold one array or one named 'frames', got {', '.join(content.files)}")
            return _clip(content["frames" if "frames" in content.files else content.files[0]], str(path))
    except InputError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable array file: {' '.join(str(error).split())}") from None


def _read_images(folder: Path) -> Iterator[tuple[str, Frame]]:
    return ((str(file), read_image(file)) for file in image_files(folder))


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order: 2 before 10; InputError where there are none."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."]
    if not files:
        raise InputError(f"{folder}: holds no images; choices: {', '.join(IMAGE_SUFFIXES)}")
    return sorted(files, key=_natural_order)


def _natural_order(file: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", file.name)  # text and number in turn
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)], file.name


def read_image(file: Path) -> Frame:
    """Return an image file as uint8 [rows, cols, 3], turned as its EXIF orientation says."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":
                raise InputError(f"{file}: must have 8 bits per channel, got mode {image.mode!r}")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: not a readable image: {' '.join(str(error).split())}") from None


def _read_video(path: Path) -> Iterator[Frame]:
    try:
        import av
    except ImportError:
        raise InputError(f"{path}: reading video files needs PyAV: pip install 'skipsim[video]'") from None
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path}: not a video: {error.strerror}") from None
    # FFmpeg takes any file that ends in .txt for a film of text on a terminal
    if not container.streams.video or container.format.name == "tty":
        container.close()
        raise InputError(f"{path}: not a video: it holds no picture")
    return _decode(path, container)


def _decode(path: Path, container: Any) -> Iterator[Frame]:
    import av

    index = 0
    with container:
        try:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
                index += 1
        except av.FFmpegError as error:
            raise InputError(f"{path}, frame {index}: cannot be decoded: {error.strerror}") from None


def _procedural(kind: str, rest: str, limit: int | None, size: tuple[int, int] | None) -> Frame:
    seed, _, camera = rest.partition(":")
    if kind not in CLIPS:
        raise InputError(f"{kind}:{rest}: no such file, and no clip {kind!r}; {nearest(kind, CLIPS)}")
    if not (seed.isascii() and seed.isdigit()):
        raise InputError(f"{kind}:{rest}: a clip is named {kind}:SEED with a whole number >= 0, got {seed!r}")
    from skipsim.traces.datasets import pose_clip
    from skipsim.traces.procedural.vehicle_clips import vehicle_clip

    options: dict[str, Any] = {"camera": camera} if camera else {}
    if limit is not None:
        options["frames"] = limit
    if size is not None:
        options["rows"], options["cols"] = size
    clip: DetectionClip | Clip = (pose_clip if kind == "pose" else vehicle_clip)(int(seed), **options)
    return clip.frames
