"""Who does the work of a study: this machine's processes, or the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import joblib

from skipsim.analysis.running.cluster import connected, in_cluster, worker_count
from skipsim.analysis.running.parallel import in_processes
from skipsim.errors import InputError


@dataclass(frozen=True)
class Crew:
    """Who does the work: `run` maps a function over batches as in_processes does, on so many workers."""

    workers: int
    remote: bool
    run: Callable[..., Iterator[tuple[Any, Any]]]


@contextmanager
def gathered(directory: Path, workers: int | None, cluster: str | None) -> Iterator[Crew]:
    """Yield this machine's processes, or the workers of a cluster."""
    if cluster is None:
        count = workers or joblib.cpu_count()
        yield Crew(count, False, partial(in_processes, workers=count))
        return
    if workers is not None:
        raise InputError(f"sweep: workers = {workers} and cluster = {cluster!r} exclude each other")
    with connected(cluster, directory) as client:
        yield Crew(worker_count(client), True, partial(in_cluster, client))
