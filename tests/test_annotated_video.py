"""Are data sets read as people have them on disk, with the labels on the right frames, and do wrong files fail well?"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from video_folders import save_jhmdb_split, save_jhmdb_video, save_pictures, save_uavdt_video

from skipsim.analysis.inputs.clips import DATASETS, FORMS, absolute, load_clip
from skipsim.analysis.inputs.labels import box_labels, quality_of
from skipsim.errors import InputError
from skipsim.traces.data_sets.coco_video import coco_videos
from skipsim.traces.data_sets.jhmdb import JOINTS, jhmdb_videos
from skipsim.traces.data_sets.uavdt import uavdt_videos

ROWS, COLS = 24, 32


def grey(count):
    return [np.full((ROWS, COLS, 3), 10 * number, np.uint8) for number in range(1, count + 1)]


@pytest.fixture
def jhmdb(tmp_path):
    """Two classes, three videos of 3 frames, as JHMDB's archives unpack."""
    rng = np.random.default_rng(0)
    for action, video in (("run", "first"), ("run", "second"), ("wave", "third")):
        positions = rng.uniform(2, 20, (2, 15, 3))
        positions[:, 3, 1] = 40.0, 5.0  # outside
        mask = np.zeros((ROWS, COLS, 3), np.uint8)
        mask[4:14, 6:26, 0] = 3
        mask[2:22, 8:10, 1] = 1
        save_jhmdb_video(tmp_path, action, video, grey(3), positions, mask)
    for split in (1, 2, 3):
        save_jhmdb_split(tmp_path, "run", split, ["first.avi 1", "second.avi 2"])
        save_jhmdb_split(tmp_path, "wave", split, [f"third.avi {1 + split % 2}"])
    return tmp_path


def test_jhmdb_splits_name_the_videos(jhmdb):
    def names(split, part):
        return [video.name for video in jhmdb_videos(str(jhmdb), split, part)]

    assert (names("1", "train"), names("1", "test")) == (["first"], ["second", "third"])
    assert (names("2", "train"), names("2", "test")) == (["first", "third"], ["second"])


def test_jhmdb_joints_count_from_zero_and_the_box_is_the_puppets(jhmdb):
    from scipy.io import loadmat

    (video,) = jhmdb_videos(str(jhmdb), "1", "test", "third")
    positions = loadmat(jhmdb / "joint_positions/wave/third/joint_positions.mat")["pos_img"]
    clip = video.joints
    assert len(JOINTS) == 15
    assert clip.frames.shape == (3, ROWS, COLS, 3)
    assert clip.joints[2, 7] == pytest.approx(positions[:, 7, 2] - 1)  # MATLAB's first pixel is (1, 1)
    assert clip.visible.sum() == 3 * 15 - 1
    assert not clip.visible[1, 3]
    assert clip.box[0].tolist() == [5.5, 3.5, 25.5, 13.5]
    assert clip.scale[:2].tolist() == [20, 20]
    # The third frame's mask is empty: the box around the joints.
    assert clip.scale[2] == pytest.approx(np.ptp(clip.joints[2], axis=0).max())


def test_jhmdb_clips_load_by_name_in_order_and_are_scored(jhmdb):
    loaded = load_clip(f"jhmdb:{jhmdb}:1:test", frames=2)
    frames = list(loaded.frames)
    assert [int(frame[0, 0, 0]) for frame in frames] == [10, 20, 10, 20]
    assert loaded.cuts == (2,)
    score = quality_of(loaded, object())
    maps = np.zeros((15, 6, 8))
    maps[:, 2, 3] = 1
    assert set(score([maps] * 4)) == {"pck@0.05", "pck@0.1", "pck@0.2", "headline"}
    resized = load_clip(f"jhmdb:{jhmdb}:1:test:third", size=(12, 16))
    assert next(iter(resized.frames)).shape == (12, 16, 3)


def replace_matrix(jhmdb, name, **content):
    folder, file = (
        ("joint_positions", "joint_positions.mat") if name == "pos_img" else ("puppet_mask", "puppet_mask.mat")
    )
    savemat(jhmdb / folder / "wave" / "third" / file, content)


