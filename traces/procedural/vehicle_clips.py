"""Labelled clips made by a program: streets with vehicles seen from a drone, with every box known.

Each clip follows from its seed alone, as in `datasets`; the same splits hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipsim.traces.boxes import BoxLabels, DetectionClip
from skipsim.traces.datasets import FRAMES_PER_SECOND, check_clip, split_clips
from skipsim.traces.procedural.canvas import (
    Image,
    Point,
    draw_ellipse,
    draw_tilted,
    random_colour,
    smooth_noise,
    tilted_rectangle,
)
from skipsim.traces.procedural.roads import Road, lane_of
from skipsim.traces.procedural.vehicles import CLASSES, COCO_IDS, Lane, Vehicle, traffic

# Less of a vehicle in sight: it does not count; still less: it is not labelled.
COUNTED_SHARE, LABELLED_SHARE = 0.4, 0.05
_BLUR_SAMPLES = 3


@dataclass(frozen=True)
class _Walker:
    """Somebody on foot: a small moving spot that is not labelled."""

    lane: Lane
    radius: float
    colour: NDArray[np.float32]


@dataclass(frozen=True)
class _Scene:
    """All that a clip shows, and how it is filmed. Layers from below: ground, low traffic, bridge, its traffic, trees.

    `bridge` and `trees` are RGB and coverage [rows, cols, 4].
    """

    ground: Image
    bridge: Image | None
    trees: Image
    low: tuple[Vehicle, ...]
    high: tuple[Vehicle, ...]
    walkers: tuple[_Walker, ...]
    sun: Point
    extent: Point
    speed: float
    phase: Point
    shutter: float
    noise: float
    flicker: float
    gain: float
    offset: float

    def corner(self, seconds: float) -> Point:
        """Return the world position of the first pixel: each axis sweeps back and forth at constant speed."""
        return tuple(self._sweep(seconds, axis) for axis in (0, 1))  # type: ignore[return-value]  # a pair

    def _sweep(self, seconds: float, axis: int) -> float:
        extent = self.extent[axis]
        if not extent:
            return 0.0
        position = (self.phase[axis] + self.speed * seconds / extent) % 2
        return extent * (position if position <= 1 else 2 - position)


def vehicle_clip(
    seed: int,
    frames: int = 32,
    rows: int = 256,
    cols: int = 256,
    camera: str = "static",
    frames_per_second: float = FRAMES_PER_SECOND,
) -> DetectionClip:
    """Make a clip of streets from above: cars, trucks and buses that drive, queue and park.

    Cars are 12 to 30 pixels of a 256-pixel picture long. A bridge and trees hide some vehicles; containers look like
    them, people walk. Sensor noise has a standard deviation of 1 to 3 grey levels; half of the clips show motion blur,
    a few flickering light.

    Args:
        seed: names the clip; SPLITS says which seeds are for training and which for tests.
        frames: number of frames; more frames continue the same clip.
        rows: height in pixels, at least 64.
        cols: width in pixels, at least 64.
        camera: "static" or "pan" (0.5 to 1.5 pixels of a 256-pixel picture per frame, along both axes).
        frames_per_second: of the clip; lower values show more motion between frames.

    Raises:
        InputError: a number out of range or an unknown camera.
    """
    numbers = {"seed": (seed, 0), "frames": (frames, 1), "rows": (rows, 64), "cols": (cols, 64)}
    check_clip("vehicle", numbers, camera, frames_per_second)
    scene = _random_scene(np.random.default_rng([seed, 2]), rows, cols, camera)
    sensor = np.random.default_rng([seed, 3])
    pictures = np.empty((frames, rows, cols, 3), np.uint8)
    found: list[tuple[int, tuple[float, ...], int, bool]] = []
    for index in range(frames):
        seconds = index / frames_per_second
        pictures[index] = _film(scene, seconds, rows, cols, sensor)
        found += [(index, *entry) for entry in _labels(scene, seconds, rows, cols)]
    labels = BoxLabels(
        frames,
        rows,
        cols,
        CLASSES,
        COCO_IDS,
        np.array([entry[0] for entry in found], np.int64),
        np.array([entry[1] for entry in found], np.float32).reshape(-1, 4),
        np.array([entry[2] for entry in found], np.int64),
        np.array([entry[3] for entry in found], np.bool_),
    )
    return DetectionClip(pictures, labels, camera, int(seed))


def vehicle_clips(split: str, count: int, *, first: int = 0, **options: float) -> Iterator[DetectionClip]:
    """Yield `count` clips of a split, static and panning cameras in turn; arguments as for `pose_clips`."""
    return split_clips("vehicle", vehicle_clip, split, count, first, options)


def _random_scene(rng: np.random.Generator, rows: int, cols: int, camera: str) -> _Scene:
    unit = min(rows, cols) / 256
    extent = (0.3 * cols, 0.3 * rows) if camera == "pan" else (0.0, 0.0)
    height, width = rows + math.ceil(extent[1]) + 1, cols + math.ceil(extent[0]) + 1
    car = rng.uniform(12, 30) * unit
    roads = _random_roads(rng, height, width, car)
    ground = _random_ground(rng, height, width, unit, roads, car)
    low: list[Vehicle] = []
    high: list[Vehicle] = []
    walkers = []
    for road in roads:
        _paint_road(rng, ground, road, unit, road.bridge)
    bridge = None
    if roads[-1].bridge:
        bridge = np.zeros((height, width, 4), np.float32)
        deck = ground.copy()
        _paint_road(rng, deck, roads[-1], unit, False)
        shape = tilted_rectangle(
            (height, width), roads[-1].point, (4.0 * (height + width), roads[-1].half_width), roads[-1].angle
        )
        assert shape is not None
        bridge[shape[0], shape[1], 3] = shape[2]
        bridge[..., :3] = deck
    for road in roads:
        vehicles = _drivers(rng, road, height, width, car)
        (high if road.bridge else low).extend(vehicles)
    low.extend(_parked(rng, roads, height, width, car))
    for _ in range(rng.integers(0, 7)):
        road = roads[rng.integers(len(roads))]
        offset = (road.half_width + 0.25 * car) * rng.choice((-1, 1))
        lane = lane_of(road, offset, height, width, rng.uniform(0.15, 0.35) * car * rng.choice((-1, 1)))
        walkers.append(_Walker(lane, rng.uniform(0.07, 0.11) * car, random_colour(rng)))
    turn = rng.uniform(0, 2 * math.pi)
    long = rng.uniform(0.3, 0.9)
    return _Scene(
        ground=ground,
        bridge=bridge,
        trees=_random_trees(rng, height, width, roads, car),
        low=tuple(low),
        high=tuple(high),
        walkers=tuple(walkers),
        sun=(long * math.cos(turn), long * math.sin(turn)),
        extent=extent,
        speed=rng.uniform(0.5, 1.5) * unit * FRAMES_PER_SECOND,
        phase=(rng.uniform(0, 2), rng.uniform(0, 2)),
        shutter=rng.uniform(0.3, 0.9) / FRAMES_PER_SECOND if rng.random() < 0.5 else 0.0,
        noise=rng.uniform(1, 3),
        flicker=rng.uniform(0.005, 0.02) if rng.random() < 0.15 else 0.0,
        gain=rng.uniform(0.6, 1.15),
        offset=rng.uniform(-20, 20),
    )


def _random_roads(rng: np.random.Generator, height: int, width: int, car: float) -> list[Road]:
    """Draw one road, a parallel one or a bridge across it."""
    angle = rng.uniform(0, 2 * math.pi)
    middle = (width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7))
    roads = [Road(middle, angle, int(rng.integers(2, 7)), rng.uniform(0.62, 0.75) * car, bridge=False)]
    kind = rng.random()
    if kind < 0.35:
        point = (width * rng.uniform(0.2, 0.8), height * rng.uniform(0.2, 0.8))
        across = angle + math.pi / 2 + rng.uniform(-0.5, 0.5)
        roads.append(Road(point, across, int(rng.integers(1, 5)), roads[0].lane_width, bridge=True))
    elif kind < 0.7:
        other = Road(middle, angle, int(rng.integers(1, 4)), roads[0].lane_width, bridge=False)
        offset = (roads[0].half_width + other.half_width + rng.uniform(1.5, 5) * car) * rng.choice((-1, 1))
        roads.append(Road(roads[0].beside(offset), angle, other.lanes, other.lane_width, bridge=False))
    return roads


def _random_ground(
    rng: np.random.Generator, height: int, width: int, unit: float, roads: list[Road], car: float
) -> Image:
    """Paint fields, houses and containers, all along the first road's direction."""
    base = np.asarray(rng.uniform((60, 70, 45), (150, 150, 120)), np.float32)
    ground = np.ones((height, width, 1), np.float32) * base
    angle = roads[0].angle
    for _ in range(rng.integers(2, 8)):
        spot, size = _spot(rng, height, width), rng.uniform((25, 20), (110, 80)) * unit
        draw_tilted(ground, spot, (size[0], size[1]), angle, random_colour(rng, 50, 190), rng.uniform(0.4, 1))
    for _ in range(rng.integers(2, 11)):
        spot, size = _spot(rng, height, width), rng.uniform((0.8, 0.6), (2.8, 2.0)) * car
        colour = random_colour(rng, 60, 220)
        draw_tilted(ground, (spot[0] + 0.3 * car, spot[1] + 0.3 * car), (size[0], size[1]), angle, 0.0, 0.4)
        draw_tilted(ground, spot, (size[0], size[1]), angle, colour)
        draw_tilted(ground, spot, (size[0], size[1] * 0.5), angle, colour * np.float32(rng.uniform(0.8, 1.2)))
    for _ in range(rng.integers(0, 9)):
        spot = _spot(rng, height, width)
        draw_tilted(
            ground, spot, (rng.uniform(0.4, 1.2) * car, rng.uniform(0.18, 0.3) * car), angle, random_colour(rng)
        )
    for cell, strength in ((40, 12), (10, rng.uniform(3, 12)), (3, rng.uniform(2, 10))):
        ground += np.float32(strength) * smooth_noise(rng, height, width, cell * unit)[..., None]
    return ground


