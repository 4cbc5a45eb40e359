"""The detection task: boxes of the procedural clips' vehicles, scored by COCO's AP.

A network for it puts out class and box maps as `EfficientDet.forward` does, for three classes and anchors of twice the
stride, or says which anchors and classes it has (see `own_detection`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from skipsim.traces.average_precision import DetectionScorer
from skipsim.traces.boxes import BoxLabels, DetectionClip
from skipsim.traces.detection import ANCHORS, anchors, decode
from skipsim.traces.procedural.vehicle_clips import vehicle_clips
from skipsim.traces.procedural.vehicles import CLASSES, COCO_IDS
from skipsim.traces.training.task import Labels, Task
from skipsim.traces.training.training_run import Plan

ANCHOR_SCALE = 2.0
MOST_BOXES = 96  # of one picture; the padded width of the labels
NOTHING, IGNORED = -1, -2  # in place of a class: no box, a box that does not count
# An anchor that overlaps an object more than the first is of it, less than the second is background, between: neither.
# Lin et al., "Focal Loss for Dense Object Detection", section 4.
MATCHED, BACKGROUND = 0.5, 0.4
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 1.5  # gamma of EfficientDet, section 5.1
BOX_WEIGHT, HUBER_DELTA = 50.0, 0.1  # of efficientdet-pytorch


def detection_loss(
    class_maps: Sequence[Tensor],
    box_maps: Sequence[Tensor],
    boxes: Tensor,
    labels: Tensor,
    anchor_scale: float = ANCHOR_SCALE,
) -> Tensor:
    """Return the focal loss of all anchors plus the Huber loss of the matched ones' offsets, per matched anchor.

    Args:
        class_maps: logits per level, [N, 9 * classes, rows, cols].
        box_maps: offsets per level, [N, 9 * 4, rows, cols].
        boxes: float [N, M, 4], x0, y0, x1, y1 in pixels of the picture.
        labels: int [N, M], the class of each box, NOTHING or IGNORED.
        anchor_scale: size of the smallest square anchor of a level in its strides.
    """
    classes = class_maps[0].shape[1] // ANCHORS
    logits, offsets = _flat(class_maps, classes), _flat(box_maps, 4)
    every = _anchors(tuple(tuple(level.shape[-2:]) for level in class_maps), anchor_scale, boxes.device)
    with torch.no_grad():
        # Padding stands behind the boxes: the longest picture's is cut off.
        most = int((labels != NOTHING).sum(dim=1).max().clamp(min=1))
        boxes, labels = boxes[:, :most], labels[:, :most]
        matches = [match(every, one, kinds) for one, kinds in zip(boxes, labels, strict=True)]
        kind = torch.stack([found for found, _ in matches])
        place = torch.stack([best for _, best in matches])
        wanted = functional.one_hot(kind.clamp(min=0), classes).float() * (kind >= 0)[..., None]
        truth = boxes.gather(1, place[..., None].expand(-1, -1, 4))
    matched = kind >= 0
    count = matched.sum().clamp(min=1)
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    scores = logits.sigmoid()
    miss = wanted + scores - 2 * wanted * scores
    balance = 1 - FOCAL_ALPHA + (2 * FOCAL_ALPHA - 1) * wanted
    focal = (balance * miss**FOCAL_GAMMA * entropy * (kind > IGNORED)[..., None]).sum()
    targets = encode(truth[matched], every.expand(len(boxes), -1, -1)[matched])
    huber = functional.huber_loss(offsets[matched], targets, delta=HUBER_DELTA, reduction="sum") / 4
    return (focal + BOX_WEIGHT * huber) / count


def detection_distance(output: Any, wanted: Any) -> Tensor:
    """Return how far class and box maps are off: as `detection_loss`, with another output in place of labels.

    Every anchor counts: its class scores by cross-entropy above the least possible, its offsets by the Huber loss times
    the score that it should have; the sum per anchor that should score.
    """
    classes = wanted[0][0].shape[1] * 4 // wanted[1][0].shape[1]
    (logits, truth), (offsets, places) = (
        (_flat(found, values), _flat(right, values))
        for found, right, values in zip(output, wanted, (classes, 4), strict=True)
    )
    scores = truth.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, scores, reduction="sum")
    least = functional.binary_cross_entropy_with_logits(truth, scores, reduction="sum")
    weight = scores.amax(-1, keepdim=True)
    huber = (functional.huber_loss(offsets, places, delta=HUBER_DELTA, reduction="none") * weight).sum() / 4
    return (entropy - least + BOX_WEIGHT * huber) / weight.sum().clamp(min=1)


def match(every: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Say for every anchor [A, 4] what it should find: (class, NOTHING or IGNORED [A], index of its box [A]).

    Every object has at least the anchor that overlaps it most. Anchors between the two limits, and those mostly inside
    a box that does not count, are IGNORED.
    """
    common = torch.ones((len(every), len(boxes)), device=every.device)
    for low, high in ((0, 2), (1, 3)):
        end = torch.minimum(every[:, None, high], boxes[None, :, high])
        common *= (end - torch.maximum(every[:, None, low], boxes[None, :, low])).clamp_(min=0)
    area, box_area = ((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]) for corners in (every, boxes))
    overlap = common / (area[:, None] + box_area[None, :] - common).clamp_(min=1e-9)
    counted = labels >= 0
    overlap = torch.where(counted, overlap, 0.0)
    best, place = overlap.max(dim=1)
    kind = torch.where(best >= MATCHED, labels[place], torch.where(best < BACKGROUND, NOTHING, IGNORED))
    inside = (torch.where(labels == IGNORED, common, 0.0) > 0.5 * area[:, None]).any(dim=1)
    kind = torch.where(inside & (kind == NOTHING), IGNORED, kind)
    objects = torch.nonzero(counted)[:, 0]
    closest = overlap[:, objects].argmax(dim=0)
    reached = overlap[closest, objects] > 0
    kind[closest[reached]] = labels[objects[reached]]
    place[closest[reached]] = objects[reached]
    return kind, place


