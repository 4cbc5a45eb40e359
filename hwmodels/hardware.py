"""Hardware: every number of one machine, checked on construction; load, replace, save."""

from __future__ import annotations

import math
import tomllib
from fractions import Fraction
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from skipsim.atomic import write_text
from skipsim.errors import InputError, nearest
from skipsim.hwmodels.processor import Processor
from skipsim.hwmodels.table import Number, Table, keys_of, to_toml


def _size(value: float) -> float:
    """Accept whole numbers, and inf for "never a limit"."""
    if not math.isinf(value) and value != int(value):
        raise ValueError("must be a whole number or inf")
    return value if math.isinf(value) else int(value)


Cycles = Annotated[int, Field(ge=0, le=10**9)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Bits = Annotated[int, Field(ge=1, le=64)]
Size = Annotated[Number, Field(gt=0), AfterValidator(_size)]
Rate = Annotated[Number, Field(gt=0, description="per cycle; inf = no limit")]
Picojoules = Annotated[Number, Field(ge=0)]
Dataflow = Literal["output_stationary", "weight_stationary", "input_stationary", "dot_product", "row_stationary"]
Update = Literal["auto", "recompute", "difference", "delta"]
Placement = Literal["none", "separate", "fused", "array"]


class Precision(Table):
    """Widths of the numbers that move, in bits."""

    activation_bits: Bits
    weight_bits: Bits
    accumulator_bits: Bits = Field(description="partial sums that leave the array")
    state_bits: Bits | None = Field(None, description="output state kept between frames; default: activation_bits")


class Array(Table):
    """The multiply-accumulate array of one core."""

    rows: Count
    cols: Count
    dataflow: Dataflow
    holds: Literal["inputs", "sums"] = Field("inputs", description="dot_product: what stays while the other changes")
    fill_cycles: Cycles = Field(
        0, description="dot_product: to fill the pipeline each time other inputs or sums are held"
    )
    weights_per_cycle: Rate = Field(math.inf, description="row_stationary: filter values loaded per cycle")
    winograd: bool = Field(default=False, description="3x3 kernels at stride 1 as F(2x2, 3x3): 4 products instead of 9")
    skip_taps: bool = Field(
        default=False,
        description="taps on inputs that the layer before skipped take no time; they must be zero: pruning, or deltas",
    )
    pack_tiles: bool = Field(True, description="several small tiles share one pass")
    depthwise: Literal["array", "vector"] = "array"
    vector_macs_per_cycle: Count | None = Field(None, description="the vector unit that runs depthwise layers")

    @model_validator(mode="after")
    def _vector_unit_is_there(self) -> Self:
        if self.depthwise == "vector" and self.vector_macs_per_cycle is None:
            raise ValueError('depthwise = "vector" needs vector_macs_per_cycle')
        return self

    @model_validator(mode="after")
    def _dataflow_knows_its_keys(self) -> Self:
        for key, default, dataflow in (
            ("holds", "inputs", "dot_product"),
            ("fill_cycles", 0, "dot_product"),
            ("winograd", False, "dot_product"),
            ("skip_taps", False, "dot_product"),
            ("weights_per_cycle", math.inf, "row_stationary"),
        ):
            if getattr(self, key) != default and self.dataflow != dataflow:
                raise ValueError(f'{key} is only for dataflow = "{dataflow}"')
        return self


class Buffers(Table):
    """On-chip memories: the first three of each core, `global_bytes` shared; inf = never a limit."""

    halves: Count = Field(description="each buffer's parts: one is filled while another is used; 1 = no overlap")
    input_bytes: Size
    weight_bytes: Size
    output_bytes: Size
    global_bytes: Annotated[Number, Field(ge=0), AfterValidator(_size)] = 0


class LayerRules(Table):
    """What every layer pays, what moves per active tile, and how maps lie in memory."""

    launch_cycles: Cycles
    update: Update = "auto"
    layout: Literal["nhwc", "nchw"]


class GateUnit(Table):
    """Where gates are evaluated and how fast; of one core."""

    placement: Placement
    elements_per_cycle: Rate = math.inf


class IndexUnit(Table):
    """How a mask becomes a list of active tiles; of one core."""

    blocks_per_cycle: Rate
    cycles_per_tile: Cycles


class Mover(Table):
    """A gather or scatter DMA of one core."""

    setup_cycles: Cycles
    cycles_per_segment: Cycles
    bytes_per_cycle: Rate


class Memory(Table):
    """The memory system that all cores share."""

    rule: Literal["ideal", "stream", "banked"]
    bytes_per_cycle: Rate = Field(math.inf, description="peak, per clock cycle of the machine")
    latency_cycles: Cycles = 0
    burst_bytes: Count = Field(1, description="smallest transfer: every contiguous segment is rounded up to it")
    part: str | None = Field(None, description="banked: the memory device, by name")
    channels: Count | None = Field(None, description="banked: how many channels of it")
    window: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="banked: pieces of a request that a channel chooses from, what is ready first; 1 = in order"
    )

    @model_validator(mode="after")
    def _rule_has_its_numbers(self) -> Self:
        if self.rule == "stream" and math.isinf(self.bytes_per_cycle):
            raise ValueError('rule = "stream" needs a finite bytes_per_cycle')
        if self.rule == "banked" and (self.part is None or self.channels is None):
            raise ValueError('rule = "banked" needs part and channels')
        return self


