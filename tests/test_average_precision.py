"""Is AP what COCO defines, do ignored boxes count neither way, and are networks' outputs scored right?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skipsim.errors import InputError
from skipsim.traces.average_precision import DetectionScorer, average_precision, detection_scorer
from skipsim.traces.boxes import BoxLabels
from skipsim.traces.models import network
from skipsim.traces.procedural.vehicle_clips import vehicle_clip

SQUARE = [10.0, 10.0, 30.0, 30.0]
FAR = [60.0, 60.0, 90.0, 90.0]


def labels_of(boxes, *, frames=1, **options):
    """Return labels from (frame, box, class, ignored)."""
    columns = list(zip(*boxes, strict=True)) or [[], [], [], []]
    return BoxLabels(
        frames=frames,
        rows=100,
        cols=200,
        classes=("car", "truck", "bus"),
        ids=(3, 8, 6),
        frame=np.array(columns[0], np.int64),
        box=np.array(columns[1], np.float32).reshape(-1, 4),
        label=np.array(columns[2], np.int64),
        ignored=np.array(columns[3], np.bool_),
        **options,
    )


def found(*rows):
    return np.array(rows, np.float32).reshape(-1, 6)


def test_a_perfect_answer_scores_1_and_none_scores_0():
    labels = labels_of([(0, SQUARE, 0, False), (0, FAR, 1, False)])
    scores = average_precision([found([*SQUARE, 0.9, 0], [*FAR, 0.8, 1])], labels)
    assert scores.pop("headline") == "ap"
    assert scores == pytest.approx({"ap": 1.0, "ap@0.5": 1.0, "ap@0.7": 1.0, "ap@0.75": 1.0})
    assert average_precision([found()], labels)["ap"] == 0


def test_overlap_decides_at_each_threshold():
    # 20 x 20 against 20 x 16 inside it: an overlap of .8, so seven of COCO's ten thresholds (.5 to .8) are met.
    shrunk = [10.0, 10.0, 30.0, 26.0]
    scores = average_precision([found([*shrunk, 0.9, 0])], labels_of([(0, SQUARE, 0, False)]))
    assert scores["ap"] == pytest.approx(0.7)
    assert (scores["ap@0.5"], scores["ap@0.75"]) == pytest.approx((1, 1))
    narrow = [10.0, 10.0, 30.0, 22.0]  # .6
    scores = average_precision([found([*narrow, 0.9, 0])], labels_of([(0, SQUARE, 0, False)]))
    assert (scores["ap@0.5"], scores["ap@0.7"]) == pytest.approx((1, 0))
    between = [10.0, 10.0, 30.0, 24.4]  # .72
    scores = average_precision([found([*between, 0.9, 0])], labels_of([(0, SQUARE, 0, False)]))
    assert (scores["ap@0.7"], scores["ap@0.75"]) == pytest.approx((1, 0))


def test_a_false_alarm_costs_by_its_rank():
    labels = labels_of([(0, SQUARE, 0, False), (1, FAR, 0, False)], frames=2)
    first_right = [found([*SQUARE, 0.9, 0]), found([0, 0, 9, 9, 0.8, 0], [*FAR, 0.7, 0])]
    # Ranks: right, wrong, right: precision 1 up to recall .5, then 2/3: (51 + 50 * 2 / 3) / 101 over the 101 recalls.
    assert average_precision(first_right, labels)["ap@0.5"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_classes_are_averaged_and_a_class_without_boxes_does_not_count():
    labels = labels_of([(0, SQUARE, 0, False), (0, FAR, 2, False)])
    assert average_precision([found([*SQUARE, 0.9, 0], [*FAR, 0.9, 1])], labels)["ap"] == pytest.approx(0.5)


def test_merged_classes_count_as_one():
    labels = labels_of([(0, SQUARE, 0, False), (0, FAR, 2, False)], merged=True, headline="ap@0.7")
    scores = average_precision([found([*SQUARE, 0.9, 0], [*FAR, 0.9, 1])], labels)
    assert (scores["ap@0.7"], scores["headline"]) == (pytest.approx(1), "ap@0.7")


def test_what_is_found_in_an_ignored_box_counts_neither_way():
    inside = [110.0, 5.0, 130.0, 25.0]
    for kind in (0, 2):  # whatever the region is labelled as
        boxes = [(0, SQUARE, kind, False), (0, [100.0, 0.0, 200.0, 50.0], 1, True)]
        alarms = found([*inside, 0.99, kind], [*SQUARE, 0.5, kind])
        assert average_precision([alarms], labels_of(boxes))["ap"] == pytest.approx(1)
        assert average_precision([alarms], labels_of(boxes[:1]))["ap"] == pytest.approx(0.5)


def test_frames_of_several_clips_follow_each_other():
    clips = [labels_of([(0, SQUARE, 0, False)]), labels_of([(1, FAR, 0, False)], frames=2)]
    assert average_precision([found([*SQUARE, 0.9, 0]), found(), found([*FAR, 0.9, 0])], clips)["ap"] == pytest.approx(
        1
    )
    assert average_precision([found([*SQUARE, 0.9, 0]), found([*FAR, 0.9, 0]), found()], clips)["ap"] < 0.6


def test_scorer_brings_boxes_to_the_labels_pixels():
    labels = labels_of([(0, SQUARE, 0, False)])  # 100 x 200; the network sees 50 x 400
    scorer = DetectionScorer((labels,), lambda *_: found([20.0, 5.0, 60.0, 15.0, 0.9, 0]), 50, 400, 3)
    assert scorer(["output"])["ap"] == pytest.approx(1)
    assert scorer([scorer.keep("output")])["ap"] == pytest.approx(1)


def test_a_network_of_cocos_classes_is_matched_by_category():
    labels = labels_of([(0, SQUARE, 2, False)])  # a bus: category 6, the network's class 5
    answers = found([*SQUARE, 0.9, 5], [*FAR, 0.95, 0])  # and a person, which these labels do not know
    scorer = DetectionScorer((labels,), lambda *_: answers, 100, 200, 90)
    assert scorer(["output"])["ap"] == pytest.approx(1)
    with pytest.raises(InputError, match=r"the network has 2 classes; must be 3 \(car, truck, bus\) or the 90 of COCO"):
        DetectionScorer((labels,), lambda *_: answers, 100, 200, 2)


def test_a_network_is_scored_by_its_own_detect():
    clip = vehicle_clip(2_000_000, frames=2, rows=64, cols=64)
    model = network("detection_small", weights=None)
    pictures = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        outputs = [model(picture[None]) for picture in pictures]
    scorer = detection_scorer(clip, model)
    assert scorer(outputs) == scorer([scorer.keep(output) for output in outputs])
    assert 0 <= scorer(outputs)["ap"] < 0.1


def test_what_cannot_be_scored_fails_well():
    labels = labels_of([(0, SQUARE, 0, False)])
    with pytest.raises(InputError, match="needs one array of detections per frame, got 2 for 1 frames"):
        average_precision([found(), found()], labels)
    with pytest.raises(InputError, match="no box that counts is labelled"):
        average_precision([found()], labels_of([(0, SQUARE, 0, True)]))
    with pytest.raises(InputError, match="all clips must have the same classes"):
        average_precision([found(), found()], [labels, labels_of([(0, SQUARE, 0, False)], merged=True)])
    with pytest.raises(InputError, match="needs one output per frame, got 0 for 1 frames"):
        DetectionScorer((labels,), lambda *_: found(), 100, 200, 3)([])
    with pytest.raises(InputError, match="no box that counts is labelled"):  # before anything has run
        DetectionScorer((labels_of([(0, SQUARE, 0, True)]),), lambda *_: found(), 100, 200, 3)
