"""dry_run(study): what a sweep would do and how long, in words, without doing it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import joblib

from skipsim.analysis.running.estimate import Estimate, estimate
from skipsim.analysis.running.jobs import make_plan
from skipsim.analysis.sweep import Pending, pending


@dataclass(frozen=True)
class DryRun:
    """What there is to do, and how long it takes; of a search both are upper bounds."""

    pending: Pending
    estimate: Estimate
    searched: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, for `--json`."""
        return {**asdict(self.pending), **asdict(self.estimate), "seconds": self.estimate.seconds}

    def words(self) -> str:
        """Return it as one or two lines."""
        todo, most = self.pending, "at most " if self.searched else ""
        line = (
            f"{most}{todo.rows} rows; to do: {most}{todo.missing_recordings} of {todo.recordings} recordings, "
            f"{todo.missing_simulations} simulations; nothing was written"
        )
        if not todo.missing_recordings and not todo.missing_simulations:
            return line
        cost = self.estimate
        return (
            f"{line}\nabout {_duration(cost.seconds)} on {cost.workers} worker{'s' * (cost.workers > 1)} "
            f"(starting {_duration(cost.starting_seconds)}; recordings {_duration(cost.recording_seconds)} and "
            f"simulations {_duration(cost.simulation_seconds)} of one core; measured on {cost.basis})"
        )


def dry_run(study: str | Path, out: str | Path, workers: int | None = None, started_seconds: float = 0) -> DryRun:
    """Say what `sweep` would do and how long it would take; raises what it would raise, writes nothing.

    `started_seconds` is what the process of the sweep takes until it calls it.
    """
    todo, plan = pending(study, out), make_plan(study, out)
    found = estimate(plan, todo.missing_recordings, todo.missing_simulations, workers or joblib.cpu_count())
    if todo.missing_recordings or todo.missing_simulations:
        found = replace(found, starting_seconds=found.starting_seconds + started_seconds)
    return DryRun(todo, found, plan.study.search is not None)


def _duration(seconds: float) -> str:
    """Write seconds as people say them: 0.4 s, 12 s, 3.5 min, 2.1 h."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
