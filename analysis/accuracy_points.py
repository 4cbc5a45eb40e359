"""What the accuracy experiment measures: its points, the clips that they run on and the thresholds they choose from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product

SMALLER = ("resolution", "resolution_trained")  # smaller pictures, for the same network or one trained at several sizes
AS_TRAINED = "gumbel_as_trained"  # the method whose threshold nobody chooses: what a user gets who says none
POINTS_ALLOWED = 0.5  # of the strict metric, in points of 100
CAMERAS = ("static", "pan")
SEEDS = (0, 1, 2)
NETWORKS = {"pose": "pose_small", "detection": "detection_small"}
NARROW = {"pose": "pose_narrow", "detection": "detection_narrow"}
CLIPS = {  # clips of each camera, frames of each clip, how many clips of the split lie before them
    ("pose", "train"): (16, 10, 0),
    ("pose", "validation"): (24, 8, 0),
    ("pose", "choice"): (60, 10, 1000),
    ("pose", "test"): (20, 10, 0),  # of older rows: their scores were known while methods still changed
    ("pose", "fresh"): (60, 10, 5000),  # nobody had seen theirs
    ("pose", "sure"): (100, 10, 3000),
    ("pose", "many"): (200, 10, 8000),
    ("detection", "train"): (12, 10, 0),
    ("detection", "validation"): (12, 8, 0),  # a frame takes three times as long
    ("detection", "choice"): (24, 10, 1000),
    ("detection", "test"): (20, 10, 0),
    ("detection", "fresh"): (24, 10, 5000),
    ("detection", "sure"): (72, 10, 3000),
    ("detection", "saving"): (24, 10, 4000),
    ("detection", "many"): (120, 10, 8000),
}
SAMPLED = ("sure", "many")  # splits whose losses have an interval
# The split of datasets.SPLITS that clips are drawn from, where it is another.
SEEDS_OF = {"choice": "validation", "sure": "validation", "saving": "validation", "fresh": "test", "many": "test"}
STRICT = {  # (method, block) whose threshold is chosen by an interval, or by what it saves, best first
    "pose": (("gumbel", 1), (AS_TRAINED, 1), ("tuned", 1), ("gumbel", 4), (AS_TRAINED, 4), ("tuned", 4)),
    "detection": (("gumbel", 1),),
}
STRICTLY = {"pose": "sure", "detection": "saving"}  # the clips that these choices are made on
AIM = 3.0  # times fewer MACs: what is asked for within POINTS_ALLOWED
MOST_SAVING = 3.2  # a choice by saving goes this far: a little more than the aim, since other clips save less or more
BLOCKS = (1, 2, 4, 8, 16)
THRESHOLDS = {
    "tuned": (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0),  # MAC reduction of gated frames that is aimed at
    "input_norm": (0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.17, 0.22),
    "output_norm": (0.45, 0.6, 0.75, 1.0, 1.25, 1.6, 2.0, 2.6, 3.4),
    "gumbel": (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5),  # of the logits; 0 as trained, on the magnitude of the change
    "gumbel_residual": (-0.5, 0.0, 0.5),  # on the signed change, as the method has it
    "gumbel_frame": (-0.5, 0.0, 0.5),  # on the frame: the method's own ablation
}

# Ladders of their own, by task and the clips that a threshold is chosen on. Depthwise layers and the channel gates of
# squeeze and excitation bear much less than HRNet's layers; where more clips are seen, near thresholds are told apart.
FINER: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    ("detection", "validation"): {
        "input_norm": (0.003, 0.005, 0.007, 0.01, 0.014, 0.02, 0.03, 0.04, 0.05),
        "output_norm": (0.003, 0.007, 0.015, 0.03, 0.06, 0.1, 0.15, 0.25, 0.45),
    },
    ("detection", "saving"): {
        "gumbel": (-2.5, -2.25, -2.0, -1.75, -1.5, -1.25, -1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0),
    },
    ("pose", "sure"): {
        "tuned": (2.0, 2.5, 3.0, 3.25, 3.5, 3.75, 4.0, 4.25, 4.5, 4.75, 5.0),
        "gumbel": (-3.0, -2.5, -2.0, -1.75, -1.5, -1.25, -1.0, -0.75, -0.5, -0.25, 0.0),
    },
}


@dataclass(frozen=True)
class Point:
    """One way to run one network: a row of the table, but for what it reached."""

    task: str
    seed: int
    method: str
    block: int = 1
    threshold: float | None = None
    update: str = "recompute"
    reset_every: int = 0
    share: str = "layer"
    camera: str = "static"
    split: str = "validation"

    def key(self) -> tuple[str, ...]:
        """Return what tells it from all others, as the file writes it."""
        return tuple("" if value is None else str(value) for value in asdict(self).values())


def families(task: str) -> Iterator[Point]:
    """Return one point per way of gating, its threshold still to be chosen; validation clips, static camera."""
    for seed, (method, block) in product(SEEDS, STRICT[task]):
        yield Point(task, seed, method, block, split=STRICTLY[task])
    for block, method in product((1, 4, 8), ("tuned", "input_norm", "gumbel", AS_TRAINED)):
        yield Point(task, 0, method, block, split=chosen_on(method))
    for every in (2, 3, 4):
        yield Point(task, 0, "hold", reset_every=every)
    for size in (0.75, 0.5, 0.875, 0.625):
        yield Point(task, 0, "resolution", threshold=size)
    for size in (1.0, 0.875, 0.75, 0.625, 0.5):
        yield Point(task, 0, "resolution_trained", threshold=size)
    yield Point(task, 0, "input_norm", 4, share="network")
    yield Point(task, 0, "narrow")
    for block in (4, 1, 8, 2, 16):
        yield Point(task, 0, "output_norm", block)
    for update, reset in product(("previous", "accumulate", "recompute"), (0, 4, 8)):
        if (update, reset) != ("recompute", 0):
            yield Point(task, 0, "input_norm", 4, update=update, reset_every=reset)
            yield Point(task, 0, AS_TRAINED, 4, update=update, reset_every=reset, split=chosen_on(AS_TRAINED))
    for block, method in product((2, 16), ("tuned", "input_norm", "gumbel")):
        yield Point(task, 0, method, block, split=chosen_on(method))
    for share, block in (("block", 4), ("block", 1), ("network", 1)):
        yield Point(task, 0, "input_norm", block, share=share)
    for method in ("gumbel_residual", "gumbel_frame"):
        yield Point(task, 0, method, 4, split=chosen_on(method))
    for seed, block, method in product(SEEDS[1:], (1, 4, 8), ("tuned", "input_norm", "gumbel")):
        yield Point(task, seed, method, block, split=chosen_on(method))


def cameras_of(family: Point) -> tuple[str, ...]:
    """Return the cameras that a way of gating is measured with: the strict choice, as the aim, is of static ones."""
    if family.split in STRICTLY.values():
        return ("static",)
    if family.seed and (family.method, family.block) in STRICT[family.task]:
        return ("pan",)
    return CAMERAS


def chosen_on(method: str) -> str:
    """Return the clips on which a method's threshold is chosen: more of them where the method has more freedom."""
    return "choice" if method == "tuned" or method.startswith("gumbel") else "validation"


def scored_on(point: Point) -> str:
    """Return the clips on which a way of gating is scored, which nobody had seen before it was chosen."""
    return "many" if point.split in STRICTLY.values() else "fresh"


def candidates(family: Point) -> list[Point]:
    """Return a family's points, one per threshold that may be chosen."""
    ladder = {**THRESHOLDS, **FINER.get((family.task, family.split), {})}.get(family.method, ())
    return [replace(family, threshold=threshold) for threshold in ladder] or [family]
