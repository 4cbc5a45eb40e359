"""The published numbers: CSV files in tests/oracles of a checkout, or wherever the user keeps them."""

from __future__ import annotations

import csv
from pathlib import Path

from skipsim.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[2] / "tests" / "oracles"


def rows(name: str, folder: Path | None = None) -> list[dict[str, str]]:
    """Read one file of published numbers, `name` relative to the folder; an InputError if it isn't there."""
    path = (folder or CHECKOUT) / name
    if not path.is_file():
        raise InputError(f"published numbers {str(path)!r}: no such file; give the folder tests/oracles of a checkout")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
