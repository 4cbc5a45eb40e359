"""Study: the axes of a comparison, read from one TOML file.

`[recording]` says what the network does: one recording per combination of its axes, because the block size changes what
the network computes and so its accuracy. `[simulation]` says what the hardware does: every combination per recording.
An axis is one value, a list, or a range {from = 8, to = 64, steps = 4} (with log = true: equal ratios).
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from skipsim.errors import InputError, nearest
from skipsim.hwmodels.hardware import Hardware, hardware_keys, load_hardware

RANGE_KEYS = ("from", "to", "steps", "log")
AxisValue = bool | int | float | str


def _axis(value: Any) -> Any:
    """Turn one value, a list or a range into a tuple without repeated values."""
    if isinstance(value, Mapping):
        value = _range(value)
    if not isinstance(value, list | tuple):
        value = (value,)
    return tuple(entry for place, entry in enumerate(value) if entry not in value[:place])


def _range(table: Mapping[str, Any]) -> list[float]:
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
    if type(steps) is not int or steps < 2:
        raise ValueError(f"steps of a range must be a whole number >= 2, not {steps!r}")
    if log not in (None, True, False):
        raise ValueError(f"log of a range must be true or false, not {log!r}")
    if log and not (first > 0 and last > 0):
        raise ValueError("a log range needs from > 0 and to > 0")
    shares = [step / (steps - 1) for step in range(steps)]
    values = [first * (last / first) ** share if log else first + (last - first) * share for share in shares]
    rounded = [float(f"{value:.12g}") for value in values]
    return [int(value) if value == int(value) else value for value in rounded]


def _blocks(value: Any) -> Any:
    """Read blocks: 4, "2x8" and [2, 8] become (rows, cols)."""
    return tuple(pair for pair in dict.fromkeys(_pair(entry) for entry in _axis(value)))


def _pair(entry: Any) -> tuple[int, int]:
    if isinstance(entry, str) and (match := re.fullmatch(r"(\d+)x(\d+)", entry)):
        entry = [int(match[1]), int(match[2])]
    pair = tuple(entry) if isinstance(entry, list | tuple) else (entry, entry)
    if len(pair) != 2 or any(type(side) is not int or side < 1 for side in pair):
        raise ValueError(f'must be a whole number >= 1 or "ROWSxCOLS", not {entry!r}')
    return pair


def _tiles(value: Any) -> Any:
    """Check tiles: "auto", "full", "per-layer" or "ROWSxCOLS"; 8 means "8x8"."""
    tiles = tuple(f"{entry}x{entry}" if type(entry) is int else entry for entry in _axis(value))
    for tile in tiles:
        if not isinstance(tile, str) or not re.fullmatch(r"auto|full|per-layer|[1-9]\d*x[1-9]\d*", tile):
            raise ValueError(f'must be "auto", "full", "per-layer" or "ROWSxCOLS" with sides >= 1, not {tile!r}')
    return tiles


def _size(value: Any) -> Any:
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or any(type(side) is not int or side < 1 for side in value)
    ):
        raise ValueError(f"must be [rows, cols], whole numbers >= 1, not {value!r}")
    return tuple(value)


def _numbers(value: Any) -> Any:
    return tuple(float(entry) if type(entry) is int else entry for entry in _axis(value))


Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_axis), Field(min_length=1)]
Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1)]


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Recordings(_Table):
    """What the network does; paths are relative to the study file.

    Either `trace` (directories or topology files that exist), or `network` and `clip` with gates.
    """

    trace: Names | None = None
    network: Names | None = Field(None, description='registered names, or "package.module:factory"')
    clip: Names | None = Field(None, description="what read_frames takes, or labelled clips pose:SPLIT:COUNT")
    frames: Side | None = Field(None, description="at most so many of every clip")
    size: Annotated[tuple[int, int], BeforeValidator(_size)] | None = Field(None, description="rows, cols of frames")
    weights: Name | None = None
    gate: Names = ("input_norm",)
    threshold: Annotated[tuple[Threshold, ...], BeforeValidator(_numbers), Field(min_length=1)] | None = None
    block: Annotated[tuple[tuple[int, int], ...], BeforeValidator(_blocks), Field(min_length=1)] = ((1, 1),)
    update: Annotated[
        tuple[Literal["previous", "accumulate", "recompute"], ...], BeforeValidator(_axis), Field(min_length=1)
    ] = ("recompute",)
    reset_every: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_axis), Field(min_length=1)] = (
        Field((0,), description="frames between reference frames; 0: only the first is one")
    )

    @model_validator(mode="after")
    def _traces_or_networks(self) -> Self:
        if self.trace is not None:
            others = self.model_fields_set - {"trace"}
            if others:
                raise ValueError(f"trace excludes {', '.join(sorted(others))}: existing traces are taken as they are")
            return self
        for key in ("network", "clip", "threshold"):
            if getattr(self, key) is None:
                raise ValueError(f"{key} is missing (or give trace, for existing traces)")
        if self.weights is not None and len(self.network or ()) > 1:
            raise ValueError("weights needs a single network")
        return self


class Simulations(_Table):
    """What the hardware does; `overrides` holds the axes that are dotted hardware keys."""

    hardware: Names
    tile: Annotated[tuple[str, ...], BeforeValidator(_tiles), Field(min_length=1)] = ("auto",)
    overrides: dict[str, Annotated[tuple[AxisValue, ...], Field(min_length=1)]] = {}


@dataclass(frozen=True)
class RecordingChoice:
    """One combination of the recording axes, or one existing trace."""

    trace: str | None = None
    network: str = ""
    clip: str = ""
    gate: str = ""
    threshold: float = math.nan
    block: tuple[int, int] = (1, 1)
    update: str = ""
    reset_every: int = 0


@dataclass(frozen=True)
class SimulationChoice:
    """One combination of the simulation axes; `overrides` are already part of `hardware`."""

    hardware: Hardware
    tile: str
    overrides: tuple[tuple[str, AxisValue], ...]


class Study(_Table):
    """A whole study; `folder` is where relative paths start, `text` the file as it was read."""

    name: Name
    recording: Recordings
    simulation: Simulations
    folder: Path = Path()
    text: str = ""

    def recording_choices(self) -> list[RecordingChoice]:
        """Return every recording of the study, in the order of its axes."""
        axes = self.recording
        if axes.trace is not None:
            return [RecordingChoice(trace=trace) for trace in axes.trace]
        combinations = product(
            axes.network or (),
            axes.clip or (),
            axes.gate,
            axes.update,
            axes.reset_every,
            axes.block,
            axes.threshold or (),
        )
        return [
            RecordingChoice(None, network, clip, gate, threshold, block, update, reset_every)
            for network, clip, gate, update, reset_every, block, threshold in combinations
        ]

    def simulation_choices(self) -> list[SimulationChoice]:
        """Return every simulation of one recording; a machine or value that cannot be is an InputError."""
        machines = [self._machine(name) for name in self.simulation.hardware]
        names = [machine.name for machine in machines]
        if len(set(names)) < len(names):
            raise InputError(f"study {self.name!r}: simulation.hardware: machines must differ in name, got {names}")
        keys = tuple(self.simulation.overrides)
        choices = []
        for machine, values in product(machines, product(*self.simulation.overrides.values())):
            overrides = tuple(zip(keys, values, strict=True))
            changed = machine.replace(**dict(overrides)) if overrides else machine
            choices += [SimulationChoice(changed, tile, overrides) for tile in self.simulation.tile]
        return choices

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
            raise InputError(f"{where}: unknown key {key!r}; {nearest(key, ('name', 'recording', 'simulation'))}")
    if isinstance(content.get("simulation"), Mapping):
        content["simulation"] = _simulation(content["simulation"], where)
    try:
        return Study.model_validate(content | {"folder": folder or Path(), "text": text})
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(error)}") from None


def _simulation(table: Mapping[str, Any], where: str) -> dict[str, Any]:
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
            overrides[key] = _axis(value)
        except ValueError as error:
            raise InputError(f"{where}: simulation.{key}: {error}") from None
    return found | {"overrides": overrides}


def _dotted(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested tables: dram.bytes_per_cycle = 8 without quotes is {"dram": {"bytes_per_cycle": 8}} in TOML."""
    for key, value in table.items():
        if isinstance(value, Mapping) and not set(value) & set(RANGE_KEYS):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _explain(error: ValidationError) -> str:
    """Return pydantic's first finding as one line: key, rule, value, choices."""
    # a misspelt key is both unknown and missing: the unknown one is what the user can see
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    location = [str(part) for part in first["loc"] if isinstance(part, str) and part not in ("tuple", "str")]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        table: Any = {"recording": Recordings, "simulation": Simulations}.get(location[0], Study)
        known = set(table.model_fields) - {"folder", "text", "overrides"}
        return f"unknown axis {key!r}; {nearest(location[-1], known)}"
    if first["type"] == "missing":
        return f"{'[' + key + ']' if key in ('recording', 'simulation') else key} is missing"
    if first["type"] == "too_short":
        return f"{key} is empty; an axis needs at least one value"
    rule = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], dict) or "not " in rule else f", got {first['input']!r}"
    return f"{key}: {rule[0].lower()}{rule[1:]}{given}"
