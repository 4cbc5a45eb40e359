"""measure: run the designed set of kernel calls on this machine, cold and hot, interleaved and repeated."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skipsim.hwmodels.design import Call, draw_calls, draw_shapes, work_of
from skipsim.hwmodels.host import describe_host
from skipsim.hwmodels.kernel_work import FLOAT_BYTES, LayerClass, LayerShape, Registers, Work
from skipsim.hwmodels.kernels.machine_code import host_lanes
from skipsim.hwmodels.kernels.program import Program
from skipsim.hwmodels.kernels.register_tile import pixels_per_tile
from skipsim.hwmodels.measured_chain import UNTIMED, Chain, Maps, build_chain
from skipsim.hwmodels.measurement_file import Measurements, row_of
from skipsim.hwmodels.microbenchmarks import measure_peaks

FLUSH_BYTES = 128 * 2**20  # more than a core's share of any last cache
DIFFERENCES = {"watched": "watch", "activated": "silu"}  # what a step is called, and the stage that makes it longer
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much is measured: masks per layer, passes over everything, layers per class; and on how many threads."""

    configurations: int = 8
    passes: int = 12
    seed: int = 0
    per_class: dict[LayerClass, int] | None = None
    threads: int = 1


@dataclass
class Minima:
    """The least time of every step in the first and in the second half of the passes."""

    first: NDArray[np.float64]
    second: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.second = self.first.copy()

    @classmethod
    def of(cls, count: int) -> Minima:
        """Start with infinite times."""
        return cls(np.full(count, np.inf))

    def add(self, times: Any, late: bool) -> None:
        """Take the times of a pass into account."""
        kept = self.second if late else self.first
        np.minimum(kept, times, out=kept)

    def columns(self, index: int) -> dict[str, float]:
        """Return one step's columns of the table."""
        first, second = float(self.first[index]), float(self.second[index])
        return {"first_ns": first, "second_ns": second, "ns": min(first, second), "total_ns": min(first, second)}


class CacheFlush:
    """Writes more than the caches hold."""

    def __init__(self, bytes_: int = FLUSH_BYTES) -> None:
        self._memory = np.ones(bytes_ // FLOAT_BYTES, np.float32)

    def __call__(self) -> None:
        """Flush."""
        self._memory += 1.0


def measure_compiled(plan: Plan, say: Say) -> Measurements:
    """Measure peaks and the compiled kernels with their stages, cold and hot."""
    say("peaks of this core" if plan.threads == 1 else f"peaks of {plan.threads} cores")
    peaks = measure_peaks(plan.threads)
    generator = np.random.default_rng([plan.seed, 3])
    registers = Registers(pixels=pixels_per_tile(host_lanes()), lanes=host_lanes())
    shapes = draw_shapes(plan.seed, plan.per_class)
    say(f"{len(shapes)} layers, {plan.configurations} masks each")
    maps = [Maps.of(shape, generator) for shape in shapes]
    chains = []
    for number, calls in enumerate(draw_calls(shapes, plan.seed, plan.configurations)):
        pairs = list(zip(calls, maps, strict=True))
        chains.append(build_chain(pairs, "plain"))
        chains.append(build_chain(pairs, "silu" if number % 2 else "fused"))
    rows = _cold(chains, plan, say) + _hot(chains, registers, plan, say)
    return Measurements(
        _with_differences(pd.DataFrame(rows)),
        describe_host(threads=plan.threads),
        peaks,
        datetime.datetime.now(datetime.UTC).date().isoformat(),
        plan.seed,
        registers.lanes,
        registers.pixels,
    )


def measure_calls(calls: Sequence[Sequence[Call]], shapes: Sequence[LayerShape], plan: Plan) -> pd.DataFrame:
    """Time chains of given calls, cold; every chain has one call of each shape, in order."""
    generator = np.random.default_rng([plan.seed, 5])
    maps = [Maps.of(shape, generator) for shape in shapes]
    chains = [build_chain(list(zip(chain, maps, strict=True)), "plain") for chain in calls]
    return pd.DataFrame(_cold(chains, plan, lambda text: None))


def _cold(chains: list[Chain], plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Time whole chains, each after the caches were flushed."""
    flush, minima = CacheFlush(), [Minima.of(len(chain.steps)) for chain in chains]
    for chain in chains:
        chain.time(plan.threads)  # first touch, code
    for number in range(plan.passes):
        say(f"cold pass {number + 1} of {plan.passes}")
        for chain, kept in zip(chains, minima, strict=True):
            flush()
            kept.add(chain.time(plan.threads), late=2 * number >= plan.passes)
    return [
        row_of(step.name, step.call, False, float(FLUSH_BYTES)) | kept.columns(index)
        for chain, kept in zip(chains, minima, strict=True)
        for index, step in enumerate(chain.steps)
        if step.name != UNTIMED
    ]


def _hot(chains: list[Chain], registers: Registers, plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Time every call of every chain alone, again and again: its bytes are as near as its own footprint lets them."""
    rows = []
    for number, chain in enumerate(chains):
        say(f"hot chain {number + 1} of {len(chains)}")
        for first, last in _calls_of(chain):
            steps = chain.steps[first:last]
            program, kept = Program(chain.program.steps[first:last]), Minima.of(last - first)
            times = program.time(2 + plan.passes // 2, plan.threads)[1:]
            for index, one in enumerate(times):
                kept.add(one, late=2 * index >= len(times))
            footprint = touched_bytes(work_of("compiled", steps[0].call, registers))
            rows += [
                row_of(step.name, step.call, True, footprint) | kept.columns(index)
                for index, step in enumerate(steps)
                if step.name != UNTIMED
            ]
    return rows


def touched_bytes(work: Work) -> float:
    """Return the bytes that a call touches."""
    return float((work.input_bytes + work.output_bytes + work.weight_bytes)[0])


def _calls_of(chain: Chain) -> list[tuple[int, int]]:
    """Return first and last + 1 step of every call."""
    starts = [0, *(i for i in range(1, len(chain.steps)) if chain.steps[i].call is not chain.steps[i - 1].call)]
    return list(zip(starts, [*starts[1:], len(chain.steps)], strict=True))


def _with_differences(table: pd.DataFrame) -> pd.DataFrame:
    """Turn convolutions with more to do into what that costs more."""
    key = [*(one.name for one in fields(LayerShape)), "block", "density", "cluster", "seed", "hot"]
    plain = table[table["what"] == "compiled"].drop_duplicates(key).set_index(key)["ns"]
    tables = [table[~table["what"].isin(DIFFERENCES)]]
    for name, stage in DIFFERENCES.items():
        rows = table[table["what"] == name].copy()
        rows["ns"] = (rows["ns"].to_numpy() - plain.reindex(pd.MultiIndex.from_frame(rows[key])).to_numpy()).clip(min=1)
        rows["what"] = stage
        tables.append(rows)
    return pd.concat(tables, ignore_index=True)
