"""Layer: the geometry of one convolution call, and everything that can be counted from it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from skipsim.errors import InputError, nearest

GATE_KINDS = ("none", "input_norm", "output_norm", "gumbel", "mask", "shared", "hold")
KEPT = ("kept_in_channels", "kept_out_channels")


@dataclass(frozen=True)
class Layer:
    """One call of one convolution: sizes in pixels and channels, gate granularity in output pixels.

    A module that runs several times per frame (a head shared between levels) is several layers, told apart by `call`.
    `gate` says what decides: "none" (always computed), a norm gate, a Gumbel gate, "mask" (the user's own), "shared"
    (the gate of an earlier layer, whose mask is carried on to this one at no cost), or "hold" (nothing between two
    reference frames).
    `kept_in_channels`, `kept_out_channels`: how many channels run where channels are skipped as well; None = all.
    """

    name: str
    in_channels: int
    in_rows: int
    in_cols: int
    out_channels: int
    out_rows: int
    out_cols: int
    kernel_rows: int = 1
    kernel_cols: int = 1
    stride_rows: int = 1
    stride_cols: int = 1
    padding_top: int = 0
    padding_left: int = 0
    dilation_rows: int = 1
    dilation_cols: int = 1
    groups: int = 1
    block_rows: int = 1
    block_cols: int = 1
    gate: str = "none"
    call: int = 0
    kept_in_channels: int | None = None
    kept_out_channels: int | None = None

    def __post_init__(self) -> None:
        """Check every size once, so that nothing downstream has to."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("name", "gate") or (field.name in KEPT and value is None):
                continue
            low = 0 if field.name in ("padding_top", "padding_left", "call") else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"layer {self.name!r}: {field.name} must be a whole number >= {low}, got {value!r}")
        if self.gate not in GATE_KINDS:
            raise InputError(f"layer {self.name!r}: gate {self.gate!r} is unknown; {nearest(self.gate, GATE_KINDS)}")
        for side in ("in_channels", "out_channels"):
            if getattr(self, side) % self.groups:
                raise InputError(
                    f"layer {self.name!r}: {side} must be a multiple of groups={self.groups}, got {getattr(self, side)}"
                )
            kept = getattr(self, f"kept_{side}")
            if kept is not None and (kept > getattr(self, side) or (self.groups > 1 and kept < getattr(self, side))):
                most = f"{side}={getattr(self, side)}"
                rule = f"at most {most}" if self.groups == 1 else f"{most} (all) in a grouped layer"
                raise InputError(f"layer {self.name!r}: kept_{side} must be {rule}, got {kept}")

    @property
    def key(self) -> tuple[str, int]:
        """The layer's identity in a trace: (module name, call index)."""
        return self.name, self.call

    @property
    def label(self) -> str:
        """The identity as one word: "name", or "name@call" for repeated calls."""
        return f"{self.name}@{self.call}" if self.call else self.name

    @property
    def grid_rows(self) -> int:
        """Rows of the mask: ceil(out_rows / block_rows)."""
        return -(-self.out_rows // self.block_rows)

    @property
    def grid_cols(self) -> int:
        """Columns of the mask: ceil(out_cols / block_cols)."""
        return -(-self.out_cols // self.block_cols)

    @property
    def out_pixels(self) -> int:
        """Output positions of the map."""
        return self.out_rows * self.out_cols

    @property
    def depthwise(self) -> bool:
        """Whether every input channel has filters of its own."""
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def reduction(self) -> int:
        """Products summed into one output value: kernel area x input channels of one group (K of the product)."""
        return self.kernel_rows * self.kernel_cols * (self.in_channels // self.groups)

    @property
    def macs_per_pixel(self) -> int:
        """Multiply-accumulates of one output position over all output channels; bias not counted."""
        return self.reduction * self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole dense layer."""
        return self.macs_per_pixel * self.out_pixels

    @property
    def weights(self) -> int:
        """Number of weights; bias not counted."""
        return self.reduction * self.out_channels

    @property
    def skips_channels(self) -> bool:
        """Whether fewer channels than the map has are kept."""
        return self.kept_in_channels is not None or self.kept_out_channels is not None

    @property
    def kept(self) -> Layer:
        """The layer as it runs where channels are skipped: the same map, only the kept channels."""
        ins, outs = self.kept_in_channels or self.in_channels, self.kept_out_channels or self.out_channels
        return replace(self, in_channels=ins, out_channels=outs, kept_in_channels=None, kept_out_channels=None)

    @property
    def gate_macs(self) -> int:
        """What the layer's gate costs on one frame, in multiply-accumulates.

        Norm gates: one absolute difference per input value, then one addition per kernel tap and output position.
        Gumbel gate: a convolution with the layer's geometry and one output channel. A user's mask: not known, 0.
        A shared gate is paid for by the layer that has it, and holding costs nothing.
        """
        if self.gate in ("input_norm", "output_norm"):
            return (
                self.in_channels * self.in_rows * self.in_cols + self.kernel_rows * self.kernel_cols * self.out_pixels
            )
        if self.gate == "gumbel":
            return self.kernel_rows * self.kernel_cols * self.in_channels * self.out_pixels
        return 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, for the manifest; kept channels only if some are skipped."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in data.items() if name not in KEPT or value is not None}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Layer:
        """Make a layer from a manifest entry; unknown or missing fields are an InputError."""
        known = {field.name for field in fields(cls)}
        name = data.get("name", "?")
        for key in data:
            if key not in known:
                raise InputError(f"layer {name!r}: unknown field {key!r}; {nearest(key, known)}")
        try:
            return cls(**data)
        except TypeError as error:
            raise InputError(f"layer {name!r}: {error}") from None
