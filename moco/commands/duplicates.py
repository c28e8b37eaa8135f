"""`moco duplicates`: finds duplicate images and says which to keep; it deletes nothing."""

import dataclasses
from typing import Any

import numpy as np

from moco.commands.comparison import called, compare_figures, say_each
from moco.commands.curate import Collected, collect_images, write_results
from moco.curation.config import DuplicatesConfig
from moco.curation.duplicates import Calibration, Member, calibrate, choose_kept, group_duplicates
from moco.curation.page import Strip, Tile, render_strips
from moco.data.augment import AUGMENTATIONS
from moco.data.derived import take_evenly
from moco.data.images import Images
from moco.errors import counted
from moco.evaluation.features import Encoding, RandomViews, encode
from moco.evaluation.session import Subject, at_random, say
from moco.report.markup import element
from moco.shapes import Features

VIEWED, COMPARED = 256, 1024
"""Number of images that calibrate the threshold: those with two views, and those compared with each other."""
AUGMENTATION = "mild"
SEARCHED = 10
"""Number of nearest images that judge an index."""
FEW = 10
"""Percentage of the pairs of views, below which a threshold finds hardly any near duplicates."""
COLUMNS = {
    "threshold": "similarity from", "views_found": "slightly changed copies found, %",
    "false_pairs": "pairs expected to be false", "groups": "groups", "drop": "images to drop",
}  # fmt: skip


def run(config: DuplicatesConfig) -> dict[str, Any]:
    """Find groups of duplicates, the image to keep first; print them, and write lists, a table and a page to --out."""
    with collect_images(config) as found:
        subjects = {config.weights: found.subject}
        subjects |= {name: at_random(found.config_of_session, found.subject) for name in found.baselines}
        figures, members = dict[str, dict[str, Any]](), list[list[Member]]()
        for name, subject in subjects.items():
            z = found.encode(name)
            known = _calibrated(found, subject, z, name)
            title, index = f"{called(name)}: comparing {len(z)} images", found.index(name, z, SEARCHED)
            groups = group_duplicates(z, found.facts, known.threshold, title, index)
            own = [choose_kept(group, z, found.facts, known.threshold, config.keep) for group in groups]
            drop = sum(member.instead is not None for group in own for member in group)
            figures[name] = {**dataclasses.asdict(known), "groups": len(own), "drop": drop}
            members = members if name != config.weights else own
        own_figures = figures[config.weights]
        say_each({name: _describe(own, len(found.names)) for name, own in figures.items()})
        if config.threshold is None and own_figures["views_found"] < FEW:
            say(
                f"this threshold finds hardly more than equal images: to find near duplicates among {len(found.names)} "
                f"images, give better weights, or --false-pairs {100 * config.false_pairs:g} for a longer list to check"
            )
        dropped = [member.row for group in members for member in group if member.instead is not None]
        written = _write(found, members, dropped, figures)
    return {
        "groups": [[found.names[member.row] for member in group] for group in members],
        "keep": [[found.names[member.row] for member in group if member.instead is None] for group in members],
        "drop": [found.names[row] for row in dropped], "rule": config.keep, "images": len(found.names),
        "threshold": own_figures["threshold"], "views_found": own_figures["views_found"],
        "expected_false_pairs": own_figures["false_pairs"], "unreadable": list(found.unreadable),
        "weights": config.weights, "data": config.data, **written,
        "baselines": {name: figures[name] for name in found.baselines},
    }  # fmt: skip


def _calibrated(found: Collected, subject: Subject, z: Features, name: str) -> Calibration:
    """Compare two mild views of some images, and some images with each other."""
    config = found.config
    assert isinstance(config, DuplicatesConfig)
    rows = np.unique(np.linspace(0, len(z) - 1, min(COMPARED, len(z))).astype(np.int64))
    _, distinct = np.unique(found.facts.pixels[rows], axis=0, return_index=True)  # the same pixels are no other image
    others = z[rows[np.sort(distinct)]]
    first, second = encode_mild_views(subject, found.images, found.how, config.seed, name)
    return calibrate(
        first, second, others, len(z), false_pairs=config.false_pairs, threshold=config.threshold,
    )  # fmt: skip


def encode_mild_views(
    subject: Subject, images: Images, how: Encoding, seed: int, name: str | None = None
) -> tuple[Features, Features]:
    """Encode two mild random views (M, C) of up to 256 of the images; with a name bars show progress."""
    some = take_evenly(images, VIEWED)
    title = None if name is None else f"{called(name)}: encoding slightly changed copies of {len(some)} images"
    views = [RandomViews(AUGMENTATIONS[AUGMENTATION], seed, number) for number in (0, 1)]
    first, second = (encode(subject.encoder, some, how, own, title=title) for own in views)
    return first, second


def _describe(figures: dict[str, Any], images: int) -> str:
    return (
        f"{counted(figures['groups'], 'group')} of duplicates among {images} images, "
        f"{counted(figures['drop'], 'image')} to drop. Near duplicates have a similarity of at least "
        f"{figures['threshold']:.4f}: that finds {figures['views_found']}% of slightly changed copies "
        f"(expected false pairs: about {figures['false_pairs']:.2g})"
    )


def _write(
    found: Collected, groups: list[list[Member]], dropped: list[int], figures: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    facts, config = found.facts, found.config
    assert isinstance(config, DuplicatesConfig)
    rows = [
        [
            number, found.names[member.row], "keep" if member.instead is None else "drop",
            "" if member.instead is None else found.names[member.instead], member.kind, round(member.similarity, 4),
            int(facts.width[member.row]), int(facts.height[member.row]), int(facts.file_bytes[member.row]),
            float(f"{facts.sharpness[member.row]:.6g}"),
        ]
        for number, group in enumerate(groups, 1) for member in group
    ]  # fmt: skip
    header = ["group", "path", "decision", "instead", "kind", "similarity", "width", "height", "bytes", "sharpness"]
    gone = set(dropped)
    kept = [row for row in range(len(found.names)) if row not in gone]
    strips = [Strip(None, [_tile(found, member) for member in group]) for group in groups]
    note = element(
        "p", f"The image to keep comes first, in green (rule: {config.keep}). Nothing was deleted: drop.txt lists the "
        "images to drop, keep.txt all others.", class_="note",
    )  # fmt: skip
    return write_results(
        found, "duplicates", table=(header, rows), lists={"keep.txt": kept, "drop.txt": dropped},
        lead=f"{called(config.weights)}: {_describe(figures[config.weights], len(found.names))}.",
        parts=[
            ("groups", "Groups", note + render_strips(strips, found.picture)),
            ("figures", "How the threshold was chosen", compare_figures(figures, COLUMNS)),
        ],
    )  # fmt: skip


def _tile(found: Collected, member: Member) -> Tile:
    size = f"{found.facts.width[member.row]}\u00d7{found.facts.height[member.row]}"
    said = f"keep, {size}" if member.instead is None else f"{member.kind} {member.similarity:.3f}, {size}"
    return Tile(member.row, found.names[member.row], said, "same" if member.instead is None else "other")
