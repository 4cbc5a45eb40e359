"""JHMDB: short videos of one acting person each, 15 joints on every frame.

Jhuang et al., "Towards Understanding Action Recognition", ICCV 2013. The folder holds what its archives unpack to:

    Rename_Images/CLASS/VIDEO/00001.png                  the frames
    joint_positions/CLASS/VIDEO/joint_positions.mat      pos_img: [2, 15, frames], x and y, the first pixel is (1, 1)
    puppet_mask/CLASS/VIDEO/puppet_mask.mat              part_mask: [rows, cols, frames], > 0 on the person
    splits/CLASS_test_split1.txt                         lines "VIDEO.avi 1" (training) or "VIDEO.avi 2" (test)

Distances of joints are divided by the greater side of the puppet's box, as is usual on JHMDB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError, nearest
from skipsim.traces.annotated_video import AnnotatedVideo, chosen, pictures_in, size_of
from skipsim.traces.datasets import Clip

JOINTS = (
    "neck",
    "belly",
    "face",
    "right shoulder",
    "left shoulder",
    "right hip",
    "left hip",
    "right elbow",
    "left elbow",
    "right knee",
    "left knee",
    "right wrist",
    "left wrist",
    "right ankle",
    "left ankle",
)
SPLITS = ("1", "2", "3")
SETS = {"train": "1", "test": "2"}


def jhmdb_videos(folder: str, split: str = "1", part: str = "test", video: str | None = None) -> list[AnnotatedVideo]:
    """Read the videos of one part of a split.

    Args:
        folder: see the module.
        split: "1", "2" or "3".
        part: "train" or "test".
        video: only this one, by its name.

    Raises:
        InputError: a file that is missing, damaged or does not fit the frames.
    """
    if split not in SPLITS:
        raise InputError(f"jhmdb: split must be 1, 2 or 3, got {split!r}")
    if part not in SETS:
        raise InputError(f"jhmdb: part {part!r} is unknown; {nearest(part, SETS)}")
    root = Path(folder)
    lists = sorted((root / "splits").glob(f"*_test_split{split}.txt"))
    if not lists:
        raise InputError(f"{root / 'splits'}: holds no CLASS_test_split{split}.txt")
    found = {name: action for file in lists for action, name in _listed(file, split, SETS[part])}
    if not found:
        raise InputError(f"{root / 'splits'}: no list names a video of part {part!r} in split {split}")
    return [_read(root, found[name], name) for name in chosen(sorted(found), video, f"jhmdb {folder}, {part}")]


def _listed(file: Path, split: str, wanted: str) -> list[tuple[str, str]]:
    """Return (class, video) of the lines of a list that belong to one part."""
    entries = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise InputError(f"{file}, line {number}: must be VIDEO.avi and 0, 1 or 2, got {line!r}")
        if words[1] == wanted:
            entries.append((file.name.removesuffix(f"_test_split{split}.txt"), words[0].removesuffix(".avi")))
    return entries


def _read(root: Path, action: str, name: str) -> AnnotatedVideo:
    files = pictures_in(root / "Rename_Images" / action / name)
    rows, cols = size_of(files[0])
    joints_file = root / "joint_positions" / action / name / "joint_positions.mat"
    positions = _matrix(joints_file, "pos_img")
    if positions.shape != (2, len(JOINTS), len(files)):
        raise InputError(
            f"{joints_file}: pos_img must be [2, {len(JOINTS)}, {len(files)}] for {len(files)} frames, "
            f"got {list(positions.shape)}"
        )
    mask_file = root / "puppet_mask" / action / name / "puppet_mask.mat"
    puppet = _matrix(mask_file, "part_mask")
    if puppet.shape != (rows, cols, len(files)):
        raise InputError(f"{mask_file}: part_mask must be {[rows, cols, len(files)]}, got {list(puppet.shape)}")
    joints = np.ascontiguousarray(positions.transpose(2, 1, 0), np.float32) - 1
    if not np.isfinite(joints).all():
        raise InputError(f"{joints_file}: pos_img must be finite")
    box = np.array([_box(puppet[:, :, frame] > 0, joints[frame]) for frame in range(len(files))], np.float32)
    visible = np.asarray(((joints >= -0.5) & (joints < (cols - 0.5, rows - 0.5))).all(axis=2), np.bool_)
    scale = np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])
    pictures = np.broadcast_to(np.uint8(0), (len(files), rows, cols, 3))
    return AnnotatedVideo(name, files, Clip(pictures, joints, visible, box, scale, "own", 0))


def _box(person: NDArray[np.bool_], joints: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """Return the box around the puppet, edge to edge of its pixels; around the joints where the mask is empty."""
    if not person.any():
        low, high = joints.min(axis=0), joints.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])
    down, across = np.flatnonzero(person.any(axis=1)), np.flatnonzero(person.any(axis=0))
    return across[0] - 0.5, down[0] - 0.5, across[-1] + 0.5, down[-1] + 0.5


def _matrix(file: Path, name: str) -> NDArray[Any]:
    """Read one array of a MATLAB file; a trailing axis of length 1, which MATLAB drops, comes back."""
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    try:
        from scipy.io import loadmat
    except ImportError:
        raise InputError(f"{file}: reading MATLAB files needs SciPy: pip install 'skipsim[jhmdb]'") from None
    try:
        content = loadmat(file, variable_names=[name])
    except Exception as error:  # scipy raises what its parser trips over: TypeError, ValueError, zlib.error, ...
        raise InputError(f"{file}: not a readable MATLAB file: {' '.join(str(error).split())}") from None
    if name not in content:
        raise InputError(f"{file}: holds no array {name!r}")
    array = np.asarray(content[name])
    if array.dtype.kind not in "biuf":
        raise InputError(f"{file}: {name} must be numbers, got {array.dtype}")
    return array[..., None] if array.ndim == 2 else array
