"""Labelled clips made by a program: a person that moves in front of a textured background, with every joint known.

Each clip follows from its seed alone, so that a seed names a clip; training, validation and test seeds never overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError, nearest
from skipsim.traces.procedural.canvas import (
    Colour,
    Image,
    draw_capsule,
    draw_ellipse,
    draw_rectangle,
    random_colour,
    scenery,
)
from skipsim.traces.procedural.figure import JOINT_COUNT, Figure, random_figure

CAMERAS = ("static", "pan")
FRAMES_PER_SECOND = 25.0
SPLITS = {
    "train": range(0, 1_000_000),
    "validation": range(1_000_000, 1_100_000),
    "test": range(2_000_000, 2_100_000),
}
_BLUR_SAMPLES = 3


@dataclass(frozen=True)
class Clip:
    """A labelled clip: T frames of rows x cols pixels, J joints.

    Attributes:
        frames: uint8 [T, rows, cols, 3], RGB.
        joints: float32 [T, J, 2], (x, y) in pixels; the centre of the first pixel is (0, 0).
        visible: bool [T, J]: inside the picture and not behind another object; behind the person's own body counts as
            visible.
        box: float32 [T, 4], x0, y0, x1, y1 around all joints of the labelled person.
        scale: float32 [T], the greater side of the box: what distances are divided by in PCK.
        camera: "static" or "pan".
        seed: what the clip was made from.
    """

    frames: NDArray[np.uint8]
    joints: NDArray[np.float32]
    visible: NDArray[np.bool_]
    box: NDArray[np.float32]
    scale: NDArray[np.float32]
    camera: str
    seed: int


@dataclass(frozen=True)
class _Thing:
    """An object without joints at constant speed: a ball, a cart, a post. Pixels and pixels per second."""

    shape: str
    centre: tuple[float, float]
    radii: tuple[float, float]
    velocity: tuple[float, float]
    colour: Colour

    def place(self, seconds: float, left: float) -> tuple[float, float]:
        return (
            self.centre[0] + self.velocity[0] * seconds - left,
            self.centre[1] + self.velocity[1] * seconds,
        )

    def draw(self, image: Image, seconds: float, left: float) -> None:
        x, y = self.place(seconds, left)
        if self.shape == "ball":
            draw_ellipse(image, (x, y), self.radii, self.colour, shading=0.35)
        elif self.shape == "stick":
            reach = self.radii[1]
            turn = 0.7 * seconds + self.centre[0]
            end = (x + reach * math.cos(turn), y + reach * math.sin(turn))
            draw_capsule(image, (x, y), end, self.radii[0], self.radii[0] * 0.7, self.colour)
        else:
            draw_rectangle(image, (x, y), self.radii, self.colour)

    def covers(self, points: NDArray[np.float64], seconds: float, left: float) -> NDArray[np.bool_]:
        """Return which of the points [J, 2] lie behind this object."""
        x, y = self.place(seconds, left)
        across = np.abs(points[:, 0] - x) / self.radii[0]
        down = np.abs(points[:, 1] - y) / self.radii[1]
        inside = across**2 + down**2 < 1 if self.shape == "ball" else (across < 1) & (down < 1)
        return np.asarray(inside, np.bool_)


@dataclass(frozen=True)
class _Scene:
    """All that a clip shows, and how it is filmed."""

    background: Image
    person: Figure
    bystanders: tuple[Figure, ...]
    behind: tuple[_Thing, ...]
    before: tuple[_Thing, ...]
    extent: float
    pan_speed: float
    pan_start: float
    shutter: float
    noise: float
    flicker: float
    gain: float
    offset: float

    def left(self, seconds: float) -> float:
        """Return the world column of the first pixel: the camera sweeps right and left in turn, at constant speed."""
        if not self.extent:
            return 0.0
        position = (self.pan_start + self.pan_speed * seconds / self.extent) % 2
        return self.extent * (position if position <= 1 else 2 - position)


Made = TypeVar("Made")


def check_clip(kind: str, numbers: dict[str, tuple[int, int]], camera: str, frames_per_second: float) -> None:
    """Refuse what no procedural clip can be made of; `numbers` are whole ones by name, each with its least value.

    Raises:
        InputError: a number out of range or an unknown camera.
    """
    for name, (value, low) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
            raise InputError(f"{kind} clip: {name} must be a whole number >= {low}, got {value!r}")
    if camera not in CAMERAS:
        raise InputError(f"{kind} clip: camera {camera!r} is unknown; {nearest(str(camera), CAMERAS)}")
    if not frames_per_second > 0:
        raise InputError(f"{kind} clip: frames_per_second must be > 0, got {frames_per_second!r}")


def split_clips(
    kind: str, make: Callable[..., Made], split: str, count: int, first: int, options: Mapping[str, float]
) -> Iterator[Made]:
    """Yield `count` clips of a split, as `make` makes them from seed and camera; see `pose_clips`."""
    if split not in SPLITS:
        raise InputError(f"{kind} clips: split {split!r} is unknown; {nearest(str(split), SPLITS)}")
    seeds = SPLITS[split]
    if count < 0 or first < 0 or first + count > len(seeds):
        raise InputError(f"{kind} clips: {split} has {len(seeds)} clips, asked for {count} from {first} on")
    for position in range(first, first + count):
        yield make(seeds[position], camera=CAMERAS[position % 2], **options)


def pose_clip(
    seed: int,
    frames: int = 32,
    rows: int = 128,
    cols: int = 128,
    camera: str = "static",
    frames_per_second: float = FRAMES_PER_SECOND,
) -> Clip:
    """Make a clip of a person that walks, runs, waves, jumps, boxes, squats or stands.

    The labelled person is the largest; smaller ones may pass behind it, things before and behind it. Sensor noise has
    a standard deviation of 1 to 3 grey levels; half of the clips show motion blur, a few flickering light.

    Args:
        seed: names the clip; SPLITS says which seeds are for training and which for tests.
        frames: number of frames; more frames continue the same clip.
        rows: height in pixels, at least 32.
        cols: width in pixels, at least 32.
        camera: "static" or "pan" (0.4 to 1.2 pixels of a 128-pixel picture per frame).
        frames_per_second: of the clip; lower values show more motion between frames.

    Raises:
        InputError: a number out of range or an unknown camera.
    """
    numbers = {"seed": (seed, 0), "frames": (frames, 1), "rows": (rows, 32), "cols": (cols, 32)}
    check_clip("pose", numbers, camera, frames_per_second)
    scene = _random_scene(np.random.default_rng([seed, 0]), rows, cols, camera)
    sensor = np.random.default_rng([seed, 1])
    pictures = np.empty((frames, rows, cols, 3), np.uint8)
    joints = np.empty((frames, JOINT_COUNT, 2), np.float32)
    visible = np.empty((frames, JOINT_COUNT), np.bool_)
    for index in range(frames):
        seconds = index / frames_per_second
        pictures[index] = _film(scene, seconds, rows, cols, sensor)
        left = scene.left(seconds)
        points = scene.person.points(seconds)[:JOINT_COUNT, :2] - (left, 0.0)
        hidden = [thing.covers(points, seconds, left) for thing in scene.before]
        inside = ((points >= -0.5) & (points < (cols - 0.5, rows - 0.5))).all(axis=1)
        joints[index] = points
        visible[index] = inside & ~np.any([np.zeros(JOINT_COUNT, np.bool_), *hidden], axis=0)
    box = np.concatenate((joints.min(axis=1), joints.max(axis=1)), axis=1)
    scale = np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])
    return Clip(pictures, joints, visible, box, scale, camera, int(seed))


def pose_clips(split: str, count: int, *, first: int = 0, **options: float) -> Iterator[Clip]:
    """Yield `count` clips of a split, static and panning cameras in turn.

    Args:
        split: "train", "validation" or "test": ranges of seeds that never overlap.
        count: number of clips.
        first: position in the split of the first clip.
        options: frames, rows, cols and frames_per_second as in `pose_clip`.
    """
    return split_clips("pose", pose_clip, split, count, first, options)


def _random_scene(rng: np.random.Generator, rows: int, cols: int, camera: str) -> _Scene:
    unit = min(rows, cols) / 128
    extent = 0.4 * cols if camera == "pan" else 0.0
    width = cols + math.ceil(extent) + 1
    background, horizon = scenery(rng, rows, width, unit)
    centre = (width - 1) / 2
    height = rng.uniform(58, 108) * unit
    ground = rng.uniform(max(1.06 * height, horizon), rows - 3 * unit)
    room = max(0.08 * height, (cols - extent) / 2 - 0.15 * height)
    person = random_figure(rng, height=height, ground=ground, middle=centre, room=room)
    bystanders = []
    for _ in range(rng.choice(4, p=(0.45, 0.3, 0.15, 0.1))):
        size = height * rng.uniform(0.35, 0.62)
        foot = min(ground - 3 * unit, horizon + rng.uniform(4, 24) * unit)
        spot = rng.uniform(0.1, 0.9) * width
        bystanders.append(random_figure(rng, height=size, ground=foot, middle=spot, room=0.25 * width))
    behind = [_random_thing(rng, rows, width, unit, 1.0) for _ in range(rng.integers(0, 4))]
    before = [_random_thing(rng, rows, width, unit, 0.6) for _ in range(rng.choice(3, p=(0.6, 0.3, 0.1)))]
    if rng.random() < 0.35:
        post = (centre + rng.uniform(-0.3, 0.3) * cols, rows * rng.uniform(0.55, 0.9))
        radii = (rng.uniform(1.5, 5) * unit, rows * rng.uniform(0.15, 0.5))
        before.append(_Thing("post", post, radii, (0.0, 0.0), random_colour(rng)))
    return _Scene(
        background=background,
        person=person,
        bystanders=tuple(bystanders),
        behind=tuple(behind),
        before=tuple(before),
        extent=extent,
        pan_speed=rng.uniform(0.4, 1.2) * unit * FRAMES_PER_SECOND,
        pan_start=rng.uniform(0, 2),
        shutter=rng.uniform(0.3, 0.9) / FRAMES_PER_SECOND if rng.random() < 0.5 else 0.0,
        noise=rng.uniform(1, 3),
        flicker=rng.uniform(0.005, 0.02) if rng.random() < 0.15 else 0.0,
        gain=rng.uniform(0.75, 1.15),
        offset=rng.uniform(-20, 20),
    )


def _random_thing(rng: np.random.Generator, rows: int, width: int, unit: float, size: float) -> _Thing:
    """Draw one distractor: a ball, a cart or a limb-like stick; half of them stand still."""
    shape = str(rng.choice(("ball", "cart", "stick")))
    radii = (rng.uniform(2, 9) * unit * size, rng.uniform(2, 9) * unit * size)
    if shape == "stick":
        radii = (rng.uniform(1.5, 3.5) * unit, rng.uniform(8, 22) * unit * size)
    speed = rng.uniform(-16, 16) * unit if rng.random() < 0.5 else 0.0
    centre = (rng.uniform(0, width), rng.uniform(0.2, 1.0) * rows)
    return _Thing(shape, centre, radii, (speed, 0.0), random_colour(rng))


def _film(scene: _Scene, seconds: float, rows: int, cols: int, sensor: np.random.Generator) -> NDArray[np.uint8]:
    """Return one frame: background, everything that moves, exposure, noise."""
    left = scene.left(seconds)
    whole, part = int(left), np.float32(left % 1)
    backdrop = scene.background[:, whole : whole + cols] * (1 - part)
    backdrop += scene.background[:, whole + 1 : whole + 1 + cols] * part
    samples = _BLUR_SAMPLES if scene.shutter else 1
    total: Image | None = None
    for sample in range(samples):
        moment = seconds + scene.shutter * ((sample + 0.5) / samples - 0.5)
        image = backdrop.copy()
        for thing in scene.behind:
            thing.draw(image, moment, left)
        for bystander in scene.bystanders:
            bystander.draw(image, moment, left)
        scene.person.draw(image, moment, left)
        for thing in scene.before:
            thing.draw(image, moment, left)
        total = image if total is None else total + image
    assert total is not None
    light = scene.gain * (1 + scene.flicker * sensor.uniform(-1, 1)) / samples
    noise = np.float32(scene.noise) * sensor.standard_normal((rows, cols, 3), dtype=np.float32)
    levels = total * np.float32(light) + np.float32(scene.offset) + noise
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
