"""Host: what machine this is, whether it is the one that a file describes, and whether others are using it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from skipsim.errors import InputError
from skipsim.hwmodels.processor import Host

INSTRUCTIONS = ("neon", "asimd", "sve", "avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_tile")
TIMED_LIBRARIES = ("numpy", "numba", "torch")
CPUINFO, MEMINFO, STAT = Path("/proc/cpuinfo"), Path("/proc/meminfo"), Path("/proc/stat")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
BUSY_CORES, REFUSED_CORES = 0.1, 0.5  # of load by others: worth a warning, and too much to measure beside
UNKNOWN = "unknown"


def describe_host(device: str = "cpu", threads: int = 1) -> Host:
    """Describe this machine: its own name of itself, vector extensions, cores, caches, memory, versions."""
    facts = _cpu_facts()
    flags = facts.get("flags", facts.get("Features", "")).split()
    return Host(
        source="read from the operating system",
        device="cuda" if device == "cuda" else "cpu",
        model=_gpu_name() if device == "cuda" else _cpu_name(facts),
        instructions=tuple(name for name in INSTRUCTIONS if name in flags),
        cores=os.cpu_count() or 1,
        threads=threads,
        cache_bytes=tuple(map(float, _cache_bytes())),
        memory_bytes=_memory_bytes(),
        system=f"{platform.system()} {platform.machine()}",
        versions=tuple(f"{name} {version}" for name in TIMED_LIBRARIES if (version := _version(name))),
    )


def differences(there: Host, here: Host) -> list[str]:
    """Say in which ways two hosts differ so that times of one say little about the other."""
    found = []
    for name in ("device", "model", "instructions", "cores", "cache_bytes", "system", "versions"):
        measured, present = getattr(there, name), getattr(here, name)
        if measured != present:
            found.append(f"{name}: measured on {_words(measured)}, this is {_words(present)}")
    return found


def check_vectors(host: Host) -> str | None:
    """Return a warning for a machine without the vector instructions that kernels are made for, None if all is well."""
    if host.device == "cuda" or "avx512f" in host.instructions or "asimd" in host.instructions:
        return None
    if "avx" in host.instructions:
        return None if "fma" in host.instructions else "this processor has AVX but no FMA: kernels run at half rate"
    return "this processor has no AVX: kernels run on vectors of four; predictions hold for such machines only"


def load_of_others(seconds: float = 0.5, spin: Callable[[float], None] | None = None) -> float:
    """Measure how many cores others keep busy while this thread computes, over some time.

    Two symptoms are added up: processor time that the system counts beyond ours, and time in which this thread wanted
    to run and did not (other threads, or other guests of the same machine).
    """
    busy, wall, own = _busy_seconds(), time.perf_counter(), time.process_time()
    (spin or _spin)(seconds)
    elapsed, spent = time.perf_counter() - wall, time.process_time() - own
    after = _busy_seconds()
    others = max(0.0, after - busy - spent) / elapsed if busy is not None and after is not None else 0.0
    return others + max(0.0, 1 - spent / elapsed)


def check_idle(load_cores: float, allow_busy: bool = False) -> str | None:
    """Return a warning for a busy machine, None for an idle one; an InputError where it is too busy to measure.

    Args:
        load_cores: what `load_of_others` found.
        allow_busy: warn also then.
    """
    if load_cores < BUSY_CORES:
        return None
    what = f"calibrate: others keep {load_cores:.1f} cores of this machine busy"
    if load_cores >= REFUSED_CORES and not allow_busy:
        raise InputError(f"{what}; stop them, or give --allow-busy and take the errors that come with it")
    return f"{what}: times will be too long and scatter; the file's repeatability says by how much"


def check_threads(threads: int) -> str | None:
    """Return a warning if the machine has no core left beside the threads that are timed; check that it has so many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= threads <= cores:
        raise InputError(f"calibrate: threads must be in 1..{cores}, the cores this process may use, got {threads}")
    return "this machine has one core: everything else on it interrupts the measurement" if cores == 1 else None


def pin_thread() -> int | None:
    """Keep this thread on one core, the last it may use; return that core, None where no system call does that."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def _spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def _busy_seconds() -> float | None:
    """Return the processor time that all cores have spent on anything but idling; None where nobody counts."""
    if not STAT.is_file():
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(int, STAT.read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _cpu_facts() -> dict[str, str]:
    """Return what the system says about its first core."""
    if not CPUINFO.is_file():
        return {}
    first = CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_name(facts: dict[str, str]) -> str:
    name = facts.get("model name") or platform.processor() or platform.machine() or UNKNOWN
    family = f" (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else ""
    return name + family


def _gpu_name() -> str:
    import torch

    if not torch.cuda.is_available():
        raise InputError("calibrate: device 'cuda' is not there: PyTorch sees no GPU; choices: cpu")
    return str(torch.cuda.get_device_name())


def _cache_bytes() -> list[int]:
    """Return the sizes of the data caches of one core, the nearest first."""
    sizes: dict[int, int] = {}
    for entry in sorted(CACHES.glob("index*")) if CACHES.is_dir() else []:
        if (entry / "type").read_text().strip() != "Instruction":
            size = (entry / "size").read_text().strip()
            unit = {"K": 2**10, "M": 2**20}.get(size[-1], 1)
            sizes[int((entry / "level").read_text())] = int(size.rstrip("KM")) * unit
    return [sizes[level] for level in sorted(sizes)]


def _memory_bytes() -> int:
    if not MEMINFO.is_file():
        return 0
    return 1024 * int(MEMINFO.read_text().split("MemTotal:")[1].split()[0])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value) or "none"
    return str(value)
