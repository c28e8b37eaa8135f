"""`moco outliers`: lists images that are unlike the others, with reasons, and labels that the neighbours contradict."""

from typing import Any

from torch import Tensor

from moco.commands.comparison import called, compare_figures, say_each
from moco.commands.curate import Collected, collect_images, write_results
from moco.curation.config import OutliersConfig
from moco.curation.neighbours import find_others
from moco.curation.outliers import Outlier, Suspicion, expect_labels, rank_outliers, suspect_labels
from moco.curation.page import Strip, Tile, render_strips
from moco.errors import counted
from moco.evaluation.session import say
from moco.explore.embed_run import clusters
from moco.runtime.phases import say_if_slow

BESIDE, SAID = 6, 10
"""Neighbours that the page shows, and rows of each list that are printed."""
IMAGES_IN_A_CLUSTER, MOST_CLUSTERS = 50, 100
"""Average number of images in a cluster, which sets the number of clusters, and its maximum."""


def run(config: OutliersConfig) -> dict[str, Any]:
    """Rank the most unusual images and the most suspicious labels; print them, and write them to --out."""
    with collect_images(config) as found:
        looks = {name: _look(found, name) for name in (config.weights, *found.baselines)}
        images, labels, near = looks[config.weights]
        figures = {name: _figures(found, *look[:2]) for name, look in looks.items()}
        say_each({name: _describe(own) for name, own in figures.items()})
        more = f"; --out lists {len(images)}" if len(images) > SAID else ""
        say(f"the {len(images[:SAID])} most unusual of {len(found.names)} images, with reasons and a score (deviations "
            f"from what is typical here){more}:")  # fmt: skip
        for place, one in enumerate(images[:SAID], 1):
            say(f"{place:3}. {found.names[one.row]}: {', '.join(one.reasons)} ({one.score:.1f})")
        if labels:
            more = "; --out lists all" if len(labels) > SAID else ""
            say(f"the first {len(labels[:SAID])} of {counted(len(labels), 'label')} that may be wrong, with how "
                f"probable the label is and the class predicted instead{more}:")  # fmt: skip
        for place, other in enumerate(labels[:SAID], 1):
            say(f"{place:3}. {found.names[other.row]}: {_contradict(found, other)}")
        written = _write(found, images, labels, near, figures)
        results = {name: _result(found, *look[:2]) for name, look in looks.items()}
    return {
        **results[config.weights], **figures[config.weights], "images_looked_at": len(found.names),
        "unreadable": list(found.unreadable), "weights": config.weights, "data": config.data, **written,
        "baselines": {name: {**results[name], **figures[name]} for name in found.baselines},
    }  # fmt: skip


def _look(found: Collected, name: str) -> tuple[list[Outlier], list[Suspicion], Tensor]:
    """The first of both rankings by these weights or random ones, and the neighbours (N, k) of each image."""
    config = found.config
    assert isinstance(config, OutliersConfig)
    z = found.encode(name)
    title, index = f"{called(name)}: comparing {len(z)} images", found.index(name, z, config.k)
    similarity, rows = find_others(z, config.k, index, title)
    count = min(MOST_CLUSTERS, max(2, len(z) // IMAGES_IN_A_CLUSTER))
    with say_if_slow(f"{called(name)}: ranking {len(z)} images in {count} clusters"):
        images = rank_outliers(z, similarity, clusters(z.numpy(), count), found.facts)[: config.top]
    labelled = len(found.classes) > 1
    if not labelled:
        return images, [], rows
    with say_if_slow(f"{called(name)}: learning the labels of {len(z)} images"):
        expected = expect_labels(z, similarity, rows, found.labels, len(found.classes))
    labels = suspect_labels(similarity, rows, found.labels, len(found.classes), expected)
    return images, labels[: config.top], rows


def _figures(found: Collected, images: list[Outlier], labels: list[Suspicion]) -> dict[str, Any]:
    """How clear the first and the last of the lists are."""
    return {
        "listed": len(images), "score": round(images[0].score, 2), "last_score": round(images[-1].score, 2),
        "listed_labels": len(labels), "votes": round(100 * labels[0].own_share, 1) if labels else None,
    }  # fmt: skip


def _describe(figures: dict[str, Any]) -> str:
    labels = f", and {counted(figures['listed_labels'], 'label')} that may be wrong" if figures["listed_labels"] else ""
    scores = f"scores from {figures['score']:g} to {figures['last_score']:g}"
    return f"{counted(figures['listed'], 'image')} with {scores}{labels}"


def _contradict(found: Collected, one: Suspicion) -> str:
    own, other = found.classes[one.label], found.classes[one.expected]
    votes = found.classes[one.by_neighbours]
    probable = f"labelled {own} (probability {one.own_share:.1%}), predicted {other} ({one.share:.0%})"
    return f"{probable}, nearest images vote for {votes}"


def _result(found: Collected, images: list[Outlier], labels: list[Suspicion]) -> dict[str, Any]:
    return {
        "images": [
            {"path": found.names[one.row], "score": round(one.score, 3), "reasons": list(one.reasons)} for one in images
        ],
        "labels": [
            {
                "path": found.names[one.row], "label": found.classes[one.label],
                "neighbours": found.classes[one.by_neighbours], "expected": found.classes[one.expected],
                "share": round(one.share, 3), "own_share": round(one.own_share, 4),
            }
            for one in labels
        ],
    }  # fmt: skip


def _write(
    found: Collected, images: list[Outlier], labels: list[Suspicion], near: Tensor, figures: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    table = [["image", place, found.names[one.row], round(one.score, 3), "; ".join(one.reasons), "", "", ""]
             for place, one in enumerate(images, 1)]  # fmt: skip
    table += [
        ["label", place, found.names[one.row], round(one.own_share, 4), "", found.classes[one.label],
         found.classes[one.expected], found.classes[one.by_neighbours]]
        for place, one in enumerate(labels, 1)
    ]  # fmt: skip

    def strip(row: int, said: str, caption: str) -> Strip:
        beside = near[row, :BESIDE].tolist()
        own = found.labels[row]
        tiles = [
            Tile(other, found.names[other], found.label(other) or "neighbour",
                 None if own < 0 else ("same" if found.labels[other] == own else "other"))
            for other in beside
        ]  # fmt: skip
        return Strip(Tile(row, found.names[row], caption), tiles, said)

    unusual = [strip(one.row, ", ".join(one.reasons), f"score {one.score:.1f}") for one in images]
    suspicious = [strip(one.row, _contradict(found, one), found.classes[one.label]) for one in labels]
    parts = [("images", "Unusual images and their nearest neighbours", render_strips(unusual, found.picture))]
    if suspicious:
        parts.append(("labels", "Suspicious labels", render_strips(suspicious, found.picture)))
    columns = {
        "score": "highest score", "last_score": "lowest score listed", "listed_labels": "suspicious labels",
        "votes": "probability of the first label, %",
    }  # fmt: skip
    parts.append(("figures", "Compared with random weights", compare_figures(figures, columns)))
    return write_results(
        found, "outliers",
        table=(["kind", "rank", "path", "score", "reasons", "label", "expected", "by_neighbours"], table),
        lists={
            "outliers.txt": [one.row for one in images],
            **({"suspicious-labels.txt": [one.row for one in labels]} if labels else {}),
        },
        lead=f"{len(found.names)} images by {called(found.config.weights)}; listed: "
        f"{_describe(figures[found.config.weights])}. "
        "Look before you remove anything: a rare image may be the most valuable one.", parts=parts,
    )  # fmt: skip
