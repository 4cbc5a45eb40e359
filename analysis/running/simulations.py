"""Simulations of a study: every machine with some of its numbers replaced, at every tile; made when asked for.

A study of a hundred thousand simulations would not fit the memory as objects: of each machine only its hash is kept.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, overload

from skipsim.analysis.axes import AxisValue
from skipsim.analysis.constraints import Constraint, allowed
from skipsim.analysis.running.keys import machine_hash
from skipsim.hwmodels.area import area_mm2
from skipsim.hwmodels.hardware import Hardware

HASH_BYTES = 32


@dataclass(frozen=True)
class SimulationChoice:
    """One combination of the simulation axes: a machine, some of its numbers replaced, a tile.

    `machine` is the hash of the whole machine, which itself is made when it is asked for.
    """

    base: Hardware
    overrides: tuple[tuple[str, AxisValue], ...]
    machine: str
    tile: str

    @property
    def hardware(self) -> Hardware:
        """The machine with its numbers replaced."""
        return replaced(self.base, self.overrides)

    def columns(self) -> dict[str, Any]:
        """Return the columns of the table that name this choice."""
        return {"hardware": self.base.name, "tile": self.tile, **dict(self.overrides)}

    def known(self) -> dict[str, Any]:
        """Return everything a constraint may ask for before the simulation: columns, all numbers, area."""
        return {**known_of(self.hardware), **self.columns()}


def replaced(machine: Hardware, overrides: Sequence[tuple[str, AxisValue]]) -> Hardware:
    """Return a machine with some of its numbers replaced; values that cannot be are an InputError."""
    return machine.replace(**dict(overrides)) if overrides else machine


def known_of(machine: Hardware) -> dict[str, Any]:
    """Return every number of a machine by dotted key, its name as "hardware", and its area."""
    numbers: dict[str, Any] = {}
    for key, value in machine.model_dump().items():
        numbers |= (
            {f"{key}.{name}": entry for name, entry in value.items()} if isinstance(value, dict) else {key: value}
        )
    area = math.nan if machine.processor else area_mm2(machine)["total"]
    return {**numbers, "hardware": machine.name, "area_mm2": area}


class SimulationGrid(Sequence[SimulationChoice]):
    """Every simulation of one recording that the constraints allow, in the order of the axes: tiles change fastest.

    Making it checks every machine: values that cannot be are an InputError. It keeps 40 bytes a machine.
    """

    def __init__(
        self,
        machines: Sequence[Hardware],
        overrides: Mapping[str, tuple[AxisValue, ...]],
        tiles: Sequence[str],
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self._machines, self._keys, self._axes = tuple(machines), tuple(overrides), tuple(overrides.values())
        self._tiles = tuple(tile for tile in tiles if allowed({"tile": tile}, constraints))
        self._numbers, self._hashes = array("q"), bytearray()
        for number, (base, values) in enumerate(product(self._machines, product(*self._axes))):
            machine = replaced(base, tuple(zip(self._keys, values, strict=True)))
            if not constraints or allowed(known_of(machine), constraints):
                self._numbers.append(number)
                self._hashes += bytes.fromhex(machine_hash(machine))

    def __len__(self) -> int:
        return len(self._numbers) * len(self._tiles)

    @overload
    def __getitem__(self, place: int) -> SimulationChoice: ...
    @overload
    def __getitem__(self, place: slice) -> list[SimulationChoice]: ...
    def __getitem__(self, place: int | slice) -> SimulationChoice | list[SimulationChoice]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        kept, tile = divmod(place % len(self), len(self._tiles))
        base, values = self._combination(self._numbers[kept])
        machine = self._hashes[HASH_BYTES * kept : HASH_BYTES * (kept + 1)].hex()
        return SimulationChoice(base, tuple(zip(self._keys, values, strict=True)), machine, self._tiles[tile])

    def candidates(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield some of what is known of every machine beforehand, those that the constraints leave out included."""
        for base, values in product(self._machines, product(*self._axes)):
            known = known_of(replaced(base, tuple(zip(self._keys, values, strict=True))))
            yield {name: known[name] for name in columns if name in known}

    def _combination(self, number: int) -> tuple[Hardware, list[AxisValue]]:
        """Return the machine and the values of a combination by its number in the order of the axes."""
        values = []
        for axis in reversed(self._axes):
            number, place = divmod(number, len(axis))
            values.append(axis[place])
        return self._machines[number], values[::-1]
