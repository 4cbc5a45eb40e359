"""Figure: an articulated person in three dimensions that moves, and how it looks from the side of the camera.

Body axes: x to the person's left, y down, z forward; lengths in body heights. The camera looks along -z of the world
without perspective; a figure that faces the camera has yaw 0, one that walks to the right of the picture +90 degrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipsim.traces.procedural.canvas import Colour, Image, draw_capsule, draw_ellipse, random_colour

# The 15 joints and their order are those of JHMDB (Jhuang et al., ICCV 2013, puppet annotation).
JOINTS = (
    "neck",
    "belly",
    "face",
    "right_shoulder",
    "left_shoulder",
    "right_hip",
    "left_hip",
    "right_elbow",
    "left_elbow",
    "right_knee",
    "left_knee",
    "right_wrist",
    "left_wrist",
    "right_ankle",
    "left_ankle",
)
JOINT_COUNT = len(JOINTS)
# For mirroring: joint i of the mirrored person is joint MIRRORED[i] of the original.
MIRRORED = (0, 1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13)
# Points behind the joints that only drawing needs.
_HEAD, _HAND, _TOE = 15, 16, 18
ACTIVITIES = ("walk", "run", "wave", "jump", "box", "squat", "idle")
_SKIN = ((255, 219, 190), (224, 172, 135), (190, 130, 95), (130, 86, 60), (90, 58, 42))


@dataclass(frozen=True)
class Swing:
    """An angle that swings: centre + amplitude * sin(2 pi (rate * seconds + phase)); degrees, hertz, turns."""

    centre: float = 0.0
    amplitude: float = 0.0
    rate: float = 0.0
    phase: float = 0.0

    def at(self, seconds: float) -> float:
        """Return the angle in radians."""
        return math.radians(self.centre + self.amplitude * math.sin(2 * math.pi * (self.rate * seconds + self.phase)))


@dataclass(frozen=True)
class Motion:
    """The angles of the right (0) and left (1) limbs over time, and how elbows bend: 0 forward, 1 upward sideways."""

    shoulder: tuple[Swing, Swing]
    spread: tuple[Swing, Swing]
    elbow: tuple[Swing, Swing]
    hip: tuple[Swing, Swing]
    straddle: tuple[Swing, Swing]
    knee: tuple[Swing, Swing]
    lean: Swing
    elbow_bend: tuple[float, float]


@dataclass(frozen=True)
class Body:
    """Lengths and radii in body heights, colours in grey levels."""

    torso: float
    shoulder: float
    hip: float
    upper_arm: float
    forearm: float
    thigh: float
    shin: float
    stout: float
    skin: Colour
    hair: Colour
    shirt: Colour
    sleeve: Colour
    trousers: Colour
    sock: Colour
    shoe: Colour
    emblem: Colour | None


@dataclass(frozen=True)
class Figure:
    """One moving person: body, motion and where it stands in world pixels.

    It stands at middle + reach * sin(2 pi (rate * seconds + phase)) horizontally with its feet at `ground`.
    """

    body: Body
    motion: Motion
    height: float
    ground: float
    middle: float
    reach: float
    rate: float
    phase: float
    yaw: Swing
    turns: bool

    def points(self, seconds: float) -> NDArray[np.float64]:
        """Return joints, head, hands and toes at a time: [20, 3] (x, y in world pixels, z towards the camera)."""
        angle = 2 * math.pi * (self.rate * seconds + self.phase)
        x = self.middle + self.reach * math.sin(angle)
        yaw = self.yaw.at(seconds)
        if self.turns:
            # A walker looks where it goes; around a turning point it passes through facing the camera.
            yaw += math.atan2(math.cos(angle), 0.35)
        local = _skeleton(self.body, self.motion, seconds)
        sine, cosine = math.sin(yaw), math.cos(yaw)
        turned = np.empty_like(local)
        turned[:, 0] = local[:, 0] * cosine + local[:, 2] * sine
        turned[:, 1] = local[:, 1]
        turned[:, 2] = local[:, 2] * cosine - local[:, 0] * sine
        turned *= self.height
        turned[:, 0] += x
        turned[:, 1] += self.ground - turned[13:15, 1].max() - 0.03 * self.height
        return turned

    def draw(self, image: Image, seconds: float, left: float = 0.0, top: float = 0.0) -> None:
        """Draw the figure as seen by a camera whose first pixel lies at (left, top) of the world."""
        points = self.points(seconds) - (left, top, 0.0)
        radius = 0.2 * self.height
        shade = (float(points[5:7, 0].mean()), self.ground - top)
        draw_ellipse(image, shade, (radius, 0.16 * radius), np.zeros(3, np.float32), 0.35)
        flat = [(float(x), float(y)) for x, y, _ in points]
        # The painter's order: far limbs first.
        for _, first, second, start, end, colour in sorted(_parts(self.body, points, self.height), key=lambda p: p[0]):
            draw_capsule(image, flat[first], flat[second], start * self.height, end * self.height, colour)


def _limb(flexion: float, spread: float, side: int) -> NDArray[np.float64]:
    """Return the unit direction of a limb that hangs down, lifted forward by flexion and sideways by spread."""
    level = math.cos(spread)
    return np.array((side * math.sin(spread), level * math.cos(flexion), level * math.sin(flexion)))


def _skeleton(body: Body, motion: Motion, seconds: float) -> NDArray[np.float64]:
    """Return all points in body axes around the middle of the hips, [20, 3]."""
    points = np.zeros((20, 3))
    lean = motion.lean.at(seconds)
    up = np.array((0.0, -math.cos(lean), math.sin(lean)))
    points[0] = body.torso * up
    points[1] = 0.42 * points[0]
    points[_HEAD] = points[0] + 0.115 * np.array((0.0, -math.cos(lean * 0.5), math.sin(lean * 0.5)))
    points[2] = points[_HEAD] + (0.0, 0.012, 0.038)
    for index, side in enumerate((-1, 1)):
        shoulder, spread = motion.shoulder[index].at(seconds), motion.spread[index].at(seconds)
        elbow, bend = motion.elbow[index].at(seconds), motion.elbow_bend[index]
        forearm = _limb(shoulder + elbow * (1 - bend), spread + elbow * bend, side)
        points[3 + index] = 0.94 * points[0] + (side * body.shoulder, 0.0, 0.0)
        points[7 + index] = points[3 + index] + body.upper_arm * _limb(shoulder, spread, side)
        points[11 + index] = points[7 + index] + body.forearm * forearm
        points[_HAND + index] = points[11 + index] + 0.045 * forearm
        hip, straddle = motion.hip[index].at(seconds), motion.straddle[index].at(seconds)
        shin = _limb(hip - motion.knee[index].at(seconds), straddle, side)
        points[5 + index] = (side * body.hip, 0.0, 0.0)
        points[9 + index] = points[5 + index] + body.thigh * _limb(hip, straddle, side)
        points[13 + index] = points[9 + index] + body.shin * shin
        points[_TOE + index] = points[13 + index] + (0.02 * side, 0.022, 0.085)
    return points


def _parts(
    body: Body, points: NDArray[np.float64], height: float
) -> list[tuple[float, int, int, float, float, Colour]]:
    """List the capsules of a figure: depth, the two points, their radii in body heights, colour."""
    stout = body.stout
    parts = []

    def add(first: int, second: int, start: float, end: float, colour: Colour, lift: float = 0.0) -> None:
        depth = (points[first, 2] + points[second, 2]) / (2 * height)
        # What is farther away is a little darker, which tells near from far limbs.
        tone = np.float32(min(1.1, max(0.7, 1 + 1.1 * depth)))
        parts.append((depth + lift, first, second, start, end, colour * tone))

    for side in (0, 1):
        add(3 + side, 5 + side, 0.052 * stout, 0.055 * stout, body.shirt)
        add(3 + side, 7 + side, 0.038 * stout, 0.031 * stout, body.sleeve, 0.02)
        add(7 + side, 11 + side, 0.029 * stout, 0.022 * stout, body.skin, 0.03)
        add(11 + side, _HAND + side, 0.024, 0.022, body.skin, 0.035)
        add(5 + side, 9 + side, 0.056 * stout, 0.041 * stout, body.trousers, -0.01)
        add(9 + side, 13 + side, 0.038 * stout, 0.026 * stout, body.sock, -0.01)
        add(13 + side, _TOE + side, 0.027, 0.02, body.shoe, 0.0)
    add(0, 1, 0.072 * stout, 0.066 * stout, body.shirt)
    if body.emblem is not None:
        add(1, 1, 0.03, 0.03, body.emblem, 0.01)
    add(0, _HEAD, 0.03, 0.03, body.skin, -0.02)
    add(_HEAD, _HEAD, 0.066, 0.066, body.hair)
    add(2, 2, 0.05, 0.05, body.skin)
    return parts


def random_figure(
    rng: np.random.Generator, *, height: float, ground: float, middle: float, room: float, activity: str | None = None
) -> Figure:
    """Draw a person at random: proportions, clothes, activity and path.

    Args:
        rng: source of every choice.
        height: standing height in pixels.
        ground: world row of the feet.
        middle: world column around which the figure moves.
        room: pixels that it may go to either side.
        activity: one of ACTIVITIES; None draws one.
    """
    activity = activity or str(rng.choice(ACTIVITIES, p=(0.3, 0.12, 0.14, 0.12, 0.12, 0.08, 0.12)))
    walks = activity in ("walk", "run")
    speed = height * (rng.uniform(0.25, 0.5) if activity == "walk" else rng.uniform(0.5, 0.9))
    reach = room * rng.uniform(0.5, 1.0) if walks else min(room, 0.08 * height)
    # The greatest speed of a sine path is 2 pi rate reach; bounded, so that a walker with little room treads slowly.
    rate = min(0.5, speed / (2 * math.pi * max(reach, 1.0))) if walks else rng.uniform(0.05, 0.3)
    yaw = Swing(rng.uniform(-15, 15)) if walks else Swing(rng.uniform(-70, 70), rng.uniform(0, 25), 0.3, rng.random())
    return Figure(
        body=_random_body(rng),
        motion=_random_motion(rng, activity),
        height=height,
        ground=ground,
        middle=middle,
        reach=reach,
        rate=rate,
        phase=rng.random(),
        yaw=yaw,
        turns=walks,
    )


def _random_body(rng: np.random.Generator) -> Body:
    def size(mean: float) -> float:
        return mean * rng.uniform(0.9, 1.1)

    skin = np.array(_SKIN[rng.integers(len(_SKIN))], np.float32)
    shirt, trousers, shoe = random_colour(rng), random_colour(rng, 15, 190), random_colour(rng)
    return Body(
        torso=size(0.29),
        shoulder=size(0.1),
        hip=size(0.058),
        upper_arm=size(0.165),
        forearm=size(0.14),
        thigh=size(0.235),
        shin=size(0.225),
        stout=rng.uniform(0.85, 1.25),
        skin=skin,
        hair=np.asarray(rng.uniform((15, 10, 5), (150, 110, 70)), np.float32),
        shirt=shirt,
        sleeve=shirt if rng.random() < 0.8 else skin,
        trousers=trousers,
        sock=trousers if rng.random() < 0.65 else skin,
        shoe=shoe,
        emblem=None if rng.random() < 0.6 else random_colour(rng),
    )


def _random_motion(rng: np.random.Generator, activity: str) -> Motion:
    def pair(centre: float, amplitude: float, rate: float, phase: float, opposed: bool) -> tuple[Swing, Swing]:
        centre, amplitude = centre * rng.uniform(0.8, 1.2), amplitude * rng.uniform(0.75, 1.25)
        return Swing(centre, amplitude, rate, phase), Swing(centre, amplitude, rate, phase + 0.5 * opposed)

    rate, phase = rng.uniform(0.6, 1.1), rng.random()
    still = pair(0, 0, 0, 0, False)
    hang, stand = pair(8, 3, rate, phase, True), pair(3, 1, rate / 2, phase, True)
    angles: dict[str, tuple[Swing, Swing]] = {
        "shoulder": pair(4, 8, rate, phase, True),
        "spread": hang,
        "elbow": pair(22, 10, rate, phase, True),
        "hip": still,
        "straddle": stand,
        "knee": pair(4, 2, rate, phase, True),
    }
    lean, bend = Swing(2, 2, rate, phase), (0.0, 0.0)
    if activity == "walk":
        angles["hip"] = pair(2, 27, rate, phase, True)
        angles["knee"] = pair(26, 22, rate, phase + 0.2, True)
        angles["shoulder"] = pair(0, 25, rate, phase + 0.5, True)
    elif activity == "run":
        rate *= 1.4
        angles["hip"] = pair(8, 42, rate, phase, True)
        angles["knee"] = pair(55, 42, rate, phase + 0.2, True)
        angles["shoulder"] = pair(-5, 38, rate, phase + 0.5, True)
        angles["elbow"] = pair(85, 15, rate, phase + 0.5, True)
        lean = Swing(rng.uniform(5, 14), 2, 2 * rate, phase)
    elif activity == "wave":
        arm = int(rng.integers(0, 3))
        up, wag = pair(120, 15, rate, phase, True), pair(30, 40, 1.6 * rate, phase, False)
        down, bent = angles["spread"], angles["elbow"]
        angles["spread"] = (up[0] if arm != 1 else down[0], up[1] if arm != 0 else down[1])
        angles["elbow"] = (wag[0] if arm != 1 else bent[0], wag[1] if arm != 0 else bent[1])
        bend = (float(arm != 1), float(arm != 0))
    elif activity == "jump":
        angles["spread"] = pair(85, 65, rate, phase, False)
        angles["straddle"] = pair(14, 11, rate, phase, False)
        bend = (1.0, 1.0)
    elif activity == "box":
        angles["shoulder"] = pair(55, 32, rate, phase, True)
        angles["elbow"] = pair(65, 50, rate, phase + 0.5, True)
        angles["straddle"] = pair(12, 2, rate, phase, False)
        angles["hip"] = (Swing(18, 5, rate, phase), Swing(-14, 5, rate, phase))
    elif activity == "squat":
        bob = rng.uniform(25, 45)
        angles["hip"] = (Swing(bob, bob, rate * 0.7, phase),) * 2
        angles["knee"] = (Swing(1.8 * bob, 1.8 * bob, rate * 0.7, phase),) * 2
        angles["shoulder"] = pair(50, 40, rate * 0.7, phase, False)
        lean = Swing(bob * 0.5, bob * 0.45, rate * 0.7, phase)
    return Motion(**angles, lean=lean, elbow_bend=bend)
