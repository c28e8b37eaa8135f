"""What was run: settings against the recipe's, data, machine, time."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moco.errors import counted
from moco.pretraining.config import PretrainConfig
from moco.pretraining.recipes import RECIPES
from moco.report.markup import (
    NOTHING,
    TIMES,
    duration,
    element,
    escape,
    escape_whole,
    number,
    show,
    show_setting,
    table,
    to_plain_text,
)
from moco.report.runs import Run

NOT_THE_RECIPE_S = {
    "version", "data", "out", "seed", "device", "precision", "threads", "workers", "log_every", "checkpoint_every",
    "knn_every", "json", "timeout", "max_steps", "lr", "init_weights", "compile", "recompute", "decode",
    "end_after", "end_spare", "earlier_lengths",
}  # fmt: skip
"""Settings that no recipe gives, or that follow from others."""
LONGEST_REASON = 1000
"""Characters of a reason that are shown."""
OPEN = (None, "auto")
"""Values of a recipe that leave a setting to the run, which stores what it took."""
NO_FLAGS = ("version", "command", "json", "out")
"""Keys of a config that are not shown as settings."""
STATES = {
    "done": "finished", "running": "running", "killed": "killed, or its machine failed", "diverged": "diverged",
    "stopped": "stopped by a signal", "failed": "failed", "unknown": "no status",
}  # fmt: skip


def closest_recipe(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the recipe from which a config departs in the fewest settings, and its values for these settings."""
    best: tuple[int, str, dict[str, Any]] | None = None
    for name, recipe in RECIPES.items():
        values = dataclasses.asdict(PretrainConfig(**{"data": "", "out": Path(), **recipe.values}))
        departures = {
            key: value for key, value in values.items()
            if key not in NOT_THE_RECIPE_S and key in config and value not in OPEN and not _equal(value, config[key])
        }  # fmt: skip
        if best is None or len(departures) < best[0]:
            best = len(departures), name, departures
    assert best is not None
    return best[1], best[2]


def _equal(ours: Any, theirs: Any) -> bool:
    return bool((list(ours) if isinstance(ours, tuple) else ours) == theirs)


def render_summary(runs: Sequence[Run]) -> str:
    """Render a table with a column for each run: recipe, data, machine, time and the last figures."""
    rows: list[tuple[str, list[str]]] = [
        ("state", [STATES[run.state] for run in runs]),
        ("recipe", [_recipe(run) for run in runs]),
        ("data", [_data(run) for run in runs]),
        ("encoder", [_encoder(run) for run in runs]),
        ("dictionary", [_dictionary(run) for run in runs]),
        ("steps", [_steps(run) for run in runs]),
        ("training time", [duration(run.seconds) for run in runs]),
        ("machine", [_machine(run) for run in runs]),
        ("loss", [_with_chance(run) for run in runs]),
        ("kNN top-1 in the run", [_percent(run.last("knn_top1")) for run in runs]),
        ("seed", [str(run.config.get("seed", NOTHING)) for run in runs]),
    ]  # fmt: skip
    cells = [[escape(name), *(escape(value) for value in values)] for name, values in rows if set(values) != {NOTHING}]
    header = ["run", *(escape(run.name) for run in runs)]
    return table(header, cells, label="What was run")


def render_settings(runs: Sequence[Run]) -> str:
    """Show the settings that differ from the recipe or from the other runs, and all of them below."""
    recipes = [closest_recipe(run.config) for run in runs]
    names = list(dict.fromkeys(name for run in runs for name in run.config if name not in NO_FLAGS))
    differing = [
        name for name in names
        if any(name in departures for _, departures in recipes) or len({str(run.config.get(name)) for run in runs}) > 1
    ]  # fmt: skip
    header = ["setting", *(escape(run.name) for run in runs), "recipe"]

    def row(name: str) -> list[str]:
        values = []
        for run, (_, departures) in zip(runs, recipes, strict=True):
            text = escape(show_setting(run.config.get(name)))
            values.append(element("strong", text) if name in departures else text)
        theirs = {
            f"{show_setting(departures[name])} ({recipe})" for recipe, departures in recipes if name in departures
        }
        return [
            escape("--" + str(name).replace("_", "-")),
            *values,
            escape(", ".join(sorted(theirs)) or "as in the recipe" if name not in NOT_THE_RECIPE_S else NOTHING),
        ]

    content = ""
    if differing:
        content += table(header, [row(name) for name in differing], label="Settings that differ")
        content += element("p", "Bold settings differ from the closest recipe.", class_="note")
    else:
        content += element("p", f"All settings are those of the recipe {escape(recipes[0][0])}.")
    everything = table(header[:-1], [row(name)[:-1] for name in names], label="All settings")
    return content + element("details", element("summary", f"all {len(names)} settings") + everything)


