"""How well does the fit predict layers that were measured at the same time as its own? No clock runs here.

Every layer of a calibration's raw measurements is predicted by a fit to the others: the machine's drift between
calibration and validation has no part in these errors, what is left is the model's and what repetitions differ by.
Errors are absolute and relative, median and 90th percentile, cold and hot, as `skipsim validate` has them.

With --worst N the N calls of the compiled kernel that err most, of every class, cold, follow.

Run by hand: .venv/bin/python benchmarks/left_out.py [FILE.parquet] [--worst 5]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skipsim.analysis.summary import table
from skipsim.hwmodels.calibrate import FEWEST, amounts_of
from skipsim.hwmodels.fit import fit, predict
from skipsim.hwmodels.kernel_paths import KERNELS
from skipsim.hwmodels.kernel_work import Registers
from skipsim.hwmodels.measurement_file import Measurements, call_of

SHIPPED = Path(__file__).parents[1] / "hwmodels/catalog/measured-zen4-2core.parquet"
PARTS = 10  # of the layers; each is predicted by a fit to the nine others


def errors_left_out(rows: pd.DataFrame, measured: Measurements) -> NDArray[np.float64]:
    """Return every call's relative error, predicted by fits that have not seen its layer: [rows]."""
    registers = Registers(pixels=measured.tile_pixels, lanes=measured.lanes)
    amounts = amounts_of(rows, measured.peaks, registers)
    ns, total_ns = (rows[name].to_numpy(float) for name in ("ns", "total_ns"))
    names = [call_of(row).shape.name for row in rows.itertuples(index=False)]
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    part = np.array([order[name] % PARTS for name in names])
    found = np.full(len(rows), np.nan)
    for number in range(PARTS):
        unseen = part == number
        if not unseen.any():
            continue
        cost = fit({name: one[~unseen] for name, one in amounts.items()}, ns[~unseen], "the others", total_ns[~unseen])
        guess = predict({name: one[unseen] for name, one in amounts.items()}, cost)
        found[unseen] = (guess - ns[unseen]) / total_ns[unseen]
    return found


def main() -> None:
    """Print the errors of every kernel path and class of layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=SHIPPED, help="raw measurements of skipsim calibrate")
    parser.add_argument("--worst", type=int, default=0, help="so many calls of every class")
    options = parser.parse_args()
    measured, worst = Measurements.load(options.file), [("layer", "block", "density", "us", "predicted less measured")]
    lines = [("path", "class", "", "calls", "median", "p90", "repeat", "p90")]
    rows = measured.table[measured.table["what"].isin([*KERNELS, "dense"])]
    for (what, kind), group in rows.groupby(["what", "kind"]):
        if len(group) < FEWEST:
            continue
        signed = errors_left_out(group, measured)
        errors = np.abs(signed)
        if what == "compiled":
            cold = np.flatnonzero(~group["hot"].to_numpy(bool))
            for at in cold[np.argsort(-errors[cold])][: options.worst]:
                row = group.iloc[at]
                name, us = call_of(row).shape.name, f"{row['ns'] / 1e3:.1f}"
                worst.append((name, str(row["block"]), f"{row['density']:g}", us, f"{signed[at]:+.1%}"))
        first, second = group["first_ns"].to_numpy(float), group["second_ns"].to_numpy(float)
        again = np.abs(first - second) / np.minimum(first, second)
        for hot, name in ((True, "hot"), (False, "cold")):
            chosen = group["hot"].to_numpy(bool) == hot
            if chosen.any():
                shares = [one[chosen] for one in (errors, again)]
                figures = [f"{np.quantile(one, share):.1%}" for one in shares for share in (0.5, 0.9)]
                lines.append((str(what), str(kind), name, str(int(chosen.sum())), *figures))
    print(table(lines, "lllrrrrr"))
    if options.worst:
        print("\n" + table(worst, "lrrrr"))


if __name__ == "__main__":
    main()
