"""The networks that come with skipsim, by name. To add one: write its module here and add a line to MODELS."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipsim.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Model:
    """Where a network is defined, what it takes, and which trained weights ship with it.

    Attributes:
        function: "module:function" inside this package; its options are those of `network`.
        rows: usual input height in pixels.
        cols: usual input width in pixels.
        weights: file name in the folder `weights`; None where none ship.
        about: one line for listings.
    """

    function: str
    rows: int
    cols: int
    weights: str | None
    about: str


MODELS: dict[str, Model] = {
    "detection_narrow": Model(
        "efficientdet:detection_narrow",
        256,
        256,
        "detection_narrow.safetensors",
        "detection_small with half the channels, trained alike",
    ),
    "detection_small": Model(
        "efficientdet:detection_small",
        256,
        256,
        "detection_small.safetensors",
        "detection of vehicles in procedural clips, trained",
    ),
    "efficientdet_d0": Model(
        "efficientdet:efficientdet_d0", 512, 512, None, "detection, 3.9 M parameters; Tan et al., CVPR 2020"
    ),
    "efficientdet_d1": Model(
        "efficientdet:efficientdet_d1", 640, 640, None, "detection, 6.6 M parameters; Tan et al., CVPR 2020"
    ),
    "efficientdet_d2": Model(
        "efficientdet:efficientdet_d2", 768, 768, None, "detection, 8.1 M parameters; Tan et al., CVPR 2020"
    ),
    "efficientdet_d3": Model(
        "efficientdet:efficientdet_d3", 896, 896, None, "detection, 12.0 M parameters; Tan et al., CVPR 2020"
    ),
    "hrnet_w32": Model("hrnet:hrnet_w32", 256, 192, None, "pose, 28.5 M parameters; Sun et al., CVPR 2019"),
    "hrnet_w48": Model("hrnet:hrnet_w48", 256, 192, None, "pose, 63.6 M parameters; Sun et al., CVPR 2019"),
    "pose_narrow": Model(
        "hrnet:pose_narrow", 128, 128, "pose_narrow.safetensors", "pose_small with half the channels, trained alike"
    ),
    "unet": Model("unet:unet", 256, 256, None, "segmentation, 8.6 M parameters; Ronneberger et al., MICCAI 2015"),
    "pose_small": Model("hrnet:pose_small", 128, 128, "pose_small.safetensors", "pose of procedural clips, trained"),
}
SHIPPED = "shipped"
WEIGHTS = Path(__file__).parent / "weights"


def networks() -> list[str]:
    """Return the names that `network` takes; needs no torch."""
    return sorted(MODELS)


def usual_size(name: str) -> tuple[int, int] | None:
    """Return the (rows, cols) of the frames that a network takes; None where it is not one of these."""
    model = MODELS.get(name)
    return (model.rows, model.cols) if model else None


def network(name: str, *, weights: str | Path | None = SHIPPED, **options: Any) -> nn.Module:
    """Make a network by name, in evaluation mode.

    Args:
        name: one of `networks()`.
        weights: "shipped" = the trained weights that come with skipsim; a network without them starts at random.
            None = random. Otherwise a safetensors file, or a PyTorch file of tensors.
        options: of the network's own function, such as `outputs`.

    Raises:
        InputError: an unknown name or option, or weights that do not fit.
    """
    if name not in MODELS:
        raise InputError(f"network {name!r} is unknown; {nearest(str(name), MODELS)}")
    model = MODELS[name]
    module, function = model.function.split(":")
    try:
        build = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(f"network {name!r}: needs PyTorch; install it with: pip install 'skipsim[torch]'") from None
    try:
        made: nn.Module = build(**options)
    except TypeError as error:
        raise InputError(f"network {name!r}: {error}") from None
    if weights == SHIPPED:
        weights = WEIGHTS / model.weights if model.weights else None
    # On the meta device, where only shapes are wanted, there is nothing to load into.
    if weights is not None and not any(parameter.is_meta for parameter in made.parameters()):
        from skipsim.traces.models.checkpoint import load_weights

        load_weights(made, weights)
    return made.eval()
