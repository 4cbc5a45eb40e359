"""The published numbers: CSV files in tests/oracles of a checkout, or wherever the user keeps them."""

from __future__ import annotations

import csv
from pathlib import Path

from skipsim.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[2] / "tests" / "oracles"


def path_of(name: str, folder: Path | None = None) -> Path:
    """Return where a file of published numbers lies, `name` relative to the folder; an InputError if it isn't there."""
    path = (folder or CHECKOUT) / name
    if not path.is_file():
        raise InputError(f"published numbers {str(path)!r}: no such file; give the folder tests/oracles of a checkout")
    return path


def rows(name: str, folder: Path | None = None) -> list[dict[str, str]]:
    """Read a file of published numbers; a column name that occurs again gets ".1", ".2", ..."""
    with path_of(name, folder).open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    names: list[str] = []
    for column in (" ".join(name.split()) for name in header):
        count = sum(name == column or name.rpartition(".")[0] == column for name in names)
        names.append(f"{column}.{count}" if count else column)
    return [dict(zip(names, line, strict=True)) for line in lines]
