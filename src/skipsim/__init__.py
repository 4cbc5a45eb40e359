"""skipsim: which gate granularity pays off on my hardware, and how much wall-clock time will it really save?

Public names are imported on first use, so that `import skipsim` is fast and needs no torch:

    trace = skipsim.load_trace("run.trace")
    report = skipsim.simulate(trace, skipsim.load_hardware("edge-npu"), tile=(8, 8))
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in _HOME, for editors and type checkers
    from skipsim.analysis.compare import compare as compare
    from skipsim.analysis.results import read_results as read_results
    from skipsim.analysis.sweep import sweep as sweep
    from skipsim.errors import InputError as InputError
    from skipsim.hwmodels.hardware import Hardware as Hardware
    from skipsim.hwmodels.hardware import load_hardware as load_hardware
    from skipsim.hwmodels.hardware import machines as machines
    from skipsim.simulator.report import Report as Report
    from skipsim.simulator.simulate import simulate as simulate
    from skipsim.traces.convert import convert as convert
    from skipsim.traces.gates import HoldGate as HoldGate
    from skipsim.traces.gates import InputNormGate as InputNormGate
    from skipsim.traces.gates import OutputNormGate as OutputNormGate
    from skipsim.traces.gumbel import GumbelGate as GumbelGate
    from skipsim.traces.gumbel import load_gumbel as load_gumbel
    from skipsim.traces.layer import Layer as Layer
    from skipsim.traces.models import network as network
    from skipsim.traces.models import networks as networks
    from skipsim.traces.record import record as record
    from skipsim.traces.synthetic import synthetic_trace as synthetic_trace
    from skipsim.traces.trace import Trace as Trace
    from skipsim.traces.trace import load_trace as load_trace
    from skipsim.traces.video import read_frames as read_frames

__version__ = "0.1.0"

_PACKAGES = ("analysis", "hwmodels", "simulator", "traces")
_HOME = {
    "GumbelGate": "traces.gumbel",
    "Hardware": "hwmodels.hardware",
    "HoldGate": "traces.gates",
    "InputError": "errors",
    "InputNormGate": "traces.gates",
    "Layer": "traces.layer",
    "OutputNormGate": "traces.gates",
    "Report": "simulator.report",
    "Trace": "traces.trace",
    "compare": "analysis.compare",
    "convert": "traces.convert",
    "load_gumbel": "traces.gumbel",
    "load_hardware": "hwmodels.hardware",
    "load_trace": "traces.trace",
    "machines": "hwmodels.hardware",
    "network": "traces.models",
    "networks": "traces.models",
    "read_frames": "traces.video",
    "read_results": "analysis.results",
    "record": "traces.record",
    "simulate": "simulator.simulate",
    "sweep": "analysis.sweep",
    "synthetic_trace": "traces.synthetic",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Import a public name or one of the four packages on first use."""
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'skipsim' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])
