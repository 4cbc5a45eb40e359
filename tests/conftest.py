"""The same surroundings for every test, on every machine: one thread, no display, no clock in hypothesis."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil

import pytest
from hypothesis import HealthCheck, settings

# Before numpy, numba or torch is imported by anybody, and inherited by the subprocesses that tests start.
# No layer runs densely because this host happens to be one that was measured.
surroundings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MPLBACKEND": "Agg", "SKIPSIM_MACHINE": "none"}
for variable, value in surroundings.items():
    os.environ.setdefault(variable, value)

# A busy machine and a first compilation are slow; neither is a fault of the code under test.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def chromium():
    """Start a headless browser where one is installed (apt-get install chromium, or set CHROMIUM to its program)."""
    names = (os.environ.get("CHROMIUM", "chromium"), "chromium-browser", "google-chrome", "chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"no browser is installed; looked for {', '.join(names)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def x86():
    """Ask for a processor of the x86 family: the code that is generated for it is run."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"runs x86 code; this is {platform.machine()}")


@pytest.fixture
def no_gpu():
    """Ask for a machine without a CUDA GPU."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")


@pytest.fixture(scope="session")
def triton():
    """Import Triton where it is installed: it has no build outside Linux."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    import triton

    return triton


@pytest.fixture(scope="session")
def efficientdet_pytorch():
    """Import efficientdet-pytorch where it is installed: an outside definition to compare with.

    torchvision's compiled operators have no build for torch's CPU wheels; two are declared before, so that it imports.
    """
    for name in ("effdet", "timm", "torchvision"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import effdet

    yield effdet
    del library


@pytest.fixture
def small_network(tmp_path):
    """Write a network of two convolutions into the test's folder, and return its name."""
    (tmp_path / "small_network.py").write_text(
        "from torch import manual_seed, nn\n\n"
        "def make():\n"
        "    manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3))\n"
    )
    return "small_network:make"
