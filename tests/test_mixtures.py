"""Are the mixtures that are proposed the corners of the convex front over all combinations of blocks and groups?"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from skipsim.analysis.advice.mixtures import cheapest_mixtures, choices_of, size_of, stage_of
from skipsim.traces.layer import Layer

GROUPS, BLOCKS = ("64x64", "32x32", "16x16"), ("1x1", "2x2", "4x4", "8x8")


def totals(mixture, costs, losses, weights):
    cycles = sum(costs[block][group] for group, block in mixture.items())
    return cycles, sum(weights[group] * losses[block] for group, block in mixture.items())


@pytest.mark.parametrize("seed", range(20))
def test_at_every_price_of_a_point_no_combination_is_cheaper(seed):
    rng = np.random.default_rng(seed)
    costs = {block: {group: int(rng.integers(10, 1000)) for group in GROUPS} for block in BLOCKS}
    losses = {block: float(rng.integers(-3, 12)) / 4 for block in BLOCKS}
    weights = dict(zip(GROUPS, rng.dirichlet(np.ones(3)), strict=True))
    found = [totals(mixture, costs, losses, weights) for mixture in cheapest_mixtures(costs, losses, weights)]
    everything = [
        totals(dict(zip(GROUPS, blocks, strict=True)), costs, losses, weights)
        for blocks in product(BLOCKS, repeat=len(GROUPS))
    ]
    for price in [0, *np.logspace(-2, 6, 60)]:
        best = min(cycles + price * lost for cycles, lost in everything)
        assert min(cycles + price * lost for cycles, lost in found) == pytest.approx(best)
    assert [cycles for cycles, _ in found] == sorted(cycles for cycles, _ in found)
    assert found[0][0] == min(cycles for cycles, _ in everything)


def test_layers_are_grouped_by_the_size_of_their_map_and_by_their_stage():
    names = ["stem", "stage2.0.conv1", "stage2.1.conv1", "head.conv"]
    layers = [Layer(name, 8, 16, 12, 8, 16, 12) for name in names]
    assert {size_of(layer) for layer in layers} == {"16x12"}
    assert [stage_of(layer) for layer in layers] == ["stem", "stage2.*", "stage2.*", "head.*"]


def test_what_a_choice_costs_and_loses_is_summed_over_its_groups():
    layers = [Layer("a.0", 8, 16, 16, 8, 16, 16), Layer("a.1", 8, 16, 16, 8, 16, 16), Layer("b.0", 8, 8, 8, 8, 8, 8)]
    cycles = {"2x2": {0: 10, 1: 10, 2: 90}, "8x8": {0: 40, 1: 40, 2: 20}}
    found = list(choices_of(("input_norm",), layers, cycles, {"2x2": 0.5, "8x8": 1.0}))
    uniform = {choice.block: (choice.cycles, choice.lost) for choice in found if choice.uniform}
    assert uniform == {"2x2": (110, 0.5), "8x8": (100, 1.0)}
    by_size, by_stage = (choice for choice in found if not choice.uniform)
    assert (by_size.blocks, by_stage.blocks) == ({"16x16": "2x2", "8x8": "8x8"}, {"a.*": "2x2", "b.*": "8x8"})
    assert by_size.cycles == by_stage.cycles == 10 + 10 + 20
    # MACs: 9 taps x 8 x 8 channels do not matter to the weights; 2 maps of 256 pixels beside one of 64
    assert by_size.lost == pytest.approx((512 * 0.5 + 64 * 1.0) / 576)
    assert by_size.of_layers(layers) == by_stage.of_layers(layers)