def test_jhmdb_labels_that_do_not_match_the_frames_fail_well(jhmdb):
    replace_matrix(jhmdb, "pos_img", pos_img=np.ones((2, 15, 2)))
    with pytest.raises(InputError, match=r"pos_img must be \[2, 15, 3\] for 3 frames, got \[2, 15, 2\]"):
        jhmdb_videos(str(jhmdb), "1", "test", "third")
    replace_matrix(jhmdb, "pos_img", joints=np.ones((2, 15, 3)))
    with pytest.raises(InputError, match=r"joint_positions\.mat: holds no array 'pos_img'"):
        jhmdb_videos(str(jhmdb), "1", "test", "third")
    replace_matrix(jhmdb, "pos_img", pos_img=np.full((2, 15, 3), np.nan))
    with pytest.raises(InputError, match="pos_img must be finite"):
        jhmdb_videos(str(jhmdb), "1", "test", "third")
    replace_matrix(jhmdb, "pos_img", pos_img=np.ones((2, 15, 3)))
    replace_matrix(jhmdb, "part_mask", part_mask=np.ones((5, 5, 3)))
    with pytest.raises(InputError, match=r"part_mask must be \[24, 32, 3\], got \[5, 5, 3\]"):
        jhmdb_videos(str(jhmdb), "1", "test", "third")


def test_jhmdb_missing_and_damaged_files_fail_well(jhmdb):
    file = jhmdb / "joint_positions/wave/third/joint_positions.mat"
    file.write_bytes(b"MATLAB 5.0, or so it says")
    with pytest.raises(InputError, match=r"joint_positions\.mat: not a readable MATLAB file") as caught:
        jhmdb_videos(str(jhmdb), "1", "test", "third")
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(InputError, match=r"joint_positions\.mat: no such file"):
        jhmdb_videos(str(jhmdb), "1", "test", "third")
    with pytest.raises(InputError, match="no video 'thirdd'; did you mean 'third'"):
        jhmdb_videos(str(jhmdb), "1", "test", "thirdd")
    with pytest.raises(InputError, match="split must be 1, 2 or 3, got '4'"):
        jhmdb_videos(str(jhmdb), "4", "test")
    with pytest.raises(InputError, match="part 'tests' is unknown; did you mean 'test'"):
        jhmdb_videos(str(jhmdb), "1", "tests")
    with pytest.raises(InputError, match=r"splits: holds no CLASS_test_split1\.txt"):
        jhmdb_videos(str(jhmdb / "splits"), "1", "test")
    for content in (b"first.avi\n", b"\xff\xfe\x00 1\x00\n"):
        (jhmdb / "splits/run_test_split1.txt").write_bytes(content)
        with pytest.raises(InputError, match=r"run_test_split1\.txt, line 1: must be VIDEO\.avi and 0, 1 or 2, got"):
            jhmdb_videos(str(jhmdb), "1", "test")
    for file in (jhmdb / "splits").glob("*1.txt"):
        file.write_text("first.avi 0\n")
    with pytest.raises(InputError, match="splits: no list names a video of part 'test' in split 1"):
        jhmdb_videos(str(jhmdb), "1", "test")


@pytest.fixture
def uavdt(tmp_path):
    """One sequence for tests and one for training, 2 frames each, as UAVDT's archives unpack."""
    lines = ["1,1,2,3,10,8,1,1,1", "2,1,4,3,10,8,1,1,1", "2,2,20,10,6,5,1,2,3", "2,3,20,10,0,5,1,2,3"]
    for part, name in (("train", "M0101"), ("test", "M0203")):
        save_uavdt_video(tmp_path, part, name, grey(2), lines, ["1,-1,0,16,32,8,1,-1,-1"])
    return tmp_path


def test_uavdt_boxes_categories_and_regions(uavdt):
    (video,) = uavdt_videos(str(uavdt), "test")
    boxes = video.boxes
    assert video.name == "M0203"
    assert boxes.frame.tolist() == [0, 1, 1, 0]  # the one without a width is left out, the last is a region
    assert boxes.box.tolist() == [[2, 3, 12, 11], [4, 3, 14, 11], [20, 10, 26, 15], [0, 16, 32, 24]]
    assert [boxes.classes[label] for label in boxes.label[:3]] == ["car", "car", "bus"]
    assert boxes.ignored.tolist() == [False, False, False, True]
    assert (boxes.headline, boxes.merged) == ("ap@0.7", True)


