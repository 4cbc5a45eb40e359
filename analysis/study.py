"""Study: the axes of a comparison, read from one TOML file.

`[recording]` says what the network does: one recording per combination of its axes, because the block size changes what
the network computes and so its accuracy; several tables `[[recording]]` stand for networks with axes of their own.
`[simulation]` says what the hardware does: every combination per recording. `constraints` bound columns of the table,
`objectives` say what is good. With `[search]` not every combination is run: an optimiser picks some (search.py).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from skipsim.analysis.axes import (
    AxisValue,
    is_range,
    read_axis,
    read_tiles,
)
from skipsim.analysis.constraints import Constraint, allowed, explain_none, read_constraints
from skipsim.analysis.recording_axes import Name, Names, RecordingChoice, Recordings, Table
from skipsim.analysis.results import COLUMNS, KEY_COLUMNS, OBJECTIVES, RECORDING_COLUMNS
from skipsim.analysis.running.keys import machine_hash
from skipsim.analysis.running.simulations import SimulationChoice, SimulationGrid, replaced
from skipsim.errors import InputError, nearest
from skipsim.hwmodels.hardware import Hardware, hardware_keys, load_hardware


class Simulations(Table):
    """What the hardware does; `overrides` holds the axes that are dotted hardware keys."""

    hardware: Names
    tile: Annotated[tuple[str, ...], BeforeValidator(read_tiles), Field(min_length=1)] = ("auto",)
    overrides: dict[str, Annotated[tuple[AxisValue, ...], Field(min_length=1)]] = Field(default_factory=dict)


class Search(Table):
    """How many combinations an optimiser tries, in generations of how many, and where its random numbers start."""

    trials: Annotated[int, Field(ge=1)]
    population: Annotated[int, Field(ge=2)] | None = Field(None, description="None: the square root of trials")
    seed: Annotated[int, Field(ge=0)] = 0


BEFOREHAND = {*RECORDING_COLUMNS, "hardware", "tile", "area_mm2", *hardware_keys()} - {"study"}


class Study(Table):
    """A whole study; `folder` is where relative paths start, `text` the file as it was read."""

    name: Name
    constraints: Annotated[tuple[Constraint, ...], BeforeValidator(lambda value: _constraints(value))] = ()
    objectives: Names = ("latency_ms", "quality_drop")
    recording: Annotated[tuple[Recordings, ...], Field(min_length=1)]
    simulation: Simulations
    search: Search | None = None
    folder: Path = Path()
    text: str = ""

    @field_validator("objectives")
    @classmethod
    def _known(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        for name in objectives:
            if name not in OBJECTIVES:
                raise ValueError(f"no objective {name!r}; {nearest(name, OBJECTIVES)}")
        return objectives

    @model_validator(mode="after")
    def _searchable(self) -> Self:
        if self.search is None:
            return self
        one = self.recording[0]
        if len(self.recording) > 1 or any(len(axis or ("",)) > 1 for axis in (one.network, one.size, one.loop)):
            raise ValueError("search needs one [recording] table with one network, one size and one loop")
        if one.trace is not None and len(one.trace) > 1:
            raise ValueError("search needs one trace, or a network and clips")
        return self

    @cached_property
    def late_constraints(self) -> list[Constraint]:
        """Constraints on what only a simulation tells."""
        return [one for one in self.constraints if one.column not in BEFOREHAND]

    @cached_property
    def machines(self) -> list[Hardware]:
        """The machines of the study, as they are before overrides."""
        machines = [self._machine(name) for name in self.simulation.hardware]
        names = [machine.name for machine in machines]
        if len(set(names)) < len(names):
            raise InputError(f"study {self.name!r}: simulation.hardware: machines must differ in name, got {names}")
        return machines

    def recording_choices(self) -> list[RecordingChoice]:
        """Return every recording of the study that its constraints allow, in the order of its axes."""
        choices = [choice for axes in self.recording for choice in axes.choices(self.folder)]
        kept = [choice for choice in choices if allowed(choice.columns(), self.constraints)]
        if not kept:
            raise explain_none(f"study {self.name!r}", [choice.columns() for choice in choices], self.constraints)
        return kept

    def simulation_choices(self) -> SimulationGrid:
        """Return every simulation of one recording that the constraints allow.

        A machine or value that cannot be is an InputError.
        """
        axes = self.simulation
        if self.search:
            return self._searched_choices()
        grid = SimulationGrid(self.machines, axes.overrides, axes.tile, self.constraints)
        if not grid:
            known = grid.candidates([one.column for one in self.constraints])
            candidates = [*known, *({"tile": tile} for tile in axes.tile)]
            raise explain_none(f"study {self.name!r}", candidates, self.constraints)
        return grid

    def _searched_choices(self) -> SimulationGrid:
        """Check every value of every axis beside the first ones of the others; return the ends of the axes.

        The whole grid of a search may have millions of combinations.
        """
        axes = self.simulation.overrides
        first = {key: values[0] for key, values in axes.items()}
        for machine in self.machines:
            for key, values in axes.items():
                for value in values:
                    replaced(machine, tuple((first | {key: value}).items()))
        ends = {key: tuple(dict.fromkeys((values[0], values[-1]))) for key, values in list(axes.items())[:8]}
        rest = {key: values[:1] for key, values in list(axes.items())[8:]}
        return SimulationGrid(self.machines, ends | rest, self.simulation.tile)

    def simulation_choice(self, machine: Hardware, values: tuple[AxisValue, ...], tile: str) -> SimulationChoice:
        """Return the simulation on one machine with one value per overridden key."""
        overrides = tuple(zip(self.simulation.overrides, values, strict=True))
        return SimulationChoice(machine, overrides, machine_hash(replaced(machine, overrides)), tile)

    def resolve(self, name: str) -> Path:
        """Return the path of a file that the study names."""
        return self.folder / name

    def _machine(self, name: str) -> Hardware:
        return load_hardware(self.resolve(name) if name.endswith(".toml") else name)


def load_study(path: str | Path) -> Study:
    """Read a study file; whatever is wrong with it is an InputError of one line."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"study {path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"study {path}: not valid TOML: {error}") from None
    return study_from(data, where=f"study {path}", folder=path.parent, text=text)


