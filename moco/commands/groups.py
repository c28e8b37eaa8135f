"""`moco groups`: divides images into groups of similar ones and shows typical images of each."""

from typing import Any

from moco.commands.comparison import called, compare_figures, say_each
from moco.commands.curate import Collected, collect_images, write_results
from moco.curation.config import GroupsConfig
from moco.curation.groups import Group, describe_groups, divide_images, mean_share
from moco.curation.page import Strip, Tile, render_strips
from moco.errors import BadInputError, counted
from moco.evaluation.session import say
from moco.runtime.fields import check

MOST_GROUPS = 1000
CLEAR = 0.05
"""Smallest silhouette of groups that a person would tell apart."""
VAGUE = "that is near 0: the images form no clear groups, so their number says little; give --k a number"


def run(config: GroupsConfig) -> dict[str, Any]:
    """Divide the images, print size, name and first image of each group, and write a table and a page to --out."""
    check(config)
    k = read_group_count(config.k)
    with collect_images(config) as found:
        groups, figures = list[Group](), dict[str, dict[str, Any]]()
        for name in (config.weights, *found.baselines):
            z = found.encode(name)
            numbers, silhouette = divide_images(z, k, f"{called(name)}: dividing {len(z)} images into groups")
            own = describe_groups(z, numbers, found.labels)
            purity = mean_share(own)
            figures[name] = {
                "k": len(own), "silhouette": round(silhouette, 4),
                "purity": None if purity is None else round(100 * purity, 1),
            }  # fmt: skip
            groups = groups or own
        say_each({name: _describe(of, chosen=k is None) for name, of in figures.items()})
        for number, group in enumerate(groups, 1):
            say(f"{number:3}. {_name(found, group)}, such as {found.names[group.rows[0]]}")
        written = _write(found, groups, figures)
    return {
        "groups": [
            {
                "size": len(group.rows), "representatives": _first(found, group),
                "label": None if group.label is None else found.classes[group.label],
                "share": None if group.label is None else round(group.share, 3),
            }
            for group in groups
        ],
        **figures[config.weights], "images": len(found.names), "unreadable": list(found.unreadable),
        "weights": config.weights, "data": config.data, **written,
        "baselines": {name: figures[name] for name in found.baselines},
    }  # fmt: skip


def _describe(figures: dict[str, Any], *, chosen: bool) -> str:
    """Say how well the groups are apart, and what that means where their number was chosen by it."""
    purity, silhouette = figures["purity"], figures["silhouette"]
    labels = "" if purity is None else f", {purity}% of the images have their group's main label"
    vague = f"; {VAGUE}" if chosen and silhouette < CLEAR else ""
    return f"{figures['k']} groups{labels}, silhouette {silhouette:.3f} (1: far apart, 0: not apart){vague}"


def read_group_count(text: str) -> int | None:
    """Read --k: None for auto. Raises BadInputError for anything but auto and a number from 2 to 1000."""
    if text == "auto":
        return None
    if text.isascii() and text.isdigit() and 2 <= int(text[:9]) <= MOST_GROUPS:
        return int(text)
    raise BadInputError(f"--k is {text}: expected auto, or a number from 2 to {MOST_GROUPS}")


def _first(found: Collected, group: Group) -> list[str]:
    assert isinstance(found.config, GroupsConfig)
    return [found.names[row] for row in group.rows[: found.config.representatives]]


def _name(found: Collected, group: Group) -> str:
    label = "" if group.label is None else f", {group.share:.0%} labelled {found.classes[group.label]}"
    return f"{counted(len(group.rows), 'image')}{label}"


def _write(found: Collected, groups: list[Group], figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    config = found.config
    assert isinstance(config, GroupsConfig)
    table = [
        [number, place, found.names[row], found.label(row)]
        for number, group in enumerate(groups, 1) for place, row in enumerate(group.rows.tolist(), 1)
    ]  # fmt: skip
    strips = [
        Strip(
            None,
            [Tile(row, found.names[row], found.label(row)) for row in group.rows[: config.representatives].tolist()],
            f"Group {number}: {_name(found, group)}",
        )
        for number, group in enumerate(groups, 1)
    ]  # fmt: skip
    columns = {"k": "groups", "silhouette": "silhouette", "purity": "images with their group's main label, %"}
    return write_results(
        found, "groups", table=(["group", "rank", "path", "label"], table), lists={},
        lead=f"{len(found.names)} images in {len(groups)} groups by {called(config.weights)}; "
        "the most typical come first.",
        parts=[
            ("groups", "Groups", render_strips(strips, found.picture)),
            ("figures", "Compared with random weights", compare_figures(figures, columns)),
        ],
    )  # fmt: skip
