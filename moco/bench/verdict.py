"""What holds the machine back, in one line, from the figures alone."""

from typing import Any

LOADING, MATRIX, QUEUE = 0.9, 0.75, 0.1
"""Shares that the loop should reach of its step, the step of the matrix peak, and the queue should stay below."""
FASTER_HALF = 1.5

Found = dict[str, Any]


def find_bottleneck(found: Found) -> str:
    """Find the bottleneck of what was measured, and what to change.

    Loading comes first (a step that waits cannot be helped by anything else), then bf16 or fp16 left unused, the queue,
    and the step's share of the peak.
    """
    steps, loops = found.get("step", {}), found.get("end-to-end", {})
    waiting = {case: row["share_of_step"] for case, row in loops.items() if row.get("share_of_step", 1.0) < LOADING}
    if waiting:
        case = min(waiting, key=lambda name: waiting[name])
        workers = loops[case]["workers"]
        change = "give --workers 2 or more" if workers == 0 else "give another --workers, or smaller images on disk"
        return (
            f"bottleneck: loading. {case} reaches {waiting[case]:.0%} of what its step alone does: {change} "
            f"(now {workers}), or a smaller --view-size"
        )
    peaks = {name: row["gflops"] for name, row in found.get("peak", {}).items()}
    for half in ("bf16", "fp16") if any(row["precision"] == "fp32" for row in steps.values()) else ():
        if peaks.get(half, 0.0) > FASTER_HALF * peaks.get("fp32", float("inf")):
            return (
                f"bottleneck: precision. {half} products are {peaks[half] / peaks['fp32']:.1f} times as fast as fp32 "
                f"here, and the step is in fp32: give --precision {half}"
            )
    queues = [row.get("share_of_step_by_65536_keys", 0.0) for row in found.get("dictionary", {}).values()]
    if queues and max(queues) > QUEUE:
        return f"bottleneck: the queue. 65536 keys add {max(queues):.0%} to a step: give a smaller --queue-size"
    shares = {case: row["share_of_peak"] for case, row in steps.items() if "share_of_peak" in row}
    if not shares:
        return "no verdict: it needs at least --only peak,step; with end-to-end it judges loading too"
    case = min(shares, key=lambda name: shares[name])
    loading = "loading keeps up" if loops else "loading was not measured"
    if shares[case] < MATRIX:
        return (
            f"bottleneck: the network's layers. {case} reaches {shares[case]:.0%} of the {steps[case]['precision']} "
            f"matrix peak, {loading}: what is not a matrix product (normalisation, ReLU, small layers) takes the rest; "
            f"a wider --arch or a larger --batch-size uses more of the machine"
        )
    return (
        f"bottleneck: the machine. Every step reaches {shares[case]:.0%} or more of the {steps[case]['precision']} "
        f"matrix peak, {loading}: only less work (a smaller --view-size or --arch) or a faster machine helps"
    )
