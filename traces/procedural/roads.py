"""Roads of the procedural vehicle clips, and the lanes on them; lengths in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from skipsim.traces.procedural.canvas import Point
from skipsim.traces.procedural.vehicles import Lane


@dataclass(frozen=True)
class Road:
    """A straight road: a point on its axis, its direction, its lanes; `bridge`: it passes over the other one."""

    point: Point
    angle: float
    lanes: int
    lane_width: float
    bridge: bool

    @property
    def half_width(self) -> float:
        """Return half the width, shoulders included."""
        return self.lanes * self.lane_width / 2 + 0.2 * self.lane_width

    def distance(self, point: Point) -> float:
        """Return how far a point lies from the axis."""
        x, y = point[0] - self.point[0], point[1] - self.point[1]
        return abs(y * math.cos(self.angle) - x * math.sin(self.angle))

    def beside(self, offset: float, along: float = 0.0) -> Point:
        """Return the point `offset` to the right of the axis and `along` further on."""
        run, fall = math.cos(self.angle), math.sin(self.angle)
        return self.point[0] + along * run - offset * fall, self.point[1] + along * fall + offset * run


def lane_of(road: Road, offset: float, height: int, width: int, speed: float, forwards: bool = True) -> Lane:
    """Return the lane `offset` to the right of a road's axis; it begins and ends outside of the picture."""
    reach = math.hypot(height, width) + 60
    start = road.beside(offset, -reach if forwards else reach)
    return Lane(start, road.angle if forwards else road.angle + math.pi, 2 * reach, speed)