def render_reasons(runs: Sequence[Run]) -> str:
    """Show what `moco pretrain auto` chose for a run and why; nothing for runs that it did not make."""
    content = ""
    for run in runs:
        chosen, way = run.chosen.get("settings"), run.chosen.get("way")
        if not isinstance(chosen, dict) or not isinstance(way, dict):
            continue
        rows = [
            [escape("--" + str(name).replace("_", "-")), escape(show_setting(entry.get("value"))),
             _reason(entry.get("reason"))]
            for name, entry in chosen.items() if isinstance(entry, dict)
        ]  # fmt: skip
        content += element("h3", f"Why these settings: {escape(run.name)}")
        content += element("p", _reason(way.get("why"))) + _replanned(run)
        content += table(["setting", "value", "reason"], rows, label="Why these settings")
    return content


def _reason(text: object) -> str:
    """Return a reason whole, as HTML: it may be longer than a name."""
    return escape_whole(to_plain_text(text, LONGEST_REASON))


def _replanned(run: Run) -> str:
    """Say whether the length of a run was planned again on the way."""
    turns = run.config.get("earlier_lengths")
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], list) or not turns[0]:
        return ""
    times = "once" if len(turns) == 1 else f"{len(turns)} times"
    lengths = f"from {show(turns[0][-1], 0)} to {counted(show(run.steps, 0), 'step')}"
    return element("p", f"Its length was adjusted {times} to the measured speed, to end in time: {lengths}.")


def _steps(run: Run) -> str:
    whole = f" of {show(run.steps, 0)}" if run.steps and run.steps != run.step else ""
    return f"{show(run.step, 0)}{whole} {TIMES} {counted(run.config.get('batch_size'), 'image')}"


def _recipe(run: Run) -> str:
    name, departures = closest_recipe(run.config)
    if not departures:
        return f"{name}, unchanged"
    return f"{name}, {counted(len(departures), 'setting')} changed"


def _data(run: Run) -> str:
    images = "" if run.images is None else f", {show(run.images, 0)} images"
    return f"{run.config.get('data')}{images}"


def _encoder(run: Run) -> str:
    config = run.config
    size, view = config.get("image_size"), config.get("view_size")
    views = f", views of {view}" if view not in (None, size) else ""
    return f"{config.get('arch')}, {config.get('stem')} stem, {config.get('head')} head, {size} pixels{views}"


def _dictionary(run: Run) -> str:
    config, choices, mixed = run.config, run.choices, run.mixed
    size = "" if choices is None else f", K = {show(choices - 1 - mixed, 0)}"
    size += f" and {mixed} mixed" if mixed else ""
    momentum = f", m = {show_setting(config.get('key_momentum'))}" if config.get("dictionary") == "queue" else ""
    beside = " and keys of the batch" if config.get("batch_keys") is True else ""
    return f"{config.get('dictionary')}{beside}{size}{momentum}, τ = {show_setting(config.get('temperature'))}"


def _machine(run: Run) -> str:
    machine, config = run.machine, run.config
    parts = [_gpu(machine)] if machine.get("gpu") else []
    parts += [str(machine["processor"])] if machine.get("processor") else []
    cores = number(machine.get("cores"))
    parts += [counted(f"{cores:.0f}", "core")] if cores is not None else []
    parts += [f"{config.get('device')}, {config.get('precision')}, threads: {config.get('threads')}"]
    parts += [f"torch {machine['torch']}"] if machine.get("torch") else []
    return ", ".join(parts)


def _gpu(machine: Mapping[str, Any]) -> str:
    """A GPU, how many there are, and what drives it."""
    gpus, memory = number(machine.get("gpus")), number(machine.get("gpu_memory_gib"))
    known = [f"{memory:g} GiB"] if memory is not None else []
    known += [f"{said} {machine[key]}" for key, said in (("driver", "driver"), ("cuda", "CUDA")) if machine.get(key)]
    several = f"{gpus:.0f} {TIMES} " if gpus is not None and gpus > 1 else ""
    return f"{several}{machine['gpu']}" + (f" ({', '.join(known)})" if known else "")


def _with_chance(run: Run) -> str:
    loss, chance = run.last("loss"), run.last("chance_loss")
    return NOTHING if loss is None else f"{show(loss, 3)}{'' if chance is None else f' (chance {show(chance, 3)})'}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{show(value)}%"
