"""Steps that run a loop of pixel_loops over a list of pixels, in chunks."""

from __future__ import annotations

from skipsim.compiled import entry
from skipsim.errors import InputError
from skipsim.hwmodels.kernels.active_pixels import ActivePixels
from skipsim.hwmodels.kernels.addresses import call, words
from skipsim.hwmodels.kernels.feature_map import FeatureMap
from skipsim.hwmodels.kernels.pixel_loops import (
    DIFFERENCE_CHANGE,
    DIFFERENCE_CHANNELS,
    DIFFERENCE_REFERENCE,
    DIFFERENCE_SCALE,
    DIFFERENCE_X,
    pixel_loops,
)
from skipsim.hwmodels.kernels.step import FIELDS, FIRST_FIELD

_CHUNK_BYTES = 64 * 1024

POSITIONS, COUNT, FUNCTION, CHUNK, FIRST = range(FIRST_FIELD, FIRST_FIELD + 5)
"""The fields of such a step; the loop's own fields start at FIRST."""


def list_fields(kernel: str, function: str, like: FeatureMap, active: ActivePixels) -> dict[int, int]:
    """Return the fields for a loop over a list of the pixels of `like`."""
    if (active.rows, active.cols) != (like.rows, like.cols):
        raise InputError(
            f"{kernel}: active must list pixels of {(like.rows, like.cols)} (rows, cols), "
            f"got {(active.rows, active.cols)}"
        )
    fields = {POSITIONS: active.positions.ctypes.data, COUNT: active.count.ctypes.data}
    return fields | {FUNCTION: pixel_loops()[function], CHUNK: max(16, _CHUNK_BYTES // (4 * like.channels))}


def map_fields(first: int, map_: FeatureMap) -> dict[int, int]:
    """Return the three fields that describe a map to the loops."""
    return {first: map_.address(), first + 1: map_.row_floats, first + 2: map_.channels}


def difference_fields(
    first: int, x: FeatureMap, reference: FeatureMap, change: FeatureMap
) -> tuple[dict[int, int], dict[int, float]]:
    """Return the fields of the loop `difference`, from `first` on: whole numbers and floats."""
    values = {first + DIFFERENCE_CHANNELS: x.channels}
    for offset, map_ in ((DIFFERENCE_X, x), (DIFFERENCE_REFERENCE, reference), (DIFFERENCE_CHANGE, change)):
        values |= map_fields(first + offset, map_)
    return values, {first + DIFFERENCE_SCALE: 1 / x.channels}


def check_maps(kernel: str, like: FeatureMap, channels: int | None = None, **maps: FeatureMap) -> None:
    """Check that maps have the size of `like`, and its channels or so many."""
    wanted = (like.rows, like.cols, like.channels if channels is None else channels)
    for name, map_ in maps.items():
        if (map_.rows, map_.cols, map_.channels) != wanted:
            raise InputError(
                f"{kernel}: {name} must be a map of {wanted} (rows, cols, channels), "
                f"got {(map_.rows, map_.cols, map_.channels)}"
            )


@entry("int64(int64)")
def pixel_units(address):
    """Return the number of chunks."""
    step = words(address, FIELDS)
    return -(-words(step[COUNT], 1)[0] // step[CHUNK])


@entry("int64(int64, int64)")
def run_pixels(address, unit):
    """Run the loop on one chunk of the list."""
    step = words(address, FIELDS)
    first = unit * step[CHUNK]
    pixels = min(step[CHUNK], words(step[COUNT], 1)[0] - first)
    call(step[FUNCTION], address + 8 * FIRST, step[POSITIONS] + 4 * first, pixels, 0, 0, 0)
    return 0
