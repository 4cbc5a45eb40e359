"""Report: what a simulated clip cost, against the dense schedule on the same machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError
from skipsim.hwmodels.anchor import Anchor, anchor_of
from skipsim.hwmodels.area import area_mm2
from skipsim.hwmodels.energy import ACTIONS, energy_pj
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.clip_cost import ClipCost
from skipsim.simulator.counters import CAUSES
from skipsim.simulator.plan import Tiling
from skipsim.simulator.tiles import W
from skipsim.traces.layer import Layer

if TYPE_CHECKING:
    import pandas as pd

COUNTS = ("array_cycles", "tiles", "active_tiles", "passes", "macs", "computed_macs", "dense_macs")
BYTES = ("dram_read_bytes", "dram_write_bytes", "weight_read_bytes", "gate_read_bytes")


@dataclass(frozen=True)
class Report:
    """Totals over a clip (properties), per layer and frame (`layers`), and the dense schedule beside it (`dense`)."""

    hardware: Hardware
    network: tuple[Layer, ...]
    tile: str  # of the gated layers: "8x8", "full", "per-layer"; "dense" = each layer's own best
    cost: ClipCost
    dense: Report | None = None  # None only in the dense schedule's own report
    tiling: Tiling | None = None  # "per-layer": the tile of every gated layer; None: it stays dense

    def _total(self, column: str) -> int:
        return int(self.cost.work_by_layer[:, W[column]].sum())

    @property
    def anchor(self) -> Anchor | None:
        """The network as it was measured on this machine, which the times go by; None on other machines."""
        processor = self.hardware.processor
        return None if processor is None else anchor_of(processor.anchors, self.network)

    @property
    def anchor_warning(self) -> str | None:
        """How what the anchor timed differs from what is simulated here: other blocks or threads; None: it does not."""
        processor = self.hardware.processor
        if processor is None or self.anchor is None:
            return None
        return self.anchor.difference(self.network, processor.host.threads)

    @property
    def frames(self) -> int:
        """Frames of the clip."""
        return self.cost.frames

    @property
    def cycles(self) -> int:
        """Cycles of the clip, layers and frames one after the other."""
        return int(self.cost.cycles_by_layer.sum())

    @property
    def cycles_by_stage(self) -> NDArray[np.int64]:
        """Cycles [frames, layers]; made anew at every use, frame by frame."""
        return np.array([one.cycles for one in self.cost.each_frame()])

    @property
    def causes_by_stage(self) -> NDArray[np.int64]:
        """Cycles by cause, summed over cores [frames, layers, causes]; made anew at every use, frame by frame."""
        return np.array([one.causes for one in self.cost.each_frame()])

    @property
    def work(self) -> NDArray[np.int64]:
        """What was counted [frames, layers, work columns]; made anew at every use, frame by frame."""
        return np.array([one.work for one in self.cost.each_frame()])

    @property
    def latency_ms(self) -> float:
        """Time of the clip in milliseconds."""
        return self.cycles / self.hardware.clock_hz * 1e3

    @property
    def latency_ms_per_frame(self) -> float:
        """Mean time of a frame in milliseconds."""
        return self.latency_ms / self.frames

    @cached_property
    def energy(self) -> dict[str, float]:
        """Energy of the clip by part, in microjoules; of a measured processor it is not known (not a number)."""
        return self._energy_of(self.cost.work_by_layer.sum(axis=0), self.cycles)

    def _energy_of(self, work: NDArray[np.int64], cycles: int) -> dict[str, float]:
        if self.hardware.processor is not None:
            return {"total": math.nan}
        actions = {name: int(work[W["computed_macs" if name == "macs" else name]]) for name in ACTIONS}
        return {part: pj * 1e-6 for part, pj in energy_pj(self.hardware, actions, cycles).items()}

    @property
    def energy_uj(self) -> float:
        """Energy of the clip in microjoules."""
        return sum(self.energy.values())

    @property
    def area_mm2(self) -> float:
        """Area of the machine in square millimetres; of a measured processor it is not known (not a number)."""
        return math.nan if self.hardware.processor else area_mm2(self.hardware)["total"]

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the masks ask for, the gates' own included."""
        return self._total("macs")

    @property
    def computed_macs(self) -> int:
        """Multiply-accumulates of all active tiles: what the array really does."""
        return self._total("computed_macs")

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of the dense network."""
        return self._total("dense_macs")

    @property
    def dram_read_bytes(self) -> int:
        """Bytes read from memory, bursts rounded up."""
        return self._total("dram_read_bytes")

    @property
    def dram_write_bytes(self) -> int:
        """Bytes written to memory, bursts rounded up."""
        return self._total("dram_write_bytes")

    @property
    def tiles(self) -> int:
        """Tiles of all maps over the clip."""
        return self._total("tiles")

    @property
    def active_tiles(self) -> int:
        """Tiles that were computed."""
        return self._total("active_tiles")

    @property
    def density(self) -> float:
        """Share of the dense MACs that the masks ask for, gates left out."""
        return self.cost.asked_macs / self.dense_macs

    @property
    def effective_density(self) -> float:
        """Share of the dense MACs that lies in active tiles."""
        return self.computed_macs / self.dense_macs

    @property
    def causes(self) -> dict[str, int]:
        """Cycles by cause, summed over cores, layers and frames."""
        return dict(zip(CAUSES, self.cost.causes_by_layer.sum(axis=0).tolist(), strict=True))

    @property
    def mac_reduction(self) -> float:
        """Dense MACs / MACs asked for, gates' own included."""
        return self.dense_macs / max(1, self.macs)

    @property
    def speedup(self) -> float:
        """Dense latency / this latency."""
        return 1.0 if self.dense is None else self.dense.cycles / max(1, self.cycles)

    @property
    def realised(self) -> float:
        """Speed-up / MAC reduction."""
        return self.speedup / self.mac_reduction

    @cached_property
    def layers(self) -> pd.DataFrame:
        """One row per frame and layer: cycles, tiles, densities, bytes, and cycles by cause over all cores.

        A quarter of a megabyte a frame for 300 layers; `layer_rows` yields the same and holds one frame.
        """
        import pandas as pd

        return pd.concat(self._layers_of_frames(), ignore_index=True)

    def _layers_of_frames(self) -> Iterator[pd.DataFrame]:
        """Yield the rows of `layers` frame by frame."""
        import pandas as pd

        pixels = np.array([layer.out_pixels for layer in self.network])
        names = [layer.label for layer in self.network]
        for frame, one in enumerate(self.cost.each_frame()):
            table = pd.DataFrame({"name": names, "frame": frame} | self._counts(one.cycles, one.work))
            table["density"] = one.work[:, W["active_pixels"]] / pixels
            table["effective_density"] = one.work[:, W["computed_pixels"]] / pixels
            for column in BYTES:
                table[column] = one.work[:, W[column]]
            bytes_moved = (table["dram_read_bytes"] + table["dram_write_bytes"]).clip(lower=1)
            table["macs_per_dram_byte"] = table["computed_macs"] / bytes_moved  # where it stands on a roofline
            table["macs_per_cycle"] = table["computed_macs"] / table["cycles"].clip(lower=1)  # and how high
            for number, cause in enumerate(CAUSES):
                table[f"cause_{cause}"] = one.causes[:, number]
            yield table

    def _counts(self, cycles: NDArray[np.int64], work: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Return the columns that `layers` and `by_frame` begin with."""
        return {"cycles": cycles} | {column: work[:, W[column]] for column in COUNTS}

    @cached_property
    def by_frame(self) -> pd.DataFrame:
        """One row per frame: sums of the counts of `layers`, latency in milliseconds, energy in microjoules."""
        import pandas as pd

        cost = self.cost
        columns = self._counts(cost.cycles_by_frame, cost.work_by_frame)
        columns |= {column: cost.work_by_frame[:, W[column]] for column in BYTES}
        columns |= {f"cause_{cause}": cost.causes_by_frame[:, number] for number, cause in enumerate(CAUSES)}
        table = pd.DataFrame(columns).rename_axis("frame")
        table["latency_ms"] = table["cycles"] / self.hardware.clock_hz * 1e3
        energy = map(self._energy_of, cost.work_by_frame, cost.cycles_by_frame.tolist())
        table["energy_uj"] = [sum(parts.values()) for parts in energy]
        return table

    @property
    def by_core(self) -> pd.DataFrame:
        """One row per core: cycles by cause over the clip; they sum to the clip's on every core."""
        import pandas as pd

        if self.cost.causes_by_core is None:
            raise InputError(
                f"report: {self.hardware.name!r} is a measured processor, which has no cores of this model"
            )
        return pd.DataFrame(self.cost.causes_by_core, columns=list(CAUSES)).rename_axis("core")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return self.summary() | {"layers": list(self.layer_rows())}

    def layer_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of `layers` as plain data, so that a long clip's need not be held at once."""
        for frame in self._layers_of_frames():
            yield from _rows(frame)

    def summary(self) -> dict[str, Any]:
        """Return the report as plain data, all but its layers."""
        dense = self.dense or self
        return {
            "hardware": self.hardware.name,
            "anchor": None if self.anchor is None else self.anchor.source,
            "anchor_warning": self.anchor_warning,
            "area_mm2": None if self.hardware.processor else self.area_mm2,
            "tile": self.tile,
            "frames": self.frames,
            "total": self._totals(),
            "dense": dense._totals(),
            "speedup": self.speedup,
            "mac_reduction": self.mac_reduction,
            "realised": self.realised,
            "causes": self.causes,
            "causes_by_core": [] if self.cost.causes_by_core is None else self.by_core.to_dict("records"),
            "energy_uj": self.energy,
            "by_frame": _rows(self.by_frame.reset_index()),
        }

    def _totals(self) -> dict[str, Any]:
        names = (
            "cycles", "latency_ms", "energy_uj", "macs", "computed_macs", "dense_macs", "dram_read_bytes",
            "dram_write_bytes", "tiles", "active_tiles", "density", "effective_density",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return (
            f"Report({self.hardware.name}, tile {self.tile}, {self.frames} frames: "
            f"{self.latency_ms_per_frame:.3f} ms/frame, "
            f"speed-up {self.speedup:.2f}, MAC reduction {self.mac_reduction:.2f}, realised {self.realised:.2f})"
        )


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table as plain data, cycles by cause in a dictionary of their own."""
    return [
        {str(key): value for key, value in row.items() if not str(key).startswith("cause_")}
        | {"causes": {cause: row[f"cause_{cause}"] for cause in CAUSES}}
        for row in table.to_dict("records")
    ]