class Finder:
    """A network that finds what it is told, in pixels of an input of half the size."""

    outputs = 3

    def detect(self, output, rows, cols):
        return np.array(output, np.float32).reshape(-1, 6)


def test_uavdt_clip_is_scored_at_an_overlap_of_seven_tenths(uavdt):
    loaded = load_clip(f"uavdt:{uavdt}:test", size=(12, 16))
    score = quality_of(loaded, Finder())
    # Classes count as one; what lies in the ignored region is no false alarm.
    frames = [[[1, 1.5, 6, 5.5, 0.9, 2], [1, 9, 5, 11, 0.95, 0]], [[2, 1.5, 7, 5.5, 0.9, 0], [10, 5, 13, 7.5, 0.8, 0]]]
    scores = score(frames)
    assert scores["ap@0.7"] == pytest.approx(1)
    assert scores["headline"] == "ap@0.7"
    assert quality_of(loaded, object()) is None


def test_uavdt_wrong_files_fail_well(uavdt):
    file = uavdt / "UAV-benchmark-MOTD_v1.0" / "GT" / "M0203_gt_whole.txt"
    for text, message in (
        ("3,1,2,3,10,8,1,1,1", r"M0203_gt_whole\.txt, line 1: frame must be 1\.\.2, as many as there are, got 3"),
        ("1,1,2,3,10,8", "line 1: must hold 9 numbers with commas between, got '1,1,2,3,10,8'"),
        ("1,1,2,three,10,8,1,1,1", "line 1: must hold 9 numbers"),
        ("1.5,1,2,3,10,8,1,1,1", r"line 1: frame must be 1\.\.2, as many as there are, got 1\.5"),
        ("1,1,2,nan,10,8,1,1,1", "line 1: must hold 9 numbers"),
        ("1,1,2,3,inf,8,1,1,1", "line 1: must hold 9 numbers"),
        ("1,1,2,3,10,8,1,1,nan", "line 1: must hold 9 numbers"),
        ("1,1,2,3,10,8,1,1,1.5", r"category must be 1 \(car\), 2 \(truck\) or 3 \(bus\), got 1\.5"),
        ("1,1,2,3,10,8,1,1,4", r"category must be 1 \(car\), 2 \(truck\) or 3 \(bus\), got 4"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            uavdt_videos(str(uavdt), "test")
    file.unlink()
    with pytest.raises(InputError, match=r"M0203_gt_whole\.txt: no such file"):
        uavdt_videos(str(uavdt), "test")
    with pytest.raises(InputError, match="part 'val' is unknown"):
        uavdt_videos(str(uavdt), "val")
    with pytest.raises(InputError, match=r"test: holds no SEQUENCE_attr\.txt"):
        uavdt_videos(str(uavdt / "UAV-benchmark-M"), "test")


COCO = {
    "videos": [{"id": 1, "name": "street"}, {"id": 2, "name": "yard"}],
    "categories": [{"id": 8, "name": "truck"}, {"id": 3, "name": "car"}],
    "images": [
        {"id": 5, "video_id": 1, "frame_id": 1, "file_name": "street/2.png", "width": COLS, "height": ROWS},
        {"id": 4, "video_id": 1, "frame_id": 0, "file_name": "street/1.png", "width": COLS, "height": ROWS},
        {"id": 9, "video_id": 2, "frame_id": 0, "file_name": "yard/1.png", "width": COLS, "height": ROWS},
    ],
    "annotations": [
        {"image_id": 4, "category_id": 3, "bbox": [1, 2, 10, 8]},
        {"image_id": 5, "category_id": 8, "bbox": [3, 2, 10, 8], "iscrowd": 1},
        {"image_id": 5, "category_id": 8, "bbox": [3, 2, 0, 8]},
        {"image_id": 5, "category_id": 3, "bbox": [9, 2, 10, 8], "ignore": 1},
    ],
}


@pytest.fixture
def coco(tmp_path):
    save_pictures(tmp_path / "pictures" / "street", "{}.png", grey(2))
    save_pictures(tmp_path / "pictures" / "yard", "{}.png", grey(1))
    (tmp_path / "boxes.json").write_text(json.dumps(COCO))
    return tmp_path


def test_coco_frames_are_ordered_and_classes_are_those_of_the_file(coco):
    street, yard = coco_videos(str(coco / "boxes.json"), str(coco / "pictures"))
    assert [file.name for file in street.files] == ["1.png", "2.png"]
    boxes = street.boxes
    assert (boxes.classes, boxes.ids) == (("car", "truck"), (3, 8))
    assert boxes.box.tolist() == [[1, 2, 11, 10], [3, 2, 13, 10], [9, 2, 19, 10]]
    assert (boxes.frame.tolist(), boxes.label.tolist()) == ([0, 1, 1], [0, 1, 0])
    assert boxes.ignored.tolist() == [False, True, True]
    assert (yard.name, yard.boxes.frames, len(yard.boxes.frame)) == ("yard", 1, 0)


def test_coco_clip_loads_by_name_and_scores(coco):
    loaded = load_clip(f"coco:{coco / 'boxes.json'}:{coco / 'pictures'}:street")
    assert [int(frame[0, 0, 0]) for frame in loaded.frames] == [10, 20]
    model = Finder()
    model.outputs = 2
    assert quality_of(loaded, model)([[[1, 2, 11, 10, 0.9, 0]], []])["ap"] == pytest.approx(1)
    with pytest.raises(InputError, match="needs one output per frame, got 1 for 2 frames"):
        quality_of(loaded, model)([[]])


def test_boxes_of_an_own_video_come_from_a_file_of_one(coco):
    with pytest.raises(InputError, match=r"must describe one video, got 2; or record coco:.*:FOLDER"):
        box_labels(coco / "boxes.json")
    one = {**COCO, "images": COCO["images"][:2]}
    (coco / "boxes.json").write_text(json.dumps(one))
    assert box_labels(coco / "boxes.json").frames == 2
    assert box_labels(coco / "boxes.json", 1).frame.tolist() == [0]


def changed(table, number, **entry):
    """Return a table of the file with another entry."""
    entries = list(COCO[table])
    entries[number] = entries[number] | entry
    return {table: entries}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "lists no images"),
        ({"categories": 3}, "must hold lists named images, annotations, categories; 'categories' is missing"),
        ({"images": [{"id": 1}]}, "entry 0 of 'images' lacks 'video_id'"),
        (
            {"annotations": [{"image_id": 4, "category_id": 3, "bbox": [1, 2, 3]}]},
            r"entry 0 of 'annotations': bbox must be four numbers, got \[1, 2, 3\]",
        ),
        (
            {"annotations": [{"image_id": 6, "category_id": 3, "bbox": [1, 2, 3, 4]}]},
            "annotation 0 is of image 6, which",
        ),
        (
            {"annotations": [{"image_id": 4, "category_id": 1, "bbox": [1, 2, 3, 4]}]},
            "annotation 0 has category 1, which",
        ),
        ({"videos": None}, "must hold lists named images, annotations, categories; 'videos' is missing or no list"),
        ({"videos": [1]}, "entry 0 of 'videos' lacks 'id'"),
        ({"videos": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "name a stands twice in 'videos'"),
        ({"categories": [*COCO["categories"], {"id": 3, "name": "bus"}]}, "id 3 stands twice in 'categories'"),
        ({"images": [COCO["images"][0]] * 2}, "id 5 stands twice in 'images'"),
        (changed("images", 0, frame_id=0), "images 5 and 4 are the same frame of a video"),
        (
            changed("images", 0, height=480),
            r"all images of a video must have one size, 24 x 32 like image 4, got 480 x 32 of image 5",
        ),
        (changed("images", 0, height=0), "entry 0 of 'images': height must be a whole number of pixels >= 1, got 0"),
        (
            changed("images", 0, width="32"),
            "entry 0 of 'images': width must be a whole number of pixels >= 1, got '32'",
        ),
        (changed("images", 1, frame_id=None), "entry 1 of 'images': frame_id must be a number, got None"),
        (changed("images", 1, id=[4]), r"entry 1 of 'images': id must be a whole number or text, got \[4\]"),
        (changed("images", 1, video_id={}), "entry 1 of 'images': video_id must be a whole number or text, got {}"),
        (changed("images", 1, file_name=7), "entry 1 of 'images': file_name must be text, got 7"),
        (changed("annotations", 0, image_id=[]), r"image_id must be a whole number or text, got \[\]"),
        (changed("annotations", 0, category_id=None), "category_id must be a whole number or text, got None"),
        (changed("annotations", 0, bbox=[math.nan, 2, 3, 4]), "bbox must be four numbers, got"),
        (changed("annotations", 0, bbox=[True, 2, 3, 4]), "bbox must be four numbers, got"),
        (changed("categories", 1, id="car"), "entry 1 of 'categories': id must be a whole number, got 'car'"),
    ],
)
def test_coco_entries_that_do_not_fit_fail_well(coco, change, message):
    (coco / "boxes.json").write_text(json.dumps({**COCO, **change}))
    with pytest.raises(InputError, match=message):
        coco_videos(str(coco / "boxes.json"), str(coco / "pictures"))


