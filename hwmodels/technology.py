"""Technology: what a process node does to the energy and the area of a circuit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

REFERENCE_NM = 45  # the node of Horowitz's table, which every energy and logic area here starts from

# Energy of one switching step at a supply of V volts, a2 V^2 + a1 V + a0, as {node: (a2, a1, a0, V)}.
# source: Stillmaker & Baas, Integration 58 (2017) 74-81, energy coefficients: bulk, and high performance at 45 nm
# Supplies: 0.9 V at 45 nm as in Horowitz, ISSCC 2014; older nodes at the nominal supply of the PTM models.
_SWITCHING = {
    45: (1.018, -0.3107, 0.1539, 0.9),
    65: (3.755, -4.398, 1.975, 1.1),
    90: (4.762, -4.781, 2.092, 1.2),
    130: (7.171, -6.709, 2.904, 1.3),
    180: (0.0, 24.64, -17.98, 1.8),
}

# Logic area relative to 45 nm.
# source: Stillmaker & Baas, Integration 58 (2017) 74-81, area scaling factors from 45 nm
LOGIC_AREA = {
    180: 19.0,
    130: 6.4,
    90: 2.8,
    65: 1.5,
    45: 1.0,
    32: 0.46,
    20: 0.21,
    16: 0.19,
    14: 0.17,
    10: 0.10,
    7: 0.059,
}

# Area of a high-density 6T SRAM cell in square micrometres.
SRAM_CELL_UM2 = {
    90: 1.0,  # source: Thompson et al., IEDM 2002 (Intel)
    65: 0.57,  # source: Bai et al., IEDM 2004 (Intel)
    45: 0.346,  # source: Mistry et al., IEDM 2007 (Intel)
    32: 0.171,  # source: Natarajan et al., IEDM 2008 (Intel)
    22: 0.092,  # source: Auth et al., VLSI Technology 2012 (Intel)
    16: 0.070,  # source: Chen et al., JSSC 50 (2015) 170-177 (TSMC)
    7: 0.027,  # source: Chang et al., ISSCC 2017, paper 12.1 (TSMC)
    5: 0.021,  # source: Yeap et al., IEDM 2019 (TSMC)
    3: 0.0199,  # source: Wu et al., IEDM 2022 (TSMC)
}


def interpolated(x: float, points: Mapping[int, float]) -> float:
    """Return the value at `x` of the piecewise straight line through `points` on doubly logarithmic axes.

    Exact at every given point; outside them the first or last segment goes on. All numbers must be positive.
    """
    segments = list(pairwise(sorted(points)))
    left, right = next((segment for segment in segments if x <= segment[1]), segments[-1])
    share = math.log(x / left) / math.log(right / left)
    return points[left] * math.pow(points[right] / points[left], share)


def scaled_energy(at_45: float, at_7: float, technology_nm: float) -> float:
    """Return an energy at a node from its values at 45 and 7 nm, in their unit.

    Between and below them it is a power of the node. Wires and memories gain less than a lone gate does, so the two
    published tables are used and not a gate's scaling. Above 45 nm, where there is no table, a gate's scaling is used.
    """
    if technology_nm <= REFERENCE_NM:
        return interpolated(technology_nm, {7: at_7, REFERENCE_NM: at_45})
    switching = {node: a2 * volt**2 + a1 * volt + a0 for node, (a2, a1, a0, volt) in _SWITCHING.items()}
    return at_45 * interpolated(technology_nm, switching) / switching[REFERENCE_NM]


def scaled_logic_area(at_45: float, technology_nm: float) -> float:
    """Return a logic area at a node from its value at 45 nm, in its unit."""
    return at_45 * interpolated(technology_nm, LOGIC_AREA)
