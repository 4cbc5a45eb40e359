"""Settings that may differ from layer to layer: one value for all, or a table by map size or layer name.

A table's keys are tried in their order, and the first that fits a layer gives its value:

    "16x12"     layers whose output map has 16 rows and 12 columns
    ">=32x32"   layers whose output map has at least 32 rows and at least 32 columns
    "stage3.*"  layers by name, with * and ? as in file names; "*" fits all
    "head@1"    the second call of a layer that runs several times per frame; "head" fits all of its calls
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from skipsim.errors import InputError
from skipsim.traces.layer import Layer

_SIZE = re.compile(r"(>=)?(\d+)x(\d+)")


def value_for(setting: Any, layer: Layer, what: str) -> Any:
    """Return the value of a setting for one layer; `what` names the setting in the error where no key fits."""
    if not isinstance(setting, Mapping):
        return setting
    for key, value in setting.items():
        if _fits(key, layer):
            return value
    raise InputError(
        f"{what}: no key fits layer {layer.name!r} with its {layer.out_rows}x{layer.out_cols} map; "
        f"keys: {', '.join(setting)} (add '*' for all others)"
    )


def values_of(setting: Any) -> list[Any]:
    """Return every value of a setting."""
    return list(setting.values()) if isinstance(setting, Mapping) else [setting]


def _fits(key: str, layer: Layer) -> bool:
    size = _SIZE.fullmatch(key)
    if not size:
        return fnmatchcase(layer.name, key) or (layer.call > 0 and fnmatchcase(layer.label, key))
    rows, cols = int(size[2]), int(size[3])
    if size[1]:
        return layer.out_rows >= rows and layer.out_cols >= cols
    return (layer.out_rows, layer.out_cols) == (rows, cols)


def read_table(text: str) -> dict[str, str]:
    """Read "64x64=8,16x16=2,*=4" into {"64x64": "8", "16x16": "2", "*": "4"}."""
    table: dict[str, str] = {}
    for entry in text.split(","):
        key, equals, value = entry.strip().rpartition("=")
        if not equals or not key or not value:
            raise InputError(f"settings by layer: each entry must be KEY=VALUE, got {entry.strip()!r} in {text!r}")
        if key in table:
            raise InputError(f"settings by layer: key {key!r} is there twice in {text!r}")
        table[key] = value
    return table
