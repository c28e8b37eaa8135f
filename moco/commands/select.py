"""`moco select`: says which images to label first."""

from pathlib import Path
from typing import Any

from moco.commands.comparison import called, compare_figures, say_each
from moco.commands.curate import Collected, collect_images, write_results
from moco.curation.config import SelectConfig
from moco.curation.page import Strip, Tile, render_strips
from moco.curation.selection import (
    MOST_CLUSTERS,
    choose_random,
    choose_spread,
    choose_typical,
    mean_gap,
)
from moco.errors import BadInputError, counted
from moco.evaluation.session import say
from moco.explore.embed_run import clusters
from moco.runtime.fields import check
from moco.runtime.files import read_bounded
from moco.runtime.phases import say_if_slow
from moco.shapes import Features

IN_A_STRIP, SAID = 12, 10
"""Chosen images in a row of the page, and those that are printed."""


def run(config: SelectConfig) -> dict[str, Any]:
    """Choose images to label, print how well they stand for the others, and write list, table and page to --out."""
    check(config)
    if config.labelled is not None and not config.labelled.is_file():
        raise BadInputError(f"--labelled {config.labelled}: no such file, expected a text list of paths")
    with collect_images(config) as found:
        labelled = read_labelled(found, config.labelled)
        if len(labelled) >= len(found.names):
            raise BadInputError(f"--labelled {config.labelled}: names all {len(found.names)} images: none is left")
        choices, z = dict[str, list[int]](), found.encode(config.weights)
        choices[config.weights] = _choose(config, z, labelled, called(config.weights))
        for name in found.baselines:
            choices[f"{name} weights"] = _choose(config, found.encode(name), labelled, called(name))
        if config.baseline and config.method != "random":
            choices["random choice"] = choose_random(len(z), config.n, config.seed, labelled)
        figures = {name: _figures(found, z, rows, labelled) for name, rows in choices.items()}
        chosen = choices[config.weights]
        say_each({name: _describe(own) for name, own in figures.items()})
        say(f"images to label, the first {len(chosen[:SAID])} of {len(chosen)}; --out writes all:")
        for place, row in enumerate(chosen[:SAID], 1):
            say(f"{place:3}. {found.names[row]}")
        written = _write(found, chosen, figures)
    return {
        "paths": [found.names[row] for row in chosen], **figures[config.weights],
        "method": config.method, "labelled": len(labelled), "images": len(found.names),
        "unreadable": list(found.unreadable), "weights": config.weights, "data": config.data, **written,
        "baselines": {
            name: {"paths": [found.names[row] for row in rows], **figures[name]}
            for name, rows in choices.items() if name != config.weights
        },
    }  # fmt: skip


def _choose(config: SelectConfig, z: Features, labelled: list[int], title: str) -> list[int]:
    if config.method == "random":
        return choose_random(len(z), config.n, config.seed, labelled)
    if config.method == "spread":
        return choose_spread(z, config.n, labelled, f"{title}: choosing {config.n} images")
    count = min(len(labelled) + config.n, MOST_CLUSTERS, len(z))
    with say_if_slow(f"{title}: choosing {config.n} images by {count} clusters of {len(z)}"):
        return choose_typical(z, clusters(z.numpy(), count), config.n, labelled)


def read_labelled(found: Collected, path: Path | None) -> list[int]:
    """Read which images are labelled already: a text list of paths, relative to --data or absolute, one on each line.

    What stands behind a tab or a comma is passed over where the whole line is no image. Raises BadInputError naming the
    first path that is no image of the set.
    """
    if path is None:
        return []
    rows = {name: row for row, name in enumerate(found.names)}
    rows |= {} if found.files is None else {name: row for row, name in enumerate(found.files)}
    text = read_bounded(path).decode("utf-8", "surrogateescape")
    known = set[int]()
    for line in filter(None, map(str.strip, text.splitlines())):
        row = next((rows[part] for part in (line, *(line.rsplit(sign, 1)[0] for sign in "\t,")) if part in rows), None)
        if row is None:
            raise BadInputError(f"--labelled {path}: {line} is no image of --data {found.config.data} that can be read")
        known.add(row)
    return sorted(known)


def _figures(found: Collected, z: Features, rows: list[int], labelled: list[int]) -> dict[str, Any]:
    """How well the chosen and the labelled images stand for all, by the features of the given weights."""
    classes = {int(found.labels[row]) for row in rows} - {-1}
    return {
        "chosen": len(rows), "mean_distance": round(mean_gap(z, [*labelled, *rows]), 4),
        "classes": len(classes) if len(found.classes) else None,
    }  # fmt: skip


def _describe(figures: dict[str, Any]) -> str:
    classes = "" if figures["classes"] is None else f" of {counted(figures['classes'], 'class')}"
    return (
        f"{counted(figures['chosen'], 'image')}{classes}; the nearest chosen or labelled image has a similarity of "
        f"{_nearness(figures):.4f} on average"
    )


def _nearness(figures: dict[str, Any]) -> float:
    """Return the mean similarity of all images to the nearest chosen one; as in all that people read, no distance."""
    return round(1 - float(figures["mean_distance"]), 4)


def _write(found: Collected, chosen: list[int], figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    config = found.config
    table = [[place, found.names[row], found.label(row)] for place, row in enumerate(chosen, 1)]
    strips = [
        Strip(None, [Tile(row, found.names[row], f"{start + place}") for place, row in
                     enumerate(chosen[start : start + IN_A_STRIP], 1)])
        for start in range(0, len(chosen), IN_A_STRIP)
    ]  # fmt: skip
    columns = {"chosen": "images", "nearness": "similarity to the nearest, mean", "classes": "classes"}
    shown = {name: {**own, "nearness": _nearness(own)} for name, own in figures.items()}
    return write_results(
        found, "select", table=(["rank", "path", "label"], table), lists={"select.txt": chosen},
        lead=f"{_describe(figures[config.weights])}, of {len(found.names)} by {called(config.weights)}.",
        parts=[
            ("images", "What to label first", render_strips(strips, found.picture)),
            ("figures", "Compared with random choices", compare_figures(shown, columns)),
        ],
    )  # fmt: skip
