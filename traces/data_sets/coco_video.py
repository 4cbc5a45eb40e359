"""COCO-style annotated video: one JSON file whose images belong to videos, and the folder of the pictures.

COCO's format for detection with two more entries per image, as tracking and video-detection tools write it:

    {"videos":      [{"id": 1, "name": "street"}],                                                   optional
     "images":      [{"id": 7, "video_id": 1, "frame_id": 0, "file_name": "street/000.jpg",
                      "width": 640, "height": 360}],
     "annotations": [{"image_id": 7, "category_id": 3, "bbox": [left, top, width, height], "iscrowd": 0}],
     "categories":  [{"id": 3, "name": "car"}]}

Annotations with a true "iscrowd" or "ignore" do not count. Boxes without an area are left out.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from skipsim.errors import InputError
from skipsim.traces.annotated_video import AnnotatedVideo, chosen
from skipsim.traces.boxes import BoxLabels


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) or _is_whole(value)


def _is_side(value: Any) -> bool:
    return _is_whole(value) and value >= 1


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


_NAME = ("a whole number or text", _is_name)
_SIDE = ("a whole number of pixels >= 1", _is_side)
_NEEDED = {  # by list and key of its entries: what must stand there, in words and as a check
    "images": {
        "id": _NAME,
        "video_id": _NAME,
        "frame_id": ("a number", _is_number),
        "file_name": ("text", lambda value: isinstance(value, str)),
        "width": _SIDE,
        "height": _SIDE,
    },
    "annotations": {"image_id": _NAME, "category_id": _NAME, "bbox": ("four numbers", _is_box)},
    "categories": {"id": ("a whole number", _is_whole), "name": _NAME},
    "videos": {"id": _NAME},
}
_MAY_BE_ABSENT = ("videos",)


def coco_videos(file: str, folder: str, video: str | None = None) -> list[AnnotatedVideo]:
    """Read the videos of an annotation file.

    Args:
        file: the JSON file.
        folder: where the images' file names start.
        video: only this one, by its name, or its number where videos have no names.

    Raises:
        InputError: a missing or damaged file, or entries that do not fit together.
    """
    root = Path(folder)
    labels = coco_labels(file)
    videos = []
    for name in chosen(sorted(labels), video, f"coco {file}"):
        names, boxes = labels[name]
        files = tuple(root / entry for entry in names)
        missing = next((path for path in files if not path.is_file()), None)
        if missing is not None:
            raise InputError(f"{missing}: no such file, named in {file}")
        videos.append(AnnotatedVideo(name, files, boxes=boxes))
    return videos


def coco_labels(file: str | Path) -> dict[str, tuple[tuple[str, ...], BoxLabels]]:
    """Return the file names of the frames and the boxes of every video in an annotation file, by the video's name."""
    content = _content(Path(file))
    categories = sorted(content["categories"], key=lambda entry: entry["id"])
    place = {entry["id"]: index for index, entry in enumerate(categories)}
    names = {entry["id"]: str(entry.get("name", entry["id"])) for entry in content.get("videos", [])}
    found = defaultdict(list)
    for image in content["images"]:
        found[image["video_id"]].append(image)
    on_image = defaultdict(list)
    known = {image["id"] for image in content["images"]}
    for number, annotation in enumerate(content["annotations"]):
        if annotation["image_id"] not in known:
            raise InputError(f"{file}: annotation {number} is of image {annotation['image_id']!r}, which is not listed")
        if annotation["category_id"] not in place:
            raise InputError(
                f"{file}: annotation {number} has category {annotation['category_id']!r}, which is not listed"
            )
        on_image[annotation["image_id"]].append(annotation)
    result = {}
    for number, images in found.items():
        images.sort(key=lambda image: image["frame_id"])
        _check_frames(file, images)
        entries = [(frame, entry) for frame, image in enumerate(images) for entry in on_image[image["id"]]]
        entries = [(frame, entry) for frame, entry in entries if entry["bbox"][2] > 0 and entry["bbox"][3] > 0]
        corners = np.array([entry["bbox"] for _, entry in entries], np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        boxes = BoxLabels(
            frames=len(images),
            rows=int(images[0]["height"]),
            cols=int(images[0]["width"]),
            classes=tuple(str(entry["name"]) for entry in categories),
            ids=tuple(int(entry["id"]) for entry in categories),
            frame=np.array([frame for frame, _ in entries], np.int64),
            box=corners,
            label=np.array([place[entry["category_id"]] for _, entry in entries], np.int64),
            ignored=np.array([bool(entry.get("iscrowd") or entry.get("ignore")) for _, entry in entries], np.bool_),
        )
        result[names.get(number, str(number))] = (tuple(str(image["file_name"]) for image in images), boxes)
    return result


def _content(file: Path) -> dict[str, Any]:
    """Read the file and check that every entry has what is needed."""
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: not a JSON file ({error})") from None
    for table, needed in _NEEDED.items():
        if table in _MAY_BE_ABSENT and isinstance(content, dict) and table not in content:
            continue
        if not isinstance(content, dict) or not isinstance(content.get(table), list):
            lists = ", ".join(name for name in _NEEDED if name not in _MAY_BE_ABSENT)
            raise InputError(f"{file}: must hold lists named {lists}; {table!r} is missing or no list")
        for number, entry in enumerate(content[table]):
            for key, (rule, fits) in needed.items():
                if not isinstance(entry, dict) or key not in entry:
                    raise InputError(f"{file}: entry {number} of {table!r} lacks {key!r}")
                if not fits(entry[key]):
                    raise InputError(f"{file}: entry {number} of {table!r}: {key} must be {rule}, got {entry[key]!r}")
    if not content["images"]:
        raise InputError(f"{file}: lists no images")
    for table, key in (("images", "id"), ("categories", "id"), ("videos", "id"), ("videos", "name")):
        found = [entry[key] for entry in content.get(table, []) if key in entry]
        twice = next((value for value, count in Counter(map(str, found)).items() if count > 1), None)
        if twice is not None:
            raise InputError(f"{file}: {key} {twice} stands twice in {table!r}")
    return content


def _check_frames(file: str | Path, images: list[dict[str, Any]]) -> None:
    """Check the images of a video, in order: no frame twice, one size."""
    for one, other in pairwise(images):
        if one["frame_id"] == other["frame_id"]:
            raise InputError(f"{file}: images {one['id']} and {other['id']} are the same frame of a video")
        if (one["height"], one["width"]) != (other["height"], other["width"]):
            raise InputError(
                f"{file}: all images of a video must have one size, {one['height']} x {one['width']} like image "
                f"{one['id']}, got {other['height']} x {other['width']} of image {other['id']}"
            )