class Schedule(Table):
    """How tiles are dealt to cores and what may overlap."""

    distribution: Literal["static", "dynamic"] = "static"
    merge_halo: bool = Field(default=False, description="keep the columns that the left neighbour's window fetched")
    prefetch_weights: bool = Field(default=False, description="fetch a layer's first weights as the previous one ends")


class Energy(Table):
    """Technology node, and overrides in picojoules for what the table in energy.py would derive."""

    technology_nm: Annotated[int, Field(ge=3, le=180)]
    mac_pj: Picojoules | None = None
    input_buffer_pj_per_byte: Picojoules | None = None
    weight_buffer_pj_per_byte: Picojoules | None = None
    output_buffer_pj_per_byte: Picojoules | None = None
    global_buffer_pj_per_byte: Picojoules | None = None
    dram_pj_per_byte: Picojoules | None = None
    gate_pj_per_element: Picojoules | None = None
    command_pj: Picojoules | None = None
    scan_pj_per_block: Picojoules | None = None
    descriptor_pj: Picojoules | None = None
    segment_pj: Picojoules | None = None
    leakage_mw: Annotated[Number, Field(ge=0)] | None = None


class Hardware(Table):
    """One machine. Frozen; every key is checked on construction; `replace` returns a changed copy."""

    name: str = Field(min_length=1)
    clock_hz: Annotated[int, Field(ge=1)]
    cores: Annotated[int, Field(ge=1, le=1024)]
    precision: Precision
    array: Array
    buffers: Buffers
    layer: LayerRules
    gate: GateUnit
    index: IndexUnit
    gather: Mover
    scatter: Mover
    dram: Memory
    schedule: Schedule = Schedule(source="default: static dealing, nothing merged, nothing overlapped")
    energy: Energy
    processor: Processor | None = Field(
        None, description="a real CPU or GPU, measured: it then says how long things take"
    )

    @model_validator(mode="before")
    @classmethod
    def _processor_stands_for_the_units(cls, data: Any) -> Any:
        """Complete a measured processor, which has no array, buffers or movers of this model, by tables nobody uses."""
        measured = isinstance(data, dict) and data.get("processor") is not None
        return {**_UNITS_OF_A_PROCESSOR, **data} if measured else data

    def replace(self, **changes: Any) -> Hardware:
        """Return a copy with dotted keys replaced: `replace(**{"dram.bytes_per_cycle": 8})`."""
        data = self.model_dump()
        for dotted, value in changes.items():
            *tables, key = dotted.split(".")
            target: Any = data
            for table in tables:
                target = target.get(table) if isinstance(target, dict) else None
            if not isinstance(target, dict) or key not in target or isinstance(target[key], dict):
                raise InputError(f"hardware {self.name!r}: unknown key {dotted!r}; {nearest(dotted, hardware_keys())}")
            if _is_unused(target):
                raise InputError(
                    f"hardware {self.name!r}: {dotted} changes nothing: this machine is a measured processor"
                )
            target[key] = value
        return _checked(data, f"hardware {self.name!r}")

    def save(self, path: str | Path) -> None:
        """Write the machine as TOML, whole or not at all."""
        data = self.model_dump(exclude_none=True)
        if self.processor is not None:
            data = {key: value for key, value in data.items() if not _is_default(value)}
            data["processor"] = self.processor.model_dump(exclude_none=True, exclude_defaults=True)
        write_text(path, to_toml(data))


