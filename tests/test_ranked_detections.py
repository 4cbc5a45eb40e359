"""Does a sample of clips score what pycocotools gives for these clips, each as often as it was drawn?"""

from __future__ import annotations

import numpy as np
import pytest

from skipsim.traces.average_precision import average_precision
from skipsim.traces.boxes import BoxLabels
from skipsim.traces.ranked_detections import ranked

RNG = np.random.default_rng(3)


def boxes(count):
    """Return boxes [count, 4] of 10 to 40 pixels."""
    corner = RNG.uniform(0, 60, (count, 2))
    return np.concatenate((corner, corner + RNG.uniform(10, 40, (count, 2))), axis=1).astype(np.float32)


def clip_of(frames, objects):
    """Return labels with so many objects, every fifth of them ignored, and what a mediocre network finds."""
    box, label = boxes(objects), RNG.integers(0, 2, objects)
    frame = np.sort(RNG.integers(0, frames, objects))
    labels = BoxLabels(
        frames=frames, rows=100, cols=100, classes=("car", "truck"), ids=(3, 8), frame=frame, box=box, label=label,
        ignored=np.arange(objects) % 5 == 4,
    )  # fmt: skip
    detections = []
    for number in range(frames):
        near = box[frame == number] + RNG.normal(0, 2, ((frame == number).sum(), 4))
        every = np.concatenate((near, boxes(3)))
        kinds = np.concatenate((label[frame == number], RNG.integers(0, 2, 3)))
        detections.append(np.column_stack((every, RNG.uniform(0.1, 1, len(every)), kinds)).astype(np.float32))
    return labels, detections


CLIPS = [clip_of(frames, objects) for frames, objects in ((3, 12), (2, 9), (4, 0), (3, 20))]


@pytest.mark.parametrize("counts", [(1, 1, 1, 1), (2, 0, 1, 1), (0, 3, 0, 1), (0, 1, 2, 0)], ids=str)
def test_a_sample_scores_what_pycocotools_gives(counts):
    whole = ranked([one for _, found in CLIPS for one in found], [labels for labels, _ in CLIPS])
    drawn = [clip for clip, count in zip(CLIPS, counts, strict=True) for _ in range(count)]
    wanted = average_precision([one for _, found in drawn for one in found], [labels for labels, _ in drawn])
    assert 0.05 < wanted["ap"] < 0.95
    assert whole.average_precision(np.array(counts)) == pytest.approx(wanted["ap"], abs=1e-9)


def test_a_class_without_an_object_in_the_sample_does_not_count():
    labels, found = clip_of(1, 1)
    whole = ranked(found, [labels])
    assert [np.isnan(one.precision(np.array([1]))).all() for one in whole.classes].count(True) == 1