def _paint_road(rng: np.random.Generator, image: Image, road: Road, unit: float, only_shadow: bool) -> None:
    """Paint asphalt and lane markings; under a bridge only its shadow."""
    far = 4.0 * sum(image.shape[:2])
    if only_shadow:
        draw_tilted(image, road.beside(0.3 * road.lane_width), (far, road.half_width), road.angle, 0.0, 0.5)
        return
    asphalt = np.asarray(rng.uniform(55, 135) + rng.uniform(-6, 6, 3), np.float32)
    draw_tilted(image, road.point, (far, road.half_width), road.angle, asphalt)
    paint = np.full(3, min(255.0, float(asphalt.mean()) + rng.uniform(50, 110)), np.float32)
    reach = math.hypot(*image.shape[:2])
    line, dash = max(0.5 * unit, 0.035 * road.lane_width), 0.8 * road.lane_width
    for number in range(road.lanes + 1):
        offset = (number - road.lanes / 2) * road.lane_width
        if number in (0, road.lanes):
            draw_tilted(image, road.beside(offset), (far, line), road.angle, paint, 0.8)
            continue
        for along in np.arange(-reach, reach, 4 * dash):
            draw_tilted(image, road.beside(offset, float(along)), (dash, line), road.angle, paint, 0.8)


