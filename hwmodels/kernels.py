"""Block-sparse gated networks on this machine's CPU: what one needs to build and run them, in one place.

    layer  = Convolution(32, 32, kernel=(3, 3), padding=(1, 1, 1, 1))
    x      = FeatureMap.zeros(64, 64, 32, layer.margin(64, 64))
    y      = FeatureMap.zeros(64, 64, 32)
    mask   = np.zeros((16, 16), np.uint8)                                  # 1 = compute this 4x4 block
    active = ActivePixels.zeros(64, 64)
    program = Program([list_pixels(mask, (4, 4), active), convolve(pack(layer, weight, bias), x, y, active, "relu")])
    program.run(threads=2)

Maps are float32, channels last, in margins of zeros; nothing is gathered and nothing allocated while a program runs.
"""

from __future__ import annotations

from skipsim.hwmodels.active_pixels import ActivePixels, list_pixels
from skipsim.hwmodels.convolution import Convolution, PackedConvolution, pack
from skipsim.hwmodels.convolution_kernel import ACTIVATIONS, Watch, convolve
from skipsim.hwmodels.feature_map import FeatureMap, widest
from skipsim.hwmodels.gate_kernel import decide, measure_change, move_everywhere, move_reference, set_threshold
from skipsim.hwmodels.mask_kernels import need, spread, unite
from skipsim.hwmodels.pointwise_kernels import Source, channel_mean, combine, pool, resize_bilinear, scale_channels
from skipsim.hwmodels.program import Program
from skipsim.hwmodels.step import Step

__all__ = [
    "ACTIVATIONS",
    "ActivePixels",
    "Convolution",
    "FeatureMap",
    "PackedConvolution",
    "Program",
    "Source",
    "Step",
    "Watch",
    "channel_mean",
    "combine",
    "convolve",
    "decide",
    "list_pixels",
    "measure_change",
    "move_everywhere",
    "move_reference",
    "need",
    "pack",
    "pool",
    "resize_bilinear",
    "scale_channels",
    "set_threshold",
    "spread",
    "unite",
    "widest",
]
