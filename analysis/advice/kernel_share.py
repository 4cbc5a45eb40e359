"""What a speed-up on a measured processor owes to its kernels, and what to skipping: why realised can pass 100 %."""

from __future__ import annotations

from skipsim.simulator.processor import every_position_ms
from skipsim.simulator.report import Report


def kernel_share(report: Report, dense: Report, realised: float) -> str:
    """Say it in one or two sentences; "" on simulated machines, whose dense schedule runs on the same units.

    Args:
        report: of a run with gates.
        dense: the dense schedule beside it.
        realised: share of the MAC reduction, of the run or the mean over its clips.
    """
    if report.hardware.processor is None or all(layer.gate == "none" for layer in report.network):
        return ""
    pytorch_ms, kernels_ms = dense.latency_ms_per_frame, every_position_ms(report.network, report.hardware)
    share = pytorch_ms / kernels_ms
    return (
        f"Dense is PyTorch here, {pytorch_ms:.3g} ms a frame; the sparse kernels take {kernels_ms:.3g} ms even if "
        f"nothing is skipped. {share:.2f}x of the speed-up is theirs, and skipping itself realises "
        f"{realised / share:.0%} of the MAC reduction; together that can be more than 100%."
    )
