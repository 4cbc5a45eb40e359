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
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from skipsim.errors import InputError
from skipsim.traces.annotated_video import AnnotatedVideo, chosen
from skipsim.traces.boxes import BoxLabels

_NEEDED = {
    "images": ("id", "video_id", "frame_id", "file_name", "width", "height"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


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
    categories = sorted(content["categories"], key=lambda entry: int(entry["id"]))
    place = {entry["id"]: index for index, entry in enumerate(categories)}
    names = {entry["id"]: str(entry.get("name", entry["id"])) for entry in content.get("videos", []) if "id" in entry}
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
        if not isinstance(content, dict) or not isinstance(content.get(table), list):
            raise InputError(f"{file}: must hold lists named {', '.join(_NEEDED)}; {table!r} is missing")
        for number, entry in enumerate(content[table]):
            missing = [key for key in needed if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise InputError(f"{file}: entry {number} of {table!r} lacks {missing[0]!r}")
            box = entry.get("bbox", [0, 0, 0, 0])
            if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
                raise InputError(f"{file}: annotation {number} must have a bbox of four numbers, got {box!r}")
    if not content["images"]:
        raise InputError(f"{file}: lists no images")
    return content