def _drivers(rng: np.random.Generator, road: Road, height: int, width: int, car: float) -> list[Vehicle]:
    """Fill a road's lanes; those right of the axis drive forwards, the others back, some stand."""
    vehicles = []
    density = rng.uniform(0.08, 0.45)
    for number in range(road.lanes):
        offset = (number + 0.5 - road.lanes / 2) * road.lane_width
        speed = 0.0 if rng.random() < 0.2 else rng.uniform(0.6, 3.2) * car
        crowd = min(0.6, density * rng.uniform(1, 2)) if speed == 0 else density
        lane = lane_of(road, offset, height, width, speed, forwards=offset > 0 or road.lanes == 1)
        vehicles += traffic(rng, lane, car, crowd)
    return vehicles


def _parked(rng: np.random.Generator, roads: list[Road], height: int, width: int, car: float) -> list[Vehicle]:
    """Park rows of vehicles beside the first road, nose to the kerb or along it, away from every other road."""
    vehicles = []
    for _ in range(rng.choice(4, p=(0.3, 0.35, 0.25, 0.1))):
        road, side = roads[0], rng.choice((-1, 1))
        along, nose = rng.uniform(-0.5, 0.5) * (height + width) / 2, rng.random() < 0.6
        offset = side * (road.half_width + rng.uniform(0.9, 2.5) * car)
        step = (0.62 if nose else 1.3) * car
        for place in range(rng.integers(2, 9)):
            point = road.beside(offset, along + place * step)
            if rng.random() < 0.3 or any(other.distance(point) < other.half_width + 1.2 * car for other in roads[1:]):
                continue
            turn = road.angle + (math.pi / 2 if nose else 0.0) + (math.pi if rng.random() < 0.5 else 0.0)
            row = traffic(rng, Lane(point, turn, 4 * car, 0.0), car, 0.99)
            cars = [vehicle for vehicle in row if CLASSES[vehicle.label] == "car"]
            if cars:
                one = cars[0]
                vehicles.append(Vehicle(one.label, one.radii, one.body, one.top, one.lane, 0.0, one.detail))
    return vehicles


