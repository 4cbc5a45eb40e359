"""Ranked detections: AP of many samples of the same clips, for an interval of what other clips would have scored.

Matching detections with labels takes most of the time and belongs to a frame alone. So it is done once, by pycocotools;
a sample of clips only changes how often each clip counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipsim.traces.average_precision import Detections, matched
from skipsim.traces.boxes import BoxLabels

RECALLS = np.linspace(0, 1, 101)  # COCO's


@dataclass(frozen=True)
class RankedClass:
    """The detections of one class in all clips, best first, and what each was matched with.

    Attributes:
        clip: of each detection, int [D].
        hits: at each of COCO's ten overlaps, whether it found an object that counts, bool [10, D].
        misses: whether it found nothing, bool [10, D]; what found an ignored object is neither.
        objects: how many objects of each clip count, int [clips].
    """

    clip: NDArray[np.int64]
    hits: NDArray[np.bool_]
    misses: NDArray[np.bool_]
    objects: NDArray[np.int64]

    def precision(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the AP at each of the ten overlaps if clip i is seen counts[i] times; NaN without an object."""
        wanted = int(self.objects @ counts)
        if wanted == 0:
            return np.full(len(self.hits), np.nan)
        weights = counts[self.clip]
        right, wrong = (np.cumsum(kind * weights, axis=1) for kind in (self.hits, self.misses))
        precision = right / np.maximum(right + wrong, 1)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        best = np.pad(best, ((0, 0), (0, 1)))  # a recall that is never reached
        places = [np.searchsorted(row / wanted, RECALLS) for row in right]
        means: NDArray[np.float64] = np.stack([row[place].mean() for row, place in zip(best, places, strict=True)])
        return means


@dataclass(frozen=True)
class RankedDetections:
    """What a network found in labelled clips, ready to be scored on any sample of them."""

    classes: tuple[RankedClass, ...]

    def average_precision(self, counts: NDArray[np.int64]) -> float:
        """Return COCO's AP if clip i is seen counts[i] times."""
        return float(np.nanmean([one.precision(counts) for one in self.classes]))


def ranked(detections: Sequence[Detections], labels: Sequence[BoxLabels]) -> RankedDetections:
    """Match detections, one array per frame over all clips, with the clips' labels; see `average_precision`."""
    clip_of = np.repeat(np.arange(len(labels)), [clip.frames for clip in labels])
    classes = []
    for images in matched(detections, labels):
        objects = np.zeros(len(labels), np.int64)
        clips, scores, hits, misses = [], [], [], []
        for place, image in zip(clip_of, images, strict=True):
            if image is None:  # neither an object nor a detection
                continue
            objects[place] += int(np.sum(np.asarray(image["gtIgnore"]) == 0))
            found, ignored = np.asarray(image["dtMatches"]) > 0, np.asarray(image["dtIgnore"], bool)
            scores.append(np.asarray(image["dtScores"], np.float64))
            clips.append(np.full(len(scores[-1]), place))
            hits.append(found & ~ignored)
            misses.append(~found & ~ignored)
        order = np.argsort(-np.concatenate(scores), kind="stable")
        clip, hit, miss = (np.concatenate(part, axis=-1)[..., order] for part in (clips, hits, misses))
        classes.append(RankedClass(clip, hit, miss, objects))
    return RankedDetections(tuple(classes))
