"""Vehicles seen from above: their shapes, how they are drawn, and how they move along lanes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from skipsim.traces.procedural.canvas import Colour, Image, Point, draw_tilted, random_colour

CLASSES = ("car", "truck", "bus")
COCO_IDS = (3, 8, 6)  # of the same classes in COCO's categories
SHARES = (0.72, 0.17, 0.11)
# Length and width in lengths of the clip's cars: ranges. A car is some 4.5 m long and 1.8 m wide.
LENGTHS = ((0.85, 1.1), (1.3, 2.0), (2.2, 2.8))
WIDTHS = ((0.38, 0.46), (0.46, 0.56), (0.52, 0.6))
SHADOW = 0.45
_GLASS = np.array((38, 44, 52), np.float32)


@dataclass(frozen=True)
class Lane:
    """A straight line of traffic; positions on it run around, so that vehicles keep coming.

    Attributes:
        start: where it begins, in world pixels.
        angle: of driving, in radians.
        length: in pixels, from before the world to behind it.
        speed: in pixels per second.
    """

    start: Point
    angle: float
    length: float
    speed: float

    def place(self, position: float, seconds: float) -> Point:
        """Return where a vehicle is that was at `position` pixels from the start at second 0."""
        along = (position + self.speed * seconds) % self.length
        return self.start[0] + along * math.cos(self.angle), self.start[1] + along * math.sin(self.angle)


@dataclass(frozen=True)
class Vehicle:
    """One vehicle: its class, its half length and half width in pixels, its colours and its place in a lane."""

    label: int
    radii: Point
    body: Colour
    top: Colour
    lane: Lane
    position: float
    detail: float

    def extent(self, centre: Point) -> tuple[float, float, float, float]:
        """Return the box x0, y0, x1, y1 around the vehicle."""
        run, fall = abs(math.cos(self.lane.angle)), abs(math.sin(self.lane.angle))
        reach_x, reach_y = run * self.radii[0] + fall * self.radii[1], fall * self.radii[0] + run * self.radii[1]
        return centre[0] - reach_x, centre[1] - reach_y, centre[0] + reach_x, centre[1] + reach_y

    def draw(self, image: Image, centre: Point, sun: Point) -> None:
        """Draw the vehicle and its shadow; `sun` is the shadow's offset in half widths."""
        angle, (half, side) = self.lane.angle, self.radii
        run, fall = math.cos(angle), math.sin(angle)

        def at(along: float) -> Point:
            return centre[0] + run * along * half, centre[1] + fall * along * half

        shadow = centre[0] + sun[0] * side, centre[1] + sun[1] * side
        draw_tilted(image, shadow, (half, side), angle, 0.0, SHADOW)
        draw_tilted(image, centre, (half, side), angle, self.body)
        if CLASSES[self.label] == "car":
            draw_tilted(image, at(0.28), (half * 0.12, side * 0.78), angle, _GLASS, 0.9)
            draw_tilted(image, at(-0.62), (half * 0.1, side * 0.72), angle, _GLASS, 0.8)
            draw_tilted(image, at(-0.16), (half * 0.34, side * 0.74), angle, self.top, 0.8)
        elif CLASSES[self.label] == "truck":
            cab = 0.62 + 0.1 * self.detail
            draw_tilted(image, at(-0.2), (half * 0.76, side * 0.94), angle, self.top)
            draw_tilted(image, at(cab + 0.16), (half * 0.06, side * 0.8), angle, _GLASS, 0.9)
        else:
            draw_tilted(image, at(0.93), (half * 0.05, side * 0.85), angle, _GLASS, 0.9)
            for vent in (-0.55, 0.1 + 0.3 * self.detail):
                draw_tilted(image, at(vent), (half * 0.1, side * 0.45), angle, self.top, 0.8)


def random_vehicle(rng: np.random.Generator, car_length: float, lane: Lane, position: float) -> Vehicle:
    """Draw a vehicle of a random class, size and colour; `car_length` in pixels."""
    label = int(rng.choice(len(CLASSES), p=SHARES))
    radii = car_length * rng.uniform(*LENGTHS[label]) / 2, car_length * rng.uniform(*WIDTHS[label]) / 2
    body = _paint(rng)
    top = _paint(rng) if CLASSES[label] == "truck" else np.clip(body * np.float32(rng.uniform(0.75, 1.25)), 0, 255)
    return Vehicle(label, radii, body, top, lane, position, rng.random())


def _paint(rng: np.random.Generator) -> Colour:
    """Return a paint: mostly white, grey or black, as on streets, else coloured."""
    if rng.random() < 0.3:
        return random_colour(rng, 30, 220)
    grey = rng.choice((235, 200, 140, 80, 40)) + rng.uniform(-15, 15)
    return np.asarray(grey + rng.uniform(-5, 5, 3), np.float32)


def traffic(rng: np.random.Generator, lane: Lane, car_length: float, density: float) -> list[Vehicle]:
    """Fill a lane with vehicles that do not touch; `density` = share of its length that they take."""
    vehicles: list[Vehicle] = []
    position = rng.uniform(0, car_length / density)
    while True:
        vehicle = random_vehicle(rng, car_length, lane, 0.0)
        centre = position + vehicle.radii[0]
        if centre + vehicle.radii[0] + car_length > lane.length:
            return vehicles
        vehicles.append(Vehicle(vehicle.label, vehicle.radii, vehicle.body, vehicle.top, lane, centre, vehicle.detail))
        gap = 2 * vehicle.radii[0] * (1 / density - 1)
        position = centre + vehicle.radii[0] + 0.25 * car_length + rng.exponential(gap)