def study_from(data: Mapping[str, Any], *, where: str = "study", folder: Path | None = None, text: str = "") -> Study:
    """Make a study from the content of its file."""
    content = dict(data)
    for key in ("folder", "text"):
        if key in content:
            raise InputError(f"{where}: unknown key {key!r}; {nearest(key, _keys(Study))}")
    if not content:
        raise InputError(f"{where}: is empty; a study needs name, [recording] and [simulation]")
    searching = "search" in content
    if isinstance(content.get("recording"), Mapping):
        content["recording"] = [content["recording"]]
    if isinstance(content.get("recording"), list):
        content["recording"] = tuple(content["recording"])
    if isinstance(content.get("simulation"), Mapping):
        content["simulation"] = _simulation(content["simulation"], where, searching)
    try:
        whole = content | {"folder": folder or Path(), "text": text}
        return Study.model_validate(whole, context={"search": searching})
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(error, len(content.get('recording', ())))}") from None


def _simulation(table: Mapping[str, Any], where: str, searching: bool) -> dict[str, Any]:
    """Separate the dotted hardware keys from the keys of [simulation]."""
    if not table:
        raise InputError(f"{where}: [simulation] is empty; it needs at least hardware")
    own = ("hardware", "tile")
    axes = [key for key in hardware_keys() if key != "name" and key.split(".")[-1] != "source"]
    found: dict[str, Any] = {key: table[key] for key in own if key in table}
    overrides = {}
    for key, value in _dotted({key: value for key, value in table.items() if key not in own}):
        if key not in axes:
            raise InputError(f"{where}: unknown axis {'simulation.' + key!r}; {nearest(key, [*own, *axes])}")
        try:
            overrides[key] = read_axis(value, fine=searching)
        except ValueError as error:
            raise InputError(f"{where}: simulation.{key}: {error}") from None
    return found | {"overrides": overrides}


def _dotted(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested tables: dram.bytes_per_cycle = 8 without quotes is {"dram": {"bytes_per_cycle": 8}} in TOML."""
    for key, value in table.items():
        if isinstance(value, Mapping) and not is_range(value):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _constraints(value: Any) -> tuple[Constraint, ...]:
    columns = {**COLUMNS, **dict.fromkeys(hardware_keys(), "")}
    known = [name for name in columns if name not in KEY_COLUMNS and name != "study"]
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else [value]
    return tuple(read_constraints(texts, known, [name for name in known if columns[name] == "text"]))


def _keys(table: type[Table]) -> set[str]:
    return set(table.model_fields) - {"folder", "text", "overrides"}


def _explain(error: ValidationError, recordings: int) -> str:
    """Return pydantic's first finding as one line: key, rule, value, choices."""
    # a misspelt key is both unknown and missing: the unknown one is what the user can see
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    location = [str(part) for part in first["loc"] if isinstance(part, str) and part not in ("tuple", "str")]
    key = ".".join(location)
    if recordings > 1 and first["loc"][:1] == ("recording",) and len(first["loc"]) > 1:
        key = key.replace("recording", f"recording {int(first['loc'][1]) + 1}", 1)
    if first["type"] == "extra_forbidden":
        tables: dict[str, type[Table]] = {"recording": Recordings, "simulation": Simulations, "search": Search}
        table = tables[location[0]] if len(location) > 1 else Study
        return f"unknown axis {key!r}; {nearest(location[-1], _keys(table))}"
    if first["type"] == "missing":
        return f"{'[' + key + ']' if key in ('recording', 'simulation') else key} is missing"
    if first["type"] == "too_short":
        return f"{key} is empty; an axis needs at least one value"
    rule = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], dict) or "not " in rule or "no " in rule else f", got {first['input']!r}"
    rule = rule[0].lower() + rule[1:]
    return f"{key}: {rule}{given}" if key else rule
