"""AP, the average precision of detections, as COCO defines it; and the scorer of a recording.

Counting is pycocotools' own (the `detection` extra): precision at 101 recalls, averaged over classes and over overlaps
of 0.5 to 0.95; boxes that do not count are COCO's "crowd" regions: what is found inside counts neither way.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError
from skipsim.traces.boxes import BoxLabels, DetectionClip

# Name -> the overlaps whose precisions are averaged; None: COCO's ten.
SCORES: dict[str, float | None] = {"ap": None, "ap@0.5": 0.5, "ap@0.7": 0.7, "ap@0.75": 0.75}

Detections = NDArray[np.float32]


def average_precision(detections: Sequence[Detections], labels: BoxLabels | Sequence[BoxLabels]) -> dict[str, Any]:
    """Score detections against labels: AP over all frames of all clips.

    Args:
        detections: per frame, over all clips, [D, 6]: x0, y0, x1, y1 in pixels of the labels, score, class.
        labels: of the clip, or of the clips one after the other; all with the same classes.

    Returns:
        {"ap": ..., "ap@0.5": ..., "ap@0.7": ..., "ap@0.75": ..., "headline": ...}; the headline is the labels'.

    Raises:
        InputError: a wrong number of frames, clips of different classes, no box that counts, or no pycocotools.
    """
    evaluation, first = _evaluated(detections, [labels] if isinstance(labels, BoxLabels) else list(labels))
    precision: NDArray[np.float64] = evaluation.eval["precision"][:, :, :, 0, -1]  # -1 where a class has no object
    thresholds = np.linspace(0.5, 0.95, 10)
    scores: dict[str, Any] = {}
    for name, threshold in SCORES.items():
        chosen = precision if threshold is None else precision[np.isclose(thresholds, threshold)]
        scores[name] = float(chosen[chosen > -1].mean())
    return {**scores, "headline": first.headline}


def matched(detections: Sequence[Detections], labels: Sequence[BoxLabels]) -> list[list[Any]]:
    """Return what pycocotools matched each detection with: for every class, an entry of every frame or None."""
    evaluation, _ = _evaluated(detections, list(labels))
    frames = sum(clip.frames for clip in labels)
    entries = evaluation.evalImgs
    return [entries[start : start + frames] for start in range(0, len(entries), frames)]


def _evaluated(detections: Sequence[Detections], clips: Sequence[BoxLabels]) -> tuple[Any, BoxLabels]:
    """Check what is to be compared; return pycocotools' evaluation, accumulated, and the first clip's labels."""
    first = clips[0]
    if any((clip.classes, clip.merged) != (first.classes, first.merged) for clip in clips):
        raise InputError("average precision: all clips must have the same classes")
    frames = sum(clip.frames for clip in clips)
    if len(detections) != frames:
        raise InputError(
            f"average precision: needs one array of detections per frame, got {len(detections)} for {frames} frames"
        )
    _check_boxes(clips)
    classes = 1 if first.merged else len(first.classes)
    return _evaluate(_truth(clips, classes), _results(detections, classes), classes), first


def _check_boxes(clips: Sequence[BoxLabels]) -> None:
    if not any((~clip.ignored).any() for clip in clips):
        raise InputError("average precision: no box that counts is labelled, so there is nothing to score")


def _truth(clips: Sequence[BoxLabels], classes: int) -> dict[str, Any]:
    """Return the labels in COCO's format; regions without a class of their own hold for all."""
    annotations: list[dict[str, Any]] = []
    start = 0
    for clip in clips:
        for frame, box, label, ignored in zip(clip.frame, clip.box, clip.label, clip.ignored, strict=True):
            sides = box[2:] - box[:2]
            # A hidden object may be taken for another kind, so what does not count does so for every class.
            for category in range(classes) if ignored else (0 if classes == 1 else int(label),):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": start + int(frame),
                        "category_id": category,
                        "bbox": [*map(float, box[:2]), *map(float, sides)],
                        "area": float(sides.prod()),
                        "iscrowd": int(ignored),
                    }
                )
        start += clip.frames
    return {
        "info": {},
        "images": [{"id": frame} for frame in range(start)],
        "categories": [{"id": category} for category in range(classes)],
        "annotations": annotations,
    }


