"""The raw measurements of a calibration: a table with one row per configuration, and what it was measured on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from skipsim.atomic import replacing
from skipsim.errors import InputError
from skipsim.hwmodels.design import Call
from skipsim.hwmodels.kernel_work import LayerShape
from skipsim.hwmodels.processor import Host, Peaks

CALL = ("what", "kind", "block", "density", "cluster", "seed", "drawn_block", "hot", "footprint_bytes")
TIMES = ("ns", "total_ns", "first_ns", "second_ns")
_ABOUT = "skipsim"


@dataclass(frozen=True)
class Measurements:
    """What a calibration measured.

    Columns of `table`: what (kernel path, stage, "dense" or "dense_layer"), kind (class of the layer) and its sizes;
    block, density, cluster and seed of the mask; hot, footprint_bytes (touched between two uses of the same); first_ns
    and second_ns (minima of the first and second half of the passes), ns (of all), and total_ns, the call that a part
    was measured in.
    """

    table: pd.DataFrame
    host: Host
    peaks: Peaks
    date: str
    seed: int
    lanes: int
    tile_pixels: int

    def save(self, path: str | Path) -> None:
        """Write as Parquet, whole or not at all."""
        import fastparquet

        about = {
            "host": self.host.model_dump(mode="json"),
            "peaks": self.peaks.model_dump(mode="json"),
            "date": self.date,
            "seed": self.seed,
            "lanes": self.lanes,
            "tile_pixels": self.tile_pixels,
        }
        with replacing(path) as temporary:
            fastparquet.write(
                str(temporary),
                self.table,
                compression="GZIP",
                write_index=False,
                custom_metadata={_ABOUT: json.dumps(about)},
            )

    @classmethod
    def load(cls, path: str | Path) -> Measurements:
        """Read; an InputError if the file is not there or not such a file."""
        import fastparquet

        if not Path(path).is_file():
            raise InputError(f"measurements {str(path)!r}: no such file")
        try:
            file = fastparquet.ParquetFile(str(path))
            about = json.loads(file.key_value_metadata[_ABOUT])
            table = file.to_pandas()
            missing = [name for name in (*CALL, *TIMES) if name not in table]
            if missing:
                raise KeyError(missing[0])
            return cls(
                table,
                Host.model_validate(about["host"]),
                Peaks.model_validate(about["peaks"]),
                **{name: about[name] for name in ("date", "seed", "lanes", "tile_pixels")},
            )
        except Exception as error:  # fastparquet raises whatever it stumbles over
            raise InputError(
                f"measurements {str(path)!r}: not a file of skipsim calibrate: {type(error).__name__}: {error}"
            ) from None


def row_of(what: str, call: Call, hot: bool, footprint_bytes: float) -> dict[str, Any]:
    """Return a row of the table without its times."""
    return {
        "what": what,
        "kind": call.shape.kind,
        "block": call.block[0],
        "density": call.density,
        "cluster": call.cluster,
        "seed": call.seed,
        "drawn_block": call.drawn_block,
        "hot": hot,
        "footprint_bytes": footprint_bytes,
        **asdict(call.shape),
    }


def call_of(row: Any) -> Call:
    """Return the call that a row is of."""
    shape = LayerShape(**{field.name: int(getattr(row, field.name)) for field in fields(LayerShape)})
    block = int(row.block)
    return Call(shape, (block, block), float(row.density), float(row.cluster), int(row.seed), int(row.drawn_block))
