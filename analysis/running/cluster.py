"""The same batches on an existing Dask cluster instead of this machine's cores.

What workers read and write are files of the study's folder, so it must lie on a file system that all of them share:
this is checked at the start. A worker that dies costs nothing: its batches run again elsewhere. Batches under way when
several workers died are done again at the end, item by item, so that only the culprit fails.
"""

from __future__ import annotations

import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from skipsim import __version__
from skipsim.analysis.running.parallel import WorkerDied
from skipsim.atomic import write_text
from skipsim.errors import InputError
from skipsim.simulator.tiles import MODEL_VERSION

Item = TypeVar("Item")
Result = TypeVar("Result")

SECONDS_TO_ANSWER = 20
_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def connected(address: str, folder: Path) -> Iterator[Any]:
    """Yield a Dask client of the cluster at `address`, checked: its workers see `folder` and run this version.

    Raises:
        InputError: distributed is not installed, nobody answers, no workers, or one that is of no use.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise InputError("--cluster needs dask.distributed: pip install 'skipsim[cluster]'") from None
    try:
        client = Client(address, timeout=SECONDS_TO_ANSWER, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cluster {address!r}: no Dask scheduler answers there: {_one_line(error)}") from None
    with client:
        _check_workers(client, address, folder)
        yield client


def in_cluster(
    client: Any,
    function: Callable[[Sequence[Item]], Sequence[Result]],
    batches: Iterable[Sequence[Item]],
    *,
    ahead: int = 2,
) -> Iterator[tuple[Sequence[Item], Sequence[Result | WorkerDied]]]:
    """Yield every batch with what `function` returned for it, in the order in which they finish: see in_processes.

    Raises:
        OSError: the cluster is gone.
    """
    from distributed import CancelledError, KilledWorker, as_completed

    waiting = iter(batches)
    suspects: list[Item] = []
    flying: dict[str, Sequence[Item]] = {}
    done = as_completed(loop=client.loop)

    def hand_out(batch: Sequence[Item] | None) -> None:
        if batch is not None:
            future = client.submit(_alone, function, batch, pure=False)
            flying[future.key] = batch
            done.add(future)

    try:
        for _ in range(ahead * worker_count(client)):
            hand_out(next(waiting, None))
        for future in done:
            batch = flying.pop(future.key)
            hand_out(next(waiting, None))
            try:
                yield batch, future.result()
            except KilledWorker:  # it, or one that waited beside it: tried item by item when nothing else is under way
                suspects += batch
        for item in suspects:
            try:
                yield [item], client.submit(_alone, function, [item], pure=False).result()
            except KilledWorker:
                yield [item], [WorkerDied()]
    except CancelledError:
        raise OSError("the cluster is gone; start the study again to go on where it was") from None


def worker_count(client: Any) -> int:
    """Return how many workers the cluster has now."""
    return max(1, len(client.nthreads()))


def _alone(function: Callable[[Sequence[Item]], Sequence[Result]], batch: Sequence[Item]) -> Sequence[Result]:
    """Run one batch at a time in this process, with one thread: masks must not depend on how many there are."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with _ONE_AT_A_TIME:
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        return function(batch)


def _check_workers(client: Any, address: str, folder: Path) -> None:
    if not client.nthreads():
        raise InputError(f"cluster {address!r}: has no workers; start some: dask worker {address}")
    there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file, token = folder / f".shared.{uuid.uuid4().hex}", uuid.uuid4().hex
    try:
        write_text(file, token)
        answers = client.run(_look, str(file.absolute()), on_error="return")
    finally:
        file.unlink(missing_ok=True)
        if not there:
            folder.rmdir()
    for worker, answer in answers.items():
        if isinstance(answer, Exception):
            raise InputError(f"cluster {address!r}: worker {worker} cannot run skipsim: {_one_line(answer)}")
        seen, version = answer
        if seen != token:
            raise InputError(
                f"cluster {address!r}: worker {worker} does not see {folder.absolute()}; "
                "the study's folder must lie on a file system that all workers share"
            )
        if version != [__version__, MODEL_VERSION]:
            raise InputError(
                f"cluster {address!r}: worker {worker} has skipsim {version[0]} with model version {version[1]}, "
                f"this is {__version__} with {MODEL_VERSION}"
            )


def _look(file: str) -> tuple[str, list[Any]]:
    """Tell, on a worker, what is in a file and which version this is."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError:
        text = ""
    return text, [__version__, MODEL_VERSION]


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