def _random_trees(rng: np.random.Generator, height: int, width: int, roads: list[Road], car: float) -> Image:
    """Paint tree tops, RGB and coverage [rows, cols, 4]; half of them lean over a road."""
    trees = np.zeros((height, width, 4), np.float32)
    for _ in range(rng.integers(0, 14)):
        spot = _spot(rng, height, width)
        if rng.random() < 0.5:
            road = roads[rng.integers(len(roads))]
            spot = road.beside(road.half_width * rng.choice((-1, 1)), rng.uniform(-0.5, 0.5) * (height + width) / 1.5)
        green = np.asarray(rng.uniform((20, 45, 15), (95, 130, 70)), np.float32)
        for _ in range(6):
            leaf = (spot[0] + rng.normal(0, 0.25) * car, spot[1] + rng.normal(0, 0.25) * car)
            radius = rng.uniform(0.15, 0.45) * car
            colour = np.append(green * np.float32(rng.uniform(0.7, 1.25)), np.float32(1))
            draw_ellipse(trees, leaf, (radius, radius), colour)
    return trees


def _spot(rng: np.random.Generator, height: int, width: int) -> Point:
    return rng.uniform(0, width), rng.uniform(0, height)


def _labels(scene: _Scene, seconds: float, rows: int, cols: int) -> Iterator[tuple[tuple[float, ...], int, bool]]:
    """Yield (box, class, ignored) of every vehicle in sight."""
    left, top = scene.corner(seconds)
    trees = _window(scene.trees, left, top, rows, cols)[..., 3]
    bridge = trees if scene.bridge is None else np.maximum(trees, _window(scene.bridge, left, top, rows, cols)[..., 3])
    for vehicles, cover in ((scene.low, bridge), (scene.high, trees)):
        for vehicle in vehicles:
            x, y = vehicle.lane.place(vehicle.position, seconds)
            centre = (x - left, y - top)
            shape = tilted_rectangle((rows, cols), centre, vehicle.radii, vehicle.lane.angle)
            if shape is None:
                continue
            seen = float((shape[2] * (1 - cover[shape[0], shape[1]])).sum())
            share = seen / (4 * vehicle.radii[0] * vehicle.radii[1])
            if share < LABELLED_SHARE:
                continue
            x0, y0, x1, y1 = vehicle.extent(centre)
            # The centre of the first pixel is (0, 0) in a scene, its corner in a box.
            box = (max(0.0, x0 + 0.5), max(0.0, y0 + 0.5), min(cols, x1 + 0.5), min(rows, y1 + 0.5))
            if box[0] < box[2] and box[1] < box[3]:
                yield box, vehicle.label, share < COUNTED_SHARE


def _window(layer: Image, left: float, top: float, rows: int, cols: int) -> Image:
    """Cut the camera's picture out of a layer of the world, between pixels bilinear."""
    x, y, right, down = int(left), int(top), np.float32(left % 1), np.float32(top % 1)
    if not right and not down:
        return layer[y : y + rows, x : x + cols]
    band = layer[y : y + rows + 1, x : x + cols + 1]
    band = band[:, :-1] * (1 - right) + band[:, 1:] * right
    return np.asarray(band[:-1] * (1 - down) + band[1:] * down, np.float32)


def _film(scene: _Scene, seconds: float, rows: int, cols: int, sensor: np.random.Generator) -> NDArray[np.uint8]:
    """Return one frame: ground, everything that moves, what hides it, exposure, noise."""
    left, top = scene.corner(seconds)
    ground, trees = (_window(layer, left, top, rows, cols) for layer in (scene.ground, scene.trees))
    bridge = None if scene.bridge is None else _window(scene.bridge, left, top, rows, cols)
    samples = _BLUR_SAMPLES if scene.shutter else 1
    total = np.zeros((rows, cols, 3), np.float32)
    for sample in range(samples):
        moment = seconds + scene.shutter * ((sample + 0.5) / samples - 0.5)
        image = ground.copy()
        for walker in scene.walkers:
            x, y = walker.lane.place(0.5 * walker.lane.length, moment)
            draw_ellipse(image, (x - left, y - top), (walker.radius, walker.radius), walker.colour)
        _draw(image, scene.low, moment, (left, top), scene.sun)
        if bridge is not None:
            image += bridge[..., 3:] * (bridge[..., :3] - image)
        _draw(image, scene.high, moment, (left, top), scene.sun)
        image += trees[..., 3:] * (trees[..., :3] - image)
        total += image
    light = scene.gain * (1 + scene.flicker * sensor.uniform(-1, 1)) / samples
    noise = np.float32(scene.noise) * sensor.standard_normal((rows, cols, 3), dtype=np.float32)
    levels = total * np.float32(light) + np.float32(scene.offset) + noise
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _draw(image: Image, vehicles: tuple[Vehicle, ...], moment: float, corner: Point, sun: Point) -> None:
    for vehicle in vehicles:
        x, y = vehicle.lane.place(vehicle.position, moment)
        x, y = x - corner[0], y - corner[1]
        reach = 2 * vehicle.radii[0]
        if -reach < x < image.shape[1] + reach and -reach < y < image.shape[0] + reach:
            vehicle.draw(image, (x, y), sun)