def _results(detections: Sequence[Detections], classes: int) -> list[dict[str, Any]]:
    results = []
    for frame, found in enumerate(detections):
        for x0, y0, x1, y1, score, label in np.asarray(found, np.float64).reshape(-1, 6).tolist():
            category = 0 if classes == 1 else int(label)
            box = [x0, y0, x1 - x0, y1 - y0]
            results.append({"image_id": frame, "category_id": category, "bbox": box, "score": score})
    return results


def _evaluate(truth: dict[str, Any], results: list[dict[str, Any]], classes: int) -> Any:
    """Return pycocotools' evaluation over objects of every size."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise InputError("average precision: needs pycocotools: pip install 'skipsim[detection]'") from None
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        dataset = COCO()
        dataset.dataset = truth
        dataset.createIndex()
        found = COCO()
        found.dataset = {**truth, "annotations": [_annotation(index, entry) for index, entry in enumerate(results, 1)]}
        found.createIndex()
        evaluation = COCOeval(dataset, found, "bbox")
        evaluation.params.catIds = list(range(classes))
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _annotation(index: int, result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "id": index, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}


@dataclass(frozen=True)
class DetectionScorer:
    """Scores a detection network on labelled clips run one after the other, as `record(quality=...)` takes it.

    Attributes:
        labels: of the clips.
        detect: the network's own: (output, rows, cols) -> [D, 6] in pixels of the network's input.
        rows: height of the network's input in pixels.
        cols: width likewise.
        outputs: how many classes the network tells apart: as many as the labels have, or COCO's 90.
    """

    labels: tuple[BoxLabels, ...]
    detect: Callable[[Any, int, int], Detections]
    rows: int
    cols: int
    outputs: int

    def __post_init__(self) -> None:
        """Check that the network's classes can be matched with the labels', and that there is a box to find."""
        _check_boxes(self.labels)
        classes = self.labels[0].classes
        if self.outputs != len(classes) and self.outputs < max(self.labels[0].ids):
            raise InputError(
                f"detection: the network has {self.outputs} classes; must be {len(classes)} ({', '.join(classes)}) or "
                "the 90 of COCO"
            )

    def keep(self, output: Any) -> Detections:
        """Return the detections of one frame: all that is kept of a network's large output."""
        found = self.detect(output, self.rows, self.cols)
        labels = self.labels[0]
        if self.outputs == len(labels.classes):
            return found
        places = {number - 1: index for index, number in enumerate(labels.ids)}  # COCO counts its categories from 1
        known = found[np.isin(found[:, 5], list(places))]
        return np.column_stack((known[:, :5], [places[int(label)] for label in known[:, 5]])).astype(np.float32)

    def __call__(self, outputs: Sequence[Any]) -> dict[str, Any]:
        """Score outputs, one per frame, or what `keep` made of them."""
        return average_precision(self.detections(outputs), self.labels)

    def detections(self, outputs: Sequence[Any]) -> list[Detections]:
        """Return what was found in every frame, [D, 6] in pixels of the labels, from outputs or what `keep` made."""
        frames = [clip for clip in self.labels for _ in range(clip.frames)]
        if len(outputs) != len(frames):
            raise InputError(
                f"detection quality: needs one output per frame, got {len(outputs)} for {len(frames)} frames"
            )
        detections = []
        for output, clip in zip(outputs, frames, strict=True):
            found = output if isinstance(output, np.ndarray) else self.keep(output)
            pixels = np.array((clip.cols / self.cols, clip.rows / self.rows) * 2, np.float32)
            detections.append(np.column_stack((found[:, :4] * pixels, found[:, 4:])))
        return detections


def detection_scorer(clips: DetectionClip | Sequence[DetectionClip], model: Any) -> DetectionScorer:
    """Return what scores `model` on clips that it sees in their own size; it must have `detect` and `outputs`."""
    labelled = [clips] if isinstance(clips, DetectionClip) else list(clips)
    rows, cols = labelled[0].frames.shape[1:3]
    return DetectionScorer(tuple(clip.labels for clip in labelled), model.detect, rows, cols, model.outputs)