def test_coco_missing_and_damaged_files_fail_well(coco):
    (coco / "pictures/street/2.png").unlink()
    with pytest.raises(InputError, match=r"2\.png: no such file, named in"):
        coco_videos(str(coco / "boxes.json"), str(coco / "pictures"))
    (coco / "boxes.json").write_text('{"images": [')
    with pytest.raises(InputError, match="not a JSON file"):
        coco_videos(str(coco / "boxes.json"), str(coco / "pictures"))
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        coco_videos(str(coco / "absent.json"), str(coco / "pictures"))


@pytest.mark.parametrize("size", [None, (8, 8)])
def test_pictures_of_another_size_than_the_labels_fail_well_even_if_they_are_resized(coco, size):
    name = f"coco:{coco / 'boxes.json'}:{coco / 'pictures'}:street"
    assert len(list(load_clip(name, size=size).frames)) == 2
    Image.fromarray(np.zeros((ROWS, 9, 3), np.uint8)).save(coco / "pictures/street/2.png")
    with pytest.raises(
        InputError, match=r"street/2\.png: all frames must have the size of the labels, 24 x 32, got 24 x 9"
    ):
        list(load_clip(name, size=size).frames)


@pytest.mark.parametrize(("size", "network"), [((8, 8), ""), ((8, 8), "pose_small"), (None, "pose_small")])
def test_an_own_video_of_changing_size_is_resized_only_on_request(tmp_path, size, network):
    save_pictures(tmp_path / "film", "{}.png", grey(2))
    loaded = load_clip(str(tmp_path / "film"), None, size, network)
    assert {frame.shape[:2] for frame in loaded.frames} == {size or (128, 128)}
    Image.fromarray(np.zeros((ROWS, 9, 3), np.uint8)).save(tmp_path / "film" / "2.png")
    loaded = load_clip(str(tmp_path / "film"), None, size, network)
    if size:
        assert len(list(loaded.frames)) == 2
    else:
        with pytest.raises(
            InputError, match=r"2\.png: all frames must have one size, 24 x 32 like the first, got 24 x 9"
        ):
            list(loaded.frames)


def test_names_say_how_they_are_built(tmp_path):
    assert set(DATASETS) == set(FORMS)
    with pytest.raises(InputError, match=r"clip 'coco:a\.json': must be coco:FILE\.json:FOLDER\[:VIDEO\]"):
        load_clip("coco:a.json")
    with pytest.raises(InputError, match=r"clip 'jhmdb:': must be jhmdb:FOLDER:SPLIT:train\|test\[:VIDEO\]"):
        load_clip("jhmdb:")
    assert absolute("jhmdb:sets/j:1:test", tmp_path) == f"jhmdb:{tmp_path}/sets/j:1:test"
    assert absolute("coco:a.json:b:street", tmp_path) == f"coco:{tmp_path}/a.json:{tmp_path}/b:street"
    assert absolute("pose:7:pan", tmp_path) == "pose:7:pan"
    (tmp_path / "film.npy").write_bytes(b"")
    assert absolute("film.npy", tmp_path) == str(tmp_path / "film.npy")
