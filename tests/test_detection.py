"""Do maps become the right boxes, doubles one, and does the loss know which anchor belongs to which box?"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from skipsim.errors import InputError
from skipsim.traces.detection import anchors, decode, decode_boxes, flatten, overlaps, suppress
from skipsim.traces.procedural.vehicle_clips import vehicle_clip
from skipsim.traces.training.detection_task import DETECTION, IGNORED, NOTHING, detection_loss, encode, match


def test_anchors_by_hand():
    found = anchors([(2, 3), (1, 2)], scale=2.0)
    assert found.shape == ((6 + 2) * 9, 4)
    assert found[0].tolist() == [4 - 8, 4 - 8, 4 + 8, 4 + 8]  # two strides of 8 around the first position's centre
    assert found[1] == pytest.approx([4 - 11.2, 4 - 5.6, 4 + 11.2, 4 + 5.6])  # 1.4 x 0.7
    third_octave = 8 * 2 ** (2 / 3)
    assert found[6] == pytest.approx([4 - third_octave, 4 - third_octave, 4 + third_octave, 4 + third_octave])
    assert found[9 * 4].tolist() == [12 - 8, 12 - 8, 12 + 8, 12 + 8]  # second row, second column
    assert found[-9].tolist() == [24 - 16, 8 - 16, 24 + 16, 8 + 16]  # the coarser level: stride 16


def test_flattening_follows_the_anchors():
    values = np.arange(2 * 18 * 6, dtype=np.float32).reshape(2, 18, 2, 3)
    flat = flatten([values[0], values[1:]], 2)
    assert flat.shape == (2 * 6 * 9, 2)
    # Level 1, row 1, column 2, anchor 4: channels 8 and 9.
    assert flat[(6 + 5) * 9 + 4].tolist() == values[1, 8:10, 1, 2].tolist()


def test_offsets_decode_by_hand_and_encode_back():
    anchor = np.array([[10, 20, 30, 60]], np.float32)  # 20 wide, 40 high, centre (20, 40)
    box = decode_boxes([[0.25, -0.5, math.log(0.5), math.log(2.0)]], anchor)
    assert box[0] == pytest.approx([10 - 20, 50 - 10, 10 + 20, 50 + 10])
    rng = np.random.default_rng(0)
    every = anchors([(4, 4)], 2.0)
    boxes = np.sort(rng.uniform(0, 60, (len(every), 2, 2)), axis=1).reshape(-1, 4)
    boxes[:, 2:] += 1
    offsets = encode(torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(every))
    assert decode_boxes(offsets.numpy(), every) == pytest.approx(boxes, abs=1e-3)


def test_overlaps_equal_a_loop():
    rng = np.random.default_rng(1)
    one, other = (np.sort(rng.uniform(0, 20, (n, 2, 2)), axis=1).reshape(-1, 4) for n in (7, 5))
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
            assert overlaps(one, other)[i, j] == pytest.approx(common / union, abs=1e-5)


def test_suppression_keeps_the_best_of_doubles():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4], [20, 0, 30, 10]], np.float32)
    assert suppress(boxes, np.array([0.5, 0.9, 0.3, 0.1], np.float32)).tolist() == [1, 2, 3]


def maps_with(spots, rows=4, cols=5, outputs=3):
    """Return class and box maps of one level with logits at (row, col, anchor, class)."""
    classes = np.full((9 * outputs, rows, cols), -9.0, np.float32)
    for row, col, anchor, label, logit in spots:
        classes[anchor * outputs + label, row, col] = logit
    return [classes], [np.zeros((36, rows, cols), np.float32)]


def test_decoding_reports_boxes_best_first_cut_at_the_border():
    found = decode(*maps_with([(0, 0, 0, 2, 0.0), (2, 3, 1, 0, 2.0)]), 3, 2.0, 32, 40)
    assert found.shape == (2, 6)
    assert found[0] == pytest.approx([28 - 11.2, 20 - 5.6, 28 + 11.2, 20 + 5.6, 1 / (1 + math.exp(-2)), 0], rel=1e-5)
    assert found[1] == pytest.approx([0, 0, 12, 12, 0.5, 2])


def test_only_boxes_of_one_class_suppress_each_other():
    same, other = [(1, 1, 0, 1, 3.0), (1, 1, 3, 1, 1.0)], [(1, 1, 0, 1, 3.0), (1, 1, 0, 2, 1.0)]
    assert len(decode(*maps_with(same), 3, 2.0, 32, 40)) == 1  # an octave apart: 256 / 406 = 0.63 > 0.5
    assert len(decode(*maps_with(other), 3, 2.0, 32, 40)) == 2


def test_at_most_a_hundred_boxes():
    classes, boxes = maps_with([], rows=16, cols=16)
    classes[0][0] = np.linspace(0, 1, 256).reshape(16, 16)
    assert len(decode(classes, boxes, 3, 0.5, 128, 128)) == 100


def test_wrong_maps_fail_well():
    classes, boxes = maps_with([(0, 0, 0, 0, 1.0)])
    with pytest.raises(InputError, match=r"a level's map must be \[36, rows, cols\], got \[27, 4, 5\]"):
        decode(classes, boxes, 4, 2.0, 32, 40)
    boxes[0][3] = np.nan
    with pytest.raises(InputError, match="maps must be finite, got NaN or infinity"):
        decode(classes, boxes, 3, 2.0, 32, 40)


def test_anchors_are_matched_by_overlap():
    every = torch.tensor(
        [[0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 4.5], [0, 0, 10, 3], [50, 50, 60, 60.0], [80, 80, 84, 84]]
    )
    boxes = torch.tensor([[0, 0, 10, 10], [52, 52, 70, 70], [78, 78, 90, 90], [0, 0, 0, 0.0]])
    kind, place = match(every, boxes, torch.tensor([1, 2, IGNORED, NOTHING]))
    # Overlaps with box 0: 1, .6 (both of it), .45 (neither), .3 (background); box 1 has only anchor 4, with 64 / 360;
    # anchor 5 lies inside a box that does not count.
    assert kind.tolist() == [1, 1, IGNORED, NOTHING, 2, IGNORED]
    assert place[[0, 1, 4]].tolist() == [0, 0, 1]


def test_loss_is_small_for_the_truth_and_larger_for_a_miss():
    clip = vehicle_clip(0, frames=1)
    boxes, kinds = (torch.from_numpy(array) for array in DETECTION.labels(clip))
    sizes = [(32, 32), (16, 16), (8, 8), (4, 4)]
    every = torch.from_numpy(anchors(sizes, 2.0))
    kind, place = match(every, boxes[0], kinds[0])
    logits = torch.full((len(every), 3), -8.0)
    logits[kind >= 0, kind[kind >= 0]] = 8.0
    offsets = encode(boxes[0][place], every) * (kind >= 0)[:, None]

    def loss(logits, offsets):
        parts = torch.split(torch.cat((logits, offsets), 1), [rows * cols * 9 for rows, cols in sizes])
        grids = [part.reshape(1, *size, 9, 7) for part, size in zip(parts, sizes, strict=True)]
        maps = [
            [grid[..., slice_].flatten(3).permute(0, 3, 1, 2) for grid in grids] for slice_ in (slice(3), slice(3, 7))
        ]
        return detection_loss(*maps, boxes, kinds).item()

    assert loss(logits, offsets) < 0.01
    missed = logits.clone()
    missed[kind >= 0] = -8.0
    # Every matched anchor: 0.25 of its cross-entropy, 8, times its miss (nearly 1) to the power 1.5.
    assert loss(missed, offsets) == pytest.approx(0.25 * 8, rel=0.02)
    # Offsets wrong by 1 in four places: Huber with delta .1 is .1 (1 - .05), the mean of the four, times 50.
    assert loss(logits, offsets + 1.0) == pytest.approx(50 * 0.1 * 0.95, rel=0.01)


def test_labels_are_padded_and_mirrored():
    clip = vehicle_clip(0, frames=2)
    boxes, kinds = DETECTION.labels(clip)
    here = clip.labels.of_frame(1)
    count = int(here.sum())
    assert (boxes[1, :count] == clip.labels.box[here]).all()
    assert (kinds[1, count:] == NOTHING).all()
    assert ((kinds[1, :count] == IGNORED) == clip.labels.ignored[here]).all()
    mirrored, same = DETECTION.mirror((boxes, kinds), 256)
    assert (same == kinds).all()
    assert mirrored[1, 0].tolist() == [256 - boxes[1, 0, 2], boxes[1, 0, 1], 256 - boxes[1, 0, 0], boxes[1, 0, 3]]


def test_anchors_and_decoding_equal_efficientdet_pytorch(efficientdet_pytorch):
    from effdet.anchors import Anchors, decode_box_outputs

    theirs = Anchors(3, 7, 3, [(1.0, 1.0), (1.4, 0.7), (0.7, 1.4)], 4.0, (256, 384)).boxes
    ours = anchors([(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)], 4.0)
    assert ours[:, [1, 0, 3, 2]] == pytest.approx(theirs.numpy(), abs=1e-3)  # theirs are y0, x0, y1, x1
    offsets = 0.5 * torch.randn(len(ours), 4, generator=torch.Generator().manual_seed(0))
    boxes = decode_box_outputs(offsets, theirs, output_xyxy=True)
    assert decode_boxes(offsets.numpy(), ours) == pytest.approx(boxes.numpy(), rel=1e-4, abs=1e-2)
