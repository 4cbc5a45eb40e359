"""The same surroundings for every test, on every machine: one thread, no display, no clock in hypothesis."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Before numpy, numba or torch is imported by anybody, and inherited by the subprocesses that tests start.
for variable, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MPLBACKEND": "Agg"}.items():
    os.environ.setdefault(variable, value)

# A busy machine and a first compilation are slow; neither is a fault of the code under test.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
