"""Work in parallel processes, where a process that dies costs the item it was at and nothing else."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerDied:
    """Stands for the result of an item whose process was killed, twice."""


def in_processes(
    function: Callable[[Sequence[Item]], Sequence[Result]],
    batches: Iterable[Sequence[Item]],
    workers: int,
    *,
    ahead: int = 2,
) -> Iterator[tuple[Sequence[Item], Sequence[Result | WorkerDied]]]:
    """Yield every batch with what `function` returned for it, in the order in which they finish.

    When a process dies, all batches that were under way are done again one item after the other, each in a process
    of its own, so that the culprit is found; the rest goes on in parallel.

    Args:
        function: maps a batch to one result per item; importable by name. What it raises is raised here.
        batches: lists of items.
        workers: number of batches that are computed at a time, always by other processes with one thread each.
        ahead: batches handed out per worker, so that none waits for its next one.
    """
    waiting = deque(batches)
    while waiting:
        flying: dict[int, Sequence[Item]] = {}

        def hand_out(flying: dict[int, Sequence[Item]] = flying) -> Iterator[Any]:
            number = 0
            while waiting:
                flying[number] = waiting.popleft()
                yield joblib.delayed(_numbered)(function, number, flying[number], os.getpid())
                number += 1

        try:
            for number, results in _parallel(workers, ahead * workers)(hand_out()):
                yield flying.pop(number), results
        except TerminatedWorkerError:
            for item in [item for batch in flying.values() for item in batch]:
                yield [item], [_alone(function, item)]


def _numbered(
    function: Callable[[Sequence[Item]], Sequence[Result]], number: int, batch: Sequence[Item], parent: int
) -> tuple[int, Sequence[Result]]:
    _end_with(parent)
    return number, function(batch)


@cache
def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may be killed without a chance to say so."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _alone(function: Callable[[Sequence[Item]], Sequence[Result]], item: Item) -> Result | WorkerDied:
    """Try an item by itself, twice: the first death may have come from outside, such as a lack of memory."""
    for _ in range(2):
        try:
            for _, results in _parallel(1, 1)([joblib.delayed(_numbered)(function, 0, [item], os.getpid())]):
                result: Result = results[0]
                return result
        except TerminatedWorkerError:
            continue
    return WorkerDied()


def _parallel(workers: int, dispatched: int) -> Any:
    """Return joblib's engine; one worker is a process too, for which joblib must believe in two."""
    with joblib.parallel_config(backend="loky", n_jobs=max(2, workers), inner_max_num_threads=1):
        return joblib.Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=dispatched)
