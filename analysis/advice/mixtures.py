"""mixtures: which block every group of layers could take, from what a block costs and loses where all have it.

Groups are the layers of one map size, or of one stage of the network. What a mixture loses is estimated as the blocks'
own losses, weighted by the MACs of their groups; only a recording says what it really loses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from skipsim.traces.layer import Layer


def size_of(layer: Layer) -> str:
    """Return the size of a layer's map, "32x32"."""
    return f"{layer.out_rows}x{layer.out_cols}"


def stage_of(layer: Layer) -> str:
    """Return the part of the network that a layer belongs to: all whose names begin alike, "stage2.*"."""
    first, dot, _ = layer.name.partition(".")
    return f"{first}.*" if dot else first


GROUPINGS: dict[str, Callable[[Layer], str]] = {"map size": size_of, "stage": stage_of}


@dataclass(frozen=True, eq=False)
class Choice:
    """A proposed plan: gate settings, the block of every group, and what the recordings predict for it."""

    gates: tuple[Any, ...]
    grouping: str  # of GROUPINGS
    blocks: Mapping[str, str]  # by group
    cycles: int  # of the gated frames
    lost: float  # points of accuracy; for a mixture estimated

    @property
    def uniform(self) -> bool:
        """Whether all groups have the same block."""
        return len(set(self.blocks.values())) == 1

    @property
    def block(self) -> str:
        """The block of the first group: that of all in a uniform plan."""
        return next(iter(self.blocks.values()))

    def of_layers(self, layers: Sequence[Layer]) -> tuple[Any, ...]:
        """Return what makes two choices the same: gates, and the block of every layer."""
        group_of = GROUPINGS[self.grouping]
        return (self.gates, *(self.blocks.get(group_of(layer), "") for layer in layers))


def choices_of(
    gates: tuple[Any, ...],
    layers: Sequence[Layer],
    cycles: Mapping[str, Mapping[int, int]],
    losses: Mapping[str, float],
) -> Iterator[Choice]:
    """Yield every uniform block, then the mixtures of every grouping that are worth a recording.

    Args:
        gates: the settings of the gates, which all of them have.
        layers: of the network.
        cycles: by block, then by the number of the gated layer.
        losses: points of accuracy that a block loses where all layers have it.
    """
    for grouping, group_of in GROUPINGS.items():
        costs = {block: _sums(layers, values, group_of) for block, values in cycles.items()}
        groups = next(iter(costs.values()))
        macs = _sums(layers, {number: layers[number].macs for number in next(iter(cycles.values()))}, group_of)
        weights = {group: macs[group] / sum(macs.values()) for group in groups}
        if grouping == "map size":
            for block, cost in costs.items():
                yield Choice(gates, grouping, dict.fromkeys(groups, block), sum(cost.values()), losses[block])
        for blocks in cheapest_mixtures(costs, losses, weights):
            lost = sum(weights[group] * losses[block] for group, block in blocks.items())
            choice = Choice(gates, grouping, blocks, sum(costs[block][group] for group, block in blocks.items()), lost)
            if not choice.uniform:
                yield choice


def cheapest_mixtures(
    costs: Mapping[str, Mapping[str, int]], losses: Mapping[str, float], weights: Mapping[str, float]
) -> list[dict[str, str]]:
    """Return the mixtures that are cheapest at some price of a lost point, the fastest first.

    These are the corners of the convex front of cycles over points lost, among all combinations of blocks and groups:
    at a price (cycles that a point is worth) every group can choose alone. Choices change only at the prices at which
    two blocks of a group cost the same, so one price between every two of those finds them all.

    Args:
        costs: cycles by block, then by group.
        losses: points by block.
        weights: how much of a block's loss a group is answerable for; they sum to 1.
    """
    prices = {0.0}
    for one, other in combinations(costs, 2):
        for group, weight in weights.items():
            points = weight * (losses[one] - losses[other])
            if points:
                prices.add(max(0.0, (costs[other][group] - costs[one][group]) / points))
    ordered = sorted(prices)
    between = [(low + high) / 2 for low, high in pairwise(ordered)] + [2 * ordered[-1] + 1]
    found: list[dict[str, str]] = []
    for price in [0.0, *between]:
        mixture = {
            group: min(costs, key=lambda block: costs[block][group] + price * weight * losses[block])
            for group, weight in weights.items()
        }
        if mixture not in found:
            found.append(mixture)
    return found


def _sums(layers: Sequence[Layer], values: Mapping[int, int], group_of: Callable[[Layer], str]) -> dict[str, int]:
    """Sum values by layer number over the layers of one group, in the order in which groups first appear."""
    sums: dict[str, int] = {}
    for number, value in values.items():
        group = group_of(layers[number])
        sums[group] = sums.get(group, 0) + value
    return sums