def hardware_keys() -> list[str]:
    """Return every dotted key a machine file may have."""
    return keys_of(Hardware)


_NOT_USED = "not used: [processor] says how long things take"


def _unused(**numbers: Any) -> dict[str, Any]:
    return {"source": _NOT_USED, **numbers}


def _is_unused(table: Any) -> bool:
    return isinstance(table, dict) and table.get("source") == _NOT_USED


def _is_default(table: Any) -> bool:
    return _is_unused(table) or (isinstance(table, dict) and table.get("source", "").startswith("default:"))


_UNITS_OF_A_PROCESSOR: dict[str, Any] = {
    "precision": _unused(activation_bits=32, weight_bits=32, accumulator_bits=32),
    "array": _unused(rows=1, cols=1, dataflow="dot_product"),
    "buffers": _unused(halves=1, input_bytes=math.inf, weight_bytes=math.inf, output_bytes=math.inf),
    "layer": _unused(launch_cycles=0, layout="nhwc"),
    "gate": {"source": "default: a pass of its own before the layer", "placement": "separate"},
    "index": _unused(blocks_per_cycle=math.inf, cycles_per_tile=0),
    "gather": _unused(setup_cycles=0, cycles_per_segment=0, bytes_per_cycle=math.inf),
    "scatter": _unused(setup_cycles=0, cycles_per_segment=0, bytes_per_cycle=math.inf),
    "dram": _unused(rule="ideal"),
    "energy": _unused(technology_nm=7),
}


@lru_cache(maxsize=4096)
def ratio(rate: float) -> tuple[int, int]:
    """Return a rate as an exact fraction (units, cycles), from its decimal text; inf is (0, 0): never a limit."""
    if math.isinf(rate):
        return 0, 0
    fraction = Fraction(str(rate)).limit_denominator(10**6)
    return fraction.numerator, fraction.denominator


def _checked(data: dict[str, Any], where: str) -> Hardware:
    """Construct, turning pydantic's report into one line: object, key, rule, value, choices."""
    try:
        return Hardware.model_validate(data)
    except ValidationError as error:
        # a misspelt key is both unknown and missing: the unknown one is what the user can see
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        location = [str(part) for part in first["loc"]]
        key = ".".join(location)
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            raise InputError(f"{where}: unknown key {key!r}; {nearest(key, hardware_keys())}{more}") from None
        if first["type"] == "missing":
            raise InputError(f"{where}: key {key!r} is missing{more}") from None
        rule = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
        raise InputError(f"{where}: {key}: {rule[0].lower()}{rule[1:]}{given}{more}") from None


def machines() -> list[str]:
    """Return the names of the machines in the catalog."""
    catalog = resources.files("skipsim.hwmodels") / "catalog"
    return sorted(entry.name.removesuffix(".toml") for entry in catalog.iterdir() if entry.name.endswith(".toml"))


def load_hardware(name: str | Path) -> Hardware:
    """Load a machine from the catalog by name, or from a TOML file by path."""
    text = str(name)
    if text in machines():
        source = (resources.files("skipsim.hwmodels") / "catalog" / f"{text}.toml").read_text(encoding="utf-8")
        return _parsed(source, f"machine {text!r}")
    path = Path(name)
    if not path.is_file():
        if path.suffix == ".toml" or "/" in text:
            raise InputError(f"hardware file {text!r}: no such file")
        raise InputError(f"hardware {text!r} is unknown; {nearest(text, machines())}; or the path of a .toml file")
    try:
        return _parsed(path.read_text(encoding="utf-8"), f"hardware file {text!r}")
    except UnicodeDecodeError:
        raise InputError(f"hardware file {text!r}: not a text file") from None


def _parsed(source: str, where: str) -> Hardware:
    try:
        data = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: not valid TOML: {error}") from None
    return _checked(data, where)
