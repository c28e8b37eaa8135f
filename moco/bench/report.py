"""The figures as people read them: what follows from them, and the table."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from moco.errors import counted

LARGE_QUEUE_CASE, LARGE_QUEUE_BATCH = "resnet50-224", 32
"""The step that a longer queue is compared with: ResNet-50 at 224 pixels, 32 images."""

BUSY, IMPOSSIBLE = 0.5, 1.1
"""Load of the last minute for each core, and share of its own step, above which a figure is not believed."""

Found = dict[str, Any]


def add_ratios(found: Found) -> None:
    """Add, where both figures are there: a step's share of the peak, the loop's of the step, the queue's of a step."""
    for row in found.get("step", {}).values():
        peak = found.get("peak", {}).get(row["precision"])
        if peak is not None:
            row["share_of_peak"] = round(row["gflops"] / peak["gflops"], 3)
    for case, row in found.get("end-to-end", {}).items():
        step = found.get("step", {}).get(case)
        if step is not None:
            row["share_of_step"] = round(row["images_per_second"] / step["images_per_second"], 3)
    queue = found.get("dictionary", {}).get(f"batch-{LARGE_QUEUE_BATCH}")
    step = found.get("step", {}).get(LARGE_QUEUE_CASE)
    if queue is not None and step is not None:
        cost = queue["milliseconds"]
        whole = 1000 * LARGE_QUEUE_BATCH / step["images_per_second"]
        queue["share_of_step_by_65536_keys"] = round((cost["65536"] - cost["4096"]) / whole, 4)


def tabulate_figures(found: Found) -> Table:
    """Return every figure in a line, with what it is to be compared with."""
    lines = Table(title=_title(found["machine"]), title_justify="left")
    for heading in ("measured", "case", "figure", "compared", "memory"):
        names = heading in ("measured", "case")
        lines.add_column(heading, justify="left" if names else "right", no_wrap=names)
    for name, case, figure, compared in _lines(found):
        lines.add_row(name, case, figure, compared, f"{found[name][case]['peak_memory_mib']} MiB")
    return lines


def _title(machine: Found) -> str:
    busy = f", load {machine['load']:g} before" if machine["load"] is not None else ""
    gpu = f"{machine['gpu']}, " if machine.get("gpu") else ""
    processor = f"{machine['processor']}, {counted(machine['cores'], 'core')}"
    return f"{gpu}{processor}, torch {machine['torch']}, {machine['date']}{busy}"


def caution(found: Found) -> str | None:
    """Warn where figures cannot be trusted: other work on the machine, or a whole faster than its part."""
    load, cores = found["machine"]["load"], found["machine"]["cores"]
    if load is not None and load > BUSY * cores:
        return (
            f"caution: the machine was busy before (load {load:g} on {counted(cores, 'core')}): figures understate it"
        )
    shares = [row.get("share_of_step", 0.0) for row in found.get("end-to-end", {}).values()]
    if max(shares, default=0.0) > IMPOSSIBLE:
        return f"caution: a loop was {max(shares):.2f} times as fast as its step alone: the machine's speed changes"
    return None


def _lines(found: Found) -> Iterator[tuple[str, str, str, str]]:
    """Measurement, case, figure, and what it is compared with."""
    for case, row in found.get("peak", {}).items():
        yield "peak", case, f"{row['gflops']:.2f} GFLOP/s", f"product of {row['size']}"
    for case, row in found.get("step", {}).items():
        share = f", {row['share_of_peak']:.0%} of the peak" if "share_of_peak" in row else ""
        yield "step", case, f"{row['images_per_second']:.1f} images/s", f"{row['precision']}{share}"
    for case, row in found.get("end-to-end", {}).items():
        share = f"{row['share_of_step']:.0%} of the step" if "share_of_step" in row else ""
        yield "end-to-end", case, f"{row['images_per_second']:.1f} images/s", share
    for case, row in found.get("views", {}).items():
        yield "views", case, f"{row['views_per_second_per_core']:.0f} views/s", "one core"
    for case, row in found.get("dictionary", {}).items():
        cost = row["milliseconds"]
        first, last = min(cost, key=int), max(cost, key=int)
        share = row.get("share_of_step_by_65536_keys")
        compared = "" if share is None else f"+{share:.1%} of a ResNet-50's step"
        yield "dictionary", case, f"{cost[first]:.1f} ms at {first}, {cost[last]:.1f} ms at {last}", compared