def encode(boxes: Tensor, every: Tensor) -> Tensor:
    """Return the offsets (dy, dx, log height, log width) that `detection.decode_boxes` maps from anchors to boxes."""
    sides, wanted = every[:, 2:] - every[:, :2], (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3)
    moved = ((boxes[:, 2:] + boxes[:, :2]) - (every[:, 2:] + every[:, :2])) / 2 / sides
    return torch.cat((moved.flip(1), (wanted / sides).log().flip(1)), dim=1)


def _flat(maps: Sequence[Tensor], values: int) -> Tensor:
    """Return the values of every anchor, [N, A, values], as `detection.flatten` orders them."""
    parts = [level.float().permute(0, 2, 3, 1).reshape(len(level), -1, values) for level in maps]
    return torch.cat(parts, dim=1)


@lru_cache(maxsize=8)
def _anchors(sizes: tuple[tuple[int, int], ...], scale: float, device: torch.device) -> Tensor:
    return torch.from_numpy(anchors(sizes, scale)).to(device)


def box_arrays(labels: BoxLabels, most: int = MOST_BOXES) -> Labels:
    """Return boxes [T, most, 4] and classes [T, most], padded with NOTHING; of more boxes the first so many."""
    boxes = np.zeros((labels.frames, most, 4), np.float32)
    kinds = np.full((labels.frames, most), NOTHING, np.int64)
    for frame in range(labels.frames):
        here = np.flatnonzero(labels.of_frame(frame))[:most]
        boxes[frame, : len(here)] = labels.box[here]
        kinds[frame, : len(here)] = np.where(labels.ignored[here], IGNORED, labels.label[here])
    return boxes, kinds


def _labels(clip: DetectionClip) -> Labels:
    return box_arrays(clip.labels)


def _mirror(labels: Labels, cols: int) -> Labels:
    boxes, kinds = labels
    mirrored = boxes.copy()
    mirrored[..., 0], mirrored[..., 2] = cols - boxes[..., 2], cols - boxes[..., 0]
    return mirrored, kinds


def _shrink(labels: Labels, share: float) -> Labels:
    boxes, kinds = labels
    return boxes * np.float32(share), kinds


def _loss(output: Any, labels: tuple[Tensor, ...], plan: Plan) -> Tensor:
    return detection_loss(*output, *labels)


def _scorer(clips: Sequence[DetectionClip]) -> DetectionScorer:
    rows, cols = clips[0].frames.shape[1:3]
    return DetectionScorer(tuple(clip.labels for clip in clips), _detect, rows, cols, len(CLASSES))


def _detect(output: Any, rows: int, cols: int) -> NDArray[np.float32]:
    classes, boxes = ([np.asarray(level) for level in maps] for maps in output)
    return decode(classes, boxes, len(CLASSES), ANCHOR_SCALE, rows, cols)


DETECTION = Task(
    clips=vehicle_clips,
    labels=_labels,
    mirror=_mirror,
    shrink=_shrink,
    loss=_loss,
    scorer=_scorer,
    distance=detection_distance,
    defaults={
        "steps": 1800,
        "batch": 8,
        "learning_rate": 3e-3,
        "pool_clips": 600,
        "pool_frames": 3,
        "pool_frames_per_second": 2.0,
        "rows": 256,
        "cols": 256,
        "validation_clips": 12,
    },
)


def own_detection(network: Any) -> Task:
    """Return the task with a network's own anchors and classes, where it names them as `EfficientDet` does.

    Args:
        network: with `detect`, `outputs` (how many classes) and `anchor_scale`; of any other one the task as it is.
    """
    if not names_its_outputs(network):
        return DETECTION
    outputs = outputs_of(COCO_IDS, network)

    def labels(clip: DetectionClip) -> Labels:
        boxes, kinds = box_arrays(clip.labels)
        return boxes, np.where(kinds >= 0, outputs[kinds], kinds)

    def scorer(clips: Sequence[DetectionClip]) -> DetectionScorer:
        rows, cols = clips[0].frames.shape[1:3]
        return DetectionScorer(tuple(clip.labels for clip in clips), network.detect, rows, cols, network.outputs)

    return replace(DETECTION, labels=labels, loss=own_loss(network), scorer=scorer)


def names_its_outputs(network: Any) -> bool:
    """Tell whether a network says how its maps become boxes, and of how many classes."""
    return callable(getattr(network, "detect", None)) and hasattr(network, "outputs")


def outputs_of(ids: Sequence[int], network: Any) -> NDArray[np.int64]:
    """Return which of a network's outputs stands for each class, given the classes' numbers in COCO (from 1)."""
    return np.arange(len(ids)) if network.outputs == len(ids) else np.array(ids) - 1


def own_loss(network: Any) -> Callable[[Any, tuple[Tensor, ...], Plan], Tensor]:
    """Return the loss of a task with a network's own anchors."""
    anchor_scale = getattr(network, "anchor_scale", ANCHOR_SCALE)

    def loss(output: Any, labels: tuple[Tensor, ...], plan: Plan) -> Tensor:
        (classes, boxes), (places, kinds) = output, labels
        return detection_loss(classes, boxes, places, kinds, anchor_scale)

    return loss
