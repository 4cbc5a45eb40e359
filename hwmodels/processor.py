"""Processor: a real CPU or GPU that runs our kernels, every coefficient measured; a table of Hardware.

The time of a kernel call is a sum of coefficient x work. The work is counted exactly from the layer and its mask
(`kernel_work.py`), the coefficients are fitted (`calibrate.py`), and the sum is taken in `simulator/processor.py`.
"""

from __future__ import annotations

from bisect import bisect_left
from math import log
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from skipsim.hwmodels.anchor import Anchor
from skipsim.hwmodels.kernel_work import KernelPath, LayerClass, LayerShape, Registers, Residency, StageName
from skipsim.hwmodels.table import Number, Numbers, Table, Words

Nanoseconds = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
WholeNumber = Annotated[int, Field(ge=0)]
Share = Annotated[Number, Field(ge=0)]


class Host(Table):
    """The machine that was measured, well enough to notice that a file belongs to another one."""

    device: Literal["cpu", "cuda"]
    model: str = Field(min_length=1, description="as the processor or driver names itself")
    instructions: Words = Field(description="vector extensions that matter to kernels, e.g. avx2, fma, avx512f")
    cores: Annotated[int, Field(ge=1)] = Field(description="cores that this system has")
    threads: Annotated[int, Field(ge=1)] = Field(description="threads that were measured")
    cache_bytes: Annotated[Numbers, Field()] = Field(description="data caches, the nearest first")
    memory_bytes: WholeNumber
    system: str
    versions: Words = Field(description="name version of every library whose code was timed")


class Peaks(Table):
    """What the machine can do at best, measured."""

    fma_gflops: Positive = Field(description="multiply-adds out of registers, two operations each")
    random_read_ns: Positive = Field(description="one dependent read of a line anywhere in memory")
    footprint_bytes: Numbers = Field(description="sizes over which memory was read and written in a loop, ascending")
    stream_gb_per_s: Numbers = Field(description="bytes read plus written per second at those sizes")

    @model_validator(mode="after")
    def _curve_is_one(self) -> Self:
        sizes, rates = self.footprint_bytes, self.stream_gb_per_s
        if len(sizes) != len(rates) or len(sizes) < 2 or list(sizes) != sorted(set(sizes)) or min(rates) <= 0:
            raise ValueError("footprint_bytes must ascend and have one positive stream_gb_per_s each, at least two")
        return self

    def memory_share(self, footprint_bytes: float) -> float:
        """Return which share of the bytes used again after that many others come from memory and not from a cache.

        Read off the measured curve: 0 where a byte costs what it does in the fastest cache beyond the first, 1 where
        it costs what it does at the largest footprint.
        """
        costs = [1 / rate for rate in self.stream_gb_per_s]
        far, near = costs[-1], min(costs)
        if far <= near or footprint_bytes >= self.footprint_bytes[-1]:
            return 1.0
        if footprint_bytes <= self.footprint_bytes[0]:
            return max(0.0, (costs[0] - near) / (far - near))
        right = bisect_left(self.footprint_bytes, footprint_bytes)
        low, high = self.footprint_bytes[right - 1], self.footprint_bytes[right]
        weight = log(footprint_bytes / low) / log(high / low)
        cost = (1 - weight) * costs[right - 1] + weight * costs[right]
        return min(1.0, max(0.0, (cost - near) / (far - near)))


def residency_of(shape: LayerShape, peaks: Peaks, footprint_bytes: float) -> Residency:
    """Say where a layer's bytes lie: weights and state were last used a frame ago, inputs by the layer before."""
    maps = float(shape.in_bytes + shape.out_bytes)
    old = peaks.memory_share(footprint_bytes)
    return Residency(
        inputs=peaks.memory_share(min(footprint_bytes, maps)),
        compared=peaks.memory_share(min(footprint_bytes, maps + shape.in_bytes + shape.weight_bytes)),
        state=old,
        weights=old,
    )


