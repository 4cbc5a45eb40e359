"""Writes videos as JHMDB's and UAVDT's archives unpack, for tests that read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat


def save_pictures(folder: Path, name: str, pictures: Sequence[NDArray[np.uint8]]) -> None:
    """Save pictures under names with numbers from 1."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures, 1):
        Image.fromarray(picture).save(folder / name.format(number))


def save_jhmdb_video(
    root: Path,
    action: str,
    video: str,
    pictures: Sequence[NDArray[np.uint8]],
    positions: NDArray[Any],
    mask: NDArray[np.uint8],
) -> None:
    """Save a video: positions [2, 15, frames], the first pixel is (1, 1); mask [rows, cols, frames]."""
    save_pictures(root / "Rename_Images" / action / video, "{:05d}.png", pictures)
    for folder, content in (("joint_positions", {"pos_img": positions}), ("puppet_mask", {"part_mask": mask})):
        file = root / folder / action / video / f"{folder}.mat"
        file.parent.mkdir(parents=True)
        savemat(file, content)


def save_jhmdb_split(root: Path, action: str, split: int, lines: Sequence[str]) -> None:
    """Save the list of a class: lines "VIDEO.avi 1" (training) or "VIDEO.avi 2" (test)."""
    (root / "splits").mkdir(exist_ok=True)
    (root / "splits" / f"{action}_test_split{split}.txt").write_text("".join(f"{line} \n" for line in lines))


def save_uavdt_video(
    root: Path,
    part: str,
    name: str,
    pictures: Sequence[NDArray[np.uint8]],
    vehicles: Sequence[str],
    regions: Sequence[str],
) -> None:
    """Save a sequence of a part, its vehicles and the regions that do not count as lines of their files."""
    save_pictures(root / "UAV-benchmark-M" / name, "img{:06d}.jpg", pictures)
    attributes, truth = root / "M_attr" / part, root / "UAV-benchmark-MOTD_v1.0" / "GT"
    for folder in (attributes, truth):
        folder.mkdir(parents=True, exist_ok=True)
    (attributes / f"{name}_attr.txt").write_text("1,0,0\n")
    (truth / f"{name}_gt_whole.txt").write_text("\n".join(vehicles))
    (truth / f"{name}_gt_ignore.txt").write_text("\n".join(regions))
