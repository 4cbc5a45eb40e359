"""Comparison: published numbers beside predicted ones, and how far apart they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

LONG, WORST = 60, 10


@dataclass(frozen=True)
class Pair:
    """One published number and what the model says."""

    name: str  # the layer or configuration
    quantity: str  # what is compared, with its unit
    published: float
    predicted: float
    group: str = ""  # pairs whose errors are summarised together
    calibrated: bool = False  # the machine's free numbers were fitted to this one: no test of the model

    @property
    def error(self) -> float:
        """Signed relative error: predicted / published - 1."""
        return self.predicted / self.published - 1


@dataclass(frozen=True)
class Comparison:
    """All pairs of one machine, and what a reader must know about them."""

    machine: str
    source: str
    pairs: tuple[Pair, ...]
    calibrated: str  # what was fitted, on what
    notes: tuple[str, ...] = field(default=())

    def errors(self, group: str, quantity: str) -> list[float]:
        """Return the absolute relative errors of the predicted pairs of a group."""
        return [
            abs(pair.error)
            for pair in self.pairs
            if (pair.group, pair.quantity) == (group, quantity) and not pair.calibrated
        ]

    @property
    def summary(self) -> list[dict[str, Any]]:
        """Return count, median and maximum of the absolute errors by group and quantity, fitted pairs left out."""
        keys = dict.fromkeys((pair.group, pair.quantity) for pair in self.pairs if not pair.calibrated)
        return [
            {
                "group": group,
                "quantity": quantity,
                "pairs": len(self.errors(group, quantity)),
                "median_error": median(self.errors(group, quantity)),
                "max_error": max(self.errors(group, quantity)),
            }
            for group, quantity in keys
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data, for JSON."""
        return {
            "machine": self.machine,
            "source": self.source,
            "calibrated": self.calibrated,
            "summary": self.summary,
            "pairs": [
                {
                    "name": pair.name,
                    "group": pair.group,
                    "quantity": pair.quantity,
                    "published": pair.published,
                    "predicted": pair.predicted,
                    "error": pair.error,
                    "calibrated": pair.calibrated,
                }
                for pair in self.pairs
            ],
            "notes": list(self.notes),
        }

    def table(self, every: bool = True) -> str:
        """Return the comparison as text; unless `every`, of long lists only the worst pairs."""
        width = max(len(_label(pair)) for pair in self.pairs)
        lines = [f"{self.machine}: {self.source}", f"calibrated: {self.calibrated}", ""]
        for quantity in dict.fromkeys(pair.quantity for pair in self.pairs):
            pairs = [pair for pair in self.pairs if pair.quantity == quantity]
            shown = pairs if every or len(pairs) <= LONG else sorted(pairs, key=lambda pair: -abs(pair.error))[:WORST]
            lines.append(f"{quantity:<{width}} {'published':>12} {'predicted':>12}    error")
            lines += [
                f"{_label(pair):<{width}} {pair.published:>12.5g} {pair.predicted:>12.5g} {pair.error:>+8.1%}"
                + ("  (calibrated)" if pair.calibrated else "")
                for pair in shown
            ]
            lines += [f"... the worst {len(shown)} of {len(pairs)}"] if len(shown) < len(pairs) else []
            lines.append("")
        lines += [
            f"{one['group']} {one['quantity']}: {one['pairs']} predicted, median error {one['median_error']:.1%}, "
            f"maximum {one['max_error']:.1%}".strip()
            for one in self.summary
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _label(pair: Pair) -> str:
    return f"{pair.group} {pair.name}".strip()
