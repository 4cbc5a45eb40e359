"""Axes: how the values of a study's axes are written in TOML, and what they mean.

An axis is one value, a list, or a range {from = 8, to = 64, steps = 4} (with log = true: equal ratios). Every reader
returns a tuple without repeated values, and raises ValueError with the rule and the value given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from skipsim.errors import nearest
from skipsim.traces.layer import Layer
from skipsim.traces.per_layer import value_for

RANGE_KEYS = ("from", "to", "steps", "log")
FINE_STEPS = 101  # values of a range without steps, which only a search may have
REST = "*"

AxisValue = bool | int | float | str
Block = tuple[int, int]


@dataclass(frozen=True)
class BlockPlan:
    """The blocks of a network: `default`, and others for groups of layers, by the keys of traces/per_layer.py."""

    default: Block
    groups: tuple[tuple[str, Block], ...] = ()

    def block_of(self, layer: Layer) -> Block:
        """Return the block of a layer."""
        block: Block = value_for(dict([*self.groups, (REST, self.default)]), layer, "block")
        return block

    def setting(self) -> Block | dict[str, Block]:
        """Return what a gate takes as its block."""
        return dict([*self.groups, (REST, self.default)]) if self.groups else self.default

    def __str__(self) -> str:
        return ", ".join([size_text(self.default), *(f"{name}: {size_text(block)}" for name, block in self.groups)])


@dataclass(frozen=True)
class Clip:
    """A clip by name, and the group that it is counted in: clips that differ in kind, as by camera."""

    name: str
    group: str = ""


SINGLE_PIXELS = BlockPlan((1, 1))


def plan_of(blocks: Block | Mapping[str, Block]) -> BlockPlan:
    """Return the plan of one block, or of a table by layer that names all others too."""
    if not isinstance(blocks, Mapping):
        return BlockPlan(blocks)
    return BlockPlan(blocks[REST], tuple((name, block) for name, block in blocks.items() if name != REST))


@dataclass(frozen=True)
class BlockAxes:
    """Blocks to choose from, by group of layers; a plan is one of every group."""

    groups: tuple[tuple[str, tuple[Block, ...]], ...]

    def plan(self, blocks: Sequence[Block]) -> BlockPlan:
        """Return the plan of one block per group."""
        chosen = dict(zip((name for name, _ in self.groups), blocks, strict=True))
        return BlockPlan(chosen.pop(REST), tuple(chosen.items()))

    def plans(self) -> Iterator[BlockPlan]:
        """Return every combination."""
        return map(self.plan, product(*(blocks for _, blocks in self.groups)))


def size_text(size: Block) -> str:
    """Write (4, 8) as "4x8"."""
    return f"{size[0]}x{size[1]}"


def read_axis(value: Any, *, fine: bool = False) -> tuple[Any, ...]:
    """Turn one value, a list or a range into a tuple; `fine`: a range may leave out its steps."""
    if isinstance(value, Mapping):
        value = _range(value, fine)
    if not isinstance(value, list | tuple):
        value = (value,)
    return tuple(entry for place, entry in enumerate(value) if entry not in value[:place])


def is_range(value: Any) -> bool:
    """Tell whether a TOML value is a range rather than a table of its own."""
    return isinstance(value, Mapping) and bool(set(value) & set(RANGE_KEYS))


def read_numbers(value: Any, *, fine: bool = False) -> tuple[Any, ...]:
    """Read an axis of real numbers."""
    return tuple(float(entry) if type(entry) is int else entry for entry in read_axis(value, fine=fine))


def read_blocks(value: Any) -> tuple[BlockAxes, ...]:
    """Read an axis of blocks: 4, "2x8" and [2, 8] are blocks; a table names axes of groups of layers.

    {"stage4.*" = [1, 2], "*" = [4, 8]} are four plans. A table may also stand in a list, beside single blocks.
    """
    entries = [value] if isinstance(value, Mapping) and not is_range(value) else read_axis(value)
    single = tuple(dict.fromkeys(_pair(entry) for entry in entries if not isinstance(entry, Mapping)))
    tables = [entry for entry in entries if isinstance(entry, Mapping)]
    grouped = [
        BlockAxes(tuple((name, tuple(dict.fromkeys(map(_pair, read_axis(axis))))) for name, axis in table.items()))
        for table in tables
    ]
    if not all(REST in table for table in tables):
        raise ValueError("a table of blocks by layer needs '*', for all other layers")
    if any(not blocks for axes in grouped for _, blocks in axes.groups):
        raise ValueError("every group of layers needs at least one block")
    return (*([BlockAxes(((REST, single),))] if single else []), *grouped)


def read_clips(value: Any) -> tuple[Clip, ...]:
    """Read an axis of clips: names, or a table of names by group, {static = ["a.mp4", "b.mp4"], pan = "c.mp4"}."""
    groups = value if isinstance(value, Mapping) else {"": value}
    clips = tuple(Clip(name, group) for group, names in groups.items() for name in read_axis(names))
    for clip in clips:
        if not isinstance(clip.name, str) or not clip.name:
            raise ValueError(f"must be names of clips, or a table of names by group, not {clip.name!r}")
    twice = [clip.name for clip in clips if sum(clip.name == other.name for other in clips) > 1]
    if twice:
        raise ValueError(f"a clip belongs to one group, {twice[0]!r} is in several")
    return clips


def read_tiles(value: Any) -> tuple[str, ...]:
    """Read an axis of tiles: "auto", "full", "per-layer" or "ROWSxCOLS"; 8 means "8x8"."""
    tiles = tuple(f"{entry}x{entry}" if type(entry) is int else entry for entry in read_axis(value))
    for tile in tiles:
        if not isinstance(tile, str) or not re.fullmatch(r"auto|full|per-layer|[1-9]\d*x[1-9]\d*", tile):
            raise ValueError(f'must be "auto", "full", "per-layer" or "ROWSxCOLS" with sides >= 1, not {tile!r}')
    return tiles


def read_sizes(value: Any) -> tuple[tuple[int, int], ...]:
    """Read an axis of sizes of frames: [rows, cols] and "ROWSxCOLS" are sizes."""
    single = isinstance(value, list | tuple) and not any(isinstance(entry, list | tuple | str) for entry in value)
    sizes = [_sides(entry) for entry in ([value] if single else read_axis(value))]
    for size in sizes:
        if not _is_pair(size):
            rule = "must be [rows, cols], whole numbers >= 1"
            raise ValueError(f'{rule}, not {value!r}; or "ROWSxCOLS"; or a list of sizes')
    return tuple(dict.fromkeys(sizes))


def _pair(entry: Any) -> Block:
    pair = _sides(entry)
    pair = pair if isinstance(pair, tuple) else (pair, pair)
    if not _is_pair(pair):
        raise ValueError(f'must be a whole number >= 1 or "ROWSxCOLS", not {entry!r}')
    return pair


def _sides(entry: Any) -> Any:
    """Return the sides of "ROWSxCOLS" or of a list as a tuple; anything else as it is."""
    if isinstance(entry, str) and (match := re.fullmatch(r"(\d+)x(\d+)", entry)):
        return int(match[1]), int(match[2])
    return tuple(entry) if isinstance(entry, list) else entry


def _is_pair(sides: Any) -> bool:
    return isinstance(sides, tuple) and len(sides) == 2 and all(type(side) is int and side >= 1 for side in sides)


def _range(table: Mapping[str, Any], fine: bool) -> list[float]:
    """Return the values of a range, whole numbers as int, others rounded to 12 digits."""
    for key in table:
        if key not in RANGE_KEYS:
            raise ValueError(f"unknown key {key!r} of a range; {nearest(key, RANGE_KEYS)}")
    first, last, steps, log = (table.get(key) for key in RANGE_KEYS)
    if any(
        isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end) for end in (first, last)
    ):
        raise ValueError("a range needs two finite numbers, from and to")
    assert isinstance(first, int | float)
    assert isinstance(last, int | float)
    whole = steps is None and type(first) is int and type(last) is int
    if fine and steps is None:
        steps = FINE_STEPS
    if type(steps) is not int or steps < 2:
        raise ValueError(f"steps of a range must be a whole number >= 2, not {steps!r}")
    if log not in (None, True, False):
        raise ValueError(f"log of a range must be true or false, not {log!r}")
    if log and not (first > 0 and last > 0):
        raise ValueError("a log range needs from > 0 and to > 0")
    shares = [step / (steps - 1) for step in range(steps)]
    values = [first * (last / first) ** share if log else first + (last - first) * share for share in shares]
    rounded = [float(round(value)) if whole else float(f"{value:.12g}") for value in values]
    return [int(value) if value == int(value) else value for value in rounded]
