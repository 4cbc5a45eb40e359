"""Block-sparse gated networks on this machine's CPU: what one needs to build and run them, in one place.

    layer  = Convolution(32, 32, kernel=(3, 3), padding=(1, 1, 1, 1))
    x      = FeatureMap.zeros(64, 64, 32, layer.margin(64, 64))
    y      = FeatureMap.zeros(64, 64, 32)
    mask   = np.zeros((16, 16), np.uint8)                                  # 1 = compute this 4x4 block
    active = ActivePixels.zeros(64, 64)
    program = Program([list_pixels(mask, (4, 4), active), convolve(pack(layer, weight, bias), x, y, active, "relu")])
    program.run(threads=2)

Maps are float32, channels last, in margins of zeros; nothing is gathered and nothing allocated while a program runs.

    feature_map, convolution, active_pixels     what is kept: maps, packed weights, lists of pixels
    sparse_convolution, gate, masks, pointwise  the kernels; each gives a Step
    step, program                               what runs them, on one or more threads
    register_tile, pixel_loops                  their inner loops, in LLVM code
    vector_code, machine_code, addresses        how that code is written, compiled, kept and called
    torch_path, triton_kernel                   the baseline in PyTorch, and the same convolution on a GPU
"""

from __future__ import annotations

from skipsim.hwmodels.kernels.active_pixels import ActivePixels, list_pixels
from skipsim.hwmodels.kernels.convolution import Convolution, PackedConvolution, pack
from skipsim.hwmodels.kernels.feature_map import FeatureMap, widest
from skipsim.hwmodels.kernels.gate import decide, measure_change, move_everywhere, move_reference, set_threshold
from skipsim.hwmodels.kernels.masks import need, spread, unite
from skipsim.hwmodels.kernels.pointwise import Source, channel_mean, combine, pool, resize_bilinear, scale_channels
from skipsim.hwmodels.kernels.program import Program
from skipsim.hwmodels.kernels.sparse_convolution import ACTIVATIONS, Watch, convolve
from skipsim.hwmodels.kernels.step import Step

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