class Cost(Table):
    """Coefficients of one kernel on one class of layers; what is left out is zero."""

    launch_ns: Nanoseconds = Field(0.0, description="a call")
    memory_launch_ns: Nanoseconds = Field(0.0, description="more, where its own tables and code lie in memory")
    ns_per_block: Nanoseconds = Field(0.0, description="a block of the mask looked at")
    ns_per_tile: Nanoseconds = Field(0.0, description="a block that is computed")
    ns_per_pixel: Nanoseconds = Field(0.0, description="an output pixel that is computed")
    ns_per_segment: Nanoseconds = Field(0.0, description="a run of neighbouring output pixels of one row")
    ns_per_register_tile: Nanoseconds = Field(0.0, description="a tile of sums held in registers: begin and end")
    ns_per_tap: Nanoseconds = Field(0.0, description="a step of its inner loop: loads, whatever its size")
    ns_per_mac: Nanoseconds = Field(0.0, description="a multiply-add of whole vectors")
    ns_per_element: Nanoseconds = Field(0.0, description="gates: an input value compared")
    ns_per_cached_input_byte: Nanoseconds = Field(0.0, description="a touched byte of the input, out of a cache")
    ns_per_memory_input_byte: Nanoseconds = Field(0.0, description="... out of memory")
    ns_per_memory_run: Nanoseconds = Field(0.0, description="the first access to a run of pixels in memory")
    ns_per_memory_start_byte: Nanoseconds = Field(0.0, description="a byte near the start of such a run, in memory")
    ns_per_cached_output_byte: Nanoseconds = Field(0.0, description="a touched byte of output or state, out of a cache")
    ns_per_memory_output_byte: Nanoseconds = Field(0.0, description="... out of memory")
    ns_per_cached_weight_byte: Nanoseconds = Field(0.0, description="a byte of weights out of a cache")
    ns_per_memory_weight_byte: Nanoseconds = Field(0.0, description="... out of memory")
    ns_per_memory_panel: Nanoseconds = Field(0.0, description="a panel of output channels, its weights in memory")
    ns_per_exposed_weight_byte: Nanoseconds = Field(0.0, description="... with too few pixels to compute meanwhile")
    measurements: WholeNumber = Field(0, description="that the fit rests on")
    median_error: Share = Field(0.0, description="of the fit's own measurements, relative")
    p90_error: Share = Field(0.0, description="likewise, 90th percentile")


COEFFICIENTS = tuple(name for name in Cost.model_fields if name.startswith("ns_per_") or name.endswith("launch_ns"))


class Processor(Table):
    """One measured processor: who it is, what it can do, and what kernels cost on it."""

    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    seed: WholeNumber
    path: KernelPath = Field("compiled", description="the kernels that run gated layers")
    fallback: bool = Field(True, description="run a gated layer densely where that is predicted to be faster")
    footprint_bytes: Annotated[Number, Field(ge=0)] | None = Field(
        None, description="bytes between two uses of the same; default: the network's weights, maps and state"
    )
    repeatability: Share = Field(
        description="median relative difference of two measurements of the same, minutes apart"
    )
    lanes: Annotated[int, Field(ge=1)] = Field(16, description="floats of one vector of the compiled kernel")
    tile_pixels: Annotated[int, Field(ge=1)] = Field(12, description="output pixels of its largest register tile")
    host: Host
    peaks: Peaks
    kernels: dict[KernelPath, dict[LayerClass, Cost]]
    stages: dict[StageName, Cost] = Field(description="what runs around the convolutions, compiled")
    dense: dict[LayerClass, Cost]
    dense_layers_ns: dict[str, Positive] = Field(
        default_factory=dict, description="dense layers as they were measured, by shape; instead of the sum"
    )
    anchors: dict[str, Anchor] = Field(default_factory=dict, description="networks that were measured here, by name")

    @property
    def registers(self) -> Registers:
        """How the compiled kernel fills the vector registers."""
        return Registers(pixels=self.tile_pixels, lanes=self.lanes)

    @model_validator(mode="after")
    def _path_is_measured(self) -> Self:
        if self.path not in self.kernels:
            raise ValueError(f"path {self.path!r} was not measured; choices: {', '.join(sorted(self.kernels))}")
        return self
