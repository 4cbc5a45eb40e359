"""Work in parallel processes, where a process that dies costs the item it was at and nothing else."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import cache
from itertools import islice
from typing import Any, TypeVar

from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")

IDLE_SECONDS = 300.0  # after which processes end; until then the next study finds them started
ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMBA_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    ),
    "1",
)


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

    Batches are taken as workers become free and their results have been consumed, so that no more than
    ahead x workers of them are in memory. When a process dies, all batches that were under way are done again one item
    after the other, each in a process of its own, so that the culprit is found; the rest goes on in parallel.

    Args:
        function: maps a batch to one result per item; importable by name. What it raises is raised here.
        batches: lists of items.
        workers: number of batches that are computed at a time, always by other processes with one thread each.
        ahead: batches handed out per worker, so that none waits for its next one.
    """
    with _KEPT:
        yield from _batch_by_batch(function, batches, workers, ahead)


def _batch_by_batch(
    function: Callable[[Sequence[Item]], Sequence[Result]],
    batches: Iterable[Sequence[Item]],
    workers: int,
    ahead: int,
) -> Iterator[tuple[Sequence[Item], Sequence[Result | WorkerDied]]]:
    waiting = iter(batches)
    while first := list(islice(waiting, ahead * workers)):
        flying: dict[Future[Sequence[Result]], Sequence[Item]] = {}
        executor = _executor(workers)
        try:
            _hand_out(executor, function, first, flying)
            while flying:
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    results = future.result()
                    yield flying.pop(future), results
                    _hand_out(executor, function, list(islice(waiting, 1)), flying)
        except TerminatedWorkerError:
            suspects = list(flying.values())
            flying.clear()
            for item in [item for batch in suspects for item in batch]:
                yield [item], [_alone(function, item)]
        finally:
            if flying:  # nobody wants the rest: an error, or whoever asked has gone
                executor.shutdown(wait=True, kill_workers=True)


class _Kept:
    """Processes are kept while somebody uses them, and ended by this process when nobody has for a while.

    They do not end themselves (loky's timeout): one that does just as it is handed work, as after the whole machine has
    stood still, is replaced with a warning.
    """

    def __init__(self) -> None:
        self._lock, self._users, self._timer = threading.RLock(), 0, threading.Timer(0, lambda: None)

    def __enter__(self) -> None:
        with self._lock:
            self._timer.cancel()
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._timer = threading.Timer(IDLE_SECONDS, self._end)
                self._timer.daemon = True
                self._timer.start()

    def _end(self) -> None:
        with self._lock:
            if not self._users:
                get_reusable_executor(reuse=True).shutdown(wait=True)  # the one that there is


_KEPT = _Kept()


def _executor(workers: int) -> Any:
    return get_reusable_executor(max_workers=workers, timeout=None, env=ONE_THREAD)


def _hand_out(
    executor: Any,
    function: Callable[[Sequence[Item]], Sequence[Result]],
    batches: Sequence[Sequence[Item]],
    flying: dict[Future[Sequence[Result]], Sequence[Item]],
) -> None:
    """Submit batches and note them in `flying`, also those that can no longer be submitted."""
    for number, batch in enumerate(batches):
        try:
            flying[executor.submit(_watched, function, batch, os.getpid())] = batch
        except TerminatedWorkerError:
            flying.update((Future(), lost) for lost in batches[number:])
            raise


def _watched(function: Callable[[Sequence[Item]], Sequence[Result]], batch: Sequence[Item], parent: int) -> Any:
    _end_with(parent)
    return function(batch)


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
            result: Result = _executor(1).submit(_watched, function, [item], os.getpid()).result()[0]
            return result
        except TerminatedWorkerError:
            continue
    return WorkerDied()
