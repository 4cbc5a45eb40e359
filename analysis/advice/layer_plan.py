"""LayerPlan: blocks by group of layers and tiles by layer, recorded and simulated, and what they gain."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skipsim.analysis.advice.mixtures import GROUPINGS
from skipsim.analysis.advice.uncertainty import Band
from skipsim.simulator.plan import Tile, Tiling
from skipsim.simulator.schedule import tile_name
from skipsim.traces.layer import Layer

SMALLEST_GAIN = 0.0005  # of a speed-up: 0.0% otherwise


@dataclass(frozen=True)
class Tried:
    """A mixture of blocks that was recorded and simulated, whether it does or not."""

    threshold: float
    blocks: Mapping[str, str]  # by group
    speedup: float
    quality_drop: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "threshold": None if math.isnan(self.threshold) else self.threshold,
            "blocks": dict(self.blocks),
            "speedup": self.speedup,
            "quality_drop": None if math.isnan(self.quality_drop) else self.quality_drop,
        }


@dataclass(frozen=True)
class LayerPlan:
    """A plan that was recorded and simulated: its settings, what it gains, and what it is held against."""

    hardware: str
    gate: str
    update: str
    threshold: float
    grouping: str  # of GROUPINGS
    blocks: Mapping[str, str]  # by group
    tiling: Tiling
    layers: Sequence[Layer]
    speedup: float
    latency_ms: float
    dense_latency_ms: float
    mac_reduction: float
    energy_uj: float
    quality_drop: float
    max_drop: float  # points that were allowed
    band: Band
    uniform_speedup: float  # of the study's best block and tile, the same for all layers
    one_block_speedup: float  # of the best block for all layers with tiles by layer; nan: none was within the drop
    mixtures: Sequence[Tried]  # all that were recorded on the way
    predicted: int  # mixtures that were predicted to be faster than one block, recorded or not

    @property
    def uniform(self) -> bool:
        """Whether all layers have the same block."""
        return len(set(self.blocks.values())) == 1

    @property
    def fits(self) -> bool:
        """Whether it loses no more than was allowed; also where accuracy was not measured."""
        return not self.quality_drop > self.max_drop + 1e-9  # 1.0 points are within 1 point, rounding or not

    @property
    def better(self) -> bool:
        """Whether it beats the best block and tile that are the same for all layers by as much as is printed."""
        return self.speedup >= self.uniform_speedup * (1 + SMALLEST_GAIN)

    @property
    def dense_layers(self) -> list[str]:
        """Layers with a gate that should rather stay dense."""
        return [name for name, tile in self.tiling.items() if tile is None]

    @property
    def summary(self) -> str:
        """What the plan gains over one block and tile for all layers, or that it gains nothing."""
        if not self.better:
            nothing = "No plan by layer beats the best block and tile for all layers on these clips."
            return " ".join([nothing, self._mixtures()]).strip()
        gains = self._gain("the best block and tile for all layers", self.uniform_speedup)
        if not self.uniform and not math.isnan(self.one_block_speedup):
            gains += f", {self._gain('the best block for all with tiles by layer', self.one_block_speedup)}"
        lost = "accuracy not measured" if math.isnan(self.quality_drop) else f"{self.quality_drop:.2f} points lost"
        made = f"{lost}, MAC reduction {self.mac_reduction:.2f}x. Band: {self.band.words()}."
        threshold = "" if math.isnan(self.threshold) else f", threshold {self.threshold:g}"
        if self.uniform:
            plan = f"with one block and tiles by layer{threshold}: {made} {self._mixtures()}"
        else:
            plan = f"with blocks by {self.grouping} and tiles by layer{threshold}. "
            plan += f"Recorded with these blocks, not only predicted: {made}"
        return f"Speed-up {self.speedup:.2f}x, {gains}, {plan}".strip()

    def _gain(self, what: str, other: float) -> str:
        return f"{self.speedup / other - 1:+.1%} over {what} ({other:.2f}x)"

    def _mixtures(self) -> str:
        """Say why no mixture of blocks is proposed."""
        tried = [one for one in self.mixtures if not one.quality_drop > self.max_drop + 1e-9]
        if not self.predicted:
            return "No mixture of blocks is predicted to be faster."
        if not self.mixtures:
            return "Mixtures of blocks could not be recorded: that needs PyTorch and the study's network and clips."
        if tried:
            fastest = max(one.speedup for one in tried)
            said = f"of {len(self.mixtures)} that were recorded, the fastest within the drop reaches {fastest:.2f}x"
        else:
            least = min(one.quality_drop for one in self.mixtures)
            said = f"{len(self.mixtures)} were recorded, and the least that one of them loses is {least:.2f} points"
        return f"No mixture of blocks does better: {said}."

    @property
    def stay(self) -> str:
        """Which layers should stay dense, in words."""
        names = self.dense_layers
        if not names:
            return "No gated layer should rather stay dense."
        return f"Should stay dense (and so compute more than was recorded): {', '.join(names)}."

    def words(self) -> list[str]:
        """Return the plan in a few lines."""
        first = f"By layer: {self.summary[0].lower()}{self.summary[1:]}"
        if not self.better:
            return [first]
        maps = " maps" if self.grouping == "map size" else ""
        groups = (
            f"  {group}{maps} ({n} {'layer' if n == 1 else 'layers'}): block {block}, tiles {tiles}"
            for group, n, block, tiles in self.groups()
        )
        return [first, *groups, f"  {self.stay}"]

    def groups(self) -> list[tuple[str, int, str, str]]:
        """Return (group, layers, block, tiles with how many layers have each) of every group."""
        found, group_of = [], GROUPINGS[self.grouping]
        for group, block in self.blocks.items():
            own = [layer for layer in self.layers if group_of(layer) == group and layer.label in self.tiling]
            tiles = Counter(tile_text(self.tiling[layer.label], layer) for layer in own)
            found.append((group, len(own), block, ", ".join(f"{name} ({n})" for name, n in tiles.most_common())))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "better": self.better,
            "threshold": None if math.isnan(self.threshold) else self.threshold,
            "gate": self.gate,
            "update": self.update,
            "grouping": self.grouping,
            "blocks": dict(self.blocks),
            "tiles": {name: tile_text(tile) for name, tile in self.tiling.items()},
            "dense_layers": self.dense_layers,
            "speedup": self.speedup,
            "uniform_speedup": self.uniform_speedup,
            "one_block_speedup": None if math.isnan(self.one_block_speedup) else self.one_block_speedup,
            "band": [self.band.low, self.band.high],
            "latency_ms": self.latency_ms,
            "mac_reduction": self.mac_reduction,
            "energy_uj": None if math.isnan(self.energy_uj) else self.energy_uj,
            "quality_drop": None if math.isnan(self.quality_drop) else self.quality_drop,
            "mixtures": [one.to_dict() for one in self.mixtures],
            "groups": [list(group) for group in self.groups()],
            "summary": self.summary,
            "stay": self.stay,
        }


def tile_text(tile: Tile | None, layer: Layer | None = None) -> str:
    """Name a tile of a layer: "8x8", "whole map", "4 rows", "dense"."""
    if tile is None:
        return "dense"
    if layer is None:
        return tile_name(tile)
    rows, cols = min(tile[0], layer.out_rows), min(tile[1], layer.out_cols)
    if (rows, cols) == (layer.out_rows, layer.out_cols):
        return "whole map"
    return f"{rows}x{cols}" if cols < layer.out_cols else f"{rows} rows" if rows > 1 else "1 row"
